// SPDX-License-Identifier: GPL-2.0
//! The verdict on each goal.
//!
//! A goal is met if the whole interval of its figure is within the limit, missed if all of it is beyond the limit, and
//! too close to say otherwise. A comparison with C is also too close to say if C differs too much from itself. If the
//! noise is above [`USEFUL`], it could hide a real difference, and no goal of equality is met.

use odp_results::compare::COUNTED;
use odp_results::run::{Run, Unit};
use odp_results::statistics::Ratio;

use super::goals::{Figure, Goal, Limit, GOALS};
use super::legs::{self, Leg};
use crate::vm::Driver;

/// The verdict on a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The interval is within the limit.
    Met,
    /// The interval is beyond the limit.
    Missed,
    /// The limit is in the interval, or the noise is too large.
    Open,
    /// There is no limit.
    Told,
    /// A metric is missing.
    Unknown,
}

impl Verdict {
    /// What the table says.
    pub(super) fn name(self) -> &'static str {
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
    pub(super) title: &'static str,
    /// The measured values in the unit of the metric: of C's driver, or of what it is compared with, and of ours.
    pub(super) sides: [Option<f64>; 2],
    pub(super) unit: Unit,
    pub(super) ratio: Option<Ratio>,
    /// The same ratio on C's driver, or of C's driver to itself.
    pub(super) reference: Option<Ratio>,
    pub(super) bar: Option<Bar>,
    pub(super) verdict: Verdict,
}

/// A limit, and the noise that is added to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) limit: f64,
    pub(super) noise: f64,
}

/// The largest useful noise: more hides differences that matter.
const USEFUL: f64 = 0.05;

/// Judges all goals, or those that `two` machines can measure.
pub(super) fn judge(legs: &[Leg], two: bool) -> Vec<Line> {
    let goals = GOALS.iter().filter(|goal| !two || goal.figure.of_two());
    goals.map(|goal| line(goal, legs)).collect()
}

fn line(goal: &Goal, legs: &[Leg]) -> Line {
    let of = |driver: Driver| -> Vec<f64> {
        let of_driver = legs.iter().filter(|leg| leg.driver == driver);
        of_driver
            .filter_map(|leg| within(goal.figure, &leg.run))
            .collect()
    };
    let (ratios, references) = match goal.figure {
        Figure::AgainstC(name) => (
            ratios(legs, Driver::Ours, |leg| median(&leg.run, name)),
            ratios(legs, Driver::Stock, |leg| median(&leg.run, name)),
        ),
        Figure::CountedAgainstC(ours, stock) => {
            let amount = |leg: &Leg| match leg.driver {
                Driver::Ours => median(&leg.run, ours),
                Driver::Stock => median(&leg.run, stock),
            };
            (
                ratios(legs, Driver::Ours, amount),
                ratios(legs, Driver::Stock, amount),
            )
        }
        _ => (of(Driver::Ours), of(Driver::Stock)),
    };
    let (ratio, reference) = (Ratio::of_pairs(&ratios), Ratio::of_pairs(&references));
    let unit = unit(goal.figure, legs);
    let bar = match goal.limit {
        Limit::Unlimited => None,
        Limit::AtMost(limit) => Some(Bar { limit, noise: 0.0 }),
        Limit::Equal(null) => Some(Bar {
            limit: 1.0,
            noise: noise(null, unit, legs),
        }),
    };
    Line {
        title: goal.title,
        sides: sides(goal.figure, legs),
        unit,
        ratio,
        reference,
        bar,
        verdict: match (goal.figure, bar) {
            (Figure::AgainstC(_) | Figure::CountedAgainstC(..), Some(_)) if !steady(reference) => {
                Verdict::Open
            }
            _ => verdict(bar, ratio),
        },
    }
}

