// SPDX-License-Identifier: GPL-2.0
//! How the medians of two series differ: by a ratio, or by a difference where a ratio makes no sense.
//!
//! Each median has its interval from the order of its samples ([`super::order`]). The interval of their difference
//! (of their logarithms, for a ratio) comes from these by the method of variance estimates recovery (MOVER; Zou and
//! Donner, *Construction of confidence limits about effect measures*, Statistics in Medicine, 2008), which needs no
//! symmetry: what a long tail adds to an interval stays on its side.

use super::order::{Interval, Series};

/// A way to say by how much something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// New over old.
    Ratio,
    /// New less old: one of them is not certainly above zero.
    Difference,
}

/// Two series of samples of one metric.
#[derive(Clone, Debug)]
pub struct Change {
    old: Series,
    new: Series,
    scale: Scale,
}

/// Below this nobody believes a probability.
const LEAST: f64 = 1e-12;

impl Change {
    /// From `old` to `new`. It is a ratio if both medians are certainly above zero, as far as `tail` says.
    pub fn new(old: Series, new: Series, tail: f64) -> Self {
        let above = |series: &Series| match series.median_within(tail) {
            Some(interval) => interval.low > 0.0,
            None => series.min() > 0.0,
        };
        let scale = match above(&old) && above(&new) {
            true => Scale::Ratio,
            false => Scale::Difference,
        };
        Self { old, new, scale }
    }

    /// In what it is said.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Both sides, the old one first.
    pub fn sides(&self) -> [&Series; 2] {
        [&self.old, &self.new]
    }

    /// The best guess.
    pub fn value(&self) -> f64 {
        let (old, new) = (self.old.median(), self.new.median());
        match self.scale {
            Scale::Ratio => new / old,
            Scale::Difference => new - old,
        }
    }

    /// The interval that holds the true change, and misses it at either end with probability `tail` at most. None if
    /// there are too few samples.
    pub fn within(&self, tail: f64) -> Option<Interval> {
        let (of_old, of_new) = (self.old.median_within(tail)?, self.new.median_within(tail)?);
        let (old, new) = (self.old.median(), self.new.median());
        Some(match self.scale {
            Scale::Difference => mover((old, of_old), (new, of_new)),
            Scale::Ratio => {
                // Of what is not above zero it is infinite: the interval then has no end there.
                let log = |x: f64| x.max(0.0).ln();
                let logs = |Interval { low, high }| Interval {
                    low: log(low),
                    high: log(high),
                };
                let Interval { low, high } =
                    mover((log(old), logs(of_old)), (log(new), logs(of_new)));
                Interval {
                    low: low.exp(),
                    high: high.exp(),
                }
            }
        })
    }

    /// What no change is.
    pub fn none(&self) -> f64 {
        match self.scale {
            Scale::Ratio => 1.0,
            Scale::Difference => 0.0,
        }
    }

    /// What it would be to have become larger (or smaller, if `share` is below zero) by `share` of what it was. Of a
    /// difference the share is that of the most that the old side may be, in its interval, above zero or below.
    pub fn limit(&self, share: f64, tail: f64) -> f64 {
        match self.scale {
            Scale::Ratio if share >= 0.0 => 1.0 + share,
            Scale::Ratio => 1.0 / (1.0 - share),
            Scale::Difference => {
                let old = self.old.median_within(tail);
                let most = old.map_or(0.0, |old| old.low.abs().max(old.high.abs()));
                share * most
            }
        }
    }

    /// How probable it is at most to see such samples though the true change is not beyond `limit`, above it or below
    /// it: what a test of that is decided by.
    pub fn probability(&self, limit: f64, above: bool) -> f64 {
        let beyond = |tail: f64| {
            let interval = self.within(tail);
            interval.is_some_and(|interval| match above {
                true => interval.low > limit,
                false => interval.high < limit,
            })
        };
        let (mut shown, mut open) = (0.5f64, LEAST);
        if !beyond(shown) {
            return 1.0;
        }
        if beyond(open) {
            return open;
        }
        for _ in 0..30 {
            let middle = (shown * open).sqrt();
            match beyond(middle) {
                true => shown = middle,
                false => open = middle,
            }
        }
        shown
    }

    /// How many samples more either side should have, so that the interval reaches no farther from the best guess
    /// than `limit` is from no change: roughly, as an interval of four times as many samples is half as wide.
    pub fn lacking(&self, limit: f64, tail: f64) -> u64 {
        let least = self.sides().map(|side| side.lacking(tail));
        let wanted = (limit - self.none()).abs();
        let Some(interval) = self.within(tail).filter(|_| wanted > 0.0) else {
            return least[0].max(least[1]);
        };
        let half = (interval.high - self.value()).max(self.value() - interval.low);
        let count = self.old.count().min(self.new.count()) as f64;
        let more = count * (half / wanted).powi(2) - count;
        // Of an interval without an end nobody can tell.
        match more.is_finite() {
            true => more.max(1.0) as u64,
            false => count as u64,
        }
    }
}

/// The interval of the difference of two values with intervals of their own.
fn mover((old, of_old): (f64, Interval), (new, of_new): (f64, Interval)) -> Interval {
    Interval {
        low: new - old - (new - of_new.low).hypot(of_old.high - old),
        high: new - old + (of_new.high - new).hypot(old - of_old.low),
    }
}
