// SPDX-License-Identifier: GPL-2.0
//! Two runs metric by metric: faster, slower, no difference, or not enough samples to say.

use std::fmt::Write;

use crate::{
    run::{Metric, Run, Unit},
    statistics::{
        change::{Change, Scale},
        family::stand_out,
        Interval, Series, TAIL,
    },
};

/// By what share counted instructions may differ though nothing has changed: two boots of one build were seen to
/// differ by a little less.
pub const COUNTED: f64 = 0.005;

/// What may be said about a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Better, and that is no accident.
    Faster,
    /// Worse, and that is no accident.
    Slower,
    /// None that is worse by more than what is tolerated.
    NoDifference,
    /// None is seen, but one beyond what is tolerated could hide: so many samples more would show it, or that there
    /// is none.
    Open(u64),
    /// There are so few samples that nothing can be said: so many more are needed at least.
    TooFew(u64),
}

impl Verdict {
    /// In words.
    pub fn name(self) -> String {
        match self {
            Self::Faster => "faster".into(),
            Self::Slower => "slower".into(),
            Self::NoDifference => "no difference".into(),
            Self::Open(more) => format!(
                "no difference seen: {} more samples would tell",
                about(more)
            ),
            Self::TooFew(more) => format!("not enough samples: {} more", about(more)),
        }
    }
}

/// A number with two digits, as more would be made up.
fn about(number: u64) -> String {
    let unit = 10u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
    let rounded = number.div_ceil(unit).saturating_mul(unit);
    match rounded {
        _ if number <= 20 => number.to_string(),
        0..=999_999 => format!("some {rounded}"),
        _ => "more than a million".into(),
    }
}

/// One metric of both sides.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// The medians, the old one first.
    pub medians: [f64; 2],
    /// How many samples either side has.
    pub counts: [usize; 2],
    /// Whether the change is a ratio or a difference.
    pub scale: Scale,
    /// The change of the median.
    pub change: f64,
    /// The interval that holds the true one in 95 of 100 cases, if there are enough samples.
    pub within: Option<Interval>,
    /// What that means.
    pub verdict: Verdict,
    /// Whether it is worse by more than what is tolerated, and stands out among all that were compared.
    pub regression: bool,
    /// Whether it would be if it had been compared alone.
    pub suspicious: bool,
}

impl Line {
    /// The change, with its interval, for people.
    pub fn shown(&self) -> String {
        let show = |change: f64| match self.scale {
            Scale::Ratio => format!("{change:.3}"),
            Scale::Difference if change > 0.0 => format!("+{}", self.unit.show(change)),
            Scale::Difference => self.unit.show(change),
        };
        let times = match self.scale {
            Scale::Ratio => "x",
            Scale::Difference => "",
        };
        let value = show(self.change);
        match self.within {
            None => format!("{times}{value}"),
            Some(Interval { low, high }) => {
                format!("{times}{value} [{}, {}]", show(low), show(high))
            }
        }
    }
}

/// A comparison.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// What both have.
    pub lines: Vec<Line>,
    /// What a baseline has and the run does not.
    pub missing: Vec<String>,
    /// What only one of them has.
    pub alone: Vec<String>,
    /// What makes the comparison doubtful.
    pub remarks: Vec<String>,
}

impl Comparison {
    /// Compares what a run has with a baseline of medians, on a machine whose clock counts instructions: the
    /// medians are what they are, without an interval, and [`COUNTED`] is no difference. What the baseline has and
    /// the run has not, counts as a regression; what only the run has, is not looked at.
    pub fn with_baseline(baseline: &Run, new: &Run, threshold: f64) -> Self {
        let mut comparison = Self {
            remarks: remarks(baseline, new),
            ..Self::default()
        };
        for metric in &baseline.metrics {
            let now = new
                .metric(&metric.name)
                .filter(|now| now.unit == metric.unit);
            match now.and_then(|now| counted(metric, now, threshold)) {
                Some(line) => comparison.lines.push(line),
                None => comparison.missing.push(metric.name.clone()),
            }
        }
        comparison
    }

