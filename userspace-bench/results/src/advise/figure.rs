// SPDX-License-Identifier: GPL-2.0
//! The figures that advice rests on, and what one is to another, with their intervals and in words.

use crate::{
    run::{Metric, Unit},
    statistics::{
        change::{Change, Scale},
        Interval, Series, TAIL,
    },
};

/// A figure: samples of something that costs.
#[derive(Clone)]
pub(super) struct Figure {
    unit: Unit,
    series: Series,
}

impl Figure {
    pub(super) fn of(metric: &Metric, change: impl Fn(f64) -> f64) -> Option<Self> {
        let samples: Vec<f64> = metric
            .samples
            .iter()
            .map(|&sample| change(sample))
            .collect();
        Some(Self {
            unit: metric.unit,
            series: Series::of(&samples)?,
        })
    }

    /// The sum of both, sample by sample in the order in which they were taken.
    pub(super) fn sum(a: &Metric, b: &Metric, change: impl Fn(f64) -> f64) -> Option<Self> {
        let pairs = a.samples.iter().zip(&b.samples);
        let samples: Vec<f64> = pairs.map(|(a, b)| change(a + b)).collect();
        Some(Self {
            unit: a.unit,
            series: Series::of(&samples)?,
        })
    }

    /// The best guess.
    pub(super) fn median(&self) -> f64 {
        self.series.median()
    }

    /// The interval that holds the true median, and misses it at either end with probability `tail` at most.
    pub(super) fn within(&self, tail: f64) -> Option<Interval> {
        self.series.median_within(tail)
    }

    /// Whether it is certainly less than `other`.
    pub(super) fn is_less_than(&self, other: &Self) -> bool {
        let change = Change::new(other.series.clone(), self.series.clone(), TAIL);
        let within = change.within(TAIL);
        within.is_some_and(|within| within.high < change.none())
    }

    /// The median, with its interval if it has one.
    pub(super) fn shown(&self) -> String {
        let median = self.unit.show(self.series.median());
        match self.series.median_within(TAIL) {
            Some(Interval { low, high }) => {
                format!(
                    "{median} [{}, {}]",
                    self.unit.show(low),
                    self.unit.show(high)
                )
            }
            None => format!("{median} [too few samples]"),
        }
    }

    /// The same of a cost that is a difference itself, which may be so small that it is lost in what accesses scatter.
    pub(super) fn longer(&self) -> String {
        match self.series.median_within(TAIL) {
            Some(Interval { low, high }) if low <= 0.0 => format!(
                "no time that shows, {} at most,",
                self.unit.show(high.max(0.0))
            ),
            None if self.series.median() <= 0.0 => "no time that shows [too few samples]".into(),
            _ => self.shown(),
        }
    }
}

/// One figure over another, and the interval that holds the true ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quotient {
    /// None if one of them is not certainly above zero: then a ratio says nothing.
    pub(super) value: Option<f64>,
    pub(super) within: Option<Interval>,
}

impl Quotient {
    pub(super) fn of(new: &Figure, old: &Figure) -> Self {
        let change = Change::new(old.series.clone(), new.series.clone(), TAIL);
        match change.scale() {
            Scale::Ratio => Self {
                value: Some(change.value()),
                within: change.within(TAIL),
            },
            Scale::Difference => Self {
                value: None,
                within: None,
            },
        }
    }

    pub(super) fn is_below(self, limit: f64) -> bool {
        self.within.is_some_and(|within| within.high < limit)
    }

    pub(super) fn is_above(self, limit: f64) -> bool {
        self.within.is_some_and(|within| within.low > limit)
    }

    pub(super) fn shown(self) -> String {
        let interval = |value| self.interval(value, digits);
        let shown = |value| format!("x{}", interval(value));
        self.value.map_or("a ratio cannot be told".into(), shown)
    }

    /// As a share.
    pub(super) fn percent(self) -> Option<String> {
        let show = |share: f64| digits(100.0 * share);
        let value = self.value?;
        let within = self.interval(value, show);
        Some(within.replacen(" [", " % [", 1))
    }

    fn interval(self, value: f64, show: impl Fn(f64) -> String) -> String {
        let value = show(value);
        match self.within {
            Some(Interval { low, high }) => format!("{value} [{}, {}]", show(low), show(high)),
            None => format!("{value} [too few samples]"),
        }
    }
}

/// Three digits or so.
fn digits(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 0.1 => format!("{number:.2}"),
        _ => format!("{number:.4}"),
    }
}
