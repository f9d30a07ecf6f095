// SPDX-License-Identifier: GPL-2.0

//! What a mirror reports to its driver.

use crate::addr::{PageIndex, PageRange};
use crate::event::Event;
use crate::pfn::Access;
use crate::walk::FaultError;

/// A driver's counters and traces of a mirror. Called by faults, invalidations, the reaper and the destruction of
/// the mirror. Must not sleep: the lock of a chunk is a spinlock, unless the device has a table of its own.
///
/// An access that finds its translation reports nothing.
pub trait Observer: Send + Sync + 'static {
    /// A fault under way. Each one ends once, as served or as failed.
    type Fault;

    /// A fault begins: the device accesses `page` and has no translation that allows it. Under no lock of the mirror's.
    fn fault_begins(&self, page: PageIndex, access: Access) -> Self::Fault;
    /// The fault was served. It added translations for `pages` pages, `around` of which were not asked for: the
    /// rest of a huge page, and fault-around. Under the chunk's lock.
    fn fault_served(&self, fault: Self::Fault, pages: u64, around: u64);
    /// After a fault that was served: calls `look`, which enters resident pages around for which there was no translation,
    /// and returns how many. Under no lock of the mirror's; `look` may sleep for memory, but waits for nobody.
    fn looks_around(&self, look: impl FnOnce() -> u64) {
        look();
    }
    /// The fault and its access failed: the page cannot be had. Under no lock of the mirror's.
    fn fault_failed(&self, fault: Self::Fault, error: FaultError);
    /// A fault or a prefetch is repeated because of an invalidation. Under no lock of the mirror's; the mmap lock may be
    /// held for writing.
    fn collided(&self);
    /// An invalidation of `range`, cut to a chunk, removed `pages` translations. Those that became read-only do
    /// not count. Under the chunk's lock.
    fn invalidated(&self, range: PageRange, event: Event, pages: u64);
    /// A chunk was made for `range`. Under no lock of a chunk.
    fn chunk_added(&self, range: PageRange);
    /// The chunk of `range` was removed, with the `pages` translations that it still had. Under no lock of a chunk; when
    /// the mirror is dropped, with the reaper stopped.
    fn chunk_removed(&self, range: PageRange, pages: u64, why: Removal);
    /// Memory use changed from `before` to `after` bytes. Under the chunk's lock, but for a chunk that is being made or
    /// freed.
    fn resized(&self, before: usize, after: usize);
}

/// Why a chunk was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// By the reaper: it was empty, or the memory was needed for others.
    Reaped,
    /// The mirror was dropped.
    Closed,
}
