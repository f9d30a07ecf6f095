// SPDX-License-Identifier: GPL-2.0
//! Whether on-demand paging pays, from what a run has measured: what a registration, a first touch, a warm access and
//! an invalidation cost with pinned and with on-demand memory, from where on one is cheaper than the other, and what
//! would help. Ten lines, each with the figures that it rests on and their intervals.
//!
//! Three figures decide. What pinning costs for each page is the time of a registration and its end, over the pages: of
//! untouched ones, and of resident ones. What a fault costs is what the first access to an untouched page takes longer
//! than a warm one. The first and the last include that the kernel brings the page in. Whoever registers for each use
//! pays the first for each page, and from the second use on the second one; whoever keeps an on-demand region pays the
//! last once for each page that is accessed.

mod figure;

use self::figure::{Figure, Quotient};
use crate::{
    run::{Missing, Run},
    statistics::TAIL,
};

/// The cases that the advice rests on: what to run if nothing else is of interest.
pub const CASES: [&str; 12] = [
    "registration/pinned/16MiB",
    "registration/explicit/16MiB",
    "registration/memory",
    "warm/write",
    "fault/explicit/4k/untouched/random",
    "fault/explicit/4k/resident/random",
    "fault/explicit/thp/untouched/random",
    "fault/implicit/4k/untouched/random",
    "fault/cpu/4k",
    "prefetch/explicit/4k/demand",
    "prefetch/explicit/4k/sync",
    "invalidation/dontneed/4k",
];

/// What is registered where registrations are compared: the size in its name, and in pages.
const REGISTERED: (&str, f64) = ("16MiB", 4096.0);

/// What the advice rests on, as far as it was measured.
struct Figures {
    pinned: Option<Figure>,
    on_demand: Option<Figure>,
    /// What pinning costs for each page that is untouched.
    pin: Option<Figure>,
    /// And for each that is resident.
    pin_again: Option<Figure>,
    kernel: Option<Figure>,
    warm: [Option<Figure>; 2],
    fault: Option<Figure>,
    /// The same where the CPU has used the pages.
    resident: Option<Figure>,
    touch: Option<Figure>,
    huge: Option<Figure>,
    implicit: Option<Figure>,
    demand: Option<Figure>,
    prefetch: Option<Figure>,
    dont_need: [Option<Figure>; 2],
}

impl Figures {
    fn of(run: &Run) -> Self {
        let same = |sample| sample;
        let of = |name: &str| Figure::of(run.metric(name)?, same);
        let (size, pages) = REGISTERED;
        let registration = |mode: &str, state: &str, change: &dyn Fn(f64) -> f64| {
            let part =
                |what: &str| run.metric(&format!("registration/{mode}/{what}{state}/{size}"));
            Figure::sum(part("register")?, part("deregister")?, change)
        };
        let for_a_page = |sample: f64| sample / pages;
        let pin_again = registration("pinned", "-resident", &for_a_page);
        // What has no resident pages apart pinned some of these where it says untouched.
        let of_untouched = pin_again.is_some();
        let advised = || {
            let part = |what: &str| run.metric(&format!("prefetch/explicit/4k/sync/{what}"));
            Figure::sum(part("advice")?, part("accesses")?, same)
        };
        let cost = |what: &str| of(&format!("fault/{what}/cost-per-page"));
        Self {
            pinned: registration("pinned", "", &same).filter(|_| of_untouched),
            on_demand: registration("explicit", "", &same),
            pin: registration("pinned", "", &for_a_page).filter(|_| of_untouched),
            pin_again,
            kernel: of("registration/memory/1GiB"),
            warm: ["pinned", "explicit"].map(|mode| of(&format!("warm/write/{mode}"))),
            fault: of("fault/explicit/4k/untouched/random/cost-of-a-fault"),
            resident: cost("explicit/4k/resident/random"),
            touch: cost("cpu/4k"),
            huge: cost("explicit/thp/untouched/random"),
            implicit: of("fault/implicit/4k/untouched/random/cost-of-a-fault"),
            demand: of("prefetch/explicit/4k/demand/accesses"),
            prefetch: advised(),
            dont_need: ["no-region", "explicit"]
                .map(|mode| of(&format!("invalidation/dontneed/4k/{mode}"))),
        }
    }

    /// What pinning a page costs, over what a fault on it does.
    fn pin_over_fault(&self) -> Option<Quotient> {
        Some(Quotient::of(self.pin.as_ref()?, self.fault.as_ref()?))
    }

