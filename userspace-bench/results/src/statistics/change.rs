// SPDX-License-Identifier: GPL-2.0
//! How the medians of two series differ, or other percentiles: by a ratio, or by a difference where a ratio makes no
//! sense.
//!
//! Each of the two has its interval from the order of its samples ([`super::order`]). The interval of their difference
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
    old: Side,
    new: Side,
    scale: Scale,
}

/// One of the two.
#[derive(Clone, Debug)]
struct Side {
    series: Series,
    /// The percentile.
    part: f64,
    /// How many samples count as one for it.
    inflation: f64,
}

impl Side {
    fn new(series: Series, part: f64) -> Self {
        let inflation = series.inflation(part);
        Self {
            series,
            part,
            inflation,
        }
    }

    fn value(&self) -> f64 {
        self.series.quantile(self.part)
    }

    fn within(&self, tail: f64) -> Option<Interval> {
        self.series.within(self.part, tail, self.inflation)
    }

    fn lacking(&self, tail: f64) -> u64 {
        self.series.lacking_for(self.part, tail, self.inflation)
    }
}

/// Below this nobody believes a probability.
const LEAST: f64 = 1e-12;

impl Change {
    /// From the median of `old` to that of `new`. It is a ratio if both are certainly above zero, as far as `tail` says.
    pub fn new(old: Series, new: Series, tail: f64) -> Self {
        Self::of_part(old, new, 0.5, tail)
    }

    /// The same of the percentile `part`.
    pub fn of_part(old: Series, new: Series, part: f64, tail: f64) -> Self {
        let [old, new] = [old, new].map(|series| Side::new(series, part));
        let above = |side: &Side| match side.within(tail) {
            Some(interval) => interval.low > 0.0,
            None => side.series.min() > 0.0,
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
        [&self.old.series, &self.new.series]
    }

    /// The percentiles of both sides.
    pub fn values(&self) -> [f64; 2] {
        [self.old.value(), self.new.value()]
    }

    /// The best guess.
    pub fn value(&self) -> f64 {
        let [old, new] = self.values();
        match self.scale {
            Scale::Ratio => new / old,
            Scale::Difference => new - old,
        }
    }

    /// The interval that holds the true change, and misses it at either end with probability `tail` at most. None if
    /// there are too few samples.
    pub fn within(&self, tail: f64) -> Option<Interval> {
        let (of_old, of_new) = (self.old.within(tail)?, self.new.within(tail)?);
        let [old, new] = self.values();
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
                let old = self.old.within(tail);
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

    /// How many samples more either side should have, so that the interval leaves out `limit`, or no change, if the best
    /// guess stays what it is: roughly, as an interval of four times as many samples is half as wide.
    pub fn lacking(&self, limit: f64, tail: f64) -> u64 {
        let least = [&self.old, &self.new].map(|side| side.lacking(tail));
        let Some(interval) = self.within(tail) else {
            return least[0].max(least[1]);
        };
        let (value, none) = (self.value(), self.none());
        // How far the interval reaches from the best guess on either side, and how far it may at most.
        let (above, below) = (interval.high - value, value - interval.low);
        let reaches = match limit > none {
            true => [(above, limit - value), (below, value - none)],
            false => [(below, value - limit), (above, none - value)],
        };
        // Where nothing is tolerated, no interval tells the two apart.
        let times = reaches.map(|(reach, most)| match most > 0.0 && limit != none {
            true => (reach / most).powi(2),
            false => f64::INFINITY,
        });
        let [old, new] = self.sides().map(Series::count);
        let count = old.min(new) as f64;
        let more = count * times[0].min(times[1]) - count;
        // Nobody can tell where an interval has no end, or where nothing is tolerated: twice as many are a try.
        match more.is_finite() {
            true => more.max(1.0) as u64,
            false => count as u64,
        }
    }
}

impl Change {
    /// How many samples one side lacks for any change to be as improbable as `tail`, if there is none: however large it
    /// is, few samples may lie so by accident.
    pub fn lacking_at_all(&self, tail: f64) -> u64 {
        let lacking = [&self.old, &self.new].map(|side| side.lacking(tail));
        lacking[0].max(lacking[1])
    }
}

/// The interval of the difference of two values with intervals of their own.
fn mover((old, of_old): (f64, Interval), (new, of_new): (f64, Interval)) -> Interval {
    Interval {
        low: new - old - (new - of_new.low).hypot(of_old.high - old),
        high: new - old + (of_new.high - new).hypot(old - of_old.low),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::TAIL;

    /// Samples that lie evenly around `middle`, up to 20 away.
    fn around(middle: f64) -> Series {
        let samples: Vec<f64> = (0..41)
            .map(|i| middle + f64::from(i * 7 % 41 - 20))
            .collect();
        Series::of(&samples).expect("they are numbers")
    }

    #[test]
    fn most_samples_are_lacking_midway() {
        let lacking = |middle| Change::new(around(100.0), around(middle), TAIL).lacking(1.05, TAIL);
        let midway = lacking(102.5);
        // It is easier to tell that there is a change if it is large, and that it is tolerable if it is small.
        assert!(2 * lacking(104.5) < midway);
        assert!(2 * lacking(100.5) < midway);
        assert!(lacking(95.0) < lacking(100.5), "on the other side");
    }
}