/// Whether C's driver is usable as a reference, given the ratio `reference` of its own runs. If it may differ from 1 by
/// more than a half, the measurement is lost in noise.
fn steady(reference: Option<Ratio>) -> bool {
    let near = |ratio: f64| (ratio - 1.0).abs() <= 0.5;
    reference.is_none_or(|Ratio { value, low, high }| match high.is_infinite() {
        // A single value has no interval.
        true => near(value),
        false => near(low) && near(high),
    })
}

fn verdict(bar: Option<Bar>, ratio: Option<Ratio>) -> Verdict {
    let Some(ratio) = ratio else {
        return Verdict::Unknown;
    };
    let Some(Bar { limit, noise }) = bar else {
        return Verdict::Told;
    };
    match () {
        () if ratio.low > limit + noise => Verdict::Missed,
        () if ratio.high <= limit + noise && noise <= USEFUL => Verdict::Met,
        () => Verdict::Open,
    }
}

/// How much `null` of the stock driver may differ between two runs: the far end of the interval, which is infinite if
/// there are too few runs. Instruction counts hardly scatter: for these it is the largest difference that was
/// observed, and at least [`COUNTED`].
fn noise(null: Figure, unit: Unit, legs: &[Leg]) -> f64 {
    let pairs = ratios(legs, Driver::Stock, |leg| within(null, &leg.run));
    if unit == Unit::Instructions {
        let differences = pairs.iter().map(|ratio| (ratio - 1.0).abs());
        return differences.fold(COUNTED, f64::max);
    }
    Ratio::of_pairs(&pairs).map_or(f64::INFINITY, |ratio| {
        (ratio.high - 1.0).max(1.0 - ratio.low)
    })
}

fn median(run: &Run, name: &str) -> Option<f64> {
    run.metric(name).map(|metric| metric.summary.p50)
}

