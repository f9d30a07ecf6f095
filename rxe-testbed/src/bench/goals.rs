// SPDX-License-Identifier: GPL-2.0
//! What the driver is to reach, and how it stands.

use odp_results::chart::{self, Bars};
use odp_results::run::{Run, Unit};
use odp_results::statistics::Ratio;

use super::legs::{Leg, PAIRS};
use crate::vm::Driver;

/// What is compared.
#[derive(Clone, Copy, Debug)]
enum Figure {
    /// A metric on our driver over the same on C's.
    AgainstC(&'static str),
    /// One metric over another, both of one run on our driver.
    Within(&'static str, &'static str),
    /// The largest of the metrics whose names begin so over the smallest, on our driver.
    Spread(&'static str),
    /// A metric on our driver over an amount.
    Amount(&'static str, f64),
}

/// Something that the driver is to reach.
struct Goal {
    title: &'static str,
    figure: Figure,
    /// What the figure is not to exceed; none if it is only told.
    limit: Option<f64>,
    /// Whether the limit is equality, which nothing measured ever is: then only what is certainly above it
    /// misses it.
    noise: bool,
}

const fn goal(title: &'static str, figure: Figure, limit: f64) -> Goal {
    Goal {
        title,
        figure,
        limit: Some(limit),
        noise: false,
    }
}

const fn equal(title: &'static str, figure: Figure) -> Goal {
    Goal {
        title,
        figure,
        limit: Some(1.0),
        noise: true,
    }
}

const fn told(title: &'static str, figure: Figure) -> Goal {
    Goal {
        title,
        figure,
        limit: None,
        noise: false,
    }
}

const UNTOUCHED: &str = "fault/explicit/4k/untouched/random/cost-of-a-fault";

const GOALS: &[Goal] = &[
    goal(
        "register 256 MiB",
        Figure::AgainstC("registration/explicit/register/256MiB"),
        0.02,
    ),
    goal(
        "register 4 KiB to 16 TiB: dearest / cheapest",
        Figure::Spread("registration/explicit/register/"),
        2.0,
    ),
    goal(
        "kernel memory for registering 1 GiB / 16 KiB",
        Figure::Amount("registration/memory/1GiB", 16384.0),
        1.0,
    ),
    told(
        "the same against C",
        Figure::AgainstC("registration/memory/1GiB"),
    ),
    equal(
        "64-byte WRITE, warm: explicit / pinned",
        Figure::Within("warm/write/explicit", "warm/write/pinned"),
    ),
    equal(
        "64-byte WRITE, warm: implicit / pinned",
        Figure::Within("warm/write/implicit", "warm/write/pinned"),
    ),
    equal(
        "4 QPs on one region, warm: explicit / pinned",
        Figure::Within("warm/write-4-qps/explicit", "warm/write-4-qps/pinned"),
    ),
    told(
        "4 QPs on one region, warm, against C",
        Figure::AgainstC("warm/write-4-qps/explicit"),
    ),
    goal(
        "cold 4 KiB page, untouched: cost over warm",
        Figure::AgainstC(UNTOUCHED),
        0.6,
    ),
    told(
        "the same against the CPU's own first touch",
        Figure::Within(UNTOUCHED, "fault/cpu/4k/cost-per-page"),
    ),
    goal(
        "cold 4 KiB page, resident, in order: cost over warm",
        Figure::AgainstC("fault/explicit/4k/resident/sequential/cost-per-page"),
        0.1,
    ),
    goal(
        "THP, untouched, for each 4 KiB: cost over warm",
        Figure::AgainstC("fault/explicit/thp/untouched/sequential/cost-per-page"),
        0.02,
    ),
    goal(
        "THP, resident, for each 4 KiB: cost over warm",
        Figure::AgainstC("fault/explicit/thp/resident/sequential/cost-per-page"),
        0.02,
    ),
    goal(
        "64 x 1 MiB WRITE, 4 KiB pages: untouched / pinned",
        Figure::Within("stream/explicit/4k/untouched", "stream/explicit/4k/pinned"),
        1.05,
    ),
    goal(
        "64 x 1 MiB WRITE, THP: untouched / pinned",
        Figure::Within(
            "stream/explicit/thp/untouched",
            "stream/explicit/thp/pinned",
        ),
        1.05,
    ),
    goal(
        "synchronous prefetch of 8 MiB, 4 KiB pages",
        Figure::AgainstC("prefetch/explicit/4k/sync/advice"),
        0.6,
    ),
    told(
        "synchronous prefetch of 8 MiB, THP",
        Figure::AgainstC("prefetch/explicit/thp/sync/advice"),
    ),
    goal(
        "MADV_DONTNEED of 8 MiB of THP: mapped region / none",
        Figure::Within(
            "invalidation/dontneed/thp/explicit",
            "invalidation/dontneed/thp/no-region",
        ),
        1.1,
    ),
    told(
        "MADV_DONTNEED of 8 MiB of 4 KiB pages: region / none",
        Figure::Within(
            "invalidation/dontneed/4k/explicit",
            "invalidation/dontneed/4k/no-region",
        ),
    ),
];

/// The cases of odp-bench that the goals take.
pub(super) fn cases() -> Vec<&'static str> {
    vec![
        "registration/explicit",
        "registration/memory",
        "warm/write",
        "warm/write-4-qps",
        "fault/cpu/4k",
        "fault/explicit/4k/untouched/random",
        "fault/explicit/4k/resident/sequential",
        "fault/explicit/thp/untouched/sequential",
        "fault/explicit/thp/resident/sequential",
        "stream/explicit",
        "prefetch/explicit/4k/sync",
        "prefetch/explicit/thp/sync",
        "invalidation/dontneed",
    ]
}

/// How it stands with a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The interval is within the limit.
    Met,
    /// The interval is beyond the limit.
    Missed,
    /// The limit is in the interval.
    Open,
    /// There was no limit.
    Told,
    /// Something that it takes was not measured.
    Unknown,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::Open => "too close to say",
            Self::Told => "",
            Self::Unknown => "not measured",
        }
    }
}

