// SPDX-License-Identifier: GPL-2.0
//! A run as comma-separated values, a line for each metric, for spreadsheets and scripts.
//!
//! Amounts are in the metric's unit, unrounded; what there are not enough samples for is empty.

use crate::{run::Run, statistics::Distribution};

const COLUMNS: [&str; 15] = [
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
    "p99",
    "p99.9",
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
            p99,
            p999,
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
        let (low, high) = (p50_within.map(|i| i.low), p50_within.map(|i| i.high));
        let amounts = [
            Some(mean),
            Some(min),
            Some(p50),
            low,
            high,
            p90,
            p99,
            p999,
            Some(max),
        ];
        row.extend(amounts.map(|amount| amount.map_or(String::new(), |x| x.to_string())));
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
            ["a,\"a/b, c\",nanoseconds,64,3,3,1.6666666666666667,1,1.5,,,,,,2.5"]
        );
    }
}
