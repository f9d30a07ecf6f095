// SPDX-License-Identifier: GPL-2.0
//! The middle of ratios that were measured independently, each by a pair of runs.

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{order::beyond, CONFIDENCE, TAIL};

/// A ratio, and the interval that holds the true one in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The best guess.
    pub value: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Ratio {
    /// The middle of `ratios`. Of six and more it is the median, with the narrowest interval between two of them that
    /// is sure enough, whatever their distribution: a pair that was measured while the machine did something else
    /// widens it no further than to the next one. Of fewer it is the mean, with the interval of Student's
    /// distribution. One alone has no interval: it is as wide as can be.
    pub fn of_pairs(ratios: &[f64]) -> Option<Self> {
        if ratios.is_empty() || !ratios.iter().all(|ratio| ratio.is_finite()) {
            return None;
        }
        let mut sorted = ratios.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        if let Some(beyond) = beyond(count as u64, 0.5, TAIL) {
            let beyond = beyond as usize;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_pairs_give_the_interval_of_their_order() {
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
        let alone = Ratio::of_pairs(&[0.5]).unwrap();
        assert_eq!((alone.low, alone.high), (f64::NEG_INFINITY, f64::INFINITY));
        assert_eq!(Ratio::of_pairs(&[]), None);
        assert_eq!(Ratio::of_pairs(&[1.0, f64::NAN]), None);
    }
}
