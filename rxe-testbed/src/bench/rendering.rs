// SPDX-License-Identifier: GPL-2.0
//! The verdicts as a table, and as a chart of both drivers.

use odp_results::chart::{self, Bars};
use odp_results::run::Unit;
use odp_results::statistics::Ratio;

use super::goals::{Figure, GOALS};
use super::verdict::{Bar, Line};

const HEADINGS: [&str; 7] = [
    "",
    "C or base",
    "ours",
    "ratio",
    "goal",
    "C/C, or C's",
    "verdict",
];

fn cells(line: &Line) -> [String; 7] {
    let amount = |side: Option<f64>| side.map_or("-".into(), |side| line.unit.show(side));
    let ratio = |ratio: Option<Ratio>| match ratio {
        None => "-".to_owned(),
        // A single value has no interval.
        Some(Ratio { value, high, .. }) if high.is_infinite() => short(value),
        Some(Ratio { value, low, high }) => {
            format!("{} [{}, {}]", short(value), short(low), short(high))
        }
    };
    let goal = |Bar { limit, noise }: Bar| match noise {
        0.0 => format!("≤ {limit}"),
        _ if noise.is_infinite() => format!("≤ {limit} ± ?"),
        _ => format!("≤ {limit} ± {noise:.3}"),
    };
    [
        line.title.into(),
        amount(line.sides[0]),
        amount(line.sides[1]),
        ratio(line.ratio),
        line.bar.map_or(String::new(), goal),
        ratio(line.reference),
        line.verdict.name().into(),
    ]
}

/// Formats a ratio with its significant digits.
fn short(ratio: f64) -> String {
    match ratio.abs() {
        size if size >= 9.995 => format!("{ratio:.0}"),
        size if size >= 0.0995 => format!("{ratio:.2}"),
        _ => format!("{ratio:.4}"),
    }
}

/// Formats the table for a terminal.
pub(super) fn table(lines: &[Line]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(lines.iter().map(cells));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..HEADINGS.len()).filter_map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = " ".repeat(width - cell.chars().count());
            // Numbers are aligned to the right.
            line.push_str(&match column {
                1 | 2 => format!("{gap}{cell}  "),
                _ => format!("{cell}{gap}  "),
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Formats the table as markdown.
pub(super) fn markdown(lines: &[Line]) -> String {
    let row = |cells: &[String; 7]| format!("| {} |\n", cells.join(" | "));
    let mut text = row(&HEADINGS.map(str::to_owned));
    text.push_str("|---|---:|---:|---|---|---|---|\n");
    lines
        .iter()
        .for_each(|line| text.push_str(&row(&cells(line))));
    text
}

/// A chart of both drivers side by side, for what takes time (or instructions) on both.
pub(super) fn picture(lines: &[Line]) -> Option<String> {
    let unit = lines
        .iter()
        .map(|line| line.unit)
        .find(|unit| *unit != Unit::Bytes)?;
    let timed = |line: &&Line| line.unit == unit && line.ratio.is_some();
    let against = |line: &&Line| {
        let goal = GOALS.iter().find(|goal| goal.title == line.title);
        goal.is_some_and(|goal| matches!(goal.figure, Figure::AgainstC(_)))
    };
    let rows: Vec<Bars> = lines
        .iter()
        .filter(timed)
        .filter(against)
        .map(|line| Bars {
            title: line.title.into(),
            values: line.sides.to_vec(),
        })
        .collect();
    chart::bars(&["stock (C)", "ours"], &rows, unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::verdict::judge;

    #[test]
    fn what_was_not_measured_is_told() {
        let lines = judge(&[], false);
        assert!(table(&lines).contains("not measured"));
        assert_eq!(picture(&lines), None);
    }
}
