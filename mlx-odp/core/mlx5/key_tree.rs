// SPDX-License-Identifier: GPL-2.0

//! Divides the addresses of a region among keys.
//!
//! A key with an entry for each page takes 8 bytes for each, and all of them have to be written before it may be used.
//! So only a region of at most a [`LEAF`] is one such key. A larger one is a *tree*: the entries of its own key, the
//! *root*, are other keys (KSM), each for a part of the same size, or a key without memory. A *leaf* has an entry for
//! each page of a [`LEAF`], and is made when the first of them comes. The parts of the root are leaves, too, where that
//! makes few enough of them; otherwise a *middle* key lies between, whose parts are leaves.
//!
//! The device wants such keys to begin at a multiple of the size of their parts. So the root begins before the region,
//! where that does not begin at one. Its first and last leaf have the region's exact bounds
//! ([`KeyTree::clip`]).
//!
//! All keys of a tree have the same addresses: those that a request uses.

use core::ops::Range;

use hmm::{PageRange, PAGE_SHIFT};

/// log2 of the bytes of a leaf: those of a chunk of a mirror, by default. Its table has 256 KiB.
pub const LEAF: u32 = 27;

/// The pages of a leaf.
pub const LEAF_PAGES: u64 = 1 << (LEAF - PAGE_SHIFT);

/// The most leaves that an explicit region's root has itself: 8 KiB of entries.
const MOST_PARTS: u64 = 512;

/// log2 of the bytes of an implicit region's part, for addresses of up to [`SMALL_BITS`] bits and for others. The more
/// of them there are, the longer a registration takes.
const SMALL_PART: u32 = 30;
const LARGE_PART: u32 = 34;
/// Four levels of page tables.
const SMALL_BITS: u32 = 47;
/// Five.
const LARGE_BITS: u32 = 56;

/// The tree of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTree {
    /// The addresses of the region.
    region: Range<u64>,
    /// log2 of the bytes of a part of the root.
    part: u32,
}

/// What lies below a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Leads to leaves.
    Middle,
    /// Has pages.
    Leaf,
}

/// A key below a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Of which kind it is.
    pub level: Level,
    /// Its first address by its size.
    pub number: u64,
}

impl KeyTree {
    /// The tree of an implicit region over the addresses of `user`, on a device whose parts have up to 2^`most` bytes.
    /// `None` if it can have no such region.
    pub fn implicit(user: PageRange, most: u32) -> Option<Self> {
        let pages = user.end().get();
        let fits = |bits: u32| pages <= 1 << (bits - PAGE_SHIFT);
        let part = match () {
            () if fits(SMALL_BITS) => SMALL_PART,
            () if fits(LARGE_BITS) => LARGE_PART,
            () => return None,
        };
        let region = 0..pages << PAGE_SHIFT;
        (part <= most).then_some(Self { region, part })
    }

    /// The tree of an explicit region of `length` bytes from `start` on, on such a device. `None` if it is to be one key.
    pub fn explicit(start: u64, length: u64, most: u32) -> Option<Self> {
        let end = start.checked_add(length)?;
        if length <= 1 << LEAF || most < LEAF {
            return None;
        }
        // The key's addresses end where those of its last part do.
        end.checked_next_multiple_of(1 << LARGE_PART)?;
        let leaves = Self {
            region: start..end,
            part: LEAF,
        };
        let part = match leaves.count() {
            ..=MOST_PARTS => LEAF,
            _ => LARGE_PART.min(most),
        };
        Some(Self { part, ..leaves })
    }

    /// The first address of the root.
    pub fn start(&self) -> u64 {
        self.region.start >> self.part << self.part
    }

    /// Its bytes: up to the end of the region.
    pub fn length(&self) -> u64 {
        self.region.end - self.start()
    }

    /// log2 of the bytes of a part of the root.
    pub fn part(&self) -> u32 {
        self.part
    }

    /// How many parts the root has.
    pub fn count(&self) -> u64 {
        self.length().div_ceil(1 << self.part)
    }

    /// How many parts `above` has; those of the root, if it is none.
    pub fn parts(&self, above: Option<Node>) -> u64 {
        match above {
            None => self.count(),
            Some(_) => 1 << (self.part - LEAF),
        }
    }

    /// The key that leads to `node`; `None` if that is the root.
    pub fn above(&self, node: Node) -> Option<Node> {
        let below_root = node.level == Level::Middle || self.part == LEAF;
        (!below_root).then(|| Node {
            level: Level::Middle,
            number: node.number >> (self.part - LEAF),
        })
    }

    /// Which part of the key above it `node` is.
    pub fn index(&self, node: Node) -> u64 {
        match self.above(node) {
            None => node.number - (self.region.start >> self.part),
            Some(above) => node.number - (above.number << (self.part - LEAF)),
        }
    }

    /// The part `index` of `above`, or of the root.
    pub fn node(&self, above: Option<Node>, index: u64) -> Node {
        match above {
            None => Node {
                level: match self.part {
                    LEAF => Level::Leaf,
                    _ => Level::Middle,
                },
                number: (self.region.start >> self.part) + index,
            },
            Some(above) => Node {
                level: Level::Leaf,
                number: (above.number << (self.part - LEAF)) + index,
            },
        }
    }

