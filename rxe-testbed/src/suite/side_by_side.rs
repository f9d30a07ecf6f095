// SPDX-License-Identifier: GPL-2.0
//! The table of what ran on both drivers.

use crate::table::{Cell, Table};

/// A row's cell is cut after so many characters.
const WIDTH: usize = 70;

/// A table of names with what is to be said of ours and of stock.
pub(crate) fn table(rows: impl IntoIterator<Item = (String, String, String)>) -> String {
    let mut table = Table::new(["", "ours", "stock"]);
    for (name, ours, stock) in rows {
        table.row(&name, [ours, stock].map(|text| Cell::left(cut(&text))));
    }
    table.to_string()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_are_cut() {
        let row = |text: String| table([("a".into(), "passes".into(), text)]);
        assert!(row("é".repeat(WIDTH)).ends_with("éé\n"));
        assert!(row("é".repeat(WIDTH + 1)).ends_with("é…\n"));
    }
}
