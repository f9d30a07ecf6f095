// SPDX-License-Identifier: GPL-2.0

//! One chunk of a mirror: its translations, and what invalidations do to them.
//!
//! A chunk tells its parent what happens to it through [`Parent`]. Its translations are in a [`Table`], in kernel
//! memory only or mirrored on the device ([`crate::device_table`]).

use kernel::prelude::*;

use crate::addr::{PageIndex, PageRange};
use crate::chunk_map::entry_size;
use crate::event::{Event, Leaves};
use crate::interval::{IntervalNotifier, Invalidate};
use crate::look_around::LookAround;
use crate::page::{folio_order, MappedPage};
use crate::pfn::{Access, Perm, Pfn};
use crate::pmd_pages::PmdPages;
use crate::room::RoomForFault;
use crate::table::{SoftwareTable, Table};
use crate::walk::FaultError;
use crate::xlt::Filled;

/// What a chunk tells the mirror that it is a part of. Called under the chunk's lock, which may be a spinlock: must not
/// sleep.
pub(crate) trait Parent: Send + Sync + Unpin + 'static {
    /// The chunk's memory changed from `before` to `after` bytes.
    fn resized(&self, before: usize, after: usize);

    /// An invalidation removed `pages` translations from `range`.
    fn invalidated(&self, range: PageRange, event: Event, pages: u64);

    /// The chunk has lost its last translation.
    fn emptied(&self);

    /// What has come of looking around in all chunks.
    fn look_around(&self) -> &LookAround;

    /// About how many single pages there is room for in all chunks, where the device has been.
    fn pages(&self) -> u64;
}

/// The translations of one chunk.
pub(crate) struct Chunk<P: Parent, T: Table> {
    table: T,
    parent: P,
}

/// A chunk, registered for its range: what the mirror is made of, and the domain of its faults.
pub(crate) type WatchedChunk<P, T> = IntervalNotifier<Chunk<P, T>>;

impl<P: Parent, T: Table> Chunk<P, T> {
    /// A chunk of `parent` with the empty `table`.
    pub(crate) fn new(table: T, parent: P) -> Self {
        let chunk = Self { table, parent };
        chunk.parent.resized(0, chunk.memory());
        chunk
    }

    /// The table.
    pub(crate) fn table(&self) -> &T {
        &self.table
    }

    /// Whether there are no translations.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.xlt().is_empty()
    }

    /// Its memory in bytes, with its entry in the map.
    pub(crate) fn memory(&self) -> usize {
        entry_size::<WatchedChunk<P, T>>() + self.table.memory()
    }

    /// Enters the pages of `found`; see [`Table::fill`].
    pub(crate) fn fill(
        &mut self,
        found: &PmdPages<'_>,
        limit: Perm,
        room: &mut RoomForFault,
    ) -> Result<Filled, FaultError> {
        self.change(|table| table.fill(found, limit, room))
    }

    /// A fault has been served with `found`, and may map `largest` pages besides: log2 of the size of the aligned block
    /// around the first one whose resident pages it is to take along, if any.
    #[inline]
    pub(crate) fn block_around(&self, found: &PmdPages<'_>, largest: u64) -> Option<u32> {
        if !T::TAKES_ALONG {
            return None;
        }
        // None of a huge entry, all of which there is.
        let pfn = found.first()?;
        let look_around = self.parent.look_around();
        match found.was_resident() {
            true => look_around.block(self.parent.pages(), largest),
            false => {
                // SAFETY: The frame was found in the process's page table; an invalidation that lets go of it has to come
                // through the chunk's lock first, whose guard `self` was borrowed from.
                let order = || unsafe { folio_order(pfn) };
                look_around.block_of_folio(order, || self.parent.pages(), largest)
            }
        }
    }

    /// Enters those of `found` that have no translation; see [`Table::take_along`].
    pub(crate) fn take_along(&mut self, found: &PmdPages<'_>, limit: Perm) -> u64 {
        let pages = self.table.take_along(found, limit);
        self.parent.look_around().took(pages);
        pages
    }

    /// Removes all translations, and returns how many there were.
    pub(crate) fn give_up(&mut self) -> u64 {
        self.change(T::close)
    }

    /// Changes the table and reports a change of its memory.
    fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let before = self.memory();
        let result = change(&mut self.table);
        let after = self.memory();
        // Most changes of a table change nothing about its memory.
        if before != after {
            self.parent.resized(before, after);
        }
        result
    }
}

impl<P: Parent> Chunk<P, SoftwareTable> {
    #[inline]
    fn translate(&self, page: PageIndex, access: Access) -> Option<Pfn> {
        match self.table.translate(page, access) {
            None if self.parent.look_around().has_taken() => self.first_use(page, access),
            found => found,
        }
    }

    /// The frame of `page`, if it was taken along and is used for the first time.
    #[cold]
    #[inline(never)]
    fn first_use(&self, page: PageIndex, access: Access) -> Option<Pfn> {
        if self.table.first_use(page) {
            self.parent.look_around().used();
        }
        self.table.translate(page, access)
    }

    /// Calls `use_page` with the page that `page` translates to, if the translation allows `access`; returns whether
    /// it does. The page is valid while the lock of the chunk is held.
    #[inline]
    pub(crate) fn use_page(
        &self,
        page: PageIndex,
        access: Access,
        use_page: impl FnOnce(MappedPage<'_>),
    ) -> bool {
        Self::with(self.translate(page, access), use_page)
    }

    /// The same for whatever `page` translates to, and the device does not use it: for one that was taken along it stays
    /// the first use that is to come.
    pub(crate) fn look_at(&self, page: PageIndex, look: impl FnOnce(MappedPage<'_>)) -> bool {
        Self::with(self.table.xlt().get(page).map(|(pfn, _)| pfn), look)
    }

    /// Calls `use_page` with the page of frame `pfn`, which is the table's.
    #[inline]
    fn with(pfn: Option<Pfn>, use_page: impl FnOnce(MappedPage<'_>)) -> bool {
        let Some(pfn) = pfn else {
            return false;
        };
        // SAFETY: The table holds only frames that a walk found in the process's page table (`PmdPages` shows
        // nothing else), which have a `struct page`, and an invalidation waits for the lock whose guard `self`
        // was borrowed from.
        use_page(unsafe { MappedPage::map(pfn) });
        true
    }
}

impl<P: Parent, T: Table> Drop for Chunk<P, T> {
    fn drop(&mut self) {
        self.parent.resized(self.memory(), 0);
    }
}

impl<P: Parent, T: Table> Invalidate for Chunk<P, T> {
    type Lock = T::Lock;

    fn invalidate(&mut self, range: PageRange, event: Event) {
        let pages = match event.leaves() {
            Leaves::Nothing => self.change(|table| table.zap(range)),
            Leaves::ReadOnly => self.change(|table| table.write_protect(range)),
        };
        self.parent.invalidated(range, event, pages);
        if pages > 0 && self.is_empty() {
            self.parent.emptied();
        }
    }

    /// A chunk that was in the map has already dropped its translations ([`Chunk::give_up`]); one that never
    /// got in has none.
    fn retire(&mut self) {
        self.give_up();
    }

    fn uses(&self, range: PageRange) -> bool {
        self.table.uses(range)
    }
}