    /// Of a warm access, on demand over pinned.
    fn warm_ratio(&self) -> Option<Quotient> {
        let [pinned, on_demand] = &self.warm;
        Some(Quotient::of(on_demand.as_ref()?, pinned.as_ref()?))
    }
}

/// Whether `run` has measured enough for the lines that decide.
pub fn is_possible(run: &Run) -> bool {
    let figures = Figures::of(run);
    figures.pin_over_fault().is_some() && figures.warm_ratio().is_some() && figures.kernel.is_some()
}

/// The advice for people: ten lines, and one on how to measure what is missing.
pub fn advise(run: &Run) -> String {
    let figures = Figures::of(run);
    let lines = [
        ("Registering", registering(&figures)),
        ("First touch", first_touch(&figures)),
        ("Page in memory", resident(&figures)),
        ("Warm access", warm(&figures)),
        ("Invalidation", invalidation(&figures)),
        ("Memory", memory(&figures)),
        ("Pages used", pages_used(&figures)),
        ("Uses", uses(&figures)),
        ("What helps", helps(&figures, run)),
        ("So", so(&figures)),
    ];
    let mut text = String::new();
    let missing = lines.iter().any(|(_, line)| line.is_none());
    for (title, line) in lines {
        let line = line.unwrap_or_else(|| "not measured".into());
        text.push_str(&format!("{title:<14}  {line}\n"));
    }
    if missing {
        text.push_str(&format!(
            "\nTo measure all of this: odp-bench run {}\n",
            CASES.join(" ")
        ));
    }
    text
}

fn registering(figures: &Figures) -> Option<String> {
    let (pinned, on_demand) = (figures.pinned.as_ref()?, figures.on_demand.as_ref()?);
    Some(format!(
        "16 MiB, untouched, and back take {} pinned, {} on demand",
        pinned.shown(),
        on_demand.shown()
    ))
}

fn first_touch(figures: &Figures) -> Option<String> {
    let fault = figures.fault.as_ref()?;
    let mut line = format!(
        "an untouched page takes {} longer than a warm one",
        fault.longer()
    );
    if let Some(touch) = &figures.touch {
        line.push_str(&format!("; the CPU's own takes {}", touch.shown()));
    }
    Some(line)
}

fn resident(figures: &Figures) -> Option<String> {
    let resident = figures.resident.as_ref()?;
    Some(format!(
        "one that the CPU has used takes {} longer than a warm one",
        resident.longer()
    ))
}

fn warm(figures: &Figures) -> Option<String> {
    let [pinned, on_demand] = &figures.warm;
    Some(format!(
        "64 bytes take {} pinned, {} on demand: {}",
        pinned.as_ref()?.shown(),
        on_demand.as_ref()?.shown(),
        figures.warm_ratio()?.shown()
    ))
}

fn invalidation(figures: &Figures) -> Option<String> {
    let [without, with] = &figures.dont_need;
    let (without, with) = (without.as_ref()?, with.as_ref()?);
    let ratio = Quotient::of(with, without);
    Some(format!(
        "MADV_DONTNEED of 8 MiB takes {} without a region, {} with one: {}",
        without.shown(),
        with.shown(),
        ratio.shown()
    ))
}

fn memory(figures: &Figures) -> Option<String> {
    Some(format!(
        "a pinned region keeps all of its pages; an untouched on-demand one of 1 GiB takes {} of the kernel's",
        figures.kernel.as_ref()?.shown()
    ))
}

fn pages_used(figures: &Figures) -> Option<String> {
    let pin = figures.pin.as_ref()?;
    let share = figures.pin_over_fault()?;
    let cost = format!("pinning a page costs {}", pin.shown());
    Some(match share.percent() {
        None => format!("{cost}; what a fault costs over that cannot be told"),
        Some(_) if share.is_above(1.0) => format!(
            "{cost}, more than a fault: on demand is cheaper however many pages of a registration are used"
        ),
        Some(share) => format!(
            "{cost}: on demand is cheaper where less than {share} of a registration's pages are used"
        ),
    })
}

