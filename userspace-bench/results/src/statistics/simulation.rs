// SPDX-License-Identifier: GPL-2.0
//! Whether the intervals hold what they promise, by simulation: series are drawn from known distributions, over and
//! over, and counted is how often a change is called real that is none, and how often one that is real.
//!
//! The seeds are fixed, so that a result is the same each time. Without optimisation, as the tests usually run, there are
//! a tenth of the tries. The long versions, which take some minutes, go to a million samples, and print the figures of
//! the documentation: `cargo test --release -p odp-results simulation -- --include-ignored --nocapture`.

use std::collections::BTreeMap;

use super::{change::Change, family::stand_out, order::Series, TAIL};
use crate::{
    compare::Comparison,
    run::{Metric, Run, Unit},
};

/// How many tries there are, where it would be `all` with optimisation.
fn tries(all: u32) -> u32 {
    match cfg!(debug_assertions) {
        true => all / 10,
        false => all,
    }
}

type Dice = fastrand::Rng;

/// A way in which samples come about, with a median of about 100.
struct World {
    name: &'static str,
    draw: fn(&mut Dice, usize) -> Vec<f64>,
}

/// A value of the standard normal distribution.
fn normal(dice: &mut Dice) -> f64 {
    let (radius, angle) = (1.0 - dice.f64(), dice.f64());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// Each sample by itself.
fn each(dice: &mut Dice, count: usize, one: impl Fn(&mut Dice) -> f64) -> Vec<f64> {
    (0..count).map(|_| one(dice)).collect()
}

/// Each sample keeps a share of the deviation of the one before.
fn persistent(dice: &mut Dice, count: usize, share: f64) -> Vec<f64> {
    let fresh = (1.0 - share * share).sqrt();
    let mut deviation = normal(dice);
    let next = |_| {
        deviation = share * deviation + fresh * normal(dice);
        100.0 * (0.2 * deviation).exp()
    };
    (0..count).map(next).collect()
}

/// A machine that has something else to do now and then, for `length` samples or so, a third of the time.
fn busy(dice: &mut Dice, count: usize, length: f64) -> Vec<f64> {
    let mut occupied = dice.f64() < 1.0 / 3.0;
    let next = |_| {
        let leaves = if occupied { 1.0 } else { 0.5 } / length;
        if dice.f64() < leaves {
            occupied = !occupied;
        }
        let usual = 100.0 * (1.0 + 0.05 * normal(dice));
        if occupied {
            1.5 * usual
        } else {
            usual
        }
    };
    (0..count).map(next).collect()
}

/// A machine that becomes slower or faster while it is measured, by a tenth at most.
fn drifting(dice: &mut Dice, count: usize) -> Vec<f64> {
    let by = 0.2 * dice.f64() - 0.1;
    let at = |i: usize| 1.0 + by * (i as f64 / count as f64 - 0.5);
    (0..count)
        .map(|i| 100.0 * at(i) * (1.0 + 0.02 * normal(dice)))
        .collect()
}

/// A machine that becomes a little slower or faster with each sample, and never comes back by itself.
fn walking(dice: &mut Dice, count: usize) -> Vec<f64> {
    let mut place = 0.0;
    let next = |_| {
        place += 0.01 * normal(dice);
        100.0 * (place + 0.02 * normal(dice)).exp()
    };
    (0..count).map(next).collect()
}

const WORLDS: &[World] = &[
    World {
        name: "normal",
        draw: |dice, n| each(dice, n, |d| 100.0 + 10.0 * normal(d)),
    },
    World {
        name: "lognormal",
        draw: |dice, n| each(dice, n, |d| 100.0 * normal(d).exp()),
    },
    World {
        name: "heavy tail",
        // Pareto's, without a variance: the median of u^(-1/1.1) is 2^(1/1.1).
        draw: |dice, n| {
            each(dice, n, |d| {
                100.0 * (2.0 * (1.0 - d.f64())).powf(-1.0 / 1.1)
            })
        },
    },
    World {
        name: "two modes",
        draw: |dice, n| {
            each(dice, n, |d| {
                let mode = if d.f64() < 0.55 { 90.0 } else { 180.0 };
                mode + 8.0 * normal(d)
            })
        },
    },
    World {
        name: "ties",
        // A clock of coarse steps.
        draw: |dice, n| {
            each(dice, n, |d| {
                ((100.0 + 10.0 * normal(d)) / 8.0).round() * 8.0
            })
        },
    },
    World {
        name: "two values",
        draw: |dice, n| each(dice, n, |d| if d.bool() { 100.0 } else { 101.0 }),
    },
    World {
        name: "persistent 0.5",
        draw: |dice, n| persistent(dice, n, 0.5),
    },
    World {
        name: "persistent 0.9",
        draw: |dice, n| persistent(dice, n, 0.9),
    },
    World {
        name: "persistent 0.98",
        draw: |dice, n| persistent(dice, n, 0.98),
    },
    World {
        name: "busy for 10",
        draw: |dice, n| busy(dice, n, 10.0),
    },
    World {
        name: "busy for 50",
        draw: |dice, n| busy(dice, n, 50.0),
    },
    World {
        name: "drift",
        draw: drifting,
    },
    World {
        name: "random walk",
        draw: walking,
    },
];

/// What was called what.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    tried: u32,
    too_few: u32,
    /// Above, and below.
    called: [u32; 2],
}

