// SPDX-License-Identifier: GPL-2.0
//! A run as text for a terminal.

use std::fmt::Write;

use crate::{
    run::{Metric, Run, State},
    statistics::Interval,
};

const HEADINGS: [&str; 8] = ["", "n", "p50", "95 % of it", "p90", "p99", "p99.9", "max"];

/// Everything that a run found; of the driver's counters only that there are some, unless they are `shown`.
pub fn table(run: &Run, shown: bool) -> String {
    let mut text = environment(run);
    for suite in run.suites() {
        let metrics: Vec<_> = run.metrics.iter().filter(|m| m.suite() == suite).collect();
        text.push('\n');
        text.push_str(&suite_table(&metrics));
    }
    text.push_str(&counters(run, shown));
    for (word, list) in [("skipped", &run.skipped), ("FAILED ", &run.failed)] {
        if !list.is_empty() {
            text.push('\n');
        }
        for missing in list {
            let _ = writeln!(text, "{word}  {}: {}", missing.case, missing.why);
        }
    }
    let _ = writeln!(text, "\n{}", closing_line(run));
    text
}

/// How much was measured, and how it ended.
pub fn closing_line(run: &Run) -> String {
    let mut line = format!(
        "{}, {} skipped, {} failed",
        counted(run.metrics.len(), "metric"),
        counted(run.skipped.len(), "case"),
        run.failed.len()
    );
    if run.state == State::Unfinished {
        line.push_str("; the run was not finished");
    }
    line
}

/// A number with its noun, in the singular where that is due.
fn counted(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

fn environment(run: &Run) -> String {
    let mut text = String::new();
    let longest = run
        .environment
        .keys()
        .map(|name| name.chars().count())
        .max();
    let width = longest.unwrap_or(0).max(12);
    for (name, value) in &run.environment {
        let _ = writeln!(text, "{name:<width$} {value}");
    }
    if run.aligned {
        let _ = writeln!(text, "{:<width$} limited to aligned: {ALIGNED}", "accesses");
    }
    text
}

/// What `--aligned` means.
pub const ALIGNED: &str =
    "each packet's data starts on a page boundary, as the driver, or what it is \
                           compared with, moves wrong bytes elsewhere";

fn suite_table(metrics: &[&Metric]) -> String {
    let rows = metrics.iter().map(|metric| {
        let d = &metric.summary;
        let mut row = vec![metric.name.clone(), d.count.to_string()];
        row.push(metric.unit.show(d.p50));
        row.push(within(metric));
        row.extend([d.p90, d.p99, d.p999, Some(d.max)].map(|x| told(metric, x)));
        row
    });
    let mut rows: Vec<Vec<String>> = rows.collect();
    rows.insert(0, HEADINGS.map(str::to_owned).to_vec());
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..HEADINGS.len()).filter_map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let _ = write!(text, "{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

/// An amount that there are enough samples for, or a dash.
pub(crate) fn told(metric: &Metric, amount: Option<f64>) -> String {
    amount.map_or("-".into(), |amount| metric.unit.show(amount))
}

/// The interval of the median, or a dash.
pub(crate) fn within(metric: &Metric) -> String {
    let interval = metric.summary.p50_within;
    interval.map_or("-".into(), |Interval { low, high }| {
        let (low, high) = (metric.unit.show(low), metric.unit.show(high));
        format!("{low} - {high}")
    })
}

fn counters(run: &Run, shown: bool) -> String {
    let cases = run.counters.iter().map(|counted| {
        let grown: Vec<(&str, u64)> = counted.growth().collect();
        (counted.case.as_str(), grown)
    });
    let cases: Vec<_> = cases.filter(|(_, grown)| !grown.is_empty()).collect();
    if cases.is_empty() {
        return String::new();
    }
    if !shown {
        return format!(
            "\nThe driver counted during {}: odp-bench report --counters\n",
            counted(cases.len(), "case")
        );
    }
    let names = cases.iter().flat_map(|(_, grown)| grown);
    let width = names.map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = "\nwhat the driver counted:\n".to_owned();
    for (case, grown) in cases {
        let _ = writeln!(text, "{case}");
        for (name, by) in grown {
            let _ = writeln!(text, "  {name:<width$}  {by:>12}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Counted, Missing, Unit};
    use std::collections::BTreeMap;

    #[test]
    fn counters_are_folded() {
        let mut run = Run::new(false, BTreeMap::new());
        run.counters.push(Counted {
            case: "fault/x".into(),
            before: BTreeMap::new(),
            after: BTreeMap::from([("faults".into(), 12), ("pages_mapped".into(), 0)]),
        });
        let folded = table(&run, false);
        assert!(folded.contains("during 1 case:") && !folded.contains("faults"));
        let shown = table(&run, true);
        assert!(
            shown.contains("fault/x\n  faults            12\n"),
            "{shown}"
        );
        assert!(!shown.contains("pages_mapped"));
    }

    #[test]
    fn everything_is_in_it() {
        let environment = BTreeMap::from([("kernel".to_owned(), "7.2".to_owned())]);
        let mut run = Run::new(true, environment);
        let samples = vec![1500.0; 10];
        run.metrics
            .extend(Metric::new("fault/x", Unit::Nanoseconds, None, samples));
        run.skipped.push(Missing {
            case: "fault/y".into(),
            why: "no swap".into(),
        });
        let text = table(&run, false);
        for part in [
            "kernel       7.2",
            "limited to aligned",
            "fault/x  10  1.50 µs  1.50 µs - 1.50 µs    -    -      -  1.50 µs",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.contains("skipped  fault/y: no swap"));
        assert!(text.ends_with("1 metric, 1 case skipped, 0 failed; the run was not finished\n"));
    }
}