/// A line of the table.
pub(super) struct Line {
    title: &'static str,
    /// What is measured, in the unit of the metric, on C's driver (or what it is compared with) and on ours.
    sides: [Option<f64>; 2],
    unit: Unit,
    ratio: Option<Ratio>,
    noise: Option<Ratio>,
    limit: Option<f64>,
    verdict: Verdict,
}

/// Judges all goals.
pub(super) fn judge(legs: &[Leg]) -> Vec<Line> {
    GOALS.iter().map(|goal| line(goal, legs)).collect()
}

fn line(goal: &Goal, legs: &[Leg]) -> Line {
    let ours = |legs: &[Leg]| -> Vec<f64> {
        let of_driver = legs.iter().filter(|leg| leg.driver == Driver::Ours);
        of_driver
            .filter_map(|leg| within(goal.figure, &leg.run))
            .collect()
    };
    let (ratios, noise) = match goal.figure {
        Figure::AgainstC(name) => (pairs(legs, name, false), pairs(legs, name, true)),
        _ => {
            let stock = legs.iter().filter(|leg| leg.driver == Driver::Stock);
            let stock = stock.filter_map(|leg| within(goal.figure, &leg.run));
            // What the same comes to with C's driver, where it can be had.
            (ours(legs), stock.collect())
        }
    };
    let ratio = Ratio::of_pairs(&ratios);
    let (old, new) = sides(goal.figure, legs);
    Line {
        title: goal.title,
        sides: [old, new],
        unit: unit(goal.figure, legs),
        ratio,
        noise: Ratio::of_pairs(&noise),
        limit: goal.limit,
        verdict: verdict(goal, ratio),
    }
}

fn verdict(goal: &Goal, ratio: Option<Ratio>) -> Verdict {
    match (ratio, goal.limit) {
        (None, _) => Verdict::Unknown,
        (_, None) => Verdict::Told,
        (Some(ratio), Some(limit)) if ratio.low > limit => Verdict::Missed,
        (Some(ratio), Some(limit)) if ratio.high <= limit || goal.noise => Verdict::Met,
        _ => Verdict::Open,
    }
}

fn median(run: &Run, name: &str) -> Option<f64> {
    run.metric(name).map(|metric| metric.summary.p50)
}

