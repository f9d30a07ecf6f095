// SPDX-License-Identifier: GPL-2.0
//! Whether the intervals hold what they promise, by simulation: series are drawn from known distributions, over and
//! over, and counted is how often a change is called real that is none, and how often one that is real.
//!
//! The seeds are fixed, so that a result is the same each time. The long version goes to a million samples:
//! `cargo test --release -p odp-results simulation -- --ignored --nocapture`.

use super::{change::Change, family::stand_out, order::Series, TAIL};

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
];

/// What was called what.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    tried: u32,
    too_few: u32,
    /// Above, and below.
    called: [u32; 2],
}

/// Compares two series of `world`, the second one `factor` times as long, `tries` times.
fn compare(world: &World, count: usize, factor: f64, tries: u32) -> Counts {
    let mut dice = Dice::with_seed(count as u64 ^ factor.to_bits());
    let mut counts = Counts::default();
    for _ in 0..tries {
        let old = (world.draw)(&mut dice, count);
        let mut new = (world.draw)(&mut dice, count);
        new.iter_mut().for_each(|sample| *sample *= factor);
        let of = |samples: &[f64]| Series::of(samples).unwrap();
        let change = Change::new(of(&old), of(&new), TAIL);
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

/// As long as a series has to be for its intervals to hold, as its own correlation has to be seen in it.
fn shortest(world: &World) -> usize {
    match world.name {
        "persistent 0.9" => 100,
        "persistent 0.98" => 400,
        "busy for 10" => 100,
        "busy for 50" => 400,
        _ => 6,
    }
}

#[test]
fn no_more_is_called_a_change_than_the_level_says() {
    const TRIES: u32 = 200;
    for world in WORLDS {
        for count in [6, 20, 100, 400] {
            if count < shortest(world) {
                continue;
            }
            let Counts { called, .. } = compare(world, count, 1.0, TRIES);
            let most = most(TAIL, TRIES);
            let name = world.name;
            assert!(
                called.iter().all(|n| *n <= most),
                "{name}, {count}: {called:?} of {most}"
            );
        }
    }
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
fn twenty_independent_samples_are_enough_to_say_something() {
    for world in &WORLDS[..6] {
        assert_eq!(compare(world, 5, 1.0, 50).too_few, 50);
        assert!(compare(world, 20, 1.0, 200).too_few <= 8, "{}", world.name);
    }
}

#[test]
#[ignore = "takes a minute: the figures of the documentation"]
fn figures() {
    for world in WORLDS {
        for count in [6, 10, 20, 50, 100, 400, 1000, 10_000, 100_000, 1_000_000] {
            let tries = (4_000_000 / count).clamp(20, 1000) as u32;
            let none = compare(world, count, 1.0, tries);
            let some = compare(world, count, 1.1, tries);
            let percent = |n: u32| 100.0 * f64::from(n) / f64::from(tries);
            println!(
                "{:<16}{count:>8}  few {:>5.1}  false {:>5.1} {:>5.1}  found {:>5.1}",
                world.name,
                percent(none.too_few),
                percent(none.called[0]),
                percent(none.called[1]),
                percent(some.called[0])
            );
        }
    }
}
