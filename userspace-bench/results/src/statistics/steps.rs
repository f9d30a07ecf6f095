// SPDX-License-Identifier: GPL-2.0
//! Where a series of figures, one of each run, changes its level.
//!
//! A split is judged by ranks: how far those before it lie from the middle on the whole, for its place (Pettitt's test,
//! *A non-parametric approach to the change-point problem*, 1979, with each place weighed by what it scatters). How far
//! the farthest split of a series without a step lies is known from the same figures in random orders. So no
//! distribution is assumed, and one run that was disturbed is no step, however far off it lies. What is assumed is that
//! runs are independent: a slow drift is found as a step, too. Where there is one, both sides are searched again
//! (binary segmentation).

use fastrand::Rng;

/// A change of level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The first figure of the new level.
    pub at: usize,
    /// The median before, back to the step before or to the beginning.
    pub before: f64,
    /// The median from here on, up to the next step or to the end.
    pub after: f64,
    /// How probable it is to see as clear a step where there is none.
    pub probability: f64,
}

/// The fewest figures on either side of a step.
pub const LEAST: usize = 3;

/// How often figures are put into another order, at most: so often that one step stands out among a thousand metrics.
const ORDERS: u32 = 50_000;

/// So many orders that are as clear as the real one suffice to know that it is nothing.
const ENOUGH: u32 = 50;

/// So many figures it takes at least for a step to be as improbable as `level`, if there is none: of the orders of fewer
/// figures too many have all of one level before all of the other.
pub fn enough(level: f64) -> usize {
    let mut count = 2 * LEAST;
    // Of the ways to choose half of them two are as clear: those below first, or those above.
    let mut ways = 20.0;
    while 2.0 / ways > level {
        count += 1;
        let (n, half) = (count as f64, (count / 2) as f64);
        ways *= match count % 2 {
            0 => n / half,
            _ => n / (n - half),
        };
    }
    count
}

/// How probable the clearest step of `figures` is where there is none. 1 if they are too few for any.
pub fn probability(figures: &[f64]) -> f64 {
    clearest(&ranks(figures)).map_or(1.0, |(_, clarity)| by_chance(figures, clarity))
}

/// The steps of `figures` that are at most as probable by chance as `level`.
pub fn steps(figures: &[f64], level: f64) -> Vec<Step> {
    let mut splits = Vec::new();
    search(figures, 0, level, &mut splits);
    splits.sort_by_key(|(at, _)| *at);
    let ends = splits.iter().skip(1).map(|(at, _)| *at);
    let ends: Vec<usize> = ends.chain([figures.len()]).collect();
    let mut begin = 0;
    let mut steps = Vec::new();
    for ((at, probability), end) in splits.into_iter().zip(ends) {
        steps.push(Step {
            at,
            before: median(&figures[begin..at]),
            after: median(&figures[at..end]),
            probability,
        });
        begin = at;
    }
    steps
}

fn search(figures: &[f64], offset: usize, level: f64, splits: &mut Vec<(usize, f64)>) {
    let Some((at, clarity)) = clearest(&ranks(figures)) else {
        return;
    };
    let probability = by_chance(figures, clarity);
    if probability > level {
        return;
    }
    splits.push((offset + at, probability));
    search(&figures[..at], offset, level, splits);
    search(&figures[at..], offset + at, level, splits);
}

/// How often the figures in another order have as clear a step.
fn by_chance(figures: &[f64], clarity: f64) -> f64 {
    let mut ranks = ranks(figures);
    let mut dice = Rng::with_seed(figures.len() as u64);
    let mut as_clear = 0;
    for tried in 1..=ORDERS {
        dice.shuffle(&mut ranks);
        // Sums of the same ranks in another order differ by a rounding.
        let found = clearest(&ranks).is_some_and(|(_, other)| other >= clarity * (1.0 - 1e-9));
        as_clear += u32::from(found);
        if as_clear == ENOUGH {
            return f64::from(as_clear) / f64::from(tried);
        }
    }
    f64::from(as_clear + 1) / f64::from(ORDERS + 1)
}

/// The clearest split of ranks, and how clear it is. None if there are too few, or all are the same.
fn clearest(ranks: &[f64]) -> Option<(usize, f64)> {
    let count = ranks.len() as f64;
    let middle = (count + 1.0) / 2.0;
    let mut sum = 0.0;
    let mut best: Option<(usize, f64)> = None;
    for (at, rank) in ranks.iter().enumerate().map(|(i, rank)| (i + 1, rank)) {
        sum += rank - middle;
        if at < LEAST || at + LEAST > ranks.len() {
            continue;
        }
        let clarity = sum.abs() / (at as f64 * (count - at as f64)).sqrt();
        if clarity > best.map_or(1e-9, |(_, clarity)| clarity) {
            best = Some((at, clarity));
        }
    }
    best
}