/// A figure that one run has alone.
fn within(figure: Figure, run: &Run) -> Option<f64> {
    match figure {
        Figure::AgainstC(_) => None,
        Figure::Within(one, other) => Some(median(run, one)? / median(run, other)?),
        Figure::Amount(name, amount) => Some(median(run, name)? / amount),
        Figure::Spread(start) => {
            let all = run.metrics.iter().filter(|m| m.name.starts_with(start));
            let medians: Vec<f64> = all.map(|metric| metric.summary.p50).collect();
            let low = medians.iter().copied().reduce(f64::min)?;
            let high = medians.iter().copied().reduce(f64::max)?;
            Some(high / low)
        }
    }
}

/// The ratios of a metric in the pairs of the blocks: of both drivers, or of the stock driver alone.
fn pairs(legs: &[Leg], name: &str, null: bool) -> Vec<f64> {
    let leg = |block: u32, place: usize| {
        let found = legs.iter().find(|l| l.block == block && l.place == place)?;
        median(&found.run, name)
    };
    let last = legs.iter().map(|leg| leg.block).max().unwrap_or(0);
    let blocks = if null { 0..=0 } else { 1..=last };
    blocks
        .flat_map(|block| PAIRS.map(|(old, new)| Some(leg(block, new)? / leg(block, old)?)))
        .flatten()
        .collect()
}

