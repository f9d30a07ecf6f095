// SPDX-License-Identifier: GPL-2.0

//! The device's page table: what it may use of one address space.
//!
//! It is protected by the lock of an [`IntervalNotifier`](hmm::IntervalNotifier): the device's
//! accesses share the lock, faults take it to enter pages, invalidations to remove them. Nothing may
//! sleep under it, so room for an entry is made beforehand ([`Spare`]).

use hmm::{Access, Event, Invalidate, Leaves, PageIndex, PageRange, Perm, Pfn, Spin, PMD_PAGES};
use kernel::prelude::*;
use kernel::rbtree::{Entry, RBTree, RBTreeNodeReservation};

/// Where a page is.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// In this frame of system memory.
    System(Pfn),
    /// At this page of the device's own memory.
    Device(u64),
}

/// What the device may do with a page.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) place: Place,
    pub(crate) perm: Perm,
    /// The CPU cannot use it at the same time.
    pub(crate) exclusive: bool,
}

/// Pages in a leaf of the table.
pub(crate) const LEAF_PAGES: u64 = PMD_PAGES;

/// The slots of [`LEAF_PAGES`] pages.
struct Leaf {
    slots: KVec<Option<Slot>>,
    used: usize,
}

/// The leaves that have slots in use, by the number of their first page divided by [`LEAF_PAGES`].
pub(crate) struct PageTable {
    leaves: RBTree<u64, Leaf>,
}

/// Room for one leaf more.
pub(crate) struct Spare(Option<(RBTreeNodeReservation<u64, Leaf>, Leaf)>);

impl Spare {
    pub(crate) fn new() -> Self {
        Self(None)
    }

    /// Makes room again if there is none.
    pub(crate) fn refill(&mut self) -> Result {
        if self.0.is_none() {
            let leaf = Leaf {
                slots: KVec::from_elem(None, LEAF_PAGES as usize, GFP_KERNEL_ACCOUNT)?,
                used: 0,
            };
            let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
            self.0 = Some((node, leaf));
        }
        Ok(())
    }
}

impl PageTable {
    pub(crate) fn new() -> Self {
        Self {
            leaves: RBTree::new(),
        }
    }

    /// What is known of `page`.
    pub(crate) fn get(&self, page: PageIndex) -> Option<Slot> {
        let (number, index) = position(page);
        *self.leaves.get(&number)?.slots.get(index)?
    }

    /// Where `page` is, if the device may use it so.
    pub(crate) fn translate(&self, page: PageIndex, access: Access) -> Option<Place> {
        let slot = self.get(page)?;
        slot.perm.allows(access).then_some(slot.place)
    }

    /// Whether the device has any of the pages exclusively.
    pub(crate) fn has_exclusive(&self, range: PageRange) -> bool {
        let mut from = position(range.start()).0;
        while let Some(at) = self.leaves.cursor_lower_bound(&from) {
            let (number, leaf) = at.current();
            if first_page(*number) >= range.end() {
                return false;
            }
            let slots = &leaf.slots[indices(*number, range)];
            if slots.iter().flatten().any(|slot| slot.exclusive) {
                return true;
            }
            from = number + 1;
        }
        false
    }

    /// Enters `page`. Uses `spare` if there is no leaf for it yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if that has been used already: one is needed for each leaf.
    pub(crate) fn set(&mut self, page: PageIndex, slot: Slot, spare: &mut Spare) -> Result {
        let (number, index) = position(page);
        let leaf = match self.leaves.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let (node, leaf) = spare.0.take().ok_or(ENOMEM)?;
                entry.insert(leaf, node)
            }
        };
        let old = leaf.slots[index].replace(slot);
        leaf.used += usize::from(old.is_none());
        Ok(())
    }

    /// Leaves what `leaves` says of the slots in `range`.
    fn change(&mut self, range: PageRange, leaves: Leaves) {
        let from = position(range.start()).0;
        let mut cursor = self.leaves.cursor_lower_bound_mut(&from);
        while let Some(mut at) = cursor {
            let (number, leaf) = at.current_mut();
            if first_page(*number) >= range.end() {
                return;
            }
            leaf.change(indices(*number, range), leaves);
            cursor = match leaf.used {
                0 => at.remove_current().0,
                _ => at.move_next(),
            };
        }
    }
}

impl Leaf {
    fn change(&mut self, indices: core::ops::Range<usize>, leaves: Leaves) {
        for slot in &mut self.slots[indices] {
            match (leaves, slot.as_mut()) {
                (_, None) => {}
                // A fork ends exclusive access so: the CPU may read again.
                (Leaves::ReadOnly, Some(slot)) => {
                    (slot.perm, slot.exclusive) = (Perm::ReadOnly, false);
                }
                (Leaves::Nothing, Some(_)) => {
                    *slot = None;
                    self.used -= 1;
                }
            }
        }
    }
}

/// What the device wrote was marked dirty when it did ([`crate::access`]).
impl Invalidate for PageTable {
    type Lock = Spin;

    fn invalidate(&mut self, range: PageRange, event: Event) {
        self.change(range, event.leaves());
    }

    fn retire(&mut self) {
        self.leaves = RBTree::new();
    }
}

/// The leaf of a page, and its slot in it.
fn position(page: PageIndex) -> (u64, usize) {
    (page.get() / LEAF_PAGES, (page.get() % LEAF_PAGES) as usize)
}

fn first_page(leaf: u64) -> PageIndex {
    PageIndex::new(leaf * LEAF_PAGES)
}

/// Which slots of a leaf are those of pages in `range`.
fn indices(leaf: u64, range: PageRange) -> core::ops::Range<usize> {
    let first = first_page(leaf);
    let own = PageRange::new(first, first.saturating_add(LEAF_PAGES)).intersection(&range);
    let offset = |page: PageIndex| (page.get() - first.get()) as usize;
    if own.is_empty() {
        return 0..0;
    }
    offset(own.start())..offset(own.end())
}
