// SPDX-License-Identifier: GPL-2.0

//! What a mirror reports to its driver.

use crate::addr::{PageIndex, PageRange};
use crate::event::Event;
use crate::pfn::Access;
use crate::walk::FaultError;

/// What the mirror tells its owner, for counters and traces. Called from faults and invalidations, some
/// of them under a spinlock: must not sleep.
///
/// The warm path of an access, which finds its translation, tells nothing.
pub trait Observer: Send + Sync + 'static {
    /// A fault under way. Each that has begun ends as served or as failed, once.
    type Fault;

    /// The device needs `page` for `access` and has no translation for that.
    fn fault_begins(&self, page: PageIndex, access: Access) -> Self::Fault;
    /// The fault has been served. It added the translations of `pages` pages, `around` of them not asked
    /// for: the rest of a huge page, and fault-around.
    fn fault_served(&self, fault: Self::Fault, pages: u64, around: u64);
    /// The fault has failed, and with it the access, as the page could not be had.
    fn fault_failed(&self, fault: Self::Fault, error: FaultError);
    /// A fault or a prefetch has to be tried again, as an invalidation came in between.
    fn collided(&self);
    /// The CPU has taken the range away; `pages` translations went. Those that only became read-only
    /// do not count.
    fn invalidated(&self, range: PageRange, event: Event, pages: u64);
    /// A chunk of these pages has come into being.
    fn chunk_added(&self, range: PageRange);
    /// The chunk of these pages is no more, and with it `pages` translations that it still had.
    fn chunk_removed(&self, range: PageRange, pages: u64, why: Removal);
    /// What took `before` bytes of kernel memory takes `after` now.
    fn resized(&self, before: usize, after: usize);
}

/// Why a chunk is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It had no translations any more, or the memory was needed for others.
    Reaped,
    /// The mirror goes.
    Closed,
}
