// SPDX-License-Identifier: GPL-2.0

//! Counts what a region's mirror reports, for the region and for its device, and traces it.
//!
//! The functions that trace are not inlined: other modules instantiate the mirror's generic functions, and
//! do not have the tracepoints.

use core::sync::atomic::{AtomicU64, Ordering};

use hmm::{Access, Event, FaultError, Observer, PageIndex, PageRange, Removal};

use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::advice::Advice;
use crate::stats::Stats;
use crate::trace::{self, FaultEnd, Moment};

/// The number, the counters and the tracepoints of one region.
pub struct RegionStats {
    number: u64,
    lkey: u32,
    region: Stats,
    /// Those of its device.
    device: Arc<Stats>,
}

impl RegionStats {
    /// Creates the counters of a new region, known by `lkey`, of the device with the counters `device`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(device: &Arc<Stats>, lkey: u32) -> Result<Arc<Self>> {
        static REGISTERED: AtomicU64 = AtomicU64::new(0);
        let region_stats = Self {
            number: REGISTERED.fetch_add(1, Ordering::Relaxed),
            lkey,
            region: Stats::default(),
            device: device.clone(),
        };
        Ok(Arc::new(region_stats, GFP_KERNEL_ACCOUNT)?)
    }

    /// The region's number, which is never reused.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether its region is one of the device with the counters `device`.
    pub(crate) fn is_on(&self, device: &Stats) -> bool {
        core::ptr::eq(&*self.device, device)
    }

    /// The region's lkey.
    pub(crate) fn lkey(&self) -> u32 {
        self.lkey
    }

    /// The counters of the region.
    pub(crate) fn stats(&self) -> &Stats {
        &self.region
    }

    /// A prefetch has added the translations of `pages` pages.
    pub(crate) fn prefetched(&self, pages: u64) {
        self.count(|stats| stats.pages_prefetched.add(pages));
    }

    /// A prefetch of `range` has ended. It added translations of `pages` pages in all.
    #[inline(never)]
    pub(crate) fn prefetch_ends(
        &self,
        range: PageRange,
        advice: Advice,
        pages: u64,
        result: Result<(), FaultError>,
    ) {
        trace::prefetch(self.lkey, range, advice, pages, errno(result));
    }

    /// A request was parked: its fault has to sleep.
    pub(crate) fn wait_begins(&self) {
        self.count(|stats| stats.page_fault_waits.add(1));
    }

    /// The page of a request that was parked at `since` is present, or cannot be had.
    pub(crate) fn wait_ends(&self, since: &Moment) {
        let nanoseconds = since.elapsed();
        self.count(|stats| stats.page_fault_wait_nanoseconds.add(nanoseconds));
    }

    #[inline(never)]
    fn look_begins() -> Moment {
        Moment::now()
    }

    /// Entered `pages` pages around a fault that was served: counted as part of it, but not in its latency.
    #[inline(never)]
    fn look_ends(&self, began: &Moment, pages: u64) {
        let nanoseconds = began.elapsed();
        self.count(|stats| {
            stats.page_fault_nanoseconds.add(nanoseconds);
            stats.pages_mapped.add(pages);
            stats.pages_mapped_around.add(pages);
        });
    }

    fn count(&self, count: impl Fn(&Stats)) {
        count(&self.region);
        count(&self.device);
    }

    /// The fault has ended: counts and traces it, with its duration.
    fn fault_ends(&self, fault: Fault, result: Result<(), FaultError>, pages: u64, around: u64) {
        let nanoseconds = fault.began.elapsed();
        self.count(|stats| {
            stats.page_fault_nanoseconds.add(nanoseconds);
            stats.fault_latency.record(nanoseconds);
            match result {
                Ok(()) => stats.page_faults_handled.add(1),
                Err(_) => stats.page_faults_failed.add(1),
            }
            stats.pages_mapped.add(pages);
            stats.pages_mapped_around.add(around);
        });
        let end = FaultEnd {
            pages,
            around,
            result: errno(result),
            nanoseconds,
        };
        trace::fault_end(self.lkey, fault.page, fault.access, end);
    }
}

/// 0 or the negative errno.
fn errno(result: Result<(), FaultError>) -> c_int {
    result.map_or_else(|error| Error::from(error).to_errno(), |()| 0)
}

/// A page fault in progress.
pub struct Fault {
    page: PageIndex,
    access: Access,
    began: Moment,
}

impl Observer for RegionStats {
    type Fault = Fault;

    #[inline(never)]
    fn fault_begins(&self, page: PageIndex, access: Access) -> Fault {
        self.count(|stats| stats.page_faults.add(1));
        trace::fault_begin(self.lkey, page, access);
        Fault {
            page,
            access,
            began: Moment::now(),
        }
    }

    #[inline(never)]
    fn fault_served(&self, fault: Fault, pages: u64, around: u64) {
        self.fault_ends(fault, Ok(()), pages, around);
    }

    fn looks_around(&self, look: impl FnOnce() -> u64) {
        let began = Self::look_begins();
        let pages = look();
        self.look_ends(&began, pages);
    }

    #[inline(never)]
    fn fault_failed(&self, fault: Fault, error: FaultError) {
        if error == FaultError::WouldWait {
            // Counted, with its duration, when the NIC repeats the access.
            self.count(|stats| stats.page_faults.sub(1));
            let end = FaultEnd {
                pages: 0,
                around: 0,
                result: errno(Err(error)),
                nanoseconds: fault.began.elapsed(),
            };
            trace::fault_end(self.lkey, fault.page, fault.access, end);
            return;
        }
        self.fault_ends(fault, Err(error), 0, 0);
    }

    fn collided(&self) {
        self.count(|stats| stats.page_fault_retries.add(1));
    }

    #[inline(never)]
    fn invalidated(&self, range: PageRange, event: Event, pages: u64) {
        self.count(|stats| {
            stats.invalidations.add(1);
            stats.page_invalidations.add(pages);
        });
        trace::invalidate(self.lkey, range, event, pages);
    }

    #[inline(never)]
    fn chunk_added(&self, range: PageRange) {
        self.count(|stats| {
            stats.chunks.add(1);
            stats.chunks_alive.add(1);
        });
        trace::chunk_add(self.lkey, range);
    }

    #[inline(never)]
    fn chunk_removed(&self, range: PageRange, pages: u64, why: Removal) {
        self.count(|stats| {
            stats.chunks_alive.sub(1);
            stats.pages_reaped.add(pages);
            if why == Removal::Reaped {
                stats.chunks_reaped.add(1);
            }
        });
        trace::chunk_remove(self.lkey, range, pages, why);
    }

    fn resized(&self, before: usize, after: usize) {
        // Adds first: the sum may be too large for a moment, but never wraps.
        self.count(|stats| {
            stats.memory_bytes.add(after as u64);
            stats.memory_bytes.sub(before as u64);
        });
    }
}
