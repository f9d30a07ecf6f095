// SPDX-License-Identifier: GPL-2.0
//! Where the samples of a metric lie, as far as they say.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    order::{Interval, Series},
    TAIL,
};

/// Where samples lie.
///
/// A percentile is told if there are enough samples for the upper end of its interval: 36 for the 90th, 368 for the
/// 99th, 3688 for the 99.9th, and more where samples hang together. Of fewer, the largest one stands for all of them.
/// The median is always told, and its interval from 6 samples on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Distribution {
    /// How many samples there are.
    pub count: usize,
    /// As how many independent ones they count: fewer, where a busy time or a drift is in them.
    pub independent: u64,
    /// The mean.
    pub mean: f64,
    /// The smallest.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// The interval that holds the true median in 95 of 100 cases.
    pub p50_within: Option<Interval>,
    /// The 90th percentile.
    pub p90: Option<f64>,
    /// The interval that holds the true one in 95 of 100 cases.
    pub p90_within: Option<Interval>,
    /// The 99th percentile.
    pub p99: Option<f64>,
    /// Its interval.
    pub p99_within: Option<Interval>,
    /// The 99.9th percentile.
    pub p999: Option<f64>,
    /// Its interval.
    pub p999_within: Option<Interval>,
    /// The largest.
    pub max: f64,
}

impl Distribution {
    /// Of `samples`, in the order in which they were taken; none if there are none, or one is no number.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let series = Series::of(samples)?;
        let told = |part: f64| {
            let within = series.quantile_within(part);
            (within.map(|_| series.quantile(part)), within)
        };
        let [(p90, p90_within), (p99, p99_within), (p999, p999_within)] =
            [0.9, 0.99, 0.999].map(told);
        Some(Self {
            count: series.count(),
            independent: series.independent(),
            mean: series.mean(),
            min: series.min(),
            p50: series.median(),
            p50_within: series.median_within(TAIL),
            p90,
            p90_within,
            p99,
            p99_within,
            p999,
            p999_within,
            max: series.max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shuffled(count: usize) -> Vec<f64> {
        let mut samples: Vec<f64> = (1..=count).map(|i| i as f64).collect();
        fastrand::Rng::with_seed(5).shuffle(&mut samples);
        samples
    }

    #[test]
    fn percentiles_are_samples() {
        let d = Distribution::of(&shuffled(10_000)).unwrap();
        assert_eq!((d.min, d.p50, d.p90), (1.0, 5000.0, Some(9000.0)));
        assert_eq!(
            (d.p99, d.p999, d.max),
            (Some(9900.0), Some(9990.0), 10_000.0)
        );
        assert_eq!((d.count, d.mean), (10_000, 5000.5));
        assert!(d.p50_within.unwrap().holds(5000.0));
        assert!(d.p90_within.unwrap().holds(9000.0) && d.p99_within.unwrap().holds(9900.0));
        assert!(d.p999_within.unwrap().high <= 10_000.0);
        assert_eq!(Distribution::of(&[]), None);
        assert_eq!(Distribution::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn few_samples_have_few_percentiles() {
        let told = |count: usize| {
            let d = Distribution::of(&shuffled(count)).unwrap();
            [
                d.p50_within.is_some(),
                d.p90.is_some(),
                d.p99.is_some(),
                d.p999.is_some(),
            ]
        };
        assert_eq!(told(1), [false; 4]);
        assert_eq!(told(5), [false; 4]);
        assert_eq!(told(35)[1..], [false; 3]);
        assert_eq!(told(60), [true, true, false, false]);
        assert_eq!(told(360)[2..], [false; 2]);
        assert_eq!(told(600), [true, true, true, false]);
        assert_eq!(told(3680)[3..], [false]);
        assert_eq!(told(6000), [true; 4]);
    }

    #[test]
    fn one_busy_time_is_no_percentile() {
        let mut samples = vec![100.0; 380];
        samples
            .iter_mut()
            .enumerate()
            .for_each(|(i, s)| *s += (i * 7919 % 97) as f64);
        samples[200..204].fill(1e6);
        let d = Distribution::of(&samples).unwrap();
        assert_eq!(d.p99, None);
        assert_eq!(d.max, 1e6);
    }
}