/// Compares the medians of two series of `world`, the second one `factor` times as long, `tries` times.
fn compare(world: &World, count: usize, factor: f64, tries: u32) -> Counts {
    compare_part(world, 0.5, count, factor, tries)
}

/// The same of the percentile `part`.
fn compare_part(world: &World, part: f64, count: usize, factor: f64, tries: u32) -> Counts {
    let mut dice = Dice::with_seed(count as u64 ^ factor.to_bits());
    let mut counts = Counts::default();
    for _ in 0..tries {
        let old = (world.draw)(&mut dice, count);
        let mut new = (world.draw)(&mut dice, count);
        new.iter_mut().for_each(|sample| *sample *= factor);
        let of = |samples: &[f64]| Series::of(samples).unwrap();
        let change = Change::of_part(of(&old), of(&new), part, TAIL);
        counts.tried += 1;
        match change.within(TAIL) {
            None => counts.too_few += 1,
            Some(interval) => {
                counts.called[0] += u32::from(interval.low > change.none());
                counts.called[1] += u32::from(interval.high < change.none());
            }
        }
    }
    counts
}

/// As many of `tries` as may be, if each is one with probability `share`: but for one of a thousand simulations.
fn most(share: f64, tries: u32) -> u32 {
    let mean = share * f64::from(tries);
    (mean + 3.1 * (mean * (1.0 - share)).sqrt()).floor() as u32
}

/// How often a change is called above, or below, that is none, as the documentation promises: as often as the level says,
/// but where a disturbance lasts for more than a tenth of a series, which does not show in it.
fn promised(world: &World, count: usize) -> f64 {
    match (world.name, count) {
        ("persistent 0.9" | "persistent 0.98", 0..20) => 0.07,
        ("persistent 0.9" | "persistent 0.98", 20..400) => 0.035,
        ("busy for 10", 0..100) => 0.08,
        ("busy for 10", 100..400) => 0.03,
        ("busy for 50", 0..100) => 0.18,
        ("busy for 50", 100..400) => 0.11,
        ("busy for 50", 400..1000) => 0.04,
        ("random walk", 0..400) => 0.09,
        ("random walk", 400..) => 0.05,
        _ => TAIL,
    }
}

/// Fails if in one of the worlds more is called a change than is promised, of series of each of `counts`.
fn level_holds(counts: &[usize], tries: u32) {
    for world in WORLDS {
        for &count in counts {
            let Counts { called, .. } = compare(world, count, 1.0, tries);
            let most = most(promised(world, count), tries);
            let name = world.name;
            assert!(
                called.iter().all(|n| *n <= most),
                "{name}, {count}: {called:?} of {most}"
            );
        }
    }
}

#[test]
fn no_more_is_called_a_change_than_the_level_says() {
    level_holds(&[1, 6, 20, 100, 400], tries(2000));
}

