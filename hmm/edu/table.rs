// SPDX-License-Identifier: GPL-2.0

//! The mappings of a session. They go when the CPU takes the pages away.

use hmm::{
    mark_dirty, DmaError, DmaRun, Event, Invalidate, Mapping, PageIndex, PageRange, Perm, Spin,
};
use kernel::prelude::*;

/// The most mappings at a time.
const ROOM: usize = 4096;

/// The mappings, in no order, and how many pages they have been about so far.
pub(crate) struct Table {
    mappings: KVVec<Mapping<'static>>,
    mapped: u64,
    unmapped: u64,
}

impl Table {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            mappings: KVVec::with_capacity(ROOM, GFP_KERNEL)?,
            mapped: 0,
            unmapped: 0,
        })
    }

    pub(crate) fn put(&mut self, mapping: Mapping<'static>) -> Result<(), DmaError> {
        self.mapped += mapping.run().pages;
        self.keep(mapping).map_err(DmaError::Failed)
    }

    /// Keeps a mapping; without room for it, it is unmapped.
    fn keep(&mut self, mapping: Mapping<'static>) -> Result {
        match self.mappings.push_within_capacity(mapping) {
            Ok(()) => Ok(()),
            Err(full) => {
                self.end(full.0, full_range());
                Err(ENOSPC)
            }
        }
    }

    /// Unmaps `pages`. The device does not use them: it copies under the lock.
    pub(crate) fn take_out(&mut self, pages: PageRange) {
        let mut index = 0;
        while let Some(mapping) = self.mappings.get(index) {
            if !mapping.run().range().overlaps(&pages) {
                index += 1;
                continue;
            }
            if let Ok(mapping) = self.mappings.remove(index) {
                self.end(mapping, pages);
            }
        }
    }

    /// Unmaps `pages` of a mapping and keeps the rest, as far as there is room.
    fn end(&mut self, mapping: Mapping<'static>, pages: PageRange) {
        let lost = mapping.loses(pages);
        self.unmapped += lost.len();
        if mapping.run().perm == Perm::ReadWrite {
            for page in 0..lost.len() {
                let index = lost.start().get() - mapping.run().start.get() + page;
                // SAFETY: The CPU takes the page away only after this, or not at all: the lock is held
                // under which it was found valid.
                unsafe { mark_dirty(mapping.run().pfn.add(index)) };
            }
        }
        let (before, after) = mapping.unmap_part(pages);
        for rest in [before, after].into_iter().flatten() {
            let _ = self.keep(rest);
        }
    }

    /// The mapping that `page` is in.
    pub(crate) fn find(&self, page: PageIndex) -> Option<&DmaRun> {
        self.runs().find(|run| run.range().contains(page))
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = &DmaRun> {
        self.mappings.iter().map(Mapping::run)
    }

    /// How many pages have been mapped and unmapped.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.mapped, self.unmapped)
    }
}

/// All pages that there are.
fn full_range() -> PageRange {
    PageRange::new(PageIndex::new(0), PageIndex::new(u64::MAX))
}

impl Invalidate for Table {
    type Lock = Spin;

    // Pages that only become read-only go, too: the next copy has them mapped anew.
    fn invalidate(&mut self, range: PageRange, _event: Event) {
        self.take_out(range);
    }

    fn retire(&mut self) {
        self.take_out(full_range());
    }
}
