// SPDX-License-Identifier: GPL-2.0

//! One chunk of a mirror: its translations, and what invalidations do to them.
//!
//! A chunk tells its parent what happens to it through [`Parent`].

use kernel::alloc::flags::__GFP_NOWARN;
use kernel::alloc::Flags;
use kernel::prelude::*;

use crate::addr::{PageIndex, PageRange, PMD_ORDER};
use crate::chunk_map::entry_size;
use crate::event::{Event, Leaves};
use crate::interval::{IntervalNotifier, Invalidate};
use crate::page::{mark_dirty, MappedPage};
use crate::pfn::{Access, Perm, Pfn};
use crate::pmd_pages::PmdPages;
use crate::xlt::{pmds_in, Filled, Pages, Room, Slot, Xlt};
use crate::zeroed::zeroed;

/// What a chunk tells the mirror that it is a part of. Called under the chunk's lock: must not sleep.
pub(crate) trait Parent: Send + Sync {
    /// The chunk's memory changed from `before` to `after` bytes.
    fn resized(&self, before: usize, after: usize);

    /// An invalidation removed `pages` translations from `range`.
    fn invalidated(&self, range: PageRange, event: Event, pages: u64);

    /// The chunk has lost its last translation.
    fn emptied(&self);
}

/// The translations of one chunk.
pub(crate) struct Chunk<P: Parent> {
    table: Translations,
    parent: P,
}

/// A chunk, registered for its range: what the mirror is made of, and the domain of its faults.
pub(crate) type WatchedChunk<P> = IntervalNotifier<Chunk<P>>;

// Not vectors: a chunk with its notifier is to fit into 256 bytes.
type Slots = KBox<[Slot]>;
type Pmds = Pin<KBox<[Pages<Slots>]>>;
type Translations = Xlt<Slots, Pmds>;

impl<P: Parent> Chunk<P> {
    /// An empty chunk of the pages in `range`, of `parent`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(range: PageRange, parent: P) -> Result<Self> {
        let huge = empty_slots(pmds_in(range), GFP_KERNEL_ACCOUNT)?;
        let table = Xlt::new(range, huge);
        let chunk = Self { table, parent };
        chunk.parent.resized(0, chunk.memory());
        Ok(chunk)
    }

    /// Whether there are no translations.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Its memory in bytes, with its entry in the map.
    pub(crate) fn memory(&self) -> usize {
        entry_size::<WatchedChunk<P>>() + self.table.memory()
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
        let Some(pfn) = self.table.translate(page, access) else {
            return false;
        };
        // SAFETY: The table holds only frames that a walk found in the process's page table (`PmdPages` shows
        // nothing else), which have a `struct page`, and an invalidation waits for the lock whose guard `self`
        // was borrowed from.
        use_page(unsafe { MappedPage::map(pfn) });
        true
    }

    /// Enters the pages of `found`; see [`Xlt::fill`].
    pub(crate) fn fill(
        &mut self,
        found: &PmdPages<'_>,
        limit: Perm,
        room: &mut RoomForFault,
    ) -> Filled {
        self.change(|table| match found.huge() {
            Some(run) => table.fill(&run, limit, room),
            None => table.fill_single(found.single(), limit, room),
        })
    }

    /// Removes the translations of `range`, marks pages that the device wrote dirty, and returns how many
    /// translations there were.
    fn zap(&mut self, range: PageRange) -> u64 {
        self.change(|table| table.zap(range, &mut AtOnce, written))
    }

    /// Removes all translations, as [`Chunk::zap`] does.
    pub(crate) fn give_up(&mut self) -> u64 {
        self.zap(self.table.range())
    }

    /// Changes the table and reports a change of its memory.
    fn change<R>(&mut self, change: impl FnOnce(&mut Translations) -> R) -> R {
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

impl<P: Parent> Drop for Chunk<P> {
    fn drop(&mut self) {
        self.parent.resized(self.memory(), 0);
    }
}

impl<P: Parent> Invalidate for Chunk<P> {
    fn invalidate(&mut self, range: PageRange, event: Event) {
        let pages = match event.leaves() {
            Leaves::Nothing => self.zap(range),
            Leaves::ReadOnly => {
                self.table.write_protect(range, written);
                0
            }
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
}

/// Marks frame `pfn` dirty: the device wrote it, and its translation has gone or become read-only.
fn written(pfn: Pfn) {
    // SAFETY: The frame was found in the process's page table; an invalidation that lets go of it has
    // to come through the chunk's lock first. Translations change only while that is held.
    unsafe { mark_dirty(pfn) }
}

/// `count` empty slots, for pages or for PMDs.
fn empty_slots(count: u64, flags: Flags) -> Result<Slots> {
    Ok(zeroed(count as usize, flags)?)
}

/// `count` PMDs without slots.
fn empty_pmds(count: usize, flags: Flags) -> Result<Pmds> {
    KBox::pin_slice(|_| Ok::<_, Error>(Pages::default()), count, flags)
}

/// Room for the translations of a fault, made before the lock is taken and charged to the process.
#[derive(Default)]
pub(crate) struct RoomForFault {
    pmds: Option<Pmds>,
    slots: Option<Slots>,
    /// Whether to make room even if the chunk has it: it may be gone when it is needed.
    rely_on_nothing: bool,
}

impl RoomForFault {
    /// Makes the room for pages in the PMD of `page` that `chunk` has not got.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn prepare<P: Parent>(
        &mut self,
        chunk: &WatchedChunk<P>,
        page: PageIndex,
    ) -> Result {
        let (pmds, slots, part) = {
            let chunk = chunk.read();
            let table = &chunk.table;
            let (pmds, slots) = (table.has_pages(), table.has_slots(page));
            (
                pmds,
                slots && !self.rely_on_nothing,
                table.part_around(page),
            )
        };
        if !pmds && self.pmds.is_none() {
            self.pmds = Some(empty_pmds(
                pmds_in(chunk.range()) as usize,
                GFP_KERNEL_ACCOUNT,
            )?);
        }
        if !slots && self.slots.is_none() {
            self.slots = Some(empty_slots(part.len(), GFP_KERNEL_ACCOUNT)?);
        }
        Ok(())
    }

    /// Makes room from now on whatever the chunk has: slots that it had went with other pages of the PMD.
    pub(crate) fn rely_on_nothing(&mut self) {
        self.rely_on_nothing = true;
    }

    /// Whether room for single pages is needed if the smallest entry found maps `1 << smallest` pages. Always, if it
    /// was missing once, so that there is no third try.
    pub(crate) fn needed(&self, smallest: u32) -> bool {
        smallest < PMD_ORDER || self.rely_on_nothing
    }
}

impl Room<Pmds, Slots> for RoomForFault {
    fn pages(&mut self, pmds: usize) -> Option<Pmds> {
        self.pmds.take_if(|spare| spare.len() == pmds)
    }

    fn slots(&mut self, pages: u64) -> Option<Slots> {
        self.slots.take_if(|spare| spare.len() as u64 == pages)
    }
}

/// Room that is allocated under the lock, without waiting: for the rest of a huge page.
struct AtOnce;

impl Room<Pmds, Slots> for AtOnce {
    fn pages(&mut self, pmds: usize) -> Option<Pmds> {
        empty_pmds(pmds, GFP_NOWAIT | __GFP_NOWARN).ok()
    }

    fn slots(&mut self, pages: u64) -> Option<Slots> {
        empty_slots(pages, GFP_NOWAIT | __GFP_NOWARN).ok()
    }
}