/// The same of the percentile `part`.
fn level_holds_of(part: f64, counts: &[usize], tries: u32) {
    let mut broken = Vec::new();
    for world in WORLDS {
        for &count in counts {
            let Counts { called, .. } = compare_part(world, part, count, 1.0, tries);
            let most = most(TAIL, tries);
            if called.iter().any(|n| *n > most) {
                let name = world.name;
                broken.push(format!("{name}, {part} of {count}: {called:?} of {most}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn nor_is_it_of_a_tail() {
    level_holds_of(0.99, &[100, 400, 2000], tries(2000));
}

#[test]
#[ignore = "takes some minutes, with optimisation"]
fn nor_is_it_of_a_long_tail() {
    level_holds_of(0.99, &[10_000], tries(1000));
    level_holds_of(0.999, &[4000, 10_000, 40_000], tries(500));
}

#[test]
fn a_tail_that_is_half_as_long_again_is_found() {
    for (name, part, count, least) in [
        ("normal", 0.99, 1000, 95),
        ("lognormal", 0.99, 10_000, 80),
        ("two modes", 0.99, 1000, 95),
        ("normal", 0.999, 10_000, 95),
    ] {
        let world = WORLDS.iter().find(|world| world.name == name).unwrap();
        let Counts { called, .. } = compare_part(world, part, count, 1.5, 50);
        assert!(2 * called[0] >= least, "{name}, {part}: {called:?}");
        assert_eq!(called[1], 0, "{name}");
    }
}

#[test]
#[ignore = "takes some minutes, with optimisation"]
fn nor_is_it_of_many_samples() {
    level_holds(&[1000, 10_000], tries(2000));
    level_holds(&[100_000], tries(300));
    level_holds(&[1_000_000], tries(40));
}

#[test]
fn a_change_of_a_tenth_is_found() {
    // The world, how many samples, and in how many of 100 cases it is found at least.
    for (name, count, least) in [
        ("normal", 100, 95),
        ("ties", 100, 95),
        ("heavy tail", 2000, 80),
        ("lognormal", 4000, 80),
        ("persistent 0.5", 400, 80),
        ("two modes", 1000, 65),
    ] {
        let world = WORLDS.iter().find(|world| world.name == name).unwrap();
        let Counts { called, .. } = compare(world, count, 1.1, 100);
        assert!(called[0] >= least, "{name}: {called:?}");
        assert_eq!(called[1], 0, "{name}");
    }
}

#[test]
fn of_many_metrics_none_is_named_by_accident() {
    const COMPARISONS: u32 = 60;
    let mut dice = Dice::with_seed(11);
    // All are worse by exactly what is tolerated, and by no more.
    let mut one = || {
        let draw = |dice: &mut Dice| each(dice, 40, |d| (0.1 * normal(d)).exp());
        let (old, mut new) = (draw(&mut dice), draw(&mut dice));
        new.iter_mut().for_each(|sample| *sample *= 1.05);
        let of = |samples: &[f64]| Series::of(samples).unwrap();
        let change = Change::new(of(&old), of(&new), TAIL);
        change.probability(change.limit(0.05, TAIL), true)
    };
    let named = (0..COMPARISONS).filter(|_| {
        let probabilities: Vec<f64> = (0..30).map(|_| one()).collect();
        stand_out(&probabilities, TAIL).contains(&true)
    });
    let (named, most) = (named.count() as u32, most(TAIL, COMPARISONS));
    assert!(named <= most, "{named} of {COMPARISONS}");
}

/// A run of `count` metrics with 24 samples each around 100, a few of which hang together.
fn run(dice: &mut Dice, count: usize, factor: f64) -> Run {
    let mut run = Run::new(false, BTreeMap::new());
    for number in 0..count {
        let draw = WORLDS[number % 7].draw;
        let samples: Vec<f64> = draw(dice, 24).iter().map(|x| factor * x).collect();
        let name = format!("a/{number}");
        run.metrics
            .extend(Metric::new(name, Unit::Nanoseconds, None, samples));
    }
    run
}

#[test]
fn of_a_whole_run_nothing_is_named_by_accident() {
    const METRICS: usize = 300;
    let tries = tries(300);
    let mut dice = Dice::with_seed(14);
    let named = (0..tries).filter(|_| {
        // Worse by exactly what is tolerated.
        let (old, new) = (run(&mut dice, METRICS, 1.0), run(&mut dice, METRICS, 1.05));
        Comparison::new(&old, &new, 0.05).regressions() > 0
    });
    let (named, most) = (named.count() as u32, most(TAIL, tries));
    assert!(named <= most, "{named} of {tries}");
}

#[test]
fn what_differs_from_run_to_run_is_no_change_of_several_runs() {
    let tries = tries(2000);
    let mut dice = Dice::with_seed(15);
    // Each run is off by some percent as a whole, far more than its samples scatter.
    let runs = |dice: &mut Dice, factor: f64| -> Vec<Run> {
        let one = |dice: &mut Dice| {
            let off = factor * (0.05 * normal(dice)).exp();
            let samples = each(dice, 30, |d| 100.0 * off * (1.0 + 0.01 * normal(d)));
            let mut run = Run::new(false, BTreeMap::new());
            run.metrics
                .extend(Metric::new("a/b", Unit::Nanoseconds, None, samples));
            run
        };
        (0..10).map(|_| one(dice)).collect()
    };
    let (mut of_two, mut of_several, mut found) = (0, 0, 0);
    for _ in 0..tries {
        let (old, new) = (runs(&mut dice, 1.0), runs(&mut dice, 1.0));
        let is_slower = |comparison: Comparison| {
            let within = comparison.lines[0].within;
            u32::from(within.is_some_and(|within| within.low > 1.0))
        };
        of_two += is_slower(Comparison::new(&old[0], &new[0], 0.05));
        of_several += is_slower(Comparison::of_runs(&old, &new, 0.05));
        let slower = runs(&mut dice, 1.15);
        found += is_slower(Comparison::of_runs(&old, &slower, 0.05));
    }
    // What the documentation warns of.
    assert!(of_two > tries / 4, "{of_two}");
    assert!(of_several <= most(TAIL, tries), "{of_several}");
    // And a change of three deviations is found in most cases in which there are enough runs.
    assert!(found > tries * 6 / 10, "{found} of {tries}");
}

#[test]
fn the_intervals_of_percentiles_hold_the_true_ones() {
    const TRIES: u32 = 200;
    let tail = WORLDS
        .iter()
        .find(|world| world.name == "heavy tail")
        .unwrap();
    let mut dice = Dice::with_seed(12);
    for (part, count) in [(0.5f64, 50), (0.9, 100), (0.99, 1000)] {
        let truth = 100.0 * (2.0 * (1.0 - part)).powf(-1.0 / 1.1);
        let missed = (0..TRIES).filter(|_| {
            let series = Series::of(&(tail.draw)(&mut dice, count)).unwrap();
            // What is not told is not wrong.
            series
                .quantile_within(part)
                .is_some_and(|interval| !interval.holds(truth))
        });
        let missed = missed.count() as u32;
        assert!(
            missed <= most(2.0 * TAIL, TRIES),
            "{part}: {missed} of {TRIES}"
        );
    }
}

#[test]
fn thirty_independent_samples_are_enough_to_say_something() {
    for world in &WORLDS[..6] {
        assert_eq!(compare(world, 5, 1.0, 50).too_few, 50);
        // Some of them look as if they hung together.
        let too_few = compare(world, 30, 1.0, 200).too_few;
        assert!(too_few <= 20, "{}: {too_few}", world.name);
    }
}

/// A line of the documentation's table: for each count how many of 100 pairs are called different that are not, and how
/// many are found slower whose second series is `factor` times as long.
fn row(world: &World, part: f64, counts: &[usize], factor: f64) -> String {
    let mut row = format!("| {} |", world.name);
    for &count in counts {
        let tries = (8_000_000 / count).clamp(400, 1000) as u32;
        let percent = |n: u32| 100.0 * f64::from(n) / f64::from(tries);
        let none = compare_part(world, part, count, 1.0, tries);
        let some = compare_part(world, part, count, factor, tries);
        let cell = match none.too_few {
            few if few > tries / 2 => " - |".into(),
            _ => {
                let wrong = percent(none.called[0] + none.called[1]);
                format!(" {wrong:.1} / {:.0} |", percent(some.called[0]))
            }
        };
        row += &cell;
    }
    row
}

#[test]
#[ignore = "takes some minutes, with optimisation: the figures of the documentation"]
fn figures() {
    for (title, part, counts, factor) in [
        ("median, 1.1", 0.5, &[20, 100, 400, 1000, 10_000][..], 1.1),
        ("p99, 1.5", 0.99, &[400, 1000, 4000, 10_000][..], 1.5),
        ("p99.9, 1.5", 0.999, &[4000, 10_000, 40_000][..], 1.5),
    ] {
        println!("{title}: {counts:?}");
        for world in WORLDS {
            println!("{}", row(world, part, counts, factor));
        }
    }
}