/// The place of each figure among all, by size; equal ones have the middle of theirs.
fn ranks(figures: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..figures.len()).collect();
    order.sort_by(|&a, &b| figures[a].total_cmp(&figures[b]));
    let mut ranks = vec![0.0; figures.len()];
    for group in order.chunk_by(|&a, &b| figures[a] == figures[b]) {
        let first = order.partition_point(|&i| figures[i] < figures[group[0]]);
        for &i in group {
            ranks[i] = first as f64 + (group.len() as f64 + 1.0) / 2.0;
        }
    }
    ranks
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value of the standard normal distribution.
    fn normal(dice: &mut Rng) -> f64 {
        let (radius, angle) = (1.0 - dice.f64(), dice.f64());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    type Draw = fn(&mut Rng) -> f64;

    const NOISES: [(&str, Draw); 4] = [
        ("normal", normal),
        ("a tail without variance", |dice| {
            (1.0 - dice.f64()).powf(-1.0 / 1.1)
        }),
        ("two values", |dice| f64::from(u8::from(dice.bool()))),
        ("a disturbed run in ten", |dice| {
            normal(dice) + if dice.f64() < 0.1 { 30.0 } else { 0.0 }
        }),
    ];

    /// Of so many series the share of which `found` holds.
    fn share(series: u32, seed: u64, found: impl Fn(&mut Rng) -> bool) -> f64 {
        let mut dice = Rng::with_seed(seed);
        let holds = (0..series).filter(|_| found(&mut dice)).count();
        holds as f64 / f64::from(series)
    }

    #[test]
    fn where_nothing_has_changed_a_step_is_as_rare_as_the_level_says() {
        for (name, draw) in NOISES {
            for count in [8, 20, 60] {
                let found = share(400, 7, |dice| {
                    let figures: Vec<f64> = (0..count).map(|_| draw(dice)).collect();
                    !steps(&figures, 0.05).is_empty()
                });
                // Three deviations of what 400 series scatter above the level.
                assert!(found <= 0.05 + 0.033, "{name}, {count}: {found}");
            }
        }
    }

    #[test]
    fn a_step_of_three_deviations_is_found_where_it_is() {
        for (before, after) in [(8, 8), (30, 6), (6, 30)] {
            let found = share(100, 8, |dice| {
                let level = |i| if i < before { 100.0 } else { 103.0 };
                let figures: Vec<f64> = (0..before + after)
                    .map(|i| level(i) + normal(dice))
                    .collect();
                let steps = steps(&figures, 0.01);
                steps.len() == 1 && steps[0].at.abs_diff(before) <= 2
            });
            assert!(found >= 0.85, "{before} and {after}: {found}");
        }
    }

    #[test]
    fn several_steps_are_told_apart() {
        let mut dice = Rng::with_seed(9);
        let level = |i: usize| [100.0, 120.0, 90.0][i / 15];
        let figures: Vec<f64> = (0..45).map(|i| level(i) + normal(&mut dice)).collect();
        let steps = steps(&figures, 0.001);
        assert_eq!(
            steps.iter().map(|step| step.at).collect::<Vec<_>>(),
            [15, 30]
        );
        assert!((steps[0].after - 120.0).abs() < 1.0 && (steps[1].before - 120.0).abs() < 1.0);
        assert!((steps[1].after - 90.0).abs() < 1.0);
    }

    #[test]
    fn one_disturbed_run_is_no_step() {
        let mut dice = Rng::with_seed(10);
        let mut figures: Vec<f64> = (0..30).map(|_| normal(&mut dice)).collect();
        figures[29] = 1000.0;
        figures[12] = -1000.0;
        assert!(steps(&figures, 0.01).is_empty());
    }

    #[test]
    fn a_step_takes_enough_figures() {
        // Of 6 figures 20 ways, of 7 35, of 8 70, of 17 24310, of 18 48620.
        let levels = [0.1, 0.06, 0.03, 0.025 / 300.0, 2.1 / 48620.0];
        assert_eq!(levels.map(enough), [6, 7, 8, 17, 18]);
        let clear = |count: usize| {
            let figures: Vec<f64> = (0..count)
                .map(|i| i as f64 * 1e-3 + if i < count / 2 { 0.0 } else { 9.0 })
                .collect();
            probability(&figures)
        };
        assert!(clear(8) < 0.05 && clear(enough(0.025 / 300.0)) < 3.0 * 0.025 / 300.0);
    }

    #[test]
    fn few_figures_show_nothing() {
        for few in [&[][..], &[1.0], &[1.0, 1.0, 1.0, 2.0, 2.0]] {
            assert_eq!(probability(few), 1.0);
        }
        assert_eq!(probability(&[5.0; 40]), 1.0);
        // Of three and three one order in ten is as clear.
        let probable = probability(&[1.0, 1.1, 1.2, 2.0, 2.1, 2.2]);
        assert!((0.05..0.2).contains(&probable), "{probable}");
    }
}