    /// The first address of `node`.
    pub fn address(&self, node: Node) -> u64 {
        node.number << self.shift(node)
    }

    fn shift(&self, node: Node) -> u32 {
        match node.level {
            Level::Middle => self.part,
            Level::Leaf => LEAF,
        }
    }

    /// The addresses of `node` that the region has.
    pub fn clip(&self, node: Node) -> Range<u64> {
        let start = self.address(node);
        let end = start.saturating_add(1 << self.shift(node));
        start.max(self.region.start)..end.min(self.region.end)
    }

    /// The leaves with the addresses of `range`, as far as the region has them.
    pub fn leaves(&self, range: Range<u64>) -> impl Iterator<Item = Node> {
        let start = range.start.max(self.region.start);
        let end = range.end.min(self.region.end);
        let numbers = match start < end {
            true => start >> LEAF..((end - 1) >> LEAF) + 1,
            false => 0..0,
        };
        numbers.map(|number| Node {
            level: Level::Leaf,
            number,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmm::PageIndex;
    use proptest::prelude::*;
    use std::vec::Vec;

    const GIB: u64 = 1 << 30;
    const TIB: u64 = 1 << 40;

    fn user(bits: u32) -> PageRange {
        // The last page below the border is not the user's.
        let end = (1 << (bits - PAGE_SHIFT)) - 1;
        PageRange::new(PageIndex::new(0), PageIndex::new(end))
    }

    #[test]
    fn the_parts_of_an_implicit_region_follow_from_the_address_space() {
        let small = KeyTree::implicit(user(47), 34).unwrap();
        assert_eq!((small.part(), small.count()), (30, 1 << 17));
        let large = KeyTree::implicit(user(56), 34).unwrap();
        assert_eq!((large.part(), large.count()), (34, 1 << 22));
        assert_eq!(small.start(), 0);
    }

    #[test]
    fn a_device_whose_parts_are_too_small_has_no_implicit_region() {
        assert!(KeyTree::implicit(user(47), 30).is_some());
        assert_eq!(KeyTree::implicit(user(47), 29), None);
        assert_eq!(KeyTree::implicit(user(56), 33), None);
        assert_eq!(KeyTree::implicit(user(57), 34), None);
    }

    #[test]
    fn a_region_of_a_leaf_is_one_key_and_a_larger_one_is_not() {
        let leaf = 1 << LEAF;
        assert_eq!(KeyTree::explicit(5, leaf, 34), None);
        assert!(KeyTree::explicit(5, leaf + 1, 34).is_some());
        // Nor can it be where the device cannot have it.
        assert_eq!(KeyTree::explicit(5, 1 << 40, LEAF - 1), None);
        for (start, length) in [(u64::MAX, 2 * leaf), (u64::MAX - 2 * leaf, 2 * leaf)] {
            assert_eq!(KeyTree::explicit(start, length, 34), None);
        }
    }

    #[test]
    fn the_root_is_short_for_any_size() {
        let count = |length, most| {
            let tree = KeyTree::explicit(0x1234_5678_9abc, length, most).unwrap();
            (tree.part(), tree.count())
        };
        assert_eq!(count(GIB / 4, 34), (LEAF, 3));
        assert_eq!(count(32 * GIB, 34).0, LEAF);
        assert_eq!(count(TIB, 34), (34, 65));
        assert_eq!(count(16 * TIB, 34), (34, 1025));
        assert_eq!(count(16 * TIB, 31), (31, 8193));
    }

    proptest! {
        #[test]
        fn each_byte_is_in_one_leaf_that_the_root_leads_to(
            start in 0u64..1 << 47,
            length in (1u64 << LEAF) + 1..1 << 42,
            at: u64,
            most in 27u32..36,
        ) {
            let tree = KeyTree::explicit(start, length, most).unwrap();
            prop_assert!(tree.start() <= start && tree.start() % (1 << tree.part()) == 0);
            prop_assert_eq!(tree.start() + tree.length(), start + length);
            let address = start + at % length;
            let leaves: Vec<Node> = tree.leaves(address..address + 1).collect();
            prop_assert_eq!(leaves.len(), 1);
            let mut node = leaves[0];
            prop_assert!(tree.clip(node).contains(&address));
            // Up to the root, and down again.
            loop {
                let (above, index) = (tree.above(node), tree.index(node));
                prop_assert!(index < tree.parts(above));
                prop_assert_eq!(tree.node(above, index), node);
                prop_assert!(tree.address(node) <= address);
                prop_assert!(address < tree.address(node) + (1 << tree.shift(node)));
                let Some(above) = above else { break };
                node = above;
            }
        }

        #[test]
        fn leaves_follow_each_other_and_are_clipped_to_the_region(
            start in 0u64..1 << 47,
            length in (1u64 << LEAF) + 1..1 << 32,
        ) {
            let tree = KeyTree::explicit(start, length, 34).unwrap();
            let mut reached = start;
            for leaf in tree.leaves(0..u64::MAX) {
                let clip = tree.clip(leaf);
                prop_assert_eq!(clip.start, reached);
                prop_assert!(clip.end > clip.start && clip.end - clip.start <= 1 << LEAF);
                reached = clip.end;
            }
            prop_assert_eq!(reached, start + length);
            prop_assert_eq!(tree.leaves(start + length..u64::MAX).count(), 0);
        }
    }
}
