// SPDX-License-Identifier: GPL-2.0
//! Percentiles, and how sure one can be of a ratio.
//!
//! Times of a fault are neither normal nor independent: a machine that is busy stays so for a while. So
//! intervals of one pair of runs come from a bootstrap over *blocks* of neighbouring samples, and those of
//! repeated pairs from the pairs alone: from their order, where there are enough.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, StudentsT};

/// How often a bootstrap draws. The limits of a 95 % interval then have some 25 draws beyond them.
const DRAWS: usize = 1000;

/// How sure an interval is.
const CONFIDENCE: f64 = 0.95;

/// Where samples lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Distribution {
    pub count: usize,
    pub mean: f64,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Distribution {
    /// Of `samples`; none if there are none, or one is no number.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        if !min.is_finite() || !max.is_finite() {
            return None;
        }
        Some(Self {
            count: sorted.len(),
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            min,
            p50: quantile(&sorted, 0.5),
            p90: quantile(&sorted, 0.9),
            p99: quantile(&sorted, 0.99),
            p999: quantile(&sorted, 0.999),
            max,
        })
    }
}

/// The smallest sample that at least the share `part` of the samples does not exceed. It is one that was
/// measured, not something in between. `sorted` is not empty.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn median(samples: &mut [f64]) -> f64 {
    let rank = samples.len().div_ceil(2) - 1;
    *samples.select_nth_unstable_by(rank, f64::total_cmp).1
}

