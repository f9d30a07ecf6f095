// SPDX-License-Identifier: GPL-2.0

//! The translations of one chunk of address space: what the device may use without asking.
//!
//! [`Table::translate`] is the warm path. It takes `&self`, so that many readers share it under a
//! shared lock; filling and zapping take `&mut self`, so the exclusive lock is in the signature.

use core::ops::Deref;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{PageIndex, PageRange};
use crate::pfn::{Access, Perm, Pfn};
use crate::run::Run;

/// One page's translation: 0 or a frame number, shifted, with flags below it.
#[derive(Debug, Default)]
pub struct Slot(AtomicU64);

const VALID: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
/// The device has written the page through this translation.
const WRITTEN: u64 = 1 << 2;
const PFN_SHIFT: u32 = 12;

/// The translations of the pages from `first`, one slot each.
///
/// `S` is where the slots live: a kernel vector in the module, a `Vec` in tests.
#[derive(Debug)]
pub struct Table<S> {
    first: PageIndex,
    slots: S,
}

impl<S: Deref<Target = [Slot]>> Table<S> {
    /// A table of `slots.len()` pages from `first`. The slots must be fresh ([`Slot::default`]).
    pub fn new(first: PageIndex, slots: S) -> Self {
        Self { first, slots }
    }

    /// The pages that the table can hold.
    #[inline]
    pub fn range(&self) -> PageRange {
        let pages = self.slots.len() as u64;
        PageRange::new(self.first, self.first.saturating_add(pages))
    }

    fn slot(&self, page: PageIndex) -> Option<&Slot> {
        let index = page.get().checked_sub(self.first.get())?;
        self.slots.get(usize::try_from(index).ok()?)
    }

    /// The frame of `page` if `access` may go there now; for a write, remembers that it happened.
    #[inline]
    pub fn translate(&self, page: PageIndex, access: Access) -> Option<Pfn> {
        let slot = &self.slot(page)?.0;
        // Relaxed: the lock that every caller holds orders the slot against fill and zap.
        let value = slot.load(Ordering::Relaxed);
        if value & VALID == 0 {
            return None;
        }
        if access == Access::Write {
            if value & WRITABLE == 0 {
                return None;
            }
            if value & WRITTEN == 0 {
                slot.fetch_or(WRITTEN, Ordering::Relaxed);
            }
        }
        Some(Pfn::new(value >> PFN_SHIFT))
    }

    /// Enters the pages of `run` that the table covers; returns how many were not there before.
    ///
    /// `limit` is the most that the device is allowed, whatever the CPU's entry allows.
    pub fn fill(&mut self, run: &Run, limit: Perm) -> u64 {
        let flags = match (run.perm, limit) {
            (Perm::ReadWrite, Perm::ReadWrite) => VALID | WRITABLE,
            _ => VALID,
        };
        let part = run.range().intersection(&self.range());
        let mut added = 0;
        for index in part.start().get()..part.end().get() {
            let pfn = run.pfn.add(index - run.start.get());
            let Some(Slot(slot)) = self.slot(PageIndex::new(index)) else {
                continue;
            };
            let old = slot.load(Ordering::Relaxed);
            // A page that was written stays so until it is zapped, also if it is entered again.
            slot.store(
                pfn.get() << PFN_SHIFT | flags | old & WRITTEN,
                Ordering::Relaxed,
            );
            added += u64::from(old & VALID == 0);
        }
        added
    }

    /// Removes the translations of `range`; returns how many there were.
    ///
    /// `written` is called with each frame that the device wrote, once.
    pub fn zap(&mut self, range: PageRange, mut written: impl FnMut(Pfn)) -> u64 {
        let part = range.intersection(&self.range());
        let mut zapped = 0;
        for index in part.start().get()..part.end().get() {
            let Some(Slot(slot)) = self.slot(PageIndex::new(index)) else {
                continue;
            };
            let old = slot.load(Ordering::Relaxed);
            if old & VALID == 0 {
                continue;
            }
            slot.store(0, Ordering::Relaxed);
            zapped += 1;
            if old & WRITTEN != 0 {
                written(Pfn::new(old >> PFN_SHIFT));
            }
        }
        zapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn table() -> Table<Vec<Slot>> {
        let slots = (0..8).map(|_| Slot::default()).collect();
        Table::new(PageIndex::new(100), slots)
    }

    fn run(start: u64, pfn: u64, pages: u64, perm: Perm) -> Run {
        Run {
            start: PageIndex::new(start),
            pfn: Pfn::new(pfn),
            pages,
            perm,
        }
    }

    fn pages(start: u64, end: u64) -> PageRange {
        PageRange::new(PageIndex::new(start), PageIndex::new(end))
    }

    #[test]
    fn only_what_was_filled_translates_and_only_as_allowed() {
        let mut table = table();
        assert_eq!(
            table.fill(&run(102, 50, 3, Perm::ReadWrite), Perm::ReadWrite),
            3
        );
        assert_eq!(
            table.fill(&run(105, 90, 1, Perm::ReadOnly), Perm::ReadWrite),
            1
        );
        assert_eq!(
            table.fill(&run(106, 70, 1, Perm::ReadWrite), Perm::ReadOnly),
            1
        );
        let at = |page, access| table.translate(PageIndex::new(page), access).map(Pfn::get);
        assert_eq!(at(101, Access::Read), None);
        assert_eq!(at(102, Access::Read), Some(50));
        assert_eq!(at(104, Access::Write), Some(52));
        assert_eq!(at(105, Access::Read), Some(90));
        assert_eq!(at(105, Access::Write), None);
        assert_eq!(at(106, Access::Write), None);
        assert_eq!(at(99, Access::Read), None);
        assert_eq!(at(108, Access::Read), None);
    }

    #[test]
    fn a_run_is_cut_to_the_table() {
        let mut table = table();
        assert_eq!(
            table.fill(&run(90, 1000, 100, Perm::ReadWrite), Perm::ReadWrite),
            8
        );
        assert_eq!(
            table.translate(PageIndex::new(100), Access::Read),
            Some(Pfn::new(1010))
        );
        assert_eq!(table.zap(pages(0, u64::MAX), |_| panic!("nobody wrote")), 8);
        assert_eq!(table.translate(PageIndex::new(100), Access::Read), None);
    }

    #[test]
    fn a_written_page_is_reported_exactly_once() {
        let mut table = table();
        table.fill(&run(100, 10, 4, Perm::ReadWrite), Perm::ReadWrite);
        table.translate(PageIndex::new(101), Access::Write).unwrap();
        table.translate(PageIndex::new(102), Access::Read).unwrap();
        // Has become read-only meanwhile: still dirty.
        table.fill(&run(101, 11, 1, Perm::ReadOnly), Perm::ReadWrite);
        let mut written = Vec::new();
        assert_eq!(table.zap(pages(101, 103), |pfn| written.push(pfn.get())), 2);
        assert_eq!(table.zap(pages(100, 108), |pfn| written.push(pfn.get())), 2);
        assert_eq!(written, [11]);
    }
}
