// SPDX-License-Identifier: GPL-2.0
//! What samples allow to say: percentiles, how sure one can be of them, and of how two series differ.
//!
//! Times of a fault are neither normal nor independent: some take a thousand times as long as others, a clock gives
//! the same value over and over, and a machine that is busy stays so for a while. So nothing here assumes a
//! distribution, and nothing takes neighbours for independent.
//!
//! - [`correlation`]: as how many independent samples a series counts.
//! - [`order`]: percentiles, and the intervals that hold the true ones, from the order of the samples.
//! - [`distribution`]: what of it is told of a metric.
//! - [`change`]: how the medians of two series differ, as a ratio or, where one makes no sense, as a difference.
//! - [`family`]: which of many changes may be called real.
//! - [`pairs`]: the middle of ratios that were measured independently.
//! - [`steps`]: where a series of runs changes its level.
//!
//! Criterion's bootstrap is not used: it is of means, and of samples that are independent.

pub mod change;
pub mod correlation;
pub mod distribution;
pub mod family;
pub mod order;
pub mod pairs;
#[cfg(test)]
mod simulation;
pub mod steps;

pub use change::Change;
pub use distribution::Distribution;
pub use order::{Interval, Series};
pub use pairs::Ratio;

/// How sure an interval is.
pub const CONFIDENCE: f64 = 0.95;

/// How often the true value may lie beyond either end of an interval.
pub(crate) const TAIL: f64 = (1.0 - CONFIDENCE) / 2.0;