/// A ratio, and the interval that holds the true one in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The best guess.
    pub value: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Ratio {
    /// The median of `new` over that of `old`, samples in the order in which they were taken. None if
    /// either is empty or not above zero.
    pub fn of_medians(old: &[f64], new: &[f64]) -> Option<Self> {
        if old.is_empty() || new.is_empty() {
            return None;
        }
        // Always the same draws: a comparison of two files has one result.
        let mut dice = fastrand::Rng::with_seed(1);
        let value = median(&mut new.to_vec()) / median(&mut old.to_vec());
        let mut ratios: Vec<f64> = (0..DRAWS)
            .map(|_| {
                median(&mut resampled(new, &mut dice)) / median(&mut resampled(old, &mut dice))
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        let tail = (1.0 - CONFIDENCE) / 2.0;
        let (low, high) = (quantile(&ratios, tail), quantile(&ratios, 1.0 - tail));
        let all = [value, low, high];
        all.iter()
            .all(|x| x.is_finite() && *x > 0.0)
            .then_some(Self { value, low, high })
    }

    /// The middle of ratios that were measured independently. Of six and more it is the median, with the narrowest
    /// interval between two of them that is sure enough, whatever their distribution: a pair that was measured
    /// while the machine did something else widens it no further than to the next one. Of fewer it is the mean,
    /// with the interval of Student's distribution. One alone has no interval: it is as wide as can be.
    pub fn of_pairs(ratios: &[f64]) -> Option<Self> {
        if ratios.is_empty() || !ratios.iter().all(|ratio| ratio.is_finite()) {
            return None;
        }
        let mut sorted = ratios.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        if let Some(beyond) = beyond(count) {
            return Some(Self {
                value: (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0,
                low: sorted[beyond],
                high: sorted[count - 1 - beyond],
            });
        }
        let value = ratios.iter().sum::<f64>() / count as f64;
        let half = match count {
            1 => f64::INFINITY,
            _ => {
                let spread = ratios.iter().map(|r| (r - value).powi(2)).sum::<f64>();
                let freedom = (count - 1) as f64;
                let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
                let error = (spread / freedom / count as f64).sqrt();
                student.inverse_cdf(0.5 + CONFIDENCE / 2.0) * error
            }
        };
        Some(Self {
            value,
            low: value - half,
            high: value + half,
        })
    }
}

/// How many of `count` values may lie beyond either end of an interval that still holds their median with enough
/// confidence: whether a value is above the median is the toss of a coin. None if not even all of them suffice.
fn beyond(count: usize) -> Option<usize> {
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let coin = Binomial::new(0.5, count as u64).ok()?;
    (0..count)
        .take_while(|&few| coin.cdf(few as u64) <= tail)
        .last()
}

/// As many samples again, in blocks of neighbours drawn at random.
fn resampled(samples: &[f64], dice: &mut fastrand::Rng) -> Vec<f64> {
    let count = samples.len();
    let block = (count as f64).sqrt().round().max(1.0) as usize;
    let mut drawn = Vec::with_capacity(count + block);
    while drawn.len() < count {
        let start = dice.usize(..count);
        // Around the end, so that each sample is drawn as often as any other.
        drawn.extend((start..start + block).map(|i| samples[i % count]));
    }
    drawn.truncate(count);
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        let d = Distribution::of(&samples).unwrap();
        assert_eq!((d.min, d.p50, d.p90), (1.0, 500.0, 900.0));
        assert_eq!((d.p99, d.p999, d.max), (990.0, 999.0, 1000.0));
        assert_eq!((d.count, d.mean), (1000, 500.5));
        assert_eq!(Distribution::of(&[7.0]).unwrap().p999, 7.0);
        assert_eq!(Distribution::of(&[]), None);
        assert_eq!(Distribution::of(&[1.0, f64::NAN]), None);
    }

    /// Samples that scatter by a tenth around `centre`.
    fn around(centre: f64, seed: u64) -> Vec<f64> {
        let mut dice = fastrand::Rng::with_seed(seed);
        (0..400)
            .map(|_| centre * (0.95 + 0.1 * dice.f64()))
            .collect()
    }

    #[test]
    fn the_interval_holds_the_true_ratio() {
        let ratio = Ratio::of_medians(&around(100.0, 1), &around(120.0, 2)).unwrap();
        assert!(ratio.low < 1.2 && 1.2 < ratio.high, "{ratio:?}");
        assert!(ratio.high - ratio.low < 0.05, "{ratio:?}");
        let none = Ratio::of_medians(&around(100.0, 3), &around(100.0, 4)).unwrap();
        assert!(none.low < 1.0 && 1.0 < none.high, "{none:?}");
        assert_eq!(Ratio::of_medians(&[0.0], &[1.0]), None);
    }

    #[test]
    fn samples_that_hang_together_are_trusted_less() {
        let lonely = around(100.0, 5);
        // The same values, but a busy time in one piece.
        let mut together = lonely.clone();
        together.sort_by(f64::total_cmp);
        let width = |samples: &[f64]| {
            let ratio = Ratio::of_medians(samples, samples).unwrap();
            ratio.high - ratio.low
        };
        assert!(width(&together) > 2.0 * width(&lonely));
    }

    #[test]
    fn many_pairs_give_the_interval_of_their_order() {
        // From the tables of the sign test.
        let ranks = [6, 8, 9, 12, 15, 20].map(|count| beyond(count).unwrap());
        assert_eq!(ranks, [0, 0, 1, 2, 3, 5]);
        let ratio = Ratio::of_pairs(&[0.5, 0.4, 0.6, 0.5, 90.0, 0.5, 0.4, 0.6, 0.6]).unwrap();
        assert_eq!((ratio.value, ratio.low, ratio.high), (0.5, 0.4, 0.6));
        let even = Ratio::of_pairs(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!((even.value, even.low, even.high), (3.5, 1.0, 6.0));
    }

    #[test]
    fn few_pairs_give_students_interval() {
        let ratio = Ratio::of_pairs(&[0.5, 0.5, 0.5]).unwrap();
        assert!((ratio.value - 0.5).abs() < 1e-12 && (ratio.high - 0.5).abs() < 1e-12);
        // By hand: the error of the mean is 0.5, t for one degree of freedom 12.706.
        let ratio = Ratio::of_pairs(&[0.5, 1.5]).unwrap();
        assert_eq!(ratio.value, 1.0);
        assert!(
            (ratio.high - (1.0 + 12.706 * 0.5)).abs() < 1e-3,
            "{ratio:?}"
        );
        assert_eq!(beyond(5), None);
        let alone = Ratio::of_pairs(&[0.5]).unwrap();
        assert_eq!((alone.low, alone.high), (f64::NEG_INFINITY, f64::INFINITY));
        assert_eq!(Ratio::of_pairs(&[]), None);
        assert_eq!(Ratio::of_pairs(&[1.0, f64::NAN]), None);
    }
}
