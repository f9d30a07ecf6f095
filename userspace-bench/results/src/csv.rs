// SPDX-License-Identifier: GPL-2.0
//! A run as comma-separated values, a line for each metric, for spreadsheets and scripts.
//!
//! Amounts are in the metric's unit, unrounded; what there are not enough samples for is empty.

use crate::{
    run::Run,
    statistics::{Distribution, Interval},
};

const COLUMNS: [&str; 21] = [
    "suite",
    "metric",
    "unit",
    "size",
    "count",
    "independent",
    "mean",
    "min",
    "p50",
    "p50_low",
    "p50_high",
    "p90",
    "p90_low",
    "p90_high",
    "p99",
    "p99_low",
    "p99_high",
    "p99.9",
    "p99.9_low",
    "p99.9_high",
    "max",
];

/// All metrics.
///
/// # Panics
///
/// If writing into memory fails, which it does not.
pub fn csv(run: &Run) -> String {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS).expect("writing into memory");
    for metric in &run.metrics {
        let Distribution {
            count,
            independent,
            mean,
            min,
            p50,
            p50_within,
            p90,
            p90_within,
            p99,
            p99_within,
            p999,
            p999_within,
            max,
        } = metric.summary;
        let mut row = vec![
            metric.suite().to_owned(),
            metric.name.clone(),
            metric.unit.name().to_owned(),
            metric.size.map_or(String::new(), |size| size.to_string()),
            count.to_string(),
            independent.to_string(),
        ];
        let told = |value: Option<f64>, within: Option<Interval>| {
            [value, within.map(|i| i.low), within.map(|i| i.high)]
        };
        let mut amounts = vec![Some(mean), Some(min)];
        amounts.extend(told(Some(p50), p50_within));
        amounts.extend(told(p90, p90_within));
        amounts.extend(told(p99, p99_within));
        amounts.extend(told(p999, p999_within));
        amounts.push(Some(max));
        let shown = |amount: Option<f64>| amount.map_or(String::new(), |x| x.to_string());
        row.extend(amounts.into_iter().map(shown));
        writer.write_record(row).expect("writing into memory");
    }
    let bytes = writer.into_inner().expect("writing into memory");
    String::from_utf8(bytes).expect("all of it was text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Metric, Unit};
    use std::collections::BTreeMap;

    #[test]
    fn each_metric_has_a_line() {
        let mut run = Run::new(false, BTreeMap::new());
        let samples = vec![1.5, 2.5, 1.0];
        run.metrics
            .extend(Metric::new("a/b, c", Unit::Nanoseconds, Some(64), samples));
        let text = csv(&run);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].split(',').count(), COLUMNS.len());
        assert_eq!(
            lines[1..],
            ["a,\"a/b, c\",nanoseconds,64,3,3,1.6666666666666667,1,1.5,,,,,,,,,,,,2.5"]
        );
    }
}
