// SPDX-License-Identifier: GPL-2.0

//! The counters of a region.
//!
//! `rdma statistic show mr` prints them under the names in [`Stats::entries`].

use core::sync::atomic::{AtomicU64, Ordering};

/// A counter. Relaxed: each stands for itself.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What has happened to a region since its registration.
#[derive(Debug, Default)]
pub struct Stats {
    /// Page faults of the NIC that were served.
    pub page_faults: Counter,
    /// Accesses that failed, as a page could not be had: the request ended with an access error.
    pub page_faults_failed: Counter,
    /// Faults tried again, as an invalidation came in between.
    pub page_fault_retries: Counter,
    /// Translations added by faults.
    pub pages_mapped: Counter,
    /// Those of them that no request had asked for yet: the rest of huge pages, and resident pages
    /// behind the one that faulted.
    pub pages_mapped_around: Counter,
    /// Translations added by `ibv_advise_mr`.
    pub pages_prefetched: Counter,
    /// Invalidations that reached a part of the region the NIC had used.
    pub invalidations: Counter,
    /// Translations removed by them.
    pub page_invalidations: Counter,
    /// Chunks of 128 MiB that the NIC has used: what the region's memory goes by.
    pub chunks: Counter,
}

impl Stats {
    /// Name and value of every counter.
    pub fn entries(&self) -> [(&'static core::ffi::CStr, u64); 9] {
        [
            (c"page_faults", self.page_faults.get()),
            (c"page_faults_failed", self.page_faults_failed.get()),
            (c"page_fault_retries", self.page_fault_retries.get()),
            (c"pages_mapped", self.pages_mapped.get()),
            (c"pages_mapped_around", self.pages_mapped_around.get()),
            (c"pages_prefetched", self.pages_prefetched.get()),
            (c"invalidations", self.invalidations.get()),
            (c"page_invalidations", self.page_invalidations.get()),
            (c"chunks", self.chunks.get()),
        ]
    }
}
