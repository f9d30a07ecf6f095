// SPDX-License-Identifier: GPL-2.0

//! What a region's mirror reports, counted: for the region and for its device.

use hmm::addr::{PageIndex, PageRange};
use hmm::event::Event;
use hmm::mirror::Observer;
use hmm::pfn::Access;
use hmm::walk::FaultError;

use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::{Instant, Monotonic};

use crate::device::Device;
use crate::stats::Stats;

/// Counts what happens to one region.
pub(crate) struct Counting {
    region: Stats,
    device: Arc<Device>,
}

impl Counting {
    /// For a new region of `device`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(device: &Arc<Device>) -> Result<Arc<Self>> {
        let counting = Self {
            region: Stats::default(),
            device: device.clone(),
        };
        Ok(Arc::new(counting, GFP_KERNEL)?)
    }

    /// The counters of the region.
    pub(crate) fn stats(&self) -> &Stats {
        &self.region
    }

    /// A prefetch has added the translations of `pages` pages.
    pub(crate) fn prefetched(&self, pages: u64) {
        self.count(|stats| stats.pages_prefetched.add(pages));
    }

    fn count(&self, count: impl Fn(&Stats)) {
        count(&self.region);
        count(self.device.stats());
    }

    fn fault_ends(&self, fault: Fault, count: impl Fn(&Stats)) {
        let nanoseconds = u64::try_from(fault.began.elapsed().as_nanos()).unwrap_or(0);
        self.count(|stats| {
            stats.page_fault_nanoseconds.add(nanoseconds);
            stats.fault_latency.record(nanoseconds);
            count(stats);
        });
    }
}

/// A page fault under way.
pub(crate) struct Fault {
    began: Instant<Monotonic>,
}

impl Observer for Counting {
    type Fault = Fault;

    fn fault_begins(&self, _page: PageIndex, _access: Access) -> Fault {
        self.count(|stats| stats.page_faults.add(1));
        Fault {
            began: Instant::now(),
        }
    }

    fn fault_served(&self, fault: Fault, pages: u64, extra: u64) {
        self.fault_ends(fault, |stats| {
            stats.page_faults_handled.add(1);
            stats.pages_mapped.add(pages);
            stats.pages_mapped_around.add(extra);
        });
    }

    fn fault_failed(&self, fault: Fault, _error: FaultError) {
        self.fault_ends(fault, |stats| stats.page_faults_failed.add(1));
    }

    fn collided(&self) {
        self.count(|stats| stats.page_fault_retries.add(1));
    }

    fn invalidated(&self, _range: PageRange, _event: Event, pages: u64) {
        self.count(|stats| {
            stats.invalidations.add(1);
            stats.page_invalidations.add(pages);
        });
    }

    fn chunk_added(&self) {
        self.count(|stats| stats.chunks.add(1));
    }
}
