// SPDX-License-Identifier: GPL-2.0
//! A small table for the terminal.

use std::fmt;

/// A cell's text and its side.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    right: bool,
}

impl Cell {
    /// Text.
    pub(crate) fn left(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { text, right: false }
    }

    /// A number.
    pub(crate) fn right(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { text, right: true }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// A table of titled rows with two columns of values.
pub(crate) struct Table {
    rows: Vec<Option<[Cell; 3]>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: [&str; 3]) -> Self {
        let mut table = Self {
            rows: vec![Some(headings.map(Cell::left))],
        };
        table.rule();
        table
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, title: &str, [first, second]: [Cell; 2]) {
        self.rows.push(Some([Cell::left(title), first, second]));
    }

    /// Adds a line across.
    pub(crate) fn rule(&mut self) {
        self.rows.push(None);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = [0, 1, 2].map(|column| {
            let cells = self.rows.iter().flatten().map(|row| row[column].width());
            cells.max().unwrap_or(0)
        });
        for row in &self.rows {
            let Some(row) = row else {
                writeln!(f, "{}", "-".repeat(widths.iter().sum::<usize>() + 4))?;
                continue;
            };
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                let (text, gap) = (&cell.text, " ".repeat(width - cell.width()));
                line.push_str(&if cell.right {
                    format!("{gap}{text}  ")
                } else {
                    format!("{text}{gap}  ")
                });
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["", "ours", "stock"]);
        table.row("works", [Cell::left("held"), Cell::left("FAILED")]);
        table.row("time", [Cell::right("1 µs"), Cell::right("20 µs")]);
        let expected =
            "       ours  stock\n-------------------\nworks  held  FAILED\ntime   1 µs   20 µs\n";
        assert_eq!(table.to_string(), expected);
    }
}
