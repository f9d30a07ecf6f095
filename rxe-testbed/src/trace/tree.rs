// SPDX-License-Identifier: GPL-2.0
//! A call as a tree: which function has called which, and how many instructions each has taken.

use std::collections::BTreeMap;

use super::recording::{Block, End};
use super::symbols::Symbols;

/// A function where it was called, in all calls that were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    /// How many times it was called there.
    pub(super) calls: u64,
    /// Instructions of its own.
    pub(super) own: u64,
    pub(super) callees: Vec<Node>,
}

impl Node {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Its instructions and those of all that it has called.
    pub(super) fn total(&self) -> u64 {
        self.own + self.callees.iter().map(Self::total).sum::<u64>()
    }

    /// What it calls by that name, which may be new.
    fn callee(&mut self, name: &str) -> usize {
        let known = self.callees.iter().position(|node| node.name == name);
        known.unwrap_or_else(|| {
            self.callees.push(Self::named(name));
            self.callees.len() - 1
        })
    }

    fn at(&mut self, path: &[usize]) -> &mut Self {
        path.iter()
            .fold(self, |node, number| &mut node.callees[*number])
    }

    /// Adds each function's own instructions and calls, wherever it was called.
    fn add_to(&self, functions: &mut BTreeMap<String, Count>) {
        let count = functions.entry(self.name.clone()).or_default();
        count.calls += self.calls;
        count.own += self.own;
        self.callees.iter().for_each(|node| node.add_to(functions));
    }
}

/// How often something was called, and its own instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) calls: u64,
    pub(super) own: u64,
}

/// The tree of several calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) root: Node,
}

impl Tree {
    /// Adds a call.
    pub(super) fn add(&mut self, call: &[Block], symbols: &Symbols) {
        let Some(first) = call.first() else {
            return;
        };
        if self.root.calls == 0 {
            self.root = Node::named(symbols.at(first.at).0);
        }
        self.root.calls += 1;
        // The way from the root to the function that runs, and where each on it was entered: a function that another one
        // jumps to at its end returns for both.
        let mut path: Vec<usize> = Vec::new();
        let mut frames: Vec<usize> = Vec::new();
        let mut last: Option<(Block, &str)> = None;
        for block in call {
            let (name, begins) = symbols.at(block.at);
            match last {
                Some((last, _)) if last.end == End::Call && block.at != last.next => {
                    frames.push(path.len());
                    self.enter(&mut path, name);
                }
                Some((last, _)) if last.end == End::Return => {
                    path.truncate(frames.pop().unwrap_or(0));
                }
                Some((_, before)) if begins && name != before => self.enter(&mut path, name),
                _ => {}
            }
            self.root.at(&path).own += block.instructions;
            last = Some((*block, name));
        }
    }

    fn enter(&mut self, path: &mut Vec<usize>, name: &str) {
        let node = self.root.at(path);
        let number = node.callee(name);
        node.callees[number].calls += 1;
        path.push(number);
    }

    /// What each function has taken, wherever it was called.
    pub(super) fn functions(&self) -> BTreeMap<String, Count> {
        let mut functions = BTreeMap::new();
        self.root.add_to(&mut functions);
        functions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOLS: &str = "\
ffffffff81000100 T root
ffffffff81000200 T called
ffffffff81000300 T jumped_to
ffffffff81000400 T root.cold
";

    fn block(at: u64, instructions: u64, end: End) -> Block {
        let at = 0xffff_ffff_8100_0000 + at;
        Block {
            at,
            next: at + 0x10,
            instructions,
            end,
        }
    }

    #[test]
    fn a_call_becomes_a_tree() {
        let call = [
            block(0x100, 5, End::Call),
            block(0x200, 7, End::Other),
            // A jump to another function's beginning, which returns for both.
            block(0x300, 11, End::Return),
            // A part of the first one that is elsewhere, and back.
            block(0x110, 2, End::Other),
            block(0x400, 3, End::Other),
            block(0x120, 1, End::Call),
            block(0x200, 7, End::Return),
            block(0x130, 1, End::Return),
        ];
        let symbols = Symbols::read(SYMBOLS);
        let mut tree = Tree::default();
        tree.add(&call, &symbols);
        tree.add(&call, &symbols);
        let root = &tree.root;
        assert_eq!(
            (&*root.name, root.calls, root.own, root.total()),
            ("root", 2, 24, 74)
        );
        let [called] = &root.callees[..] else {
            panic!("{root:?}");
        };
        assert_eq!((&*called.name, called.calls, called.own), ("called", 4, 28));
        let [jumped] = &called.callees[..] else {
            panic!("{called:?}");
        };
        assert_eq!(
            (&*jumped.name, jumped.calls, jumped.own),
            ("jumped_to", 2, 22)
        );
        let functions = tree.functions();
        assert_eq!(functions["called"], Count { calls: 4, own: 28 });
        assert_eq!(
            functions.values().map(|count| count.own).sum::<u64>(),
            root.total()
        );
    }
}
