// SPDX-License-Identifier: GPL-2.0
//! What is said of a function: the tree of its typical calls, and what has changed since another time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{bail, Result};
use serde::{Deserialize, Serialize};

use super::recording::{Block, Recording};
use super::symbols::Symbols;
use super::tree::{Node, Tree};

/// Calls are typical if they take as many instructions as the median, or differ by so much of it.
const TYPICAL: f64 = 0.02;

/// What a function has taken of a typical call.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub(super) struct Share {
    pub(super) calls: f64,
    /// Instructions of its own.
    pub(super) own: f64,
}

/// What is kept for a later comparison.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(super) struct Kept {
    /// What ran: the driver, the kernel, the function, the command.
    pub(super) of: String,
    /// Instructions of the median call.
    pub(super) median: u64,
    pub(super) functions: BTreeMap<String, Share>,
}

/// The calls of a function.
pub(super) struct Report {
    of: String,
    /// Instructions of each call, in order.
    totals: Vec<u64>,
    lost: u64,
    tree: Tree,
}

fn total(call: &[Block]) -> u64 {
    call.iter().map(|block| block.instructions).sum()
}

impl Report {
    /// Of what was recorded of `of`, but for calls of no more than `more_than` instructions.
    pub(super) fn new(
        of: String,
        recording: &Recording,
        symbols: &Symbols,
        more_than: u64,
    ) -> Result<Self> {
        let totals = recording.calls().map(|call| total(&call));
        let mut totals: Vec<u64> = totals.filter(|total| *total > more_than).collect();
        totals.sort_unstable();
        let lost = recording.lost;
        let Some(median) = median(&totals) else {
            bail!("{of}: no call of more than {more_than} instructions that ran through; {lost} were interrupted or slept");
        };
        let mut tree = Tree::default();
        for call in recording.calls() {
            let total = total(&call);
            let apart = total.abs_diff(median) as f64;
            if total > more_than && apart <= median as f64 * TYPICAL {
                tree.add(&call, symbols);
            }
        }
        Ok(Self {
            of,
            totals,
            lost,
            tree,
        })
    }

    fn median(&self) -> u64 {
        median(&self.totals).unwrap_or_default()
    }

    /// The tree for people: functions down to `depth`, with at least `least` instructions.
    pub(super) fn text(&self, depth: usize, least: f64) -> String {
        let (count, typical) = (self.totals.len(), self.tree.root.calls);
        let first = self.totals.first().unwrap_or(&0);
        let last = self.totals.last().unwrap_or(&0);
        let mut text = format!(
            "{}\n{count} calls of {} instructions at the median, {first} at least, {last} at most; {} more were \
             interrupted or slept\nOf each of the {typical} that differ from the median by at most {:.0} %:\n\n",
            self.of,
            self.median(),
            self.lost,
            TYPICAL * 100.0
        );
        let _ = writeln!(
            text,
            "{:>12} {:>10} {:>7}  function",
            "instructions", "its own", "calls"
        );
        self.lines(&self.tree.root, 0, depth, least, &mut text);
        text
    }

    fn lines(&self, node: &Node, level: usize, depth: usize, least: f64, text: &mut String) {
        let typical = self.tree.root.calls as f64;
        let each = |number: u64| number as f64 / typical;
        if each(node.total()) < least || level > depth {
            return;
        }
        let _ = writeln!(
            text,
            "{:>12.1} {:>10.1} {:>7.2}  {}{}",
            each(node.total()),
            each(node.own),
            each(node.calls),
            "  ".repeat(level),
            node.name
        );
        let mut callees: Vec<&Node> = node.callees.iter().collect();
        callees.sort_by_key(|callee| std::cmp::Reverse(callee.total()));
        for callee in callees {
            self.lines(callee, level + 1, depth, least, text);
        }
    }

    /// What a later run can be compared with.
    pub(super) fn kept(&self) -> Kept {
        let typical = self.tree.root.calls as f64;
        let functions = self.tree.functions().into_iter().map(|(name, count)| {
            let share = Share {
                calls: count.calls as f64 / typical,
                own: count.own as f64 / typical,
            };
            (name, share)
        });
        Kept {
            of: self.of.clone(),
            median: self.median(),
            functions: functions.collect(),
        }
    }
}

