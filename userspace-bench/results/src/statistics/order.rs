// SPDX-License-Identifier: GPL-2.0
//! Percentiles, and the intervals that hold the true ones, from the order of the samples alone.
//!
//! Whether a sample lies below the true percentile is the toss of a coin, whatever the distribution: so how many do is
//! binomial, and between which two samples the percentile lies is known with a confidence that can be computed (the
//! interval of the sign test, as it is called for the median). Where neighbours hang together, a series counts as the
//! number of independent samples that would scatter as much.

use schemars::JsonSchema;
use serde::Serialize;
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal};

use super::{correlation::inflation, TAIL};

/// Where a true value lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Whether `value` is within.
    pub fn holds(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

/// Up to this many tosses are counted exactly; of more, their normal approximation is the same, if both sides are to be
/// expected at least [`COMMON`] times.
const EXACT: u64 = 2000;

/// What is rarer is counted exactly, however many tosses there are.
const COMMON: f64 = 100.0;

/// How many of `count` samples may lie below an end of an interval that holds the percentile `part`, if the true one
/// may be missed at this end with probability `tail`. None if all of them would not suffice. The same for the upper
/// end, with 1 - `part`.
pub(crate) fn beyond(count: u64, part: f64, tail: f64) -> Option<u64> {
    if count > EXACT {
        let (below, above) = (count as f64 * part, count as f64 * (1.0 - part));
        if below < COMMON {
            return rare(count, part)
                .take_while(|(_, so_far)| *so_far <= tail)
                .last()
                .map(|(few, _)| few);
        }
        if above < COMMON {
            // As many lie above it as are certainly enough, and all others below.
            let (most, _) = rare(count, 1.0 - part).find(|(_, so_far)| *so_far >= 1.0 - tail)?;
            return count.checked_sub(most + 1);
        }
        let quantile = Normal::standard().inverse_cdf(tail);
        let spread = (count as f64 * part * (1.0 - part)).sqrt();
        let few = (count as f64 * part + quantile * spread - 0.5).floor();
        return (few >= 0.0).then_some(few as u64);
    }
    let tosses = Binomial::new(part, count).ok()?;
    if count == 0 || tosses.cdf(0) > tail {
        return None;
    }
    // The most for which it holds: it does not for all.
    let (mut holds, mut fails) = (0, count);
    while fails - holds > 1 {
        let middle = holds + (fails - holds) / 2;
        match tosses.cdf(middle) <= tail {
            true => holds = middle,
            false => fails = middle,
        }
    }
    Some(holds)
}

/// How probable it is that of `count` tosses, each of which comes up with probability `part`, at most 0, 1, 2 and so on
/// do: `count` times `part` is small, so that the first few say it all.
fn rare(count: u64, part: f64) -> impl Iterator<Item = (u64, f64)> {
    // The terms may be too small for anything but their logarithms.
    let odds = part.ln() - (-part).ln_1p();
    let mut term = count as f64 * (-part).ln_1p();
    let mut so_far = 0.0;
    (0..=count).map(move |number| {
        so_far += term.exp();
        term += ((count - number) as f64).ln() - (number as f64 + 1.0).ln() + odds;
        (number, so_far)
    })
}

/// Samples of which more count as one are certainly not independent.
const TOGETHER: f64 = 1.5;

/// As so many independent samples those that hang together have to count: of fewer one does not see how much they do, and
/// takes a busy time for what is always so.
const SEEN: u64 = 10;

/// The least number of independent samples of which the percentile `part` has an interval.
pub fn enough(part: f64, tail: f64) -> u64 {
    let rarer = part.max(1.0 - part);
    (tail.ln() / rarer.ln() - 1e-9).ceil() as u64
}

/// Samples of one thing, by size.
#[derive(Clone, Debug)]
pub struct Series {
    sorted: Vec<f64>,
    samples: Vec<f64>,
    /// How many samples count as one, for the median.
    inflation: f64,
}

impl Series {
    /// Of `samples`, in the order in which they were taken. None if there are none, or one is no number.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() || !samples.iter().all(|sample| sample.is_finite()) {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let inflation = inflation(samples, quantile(&sorted, 0.5));
        Some(Self {
            sorted,
            samples: samples.to_vec(),
            inflation,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.sorted[0]
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.sorted[self.count() - 1]
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.samples.iter().sum::<f64>() / self.count() as f64
    }

    /// As how many independent ones they count for the median.
    pub fn independent(&self) -> u64 {
        (self.count() as f64 / self.inflation) as u64
    }

    /// How many have to be added, at the same intervals of time, for the median to have an interval.
    pub fn lacking(&self, tail: f64) -> u64 {
        self.lacking_for(0.5, tail, self.inflation)
    }

    /// The same for the percentile `part`, for which so many samples count as one.
    pub(super) fn lacking_for(&self, part: f64, tail: f64, inflation: f64) -> u64 {
        let seen = if inflation > TOGETHER { SEEN } else { 0 };
        let needed = enough(part, tail).max(seen) as f64 * inflation;
        (needed.ceil() as u64).saturating_sub(self.count() as u64)
    }

    /// How many samples count as one for the percentile `part`: at least as many as for the median, as so few lie beyond a
    /// percentile far out that these alone do not show how they hang together, or that the machine drifts.
    pub(super) fn inflation(&self, part: f64) -> f64 {
        match part {
            0.5 => self.inflation,
            _ => inflation(&self.samples, self.quantile(part)).max(self.inflation),
        }
    }

    /// The smallest sample that at least the share `part` of the samples does not exceed. It is one that was measured,
    /// not something in between.
    pub fn quantile(&self, part: f64) -> f64 {
        quantile(&self.sorted, part)
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The interval that holds the true median and misses it at either end with probability `tail` at most.
    pub fn median_within(&self, tail: f64) -> Option<Interval> {
        self.within(0.5, tail, self.inflation)
    }

    /// The same for the percentile `part`, with the usual confidence.
    pub fn quantile_within(&self, part: f64) -> Option<Interval> {
        self.within(part, TAIL, self.inflation(part))
    }

    /// The same with any confidence, if so many samples count as one.
    pub(super) fn within(&self, part: f64, tail: f64, inflation: f64) -> Option<Interval> {
        let count = self.count();
        let independent = (count as f64 / inflation) as u64;
        if inflation > TOGETHER && independent < SEEN {
            return None;
        }
        // Samples for each independent one, so that the last rank is that of the last one.
        let stretch = (count - 1) as f64 / independent.saturating_sub(1).max(1) as f64;
        let rank = |few: u64| ((few as f64 * stretch) as usize).min(count - 1);
        let low = rank(beyond(independent, part, tail)?);
        let high = count - 1 - rank(beyond(independent, 1.0 - part, tail)?);
        Some(Interval {
            low: self.sorted[low],
            high: self.sorted[high],
        })
    }
}

fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64 - 1e-9).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_sign_test() {
        // From its tables.
        let ranks = [6, 8, 9, 12, 15, 20, 100].map(|count| beyond(count, 0.5, TAIL).unwrap());
        assert_eq!(ranks, [0, 0, 1, 2, 3, 5, 39]);
        assert_eq!(beyond(5, 0.5, TAIL), None);
        assert_eq!(beyond(0, 0.5, TAIL), None);
    }

    #[test]
    fn what_is_not_counted_exactly_is_the_same() {
        for part in [0.01, 0.1, 0.5, 0.9, 0.99] {
            let approximate = {
                let quantile = Normal::standard().inverse_cdf(TAIL);
                let count = EXACT as f64;
                count * part + quantile * (count * part * (1.0 - part)).sqrt() - 0.5
            };
            let exact = beyond(EXACT, part, TAIL).unwrap() as f64;
            assert!((exact - approximate).abs() <= 1.5, "{part}: {exact}");
        }
        // And where exactness begins, a toss more is the same.
        for part in [0.001, 0.0001, 0.999, 0.9999] {
            let rare = f64::min(part, 1.0 - part);
            let first = (COMMON / rare).ceil() as u64 + 1;
            let (exact, approximate) = (first - 3, first);
            let [exact, approximate] = [exact, approximate].map(|n| beyond(n, part, TAIL).unwrap());
            assert!(
                exact.abs_diff(approximate) <= 4,
                "{part}: {exact} {approximate}"
            );
        }
    }

    #[test]
    fn what_is_rare_is_counted_exactly() {
        for part in [0.001, 0.01, 0.99, 0.999] {
            for count in [2001, 3687, 3688, 4786, 9000] {
                let tosses = Binomial::new(part, count).unwrap();
                let holds = |few: &u64| tosses.cdf(*few) <= TAIL;
                let exact = (0..count).take_while(holds).last();
                assert_eq!(beyond(count, part, TAIL), exact, "{part} of {count}");
            }
        }
    }

    #[test]
    fn a_percentile_takes_enough_samples() {
        let least = [0.5, 0.9, 0.99, 0.999].map(|part| enough(part, TAIL));
        assert_eq!(least, [6, 36, 368, 3688]);
        for (part, count) in [(0.5, 6), (0.9, 36), (0.99, 368), (0.999, 3688)] {
            assert!(beyond(count, 1.0 - part, TAIL).is_some());
            assert_eq!(beyond(count - 1, 1.0 - part, TAIL), None);
        }
    }

    #[test]
    fn an_interval_goes_from_sample_to_sample() {
        let series = Series::of(&[9.0, 1.0, 7.0, 3.0, 5.0, 4.0]).unwrap();
        let interval = series.median_within(TAIL).unwrap();
        assert_eq!((interval.low, interval.high), (1.0, 9.0));
        assert_eq!(series.median(), 4.0);
        assert!(Series::of(&[1.0; 5]).unwrap().median_within(TAIL).is_none());
        assert_eq!(Series::of(&[1.0; 2]).unwrap().lacking(TAIL), 4);
    }

    #[test]
    fn a_few_samples_that_hang_together_show_nothing() {
        let busy: Vec<f64> = (0..24)
            .map(|i| f64::from(100 + i % 3 + 50 * (i / 6 % 2)))
            .collect();
        let series = Series::of(&busy).unwrap();
        assert!(series.independent() < SEEN && series.median_within(TAIL).is_none());
        assert!(series.lacking(TAIL) > 10);
        let long = Series::of(&busy.repeat(20)).unwrap();
        assert!(long.median_within(TAIL).is_some());
    }

    #[test]
    fn what_is_no_number_is_no_series() {
        assert!(Series::of(&[]).is_none());
        assert!(Series::of(&[1.0, f64::NAN]).is_none());
        assert!(Series::of(&[1.0, f64::INFINITY]).is_none());
    }
}