    /// Compares `new` with `old`; what is worse by more than the share `threshold` is a regression, if it stands out
    /// among all metrics: where nothing has become so much worse, one is called so in at most 1 of 40 comparisons.
    pub fn new(old: &Run, new: &Run, threshold: f64) -> Self {
        let mut comparison = Self {
            remarks: remarks(old, new),
            ..Self::default()
        };
        let mut probabilities = Vec::new();
        for metric in &new.metrics {
            let before = old
                .metric(&metric.name)
                .filter(|before| before.unit == metric.unit);
            match before.and_then(|before| line(before, metric, threshold)) {
                Some((line, probability)) => {
                    comparison.lines.push(line);
                    probabilities.push(probability);
                }
                None => comparison.alone.push(metric.name.clone()),
            }
        }
        let named = stand_out(&probabilities, TAIL);
        for (line, stands_out) in comparison.lines.iter_mut().zip(named) {
            line.regression = stands_out;
        }
        let gone = old.metrics.iter().filter(|m| new.metric(&m.name).is_none());
        comparison.alone.extend(gone.map(|m| m.name.clone()));
        comparison
    }

    /// How many metrics have become worse than is tolerated, or are missing.
    pub fn regressions(&self) -> usize {
        let worse = self.lines.iter().filter(|line| line.regression);
        worse.count() + self.missing.len()
    }

    /// How many metrics scatter too much for a regression to be seen, or have too few samples.
    pub fn uncertain(&self) -> usize {
        let open = |line: &&Line| matches!(line.verdict, Verdict::Open(_) | Verdict::TooFew(_));
        self.lines.iter().filter(open).count()
    }

    /// How many times as many samples it would take for nothing to be too uncertain to tell; 1 if nothing is.
    pub fn effort(&self) -> f64 {
        let factor = |line: &Line| match line.verdict {
            Verdict::Open(more) | Verdict::TooFew(more) => {
                let least = line.counts[0].min(line.counts[1]).max(1);
                1.0 + more as f64 / least as f64
            }
            _ => 1.0,
        };
        self.lines.iter().map(factor).fold(1.0, f64::max)
    }

    /// The comparison for people.
    pub fn table(&self) -> String {
        let widest = |text: &dyn Fn(&Line) -> String| {
            let widths = self.lines.iter().map(|line| text(line).chars().count());
            widths.max().unwrap_or(0)
        };
        let (width, shown) = (widest(&|line| line.name.clone()), widest(&Line::shown));
        let mut text = String::new();
        for remark in &self.remarks {
            let _ = writeln!(text, "note: {remark}");
        }
        for line in &self.lines {
            let mark = match (line.regression, line.suspicious) {
                (true, _) => "  REGRESSION",
                (_, true) => "  (but among so many one may be so by accident)",
                _ => "",
            };
            let [old, new] = line.medians.map(|median| line.unit.show(median));
            let _ = writeln!(
                text,
                "{:<width$}  {old:>10} -> {new:>10}  {:<shown$}  {}{mark}",
                line.name,
                line.shown(),
                line.verdict.name(),
            );
        }
        for name in &self.missing {
            let _ = writeln!(text, "{name:<width$}  in the baseline, but not measured");
        }
        for name in &self.alone {
            let _ = writeln!(text, "{name:<width$}  in one of the two only");
        }
        text
    }
}

/// What of the environment changes figures by itself. The kernel and the driver do, too, but are what is compared.
const DECISIVE: [&str; 16] = [
    "cpu",
    "emulation",
    "cpus",
    "cpus allowed",
    "device",
    "link",
    "rate",
    "mtu",
    "governor",
    "turbo",
    "thp",
    "mthp",
    "iommu",
    "numa process",
    "numa balancing",
    "clock",
];

fn remarks(old: &Run, new: &Run) -> Vec<String> {
    let mut remarks = Vec::new();
    if old.aligned != new.aligned {
        remarks.push("one run was limited to aligned accesses, the other was not".into());
    }
    for name in DECISIVE {
        // A baseline does not say where it was measured.
        let of = |run: &'_ Run| run.environment.get(name).cloned();
        if let (Some(a), Some(b)) = (of(old), of(new)) {
            if a != b {
                remarks.push(format!("{name} differs: {a:?}, then {b:?}"));
            }
        }
    }
    for (run, which) in [(old, "first"), (new, "second")] {
        if !run.failed.is_empty() {
            remarks.push(format!("the {which} run had {} failures", run.failed.len()));
        }
    }
    remarks
}

