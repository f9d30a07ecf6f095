// SPDX-License-Identifier: GPL-2.0

//! A histogram of the duration of faults, with buckets whose bounds double.
//!
//! Only faults write to it; an access that finds its translation does not.

use core::sync::atomic::{AtomicU64, Ordering};

/// log2 of the upper bound of the first bucket, in nanoseconds.
const FIRST_BOUND: u32 = 10;
/// The number of buckets. The last has no upper bound; it begins at 2^34 ns, 17 s, which is longer than a
/// fault may retry.
const BUCKETS: usize = 26;

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
}

/// One bucket of a [`Histogram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The lower bound, inclusive, in nanoseconds.
    pub from: u64,
    /// The upper bound, exclusive; `None` for the last bucket.
    pub below: Option<u64>,
    /// The number of durations in it.
    pub count: u64,
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&self, nanoseconds: u64) {
        if let Some(count) = self.counts.get(bucket_of(nanoseconds)) {
            // Relaxed: each bucket stands for itself.
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The buckets, from the shortest durations to the longest.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.counts.iter().enumerate().map(|(number, count)| {
            let bound = 1 << (FIRST_BOUND as usize + number);
            Bucket {
                from: if number == 0 { 0 } else { bound / 2 },
                below: (number < BUCKETS - 1).then_some(bound),
                count: count.load(Ordering::Relaxed),
            }
        })
    }
}

fn bucket_of(nanoseconds: u64) -> usize {
    // The width of the number: 2^10 is the first that has eleven bits.
    let bits = u64::BITS - nanoseconds.leading_zeros();
    (bits.saturating_sub(FIRST_BOUND) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn each_duration_is_counted_in_the_one_bucket_that_says_so() {
        let around_powers = (0..64).flat_map(|bit| {
            let power = 1u64 << bit;
            [power - 1, power, power + 1]
        });
        for nanoseconds in around_powers.chain([0, u64::MAX]) {
            let histogram = Histogram::default();
            histogram.record(nanoseconds);
            let hit: Vec<_> = histogram.buckets().filter(|b| b.count > 0).collect();
            let [bucket] = hit.as_slice() else {
                panic!("{nanoseconds} is in {hit:?}");
            };
            assert_eq!(bucket.count, 1);
            assert!(
                bucket.from <= nanoseconds && bucket.below.is_none_or(|below| nanoseconds < below),
                "{nanoseconds} is in {bucket:?}"
            );
        }
    }

    #[test]
    fn the_buckets_cover_all_durations_without_a_gap() {
        let histogram = Histogram::default();
        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(buckets.first().map(|b| b.from), Some(0));
        assert_eq!(buckets.last().map(|b| b.below), Some(None));
        for pair in buckets.windows(2) {
            assert_eq!(pair[0].below, Some(pair[1].from));
        }
    }
}