fn median(sorted: &[u64]) -> Option<u64> {
    sorted.get(sorted.len() / 2).copied()
}

/// What has changed from `before` to `now`: the functions whose own instructions differ by at least `least`, the largest
/// difference first.
pub(super) fn changes(before: &Kept, now: &Kept, least: f64) -> String {
    let names = before.functions.keys().chain(now.functions.keys());
    let share = |kept: &Kept, name: &str| kept.functions.get(name).copied().unwrap_or_default();
    let mut rows: Vec<(&str, Share, Share)> = names
        .map(|name| (&**name, share(before, name), share(now, name)))
        .filter(|(_, before, now)| (now.own - before.own).abs() >= least)
        .collect();
    let change = |(_, before, now): &(&str, Share, Share)| now.own - before.own;
    rows.sort_by(|one, other| {
        change(other)
            .abs()
            .total_cmp(&change(one).abs())
            .then(one.0.cmp(other.0))
    });
    rows.dedup();
    let mut text = format!(
        "before: {}\n{} instructions at the median, {} before: {:+}\n\n{:>10} {:>10} {:>10}  function, its own\n",
        before.of,
        now.median,
        before.median,
        now.median as i64 - before.median as i64,
        "before",
        "now",
        "change"
    );
    for row in &rows {
        let (name, before, now) = row;
        let _ = writeln!(
            text,
            "{:>10.1} {:>10.1} {:>+10.1}  {name}",
            before.own,
            now.own,
            change(row)
        );
    }
    if rows.is_empty() {
        text.push_str("no function differs\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(median: u64, functions: &[(&str, f64)]) -> Kept {
        let functions = functions.iter().map(|(name, own)| {
            let share = Share {
                calls: 1.0,
                own: *own,
            };
            ((*name).to_owned(), share)
        });
        Kept {
            of: "something".into(),
            median,
            functions: functions.collect(),
        }
    }

    #[test]
    fn changes_are_named_the_largest_first() {
        let before = kept(100, &[("gone", 40.0), ("same", 30.0), ("more", 30.0)]);
        let now = kept(95, &[("same", 30.5), ("more", 44.5), ("new", 20.0)]);
        let text = changes(&before, &now, 5.0);
        let rows: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(
            rows,
            [
                "      40.0        0.0      -40.0  gone",
                "       0.0       20.0      +20.0  new",
                "      30.0       44.5      +14.5  more",
            ]
        );
        assert!(text.contains("95 instructions at the median, 100 before: -5"));
        assert!(changes(&before, &before, 5.0).ends_with("no function differs\n"));
    }

    #[test]
    fn the_tree_is_that_of_the_typical_calls() -> Result<()> {
        // Blocks of 1 to 3 instructions; calls of one block each, one of which is no typical one.
        let mut numbers = vec![2_u64, 2];
        for instructions in [100, 900] {
            numbers.extend([
                0xffff_ffff_8100_0000,
                0xffff_ffff_8100_0010,
                instructions,
                2,
            ]);
        }
        numbers.extend([3, 1, 0, 1, 1, 1, 0]);
        let bytes: Vec<u8> = numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        let symbols = Symbols::read("ffffffff81000000 T work\n");
        let report = Report::new("a test".into(), &Recording::read(&bytes)?, &symbols, 0)?;
        let text = report.text(3, 1.0);
        assert!(
            text.contains(
                "3 calls of 100 instructions at the median, 100 at least, 900 at most; 2 more"
            ),
            "{text}"
        );
        assert!(
            text.ends_with("       100.0      100.0    1.00  work\n"),
            "{text}"
        );
        assert_eq!(report.kept().functions["work"].own, 100.0);
        let dear = Report::new("a test".into(), &Recording::read(&bytes)?, &symbols, 100)?;
        assert_eq!(dear.kept().median, 900);
        Ok(())
    }
}