/// Compares a metric, and says how probable the samples are at most if it has not become worse by more than
/// `threshold`. None if either side has no number.
fn line(old: &Metric, new: &Metric, threshold: f64) -> Option<(Line, f64)> {
    let change = Change::new(Series::of(&old.samples)?, Series::of(&new.samples)?, TAIL);
    let less_is_better = new.unit.less_is_better();
    let share = if less_is_better {
        threshold
    } else {
        -threshold
    };
    let limit = change.limit(share, TAIL);
    let within = change.within(TAIL);
    let verdict = match within {
        None => Verdict::TooFew(change.lacking(limit, TAIL).max(1)),
        Some(Interval { low, high }) => {
            let none = change.none();
            // Whether all of it is, and whether some of it may be.
            let (worse, better, intolerable) = match less_is_better {
                true => (low > none, high < none, high > limit),
                false => (high < none, low > none, low < limit),
            };
            match () {
                () if worse => Verdict::Slower,
                () if better => Verdict::Faster,
                () if intolerable => Verdict::Open(change.lacking(limit, TAIL)),
                () => Verdict::NoDifference,
            }
        }
    };
    let probability = change.probability(limit, less_is_better);
    let line = Line {
        name: new.name.clone(),
        unit: new.unit,
        medians: change.sides().map(Series::median),
        counts: change.sides().map(Series::count),
        scale: change.scale(),
        change: change.value(),
        within,
        verdict,
        regression: false,
        suspicious: probability <= TAIL,
    };
    Some((line, probability))
}