/// A figure that a single run has.
fn within(figure: Figure, run: &Run) -> Option<f64> {
    match figure {
        Figure::AgainstC(_) | Figure::CountedAgainstC(..) => None,
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

/// The ratio of `amount` on `driver` to `amount` on the stock driver, for each pair of runs that can be compared.
fn ratios(legs: &[Leg], driver: Driver, amount: impl Fn(&Leg) -> Option<f64>) -> Vec<f64> {
    let found = |block: u32, place: usize| {
        let leg = legs.iter().find(|l| l.block == block && l.place == place)?;
        amount(leg)
    };
    let last = legs.iter().map(|leg| leg.block).max().unwrap_or(0);
    let pairs = (0..=last).flat_map(|block| {
        let pairs = legs::pairs(block, driver).iter();
        pairs.map(move |(old, new)| (block, *old, *new))
    });
    pairs
        .filter_map(|(block, old, new)| Some(found(block, new)? / found(block, old)?))
        .collect()
}

/// The amounts of a ratio: the medians over runs of their medians.
fn sides(figure: Figure, legs: &[Leg]) -> [Option<f64>; 2] {
    let typical = |driver: Driver, name: &str| {
        let of_driver = legs.iter().filter(|leg| leg.driver == driver);
        let mut all: Vec<f64> = of_driver.filter_map(|leg| median(&leg.run, name)).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    match figure {
        Figure::AgainstC(name) => [Driver::Stock, Driver::Ours].map(|driver| typical(driver, name)),
        Figure::CountedAgainstC(ours, stock) => {
            [typical(Driver::Stock, stock), typical(Driver::Ours, ours)]
        }
        Figure::Within(one, other) => [other, one].map(|name| typical(Driver::Ours, name)),
        Figure::Amount(name, amount) => [Some(amount), typical(Driver::Ours, name)],
        Figure::Spread(start) => {
            ["4KiB", "16TiB"].map(|size| typical(Driver::Ours, &format!("{start}{size}")))
        }
    }
}

fn unit(figure: Figure, legs: &[Leg]) -> Unit {
    let name = match figure {
        Figure::AgainstC(name)
        | Figure::CountedAgainstC(name, _)
        | Figure::Within(name, _)
        | Figure::Amount(name, _) => name,
        Figure::Spread(start) => start,
    };
    let mut all = legs.iter().flat_map(|leg| &leg.run.metrics);
    let found = all.find(|metric| metric.name.starts_with(name));
    found.map_or(Unit::Nanoseconds, |metric| metric.unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::goals::{equal, goal, UNTOUCHED, WARM};
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
        let goal = goal("x", Figure::AgainstC(UNTOUCHED), 0.6);
        line(&goal, &legs)
    }

    #[test]
    fn pairs_are_judged() {
        let line = untouched(100.0, 50.0);
        assert_eq!(line.verdict, Verdict::Met);
        assert_eq!(line.reference.unwrap().value, 1.0);
        assert_eq!(line.sides[0], Some(100.0));
        assert_eq!(untouched(100.0, 70.0).verdict, Verdict::Missed);
        assert_eq!(untouched(100.0, 59.8).verdict, Verdict::Open);
    }

    #[test]
    fn what_only_our_driver_counts_is_compared_with_what_c_s_takes() {
        let (ours, stock) = ("in-faults-per-page", "typical-cost");
        let legs = |c: f64| {
            let leg = |place, driver| match driver {
                Driver::Stock => leg(1, place, driver, &[(stock, c + place as f64 / 100.0)]),
                // Most of its accesses do not fault: their typical time is not the cost of a page.
                Driver::Ours => leg(1, place, driver, &[(ours, 5.0), (stock, 0.1)]),
            };
            [
                leg(0, Driver::Stock),
                leg(1, Driver::Ours),
                leg(2, Driver::Ours),
                leg(3, Driver::Stock),
            ]
        };
        let goal = goal("x", Figure::CountedAgainstC(ours, stock), 0.1);
        let met = line(&goal, &legs(100.0));
        assert_eq!(met.verdict, Verdict::Met);
        assert_eq!(met.sides[1], Some(5.0));
        assert!((met.ratio.unwrap().value - 0.05).abs() < 0.005);
        assert_eq!(line(&goal, &legs(8.0)).verdict, Verdict::Missed);
        // Without the counters there is nothing to compare.
        let mut blind = legs(100.0);
        for leg in &mut blind {
            leg.run.metrics.retain(|metric| metric.name != ours);
        }
        assert_eq!(line(&goal, &blind).verdict, Verdict::Unknown);
    }

    #[test]
    fn nothing_is_compared_with_what_differs_from_itself() {
        let mut legs = block(0, 100.0, 100.0);
        legs.extend(block(1, 100.0, 1.0));
        legs.extend(block(2, 100.0, 1.0));
        let goal = goal("x", Figure::AgainstC(UNTOUCHED), 0.6);
        assert_eq!(line(&goal, &legs).verdict, Verdict::Met);
        legs[0] = leg(0, 0, Driver::Stock, &[(UNTOUCHED, 40.0)]);
        assert_eq!(line(&goal, &legs).verdict, Verdict::Open);
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let lines = judge(&[], false);
        assert!(lines.iter().all(|line| line.verdict == Verdict::Unknown));
    }

    fn ratio(low: f64, high: f64) -> Option<Ratio> {
        let value = (low + high) / 2.0;
        Some(Ratio { value, low, high })
    }

    #[test]
    fn the_whole_interval_is_within_the_limit_or_beyond_it() {
        let bar = |limit, noise| Some(Bar { limit, noise });
        for (bar, low, high, expected) in [
            (bar(0.6, 0.0), 0.5, 0.6, Verdict::Met),
            (bar(0.6, 0.0), 0.5, 0.61, Verdict::Open),
            (bar(0.6, 0.0), 0.61, 0.7, Verdict::Missed),
            // Equal but for the noise, and not equal.
            (bar(1.0, 0.03), 0.99, 1.03, Verdict::Met),
            (bar(1.0, 0.03), 0.99, 1.04, Verdict::Open),
            (bar(1.0, 0.03), 1.04, 1.05, Verdict::Missed),
            (bar(1.0, 0.005), 1.009, 1.011, Verdict::Missed),
            // An interval that says nothing, and noise that hides everything but a large difference.
            (bar(1.0, 0.03), -0.04, 2.04, Verdict::Open),
            (bar(1.0, 0.06), 0.99, 1.01, Verdict::Open),
            (bar(1.0, 0.06), 1.07, 1.08, Verdict::Missed),
            (bar(1.0, f64::INFINITY), 2.0, 3.0, Verdict::Open),
        ] {
            assert_eq!(
                verdict(bar, ratio(low, high)),
                expected,
                "{bar:?} {low} {high}"
            );
        }
        assert_eq!(verdict(None, ratio(0.0, 9.0)), Verdict::Told);
        assert_eq!(verdict(bar(1.0, 0.0), None), Verdict::Unknown);
    }

    /// One block of the stock driver alone and two blocks of both. Explicit memory takes these times in the stock driver's
    /// runs, in order, and always `ours` on our driver; pinned memory takes 100.
    fn warm(stock: [f64; 8], ours: f64) -> Vec<Leg> {
        let drivers = [Driver::Stock, Driver::Ours, Driver::Ours, Driver::Stock];
        let mut stock = stock.into_iter();
        (0..12)
            .map(|number: usize| {
                let driver = match number < 4 {
                    true => Driver::Stock,
                    false => drivers[number % 4],
                };
                let time = match driver {
                    Driver::Stock => stock.next().unwrap(),
                    Driver::Ours => ours,
                };
                let metrics = [("warm/write/explicit", time), ("warm/write/pinned", 100.0)];
                leg(number as u32 / 4, number % 4, driver, &metrics)
            })
            .collect()
    }

    #[test]
    fn the_noise_is_that_of_the_stock_driver_with_itself() {
        let goal = equal("x", WARM, WARM);
        let judged = |stock, ours| {
            let line = line(&goal, &warm(stock, ours));
            (line.bar.unwrap().noise, line.verdict)
        };
        // That C is slower on on-demand memory is not noise, and does not matter.
        let (noise, verdict) = judged([130.0; 8], 100.0);
        assert!(noise.abs() < 1e-9, "{noise}");
        assert_eq!(verdict, Verdict::Met);
        // Four pairs: 0.99, 1.01, 0.99, 1.01. By hand: t is 3.182, the error of their mean 0.00577.
        let pairs = [100.0, 99.0, 101.0, 100.0, 100.0, 99.0, 100.0, 101.0];
        let (noise, verdict) = judged(pairs, 101.0);
        assert!((noise - 0.0184).abs() < 1e-3, "{noise}");
        assert_eq!(verdict, Verdict::Met);
        assert_eq!(judged(pairs, 103.0).1, Verdict::Missed);
        let restless = [100.0, 80.0, 120.0, 100.0, 100.0, 80.0, 100.0, 120.0];
        assert_eq!(judged(restless, 100.0).1, Verdict::Open);
    }

    #[test]
    fn without_a_null_run_nobody_knows_the_noise() {
        let mut legs = warm([100.0; 8], 100.0);
        legs.retain(|leg| leg.block == 1);
        let goal = equal("x", WARM, WARM);
        assert_eq!(line(&goal, &legs).verdict, Verdict::Open);
        // Instruction counts have almost none.
        for metric in legs.iter_mut().flat_map(|leg| &mut leg.run.metrics) {
            metric.unit = Unit::Instructions;
        }
        let counted = line(&goal, &legs);
        assert_eq!(counted.bar.unwrap().noise, COUNTED);
        assert_eq!(counted.verdict, Verdict::Met);
        // If there is more, it counts.
        legs.retain(|leg| leg.driver == Driver::Ours || leg.place == 0);
        legs.push(leg(
            1,
            3,
            Driver::Stock,
            &[("warm/write/explicit", 98.0), ("warm/write/pinned", 100.0)],
        ));
        let noise = line(&goal, &legs).bar.unwrap().noise;
        assert!((noise - 0.02).abs() < 1e-9, "{noise}");
    }
}