/// From which use of a buffer on a region that stays is cheaper than pinning for each use: the first one pins untouched
/// pages, those after it resident ones.
fn uses(figures: &Figures) -> Option<String> {
    let (pin, again) = (figures.pin.as_ref()?, figures.pin_again.as_ref()?);
    let fault = figures.fault.as_ref()?;
    let uses = |pin: f64, again: f64, fault: f64| match (fault - pin) / again {
        _ if fault <= pin => "1".into(),
        more if again > 0.0 && more < 1e9 => format!("{:.0}", 1.0 + (more - 1e-9).ceil()),
        _ => "never".into(),
    };
    // Each of three intervals may miss at one end: together no more often than one.
    let tail = TAIL / 3.0;
    let within = [pin, again, fault].map(|figure| figure.within(tail));
    let within = match within {
        [Some(pin), Some(again), Some(fault)] => format!(
            "{}, {}",
            uses(pin.high, again.high, fault.low),
            uses(pin.low, again.low, fault.high)
        ),
        _ => "too few samples".into(),
    };
    Some(format!(
        "on demand, once faulted in, is cheaper than pinning for each use from use {} [{within}] of a buffer on",
        uses(pin.median(), again.median(), fault.median())
    ))
}

/// Why there are no figures of `case`, and whether that is told of it.
fn absent(run: &Run, case: &str) -> (String, bool) {
    let of_it = |missing: &&Missing| missing.case.starts_with(case);
    let skipped = run.skipped.iter().find(of_it);
    match skipped.or_else(|| run.failed.iter().find(of_it)) {
        Some(missing) => (format!("cannot be told: {}", missing.why), true),
        None => ("not measured".into(), false),
    }
}

fn helps(figures: &Figures, run: &Run) -> Option<String> {
    let fault = figures.fault.as_ref();
    let candidates = [
        (
            "prefetch",
            "prefetch/explicit/4k/",
            figures.prefetch.as_ref().zip(figures.demand.as_ref()),
        ),
        (
            "huge pages",
            "fault/explicit/thp/untouched/",
            figures.huge.as_ref().zip(fault),
        ),
        (
            "implicit",
            "fault/implicit/4k/untouched/",
            figures.implicit.as_ref().zip(fault),
        ),
    ];
    let mut is_told = false;
    let lines: Vec<String> = candidates
        .into_iter()
        .map(|(name, case, pair)| {
            let Some((new, old)) = pair else {
                let (why, told) = absent(run, case);
                is_told |= told;
                return format!("{name} {why}");
            };
            is_told = true;
            let word = match () {
                () if new.is_less_than(old) => "yes",
                () if old.is_less_than(new) => "no",
                () => "not that it shows",
            };
            let ratio = Quotient::of(new, old);
            // Where it costs so little that a ratio says nothing, what it costs does.
            let figure = match ratio.value {
                Some(_) => ratio.shown(),
                None => new.longer().trim_end_matches(',').to_owned(),
            };
            format!("{name} {word} ({figure})")
        })
        .collect();
    is_told.then(|| lines.join(", "))
}

/// By how much a warm access may differ and still be called as fast.
const AS_FAST: f64 = 1.05;