/// Compares medians that do not scatter. None if either is not above zero.
fn counted(old: &Metric, new: &Metric, threshold: f64) -> Option<Line> {
    let medians = [old, new].map(|metric| metric.summary.p50);
    let ratio = Some(medians[1] / medians[0])
        .filter(|ratio| medians[0] > 0.0 && *ratio > 0.0 && ratio.is_finite())?;
    let worse = match new.unit.less_is_better() {
        true => ratio,
        false => 1.0 / ratio,
    };
    let regression = worse > 1.0 + threshold;
    Some(Line {
        name: new.name.clone(),
        unit: new.unit,
        medians,
        counts: [old, new].map(|metric| metric.summary.count),
        scale: Scale::Ratio,
        change: ratio,
        within: None,
        verdict: match () {
            () if (ratio - 1.0).abs() <= COUNTED => Verdict::NoDifference,
            () if worse > 1.0 => Verdict::Slower,
            () => Verdict::Faster,
        },
        regression,
        suspicious: regression,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Unit;
    use std::collections::BTreeMap;

    fn run(scale: f64, unit: Unit) -> Run {
        let mut run = Run::new(false, BTreeMap::new());
        let samples = (0..800).map(|i| scale * f64::from(90 + i % 20)).collect();
        run.metrics
            .extend(Metric::new("warm/x", unit, None, samples));
        run
    }

    fn verdict(old: f64, new: f64, unit: Unit) -> (Verdict, bool) {
        let comparison = Comparison::new(&run(old, unit), &run(new, unit), 0.05);
        assert!(comparison.alone.is_empty() && comparison.remarks.is_empty());
        let line = &comparison.lines[0];
        (line.verdict, line.regression)
    }

    #[test]
    fn times_are_better_if_shorter() {
        let unit = Unit::Nanoseconds;
        assert_eq!(verdict(1.0, 1.5, unit), (Verdict::Slower, true));
        assert_eq!(verdict(1.0, 0.5, unit), (Verdict::Faster, false));
        assert_eq!(verdict(1.0, 1.0, unit), (Verdict::NoDifference, false));
    }

    #[test]
    fn throughput_is_better_if_more() {
        let unit = Unit::BytesPerSecond;
        assert_eq!(verdict(1.0, 1.5, unit), (Verdict::Faster, false));
        assert_eq!(verdict(1.0, 0.5, unit), (Verdict::Slower, true));
    }

    #[test]
    fn what_scatters_hides_a_regression() {
        let mut restless = run(1.0, Unit::Nanoseconds);
        let samples = &mut restless.metrics[0].samples;
        *samples = [10.0, 100.0, 1000.0].repeat(20);
        fastrand::Rng::with_seed(1).shuffle(samples);
        let comparison = Comparison::new(&restless, &restless, 0.05);
        let Verdict::Open(more) = comparison.lines[0].verdict else {
            panic!("{:?}", comparison.lines[0]);
        };
        assert!(more > 100 && comparison.effort() > 3.0);
        assert!(comparison.table().contains("more samples would tell"));
        let calm = run(1.0, Unit::Nanoseconds);
        let comparison = Comparison::new(&calm, &calm, 0.05);
        assert_eq!((comparison.uncertain(), comparison.effort()), (0, 1.0));
    }

    fn of(samples: &[f64]) -> Run {
        let mut run = Run::new(false, BTreeMap::new());
        let metric = Metric::new("warm/x", Unit::Nanoseconds, None, samples.to_vec());
        run.metrics.extend(metric);
        run
    }

    fn only(old: &[f64], new: &[f64]) -> Line {
        Comparison::new(&of(old), &of(new), 0.05).lines.remove(0)
    }

    #[test]
    fn one_sample_shows_nothing() {
        let line = only(&[100.0], &[188.7]);
        assert_eq!((line.verdict, line.regression), (Verdict::TooFew(5), false));
        assert_eq!(line.shown(), "x1.887");
        assert_eq!(line.verdict.name(), "not enough samples: 5 more");
        assert_eq!(only(&[100.0; 20], &[188.7; 4]).verdict, Verdict::TooFew(2));
    }

    #[test]
    fn what_is_below_zero_has_no_ratio() {
        let scattered = |centre: f64| -> Vec<f64> {
            let mut dice = fastrand::Rng::with_seed(centre.to_bits());
            (0..40).map(|_| centre + 20.0 * dice.f64() - 10.0).collect()
        };
        let line = only(&scattered(-35.4), &scattered(-37.6));
        assert_eq!(line.scale, Scale::Difference);
        assert!(
            !line.regression && line.verdict != Verdict::Slower,
            "{line:?}"
        );
        // From below zero to above it.
        let line = only(&scattered(-30.0), &scattered(30.0));
        assert!(
            line.regression && line.verdict == Verdict::Slower,
            "{line:?}"
        );
        assert!((50.0..70.0).contains(&line.change), "{line:?}");
        assert!(line.shown().starts_with('+') && line.shown().contains(" ns ["));
        let line = only(&scattered(30.0), &scattered(-30.0));
        assert_eq!((line.verdict, line.regression), (Verdict::Faster, false));
    }

    #[test]
    fn zero_can_be_compared() {
        let line = only(&[0.0; 20], &[0.0; 20]);
        assert_eq!(
            (line.verdict, line.regression),
            (Verdict::NoDifference, false)
        );
        let line = only(&[0.0; 20], &[704.0; 20]);
        assert_eq!((line.verdict, line.regression), (Verdict::Slower, true));
    }

    #[test]
    fn one_of_many_has_to_stand_out() {
        let (mut old, mut new) = (of(&[]), of(&[]));
        let sample = |number: u64, centre: f64| {
            let mut dice = fastrand::Rng::with_seed(number);
            let samples = (0..24).map(|_| centre * (0.8 + 0.4 * dice.f64())).collect();
            Metric::new(format!("warm/{number}"), Unit::Nanoseconds, None, samples).unwrap()
        };
        for number in 0..300 {
            old.metrics.push(sample(number, 100.0));
            let mut metric = sample(number + 1000, if number == 7 { 200.0 } else { 104.0 });
            metric.name = format!("warm/{number}");
            new.metrics.push(metric);
        }
        let comparison = Comparison::new(&old, &new, 0.05);
        let named = comparison.lines.iter().filter(|line| line.regression);
        let names: Vec<_> = named.map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["warm/7"]);
    }

    #[test]
    fn numbers_are_about() {
        let shown = [7, 137, 4_321, 987_654, 5_000_000].map(about);
        let wanted = [
            "7",
            "some 140",
            "some 4400",
            "some 990000",
            "more than a million",
        ];
        assert_eq!(shown, wanted);
    }

    #[test]
    fn a_baseline_is_compared_by_medians() {
        let unit = Unit::Instructions;
        let baseline = run(1.0, unit).baseline(|_| true);
        let regressions = |new: &Run| Comparison::with_baseline(&baseline, new, 0.05).regressions();
        assert_eq!(regressions(&run(1.04, unit)), 0);
        assert_eq!(regressions(&run(1.06, unit)), 1);
        assert_eq!(regressions(&run(0.5, unit)), 0);
        let verdict = |new: &Run| Comparison::with_baseline(&baseline, new, 0.05).lines[0].verdict;
        assert_eq!(verdict(&run(1.004, unit)), Verdict::NoDifference);
        assert_eq!(verdict(&run(1.006, unit)), Verdict::Slower);
        assert_eq!(verdict(&run(0.994, unit)), Verdict::Faster);
        assert_eq!(regressions(&Run::new(false, BTreeMap::new())), 1);
    }

    #[test]
    fn what_one_run_lacks_is_said() {
        let empty = Run::new(true, BTreeMap::new());
        let comparison = Comparison::new(&run(1.0, Unit::Bytes), &empty, 0.05);
        assert_eq!(comparison.alone, ["warm/x"]);
        assert!(comparison.table().contains("aligned accesses"));
        assert_eq!(comparison.regressions(), 0);
    }
}
