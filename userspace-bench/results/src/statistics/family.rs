// SPDX-License-Identifier: GPL-2.0
//! Which of many changes may be called real.
//!
//! Of two hundred metrics on which nothing has changed, some five lie outside of their intervals: that is what 95 %
//! means. Benjamini and Hochberg's procedure (*Controlling the false discovery rate*, 1995) asks the more of each the
//! fewer stand out: where nothing has changed, it names any at all no more often than one test alone would, and where
//! something has, no larger share of what it names is wrong.

/// Which of `probabilities`, each that of a change which is none, are small enough, if a share of `rate` of those that
/// are named may be wrong.
pub fn stand_out(probabilities: &[f64], rate: f64) -> Vec<bool> {
    let mut sorted = probabilities.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let last = sorted
        .iter()
        .enumerate()
        .rev()
        .find(|(rank, probability)| **probability <= rate * (*rank as f64 + 1.0) / count);
    let limit = last.map_or(-1.0, |(_, probability)| *probability);
    probabilities.iter().map(|p| *p <= limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_asked_of_one_among_many() {
        assert_eq!(stand_out(&[0.02], 0.025), [true]);
        let mut many = vec![0.5; 100];
        many[7] = 0.02;
        assert!(!stand_out(&many, 0.025).contains(&true));
        many[7] = 0.0002;
        assert_eq!(stand_out(&many, 0.025).iter().filter(|x| **x).count(), 1);
        assert!(stand_out(&[], 0.025).is_empty());
    }

    #[test]
    fn less_is_asked_where_many_stand_out() {
        // The example of the paper, at its rate.
        let paper = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
            0.5719, 0.6528, 0.7590, 1.0000,
        ];
        let named = stand_out(&paper, 0.05);
        assert_eq!(named.iter().filter(|x| **x).count(), 4);
        assert!(named[3] && !named[4]);
    }
}