fn so(figures: &Figures) -> Option<String> {
    let (warm, share) = (figures.warm_ratio()?, figures.pin_over_fault()?);
    let (Some(_), Some(_)) = (warm.within, share.within) else {
        return Some("too few samples to say: run with a higher --effort".into());
    };
    let steady = match () {
        () if warm.is_below(AS_FAST) => "on-demand memory that is in use is as fast as pinned memory",
        () if warm.is_above(AS_FAST) => "on-demand memory that is in use is slower than pinned memory",
        () => "whether on-demand memory that is in use is as fast as pinned memory cannot be told from so few samples",
    };
    let change = match () {
        () if share.is_above(1.0) => "and it pays even where every page is used once",
        () if share.is_below(0.01) => {
            "and it pays where buffers stay registered, or where there is more memory than may be pinned"
        }
        () if share.is_below(1.0) => "and it pays where buffers are used sparsely or again and again",
        () => {
            "and it pays where buffers are used again and again; whether a fault costs more than pinning its page \
             cannot be told"
        }
    };
    Some(format!("{steady}, {change}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Metric, Unit};
    use std::collections::BTreeMap;

    /// Samples within a percent of `middle`.
    fn around(middle: f64) -> Vec<f64> {
        let mut samples: Vec<f64> = (0..100)
            .map(|i| middle * (0.99 + 0.0002 * f64::from(i)))
            .collect();
        fastrand::Rng::with_seed(9).shuffle(&mut samples);
        samples
    }

    fn around_nothing() -> Vec<f64> {
        let mut samples: Vec<f64> = (-50..50).map(f64::from).collect();
        fastrand::Rng::with_seed(9).shuffle(&mut samples);
        samples
    }

    fn run(pin: f64, fault: f64, warm: f64) -> Run {
        let mut run = Run::new(false, BTreeMap::new());
        let mut add = |name: &str, unit, middle: f64| {
            run.metrics
                .extend(Metric::new(name, unit, None, around(middle)));
        };
        let time = Unit::Nanoseconds;
        add(
            "registration/pinned/register/16MiB",
            time,
            0.75 * pin * 4096.0,
        );
        add(
            "registration/pinned/deregister/16MiB",
            time,
            0.25 * pin * 4096.0,
        );
        for what in ["register", "deregister"] {
            let name = format!("registration/pinned/{what}-resident/16MiB");
            add(&name, time, 0.25 * pin * 4096.0);
        }
        add("registration/explicit/register/16MiB", time, 20e3);
        add("registration/explicit/deregister/16MiB", time, 5e3);
        add("registration/memory/1GiB", Unit::Bytes, 704.0);
        add("warm/write/pinned", time, 1000.0);
        add("warm/write/explicit", time, 1000.0 * warm);
        add(
            "fault/explicit/4k/untouched/random/cost-of-a-fault",
            time,
            fault,
        );
        add(
            "fault/implicit/4k/untouched/random/cost-of-a-fault",
            time,
            fault,
        );
        add(
            "fault/explicit/4k/resident/random/cost-per-page",
            time,
            fault / 2.0,
        );
        add(
            "fault/explicit/thp/untouched/random/cost-per-page",
            time,
            fault / 50.0,
        );
        add("fault/cpu/4k/cost-per-page", time, 700.0);
        add("prefetch/explicit/4k/demand/accesses", time, 2e6);
        add("prefetch/explicit/4k/sync/advice", time, 1e6);
        add("prefetch/explicit/4k/sync/accesses", time, 2e6);
        add("invalidation/dontneed/4k/no-region", time, 1e6);
        add("invalidation/dontneed/4k/explicit", time, 2e6);
        run
    }

    fn line<'a>(text: &'a str, title: &str) -> &'a str {
        text.lines().find(|line| line.starts_with(title)).unwrap()
    }

    #[test]
    fn ten_lines_answer() {
        let run = run(200.0, 2000.0, 1.0);
        assert!(is_possible(&run));
        let text = advise(&run);
        assert_eq!(text.lines().count(), 10, "{text}");
        assert!(!text.contains("not measured") && !text.contains("NaN"));
        // 200 ns for each page pinned, 100 if it is resident, 2 us for each fault: a tenth of the pages; and what is
        // pinned again 18 times after the first.
        let share = line(&text, "Pages used");
        assert!(share.contains("less than 10.0 % ["), "{share}");
        let uses = line(&text, "Uses");
        assert!(
            uses.contains("from use 19 [19, 20]") || uses.contains("from use 19 [18, 20]"),
            "{uses}"
        );
        assert!(line(&text, "Warm").ends_with("x1.00 [1.00, 1.00]"));
        let helps = line(&text, "What helps");
        assert!(helps.contains("prefetch no (x1.50"), "{helps}");
        assert!(helps.contains("huge pages yes (x0.0200"), "{helps}");
        assert!(
            helps.contains("implicit not that it shows (x1.00"),
            "{helps}"
        );
        assert!(line(&text, "So").contains("as fast as pinned memory, and it pays where buffers"));
        assert!(line(&text, "Invalidation").contains("x2.00 ["));
    }

    #[test]
    fn what_costs_less_than_pinning_always_pays() {
        let text = advise(&run(2000.0, 500.0, 1.2));
        assert!(line(&text, "Pages used").contains("however many pages"));
        assert!(line(&text, "Uses").contains("from use 1 [1, 1]"));
        let so = line(&text, "So");
        assert!(
            so.contains("slower than pinned memory, and it pays even where"),
            "{so}"
        );
    }

    #[test]
    fn what_costs_as_much_as_pinning_may_not_pay() {
        let text = advise(&run(1000.0, 1000.0, 1.0));
        let so = line(&text, "So");
        assert!(so.contains("pinning its page cannot be told"), "{so}");
    }

    #[test]
    fn pages_that_may_have_been_resident_are_not_called_untouched() {
        let mut old = run(200.0, 2000.0, 1.0);
        old.metrics
            .retain(|metric| !metric.name.contains("-resident/"));
        assert!(!is_possible(&old));
        let text = advise(&old);
        for title in ["Registering", "Pages used", "Uses", "So"] {
            assert!(line(&text, title).ends_with("  not measured"), "{text}");
        }
    }

    #[test]
    fn a_few_samples_decide_nothing() {
        let mut run = run(200.0, 2000.0, 1.0);
        for metric in &mut run.metrics {
            *metric =
                Metric::new(&*metric.name, metric.unit, None, vec![metric.samples[0]]).unwrap();
        }
        let text = advise(&run);
        assert!(line(&text, "So").contains("too few samples"));
        assert!(line(&text, "Uses").contains("[too few samples]"));
        let name = "fault/explicit/4k/resident/random/cost-per-page";
        let at = run.metrics.iter().position(|m| m.name == name).unwrap();
        run.metrics[at] = Metric::new(name, Unit::Nanoseconds, None, vec![-5.0]).unwrap();
        let text = advise(&run);
        assert!(line(&text, "Page in").contains("takes no time that shows [too few samples]"));
        assert!(line(&text, "What helps").contains("prefetch not that it shows"));
    }

    #[test]
    fn what_was_not_measured_is_said() {
        let mut run = run(200.0, 2000.0, 1.0);
        run.metrics.retain(|metric| metric.suite() != "fault");
        assert!(!is_possible(&run));
        let text = advise(&run);
        for title in ["First touch", "Uses", "So"] {
            assert!(line(&text, title).ends_with("  not measured"), "{text}");
        }
        assert!(line(&text, "Registering").contains("pinned"));
        assert!(text.ends_with(&format!("odp-bench run {}\n", CASES.join(" "))));
    }

    #[test]
    fn what_the_device_lacks_is_said() {
        let mut run = run(200.0, 2000.0, 1.0);
        let helps = |run: &Run| line(&advise(run), "What helps").to_owned();
        run.metrics.retain(|metric| {
            !metric.name.starts_with("fault/implicit/") && metric.suite() != "prefetch"
        });
        run.skipped.push(Missing {
            case: "fault/implicit/4k/untouched/random".into(),
            why: "the device has no implicit on-demand paging".into(),
        });
        let text = helps(&run);
        assert!(
            text.contains("prefetch not measured, huge pages yes"),
            "{text}"
        );
        let why = "implicit cannot be told: the device has no implicit on-demand paging";
        assert!(text.ends_with(why), "{text}");
        // Of nothing there is nothing to say.
        run.skipped.clear();
        run.metrics.retain(|metric| metric.suite() != "fault");
        assert!(helps(&run).ends_with("  not measured"));
    }

    #[test]
    fn a_cost_that_may_be_nothing_is_no_ratio() {
        let mut run = run(200.0, 2000.0, 1.0);
        let name = "fault/explicit/thp/untouched/random/cost-per-page";
        let at = run.metrics.iter().position(|m| m.name == name).unwrap();
        let samples = around_nothing();
        run.metrics[at] = Metric::new(name, Unit::Nanoseconds, None, samples).unwrap();
        let text = advise(&run);
        let helps = line(&text, "What helps");
        assert!(
            helps.contains("huge pages yes (no time that shows, 10.0 ns at most)"),
            "{helps}"
        );
        let name = "fault/explicit/4k/untouched/random/cost-of-a-fault";
        let at = run.metrics.iter().position(|m| m.name == name).unwrap();
        run.metrics[at] = Metric::new(name, Unit::Nanoseconds, None, around_nothing()).unwrap();
        let text = advise(&run);
        assert!(line(&text, "Pages used").ends_with("what a fault costs over that cannot be told"));
        assert!(line(&text, "Uses").contains("from use 1 [1, 1] of"));
        assert!(line(&text, "So").contains("too few samples"));
        assert!(line(&text, "First touch").contains("takes no time that shows"));
        assert!(!text.contains("not measured"));
        let name = "fault/explicit/4k/resident/random/cost-per-page";
        let at = run.metrics.iter().position(|m| m.name == name).unwrap();
        let samples = around_nothing();
        run.metrics[at] = Metric::new(name, Unit::Nanoseconds, None, samples).unwrap();
        let text = advise(&run);
        let line = line(&text, "Page in memory");
        assert!(line.contains("takes no time that shows, "), "{line}");
    }
}
