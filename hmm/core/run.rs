// SPDX-License-Identifier: GPL-2.0

//! A run: pages that are contiguous in virtual and in physical memory.

use crate::addr::{PageIndex, PageRange};
use crate::pfn::{Memory, PageState, Perm, Pfn};

/// `pages` pages from `start`, mapped to as many frames from `pfn`, all with the same rights and by
/// page table entries of the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first page.
    pub start: PageIndex,
    /// The frame of the first page.
    pub pfn: Pfn,
    /// How many pages.
    pub pages: u64,
    /// The rights of the CPU's entries.
    pub perm: Perm,
    /// log2 of how many pages each of the entries maps.
    pub order: u32,
    /// The kind of memory.
    pub memory: Memory,
}

impl Run {
    /// No pages: the initial contents of room for runs.
    pub const NONE: Self = Self {
        start: PageIndex::new(0),
        pfn: Pfn::new(0),
        pages: 0,
        perm: Perm::ReadOnly,
        order: 0,
        memory: Memory::System,
    };

    /// The pages of the run.
    #[inline]
    pub const fn range(&self) -> PageRange {
        PageRange::new(self.start, self.start.saturating_add(self.pages))
    }

    /// The single page `start`, if there is one in `state`.
    pub(crate) fn single(start: PageIndex, state: PageState) -> Option<Self> {
        let PageState::Mapped {
            pfn, perm, memory, ..
        } = state
        else {
            return None;
        };
        Some(Self {
            start,
            pfn,
            pages: 1,
            perm,
            order: 0,
            memory,
        })
    }

    /// The part of the run in `pages`, if there is one.
    pub(crate) fn part(&self, pages: PageRange) -> Option<Self> {
        let pages = self.range().intersection(&pages);
        (!pages.is_empty()).then(|| Self {
            start: pages.start(),
            pfn: self.pfn.add(pages.start().get() - self.start.get()),
            pages: pages.len(),
            ..*self
        })
    }

    /// The run of the entry right after this one, of the same size and with the same rights, that maps
    /// to `pfn`.
    #[inline]
    pub(crate) fn next_entry(&self, pfn: Pfn) -> Self {
        Self {
            start: self.range().end(),
            pfn,
            pages: 1 << self.order,
            ..*self
        }
    }

    /// Whether `next` follows right after, in virtual and in physical memory, and is of the same kind.
    #[inline]
    pub(crate) fn continued_by(&self, next: &Run) -> bool {
        self.start.saturating_add(self.pages) == next.start
            && self.pfn.add(self.pages) == next.pfn
            && self.perm == next.perm
            && self.order == next.order
            && self.memory == next.memory
    }
}
