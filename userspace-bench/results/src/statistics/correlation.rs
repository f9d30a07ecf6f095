// SPDX-License-Identifier: GPL-2.0
//! As how many independent samples a series counts in which neighbours hang together.
//!
//! What matters for a percentile is on which side of it a sample lies. The long-run variance of that, against what it
//! is for independent samples, says how many samples count as one. It is the sum of the autocovariances, cut off where
//! the sum of two successive ones is no longer above zero or grows again: Geyer's initial monotone sequence, as it is
//! used for Markov chains (*Practical Markov Chain Monte Carlo*, 1992). A drift and a busy time are in it, too: the
//! samples of each lie on the same side for long.

/// Longer series are summed up piece by piece first, which leaves their long-run variance as it is.
const LONGEST: usize = 4096;

/// How many of `samples` count as one for a percentile, which is `threshold`; at least one.
pub(crate) fn inflation(samples: &[f64], threshold: f64) -> f64 {
    let not_above = together(samples, |sample| sample <= threshold);
    let equal = samples
        .iter()
        .filter(|sample| **sample == threshold)
        .count();
    match equal {
        0 | 1 => not_above,
        // Of equal samples nobody knows which is on which side.
        _ => not_above.max(together(samples, |sample| sample < threshold)),
    }
}

/// How many samples count as one for the share of those that are `within`.
fn together(samples: &[f64], within: impl Fn(f64) -> bool) -> f64 {
    let count = samples.len() as f64;
    let share = samples.iter().filter(|sample| within(**sample)).count() as f64 / count;
    let piece = samples.len().div_ceil(LONGEST);
    let independent = piece as f64 * share * (1.0 - share);
    if independent == 0.0 {
        return 1.0;
    }
    let apart = |sample: &f64| f64::from(u8::from(within(*sample))) - share;
    let pieces = samples.chunks_exact(piece);
    let sums: Vec<f64> = pieces.map(|piece| piece.iter().map(apart).sum()).collect();
    (long_run(&sums) / independent).max(1.0)
}

/// The long-run variance of a series.
fn long_run(series: &[f64]) -> f64 {
    let count = series.len();
    let mean = series.iter().sum::<f64>() / count as f64;
    let apart: Vec<f64> = series.iter().map(|value| value - mean).collect();
    let covariance = |lag: usize| {
        let products = apart.iter().zip(&apart[lag.min(count)..]);
        products.map(|(a, b)| a * b).sum::<f64>() / count as f64
    };
    let mut sum = -covariance(0);
    let mut least = f64::INFINITY;
    for lag in (0..count).step_by(2) {
        let pair = covariance(lag) + covariance(lag + 1);
        if pair <= 0.0 {
            break;
        }
        least = least.min(pair);
        sum += 2.0 * least;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize) -> Vec<f64> {
        let mut dice = fastrand::Rng::with_seed(3);
        (0..count).map(|_| dice.f64()).collect()
    }

    #[test]
    fn independent_samples_count_for_themselves() {
        for count in [100, 1000, 100_000] {
            let inflation = inflation(&noise(count), 0.5);
            assert!(inflation < 1.3, "{count}: {inflation}");
        }
        assert_eq!(inflation(&[5.0; 100], 5.0), 1.0);
        assert_eq!(inflation(&[5.0], 5.0), 1.0);
    }

    #[test]
    fn what_is_told_ten_times_counts_once() {
        for count in [100, 10_000] {
            let each = noise(count);
            let told: Vec<f64> = each.iter().flat_map(|value| [*value; 10]).collect();
            let inflation = inflation(&told, 0.5);
            assert!((8.0..20.0).contains(&inflation), "{inflation}");
        }
    }

    #[test]
    fn equal_samples_hide_no_busy_time() {
        let busy: Vec<f64> = (0..1000).map(|i| f64::from(i / 100 % 2)).collect();
        assert!(inflation(&busy, 0.0) > 30.0);
    }

    #[test]
    fn a_drift_counts_little() {
        let drift: Vec<f64> = (0..1000).map(f64::from).collect();
        assert!(1000.0 / inflation(&drift, 499.0) < 6.0);
    }
}