/// The amounts behind a ratio: the medians over runs of their medians.
fn sides(figure: Figure, legs: &[Leg]) -> (Option<f64>, Option<f64>) {
    let typical = |driver: Driver, name: &str| {
        let of_driver = legs.iter().filter(|leg| leg.driver == driver);
        let mut all: Vec<f64> = of_driver.filter_map(|leg| median(&leg.run, name)).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    match figure {
        Figure::AgainstC(name) => (typical(Driver::Stock, name), typical(Driver::Ours, name)),
        Figure::Within(one, other) => (typical(Driver::Ours, other), typical(Driver::Ours, one)),
        Figure::Amount(name, amount) => (Some(amount), typical(Driver::Ours, name)),
        Figure::Spread(start) => {
            let size = |size: &str| typical(Driver::Ours, &format!("{start}{size}"));
            (size("4KiB"), size("16TiB"))
        }
    }
}

fn unit(figure: Figure, legs: &[Leg]) -> Unit {
    let name = match figure {
        Figure::AgainstC(name) | Figure::Within(name, _) | Figure::Amount(name, _) => name,
        Figure::Spread(start) => start,
    };
    let mut all = legs.iter().flat_map(|leg| &leg.run.metrics);
    let found = all.find(|metric| metric.name.starts_with(name));
    found.map_or(Unit::Nanoseconds, |metric| metric.unit)
}

const HEADINGS: [&str; 7] = [
    "",
    "C or base",
    "ours",
    "ratio",
    "goal",
    "C/C, or C's",
    "verdict",
];

fn cells(line: &Line) -> [String; 7] {
    let amount = |side: Option<f64>| side.map_or("-".into(), |side| line.unit.show(side));
    let ratio = |ratio: Option<Ratio>| match ratio {
        None => "-".to_owned(),
        Some(Ratio { value, low, high }) => {
            format!("{} [{}, {}]", short(value), short(low), short(high))
        }
    };
    [
        line.title.into(),
        amount(line.sides[0]),
        amount(line.sides[1]),
        ratio(line.ratio),
        line.limit
            .map_or(String::new(), |limit| format!("≤ {limit}")),
        ratio(line.noise),
        line.verdict.name().into(),
    ]
}

/// A ratio with as many places as it is worth.
fn short(ratio: f64) -> String {
    match ratio.abs() {
        size if size > 1e6 => "∞".into(),
        size if size >= 9.995 => format!("{ratio:.0}"),
        size if size >= 0.0995 => format!("{ratio:.2}"),
        _ => format!("{ratio:.4}"),
    }
}

/// The table for a terminal.
pub(super) fn table(lines: &[Line]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(lines.iter().map(cells));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..HEADINGS.len()).filter_map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = " ".repeat(width - cell.chars().count());
            // Numbers to the right.
            line.push_str(&match column {
                1 | 2 => format!("{gap}{cell}  "),
                _ => format!("{cell}{gap}  "),
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The table for a document.
pub(super) fn markdown(lines: &[Line]) -> String {
    let row = |cells: &[String; 7]| format!("| {} |\n", cells.join(" | "));
    let mut text = row(&HEADINGS.map(str::to_owned));
    text.push_str("|---|---:|---:|---|---|---|---|\n");
    lines
        .iter()
        .for_each(|line| text.push_str(&row(&cells(line))));
    text
}

/// Both drivers beside each other, for what takes time (or instructions) on both.
pub(super) fn picture(lines: &[Line]) -> Option<String> {
    let unit = lines
        .iter()
        .map(|line| line.unit)
        .find(|unit| *unit != Unit::Bytes)?;
    let timed = |line: &&Line| line.unit == unit && line.ratio.is_some();
    let against = |line: &&Line| {
        let goal = GOALS.iter().find(|goal| goal.title == line.title);
        goal.is_some_and(|goal| matches!(goal.figure, Figure::AgainstC(_)))
    };
    let rows: Vec<Bars> = lines
        .iter()
        .filter(timed)
        .filter(against)
        .map(|line| Bars {
            title: line.title.into(),
            values: line.sides.to_vec(),
        })
        .collect();
    chart::bars(&["stock (C)", "ours"], &rows, unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use odp_results::run::Metric;
    use std::collections::BTreeMap;

    fn leg(block: u32, place: usize, driver: Driver, metrics: &[(&str, f64)]) -> Leg {
        let mut run = Run::new(true, BTreeMap::new());
        for (name, value) in metrics {
            let samples = vec![*value; 3];
            run.metrics
                .extend(Metric::new(*name, Unit::Nanoseconds, None, samples));
        }
        Leg {
            block,
            place,
            driver,
            run,
        }
    }

    fn block(number: u32, c: f64, ours: f64) -> Vec<Leg> {
        let sides = match number {
            0 => [(Driver::Stock, c); 4],
            _ => [
                (Driver::Stock, c),
                (Driver::Ours, ours),
                (Driver::Ours, ours * 1.01),
                (Driver::Stock, c),
            ],
        };
        let legs = sides.iter().enumerate();
        legs.map(|(place, (driver, cost))| {
            leg(
                number,
                place,
                *driver,
                &[(UNTOUCHED, *cost), ("fault/cpu/4k/cost-per-page", 10.0)],
            )
        })
        .collect()
    }

    fn untouched(c: f64, ours: f64) -> Line {
        let mut legs = block(0, c, c);
        legs.extend(block(1, c, ours));
        legs.extend(block(2, c, ours));
        let goal = GOALS.iter().find(|goal| goal.limit == Some(0.6));
        line(goal.unwrap(), &legs)
    }

    #[test]
    fn pairs_are_judged() {
        let line = untouched(100.0, 50.0);
        assert_eq!(line.verdict, Verdict::Met);
        assert_eq!(line.noise.unwrap().value, 1.0);
        assert_eq!(line.sides[0], Some(100.0));
        assert_eq!(untouched(100.0, 70.0).verdict, Verdict::Missed);
        assert_eq!(untouched(100.0, 59.8).verdict, Verdict::Open);
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let lines = judge(&[]);
        assert!(lines.iter().all(|line| line.verdict == Verdict::Unknown));
        assert!(table(&lines).contains("not measured"));
        assert_eq!(picture(&lines), None);
    }

    #[test]
    fn equality_is_missed_only_for_certain() {
        let goal = equal("x", Figure::Within("a", "b"));
        let ratio = |value: f64, half: f64| {
            Some(Ratio {
                value,
                low: value - half,
                high: value + half,
            })
        };
        assert_eq!(verdict(&goal, ratio(1.02, 0.05)), Verdict::Met);
        assert_eq!(verdict(&goal, ratio(1.02, 0.01)), Verdict::Missed);
    }

    #[test]
    fn every_goal_has_its_cases() {
        for goal in GOALS {
            let names = match goal.figure {
                Figure::Within(one, other) => vec![one, other],
                Figure::AgainstC(name) | Figure::Amount(name, _) | Figure::Spread(name) => {
                    vec![name]
                }
            };
            for name in names {
                assert!(cases().iter().any(|case| name.starts_with(case)), "{name}");
            }
        }
    }
}
