// SPDX-License-Identifier: GPL-2.0

//! The counters of a region, and those of a device, which are the same over all its regions.
//!
//! Netlink and debugfs print them under the names in [`Stats::entries`]. Only faults, prefetches and
//! invalidations write them. An access that finds its translation touches none, so it does not matter that
//! several processors share them.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::Histogram;

/// A counter. The accesses are relaxed: counters are independent of each other.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Subtracts `n`, for a number that goes up and down.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts since the region, or the device, was registered.
#[derive(Debug, Default)]
pub struct Stats {
    /// Page faults of the NIC. Each ends as one of the next two. A fault that has to sleep counts when the NIC
    /// repeats the access.
    pub page_faults: Counter,
    /// Page faults that were served.
    pub page_faults_handled: Counter,
    /// Page faults that failed because the page could not be had; the request ended with an access error.
    pub page_faults_failed: Counter,
    /// Retries of faults and prefetches after a concurrent invalidation.
    pub page_fault_retries: Counter,
    /// How often a request of the NIC, or a prefetch that the application waits for, was parked because its fault
    /// had to sleep: for a disk, a file system, the handler of a userfaultfd.
    pub page_fault_waits: Counter,
    /// The total time of these waits, in nanoseconds, until the page was present or could not be had.
    pub page_fault_wait_nanoseconds: Counter,
    /// The total time of all page faults, in nanoseconds.
    pub page_fault_nanoseconds: Counter,
    /// Translations added by faults.
    pub pages_mapped: Counter,
    /// Those of them that no request had asked for: the rest of huge pages, and resident pages after the
    /// faulting one.
    pub pages_mapped_around: Counter,
    /// Translations added by `ibv_advise_mr`.
    pub pages_prefetched: Counter,
    /// Invalidations of parts of the region that the NIC has used.
    pub invalidations: Counter,
    /// Translations removed by them.
    pub page_invalidations: Counter,
    /// Chunks made for the parts of the region that the NIC has used. They are what takes memory.
    pub chunks: Counter,
    /// Chunks that exist now.
    pub chunks_alive: Counter,
    /// Chunks that were freed because they were empty or their memory was needed elsewhere.
    pub chunks_reaped: Counter,
    /// Translations removed with a chunk.
    pub pages_reaped: Counter,
    /// Kernel memory that the chunks take now, in bytes.
    pub memory_bytes: Counter,
    /// The duration of each page fault.
    pub fault_latency: Histogram,
}

/// A counter's name and value.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// With [`DEVICE_PREFIX`].
    name: &'static CStr,
    /// The value that was read.
    pub value: u64,
}

/// The prefix of a device's counters, which are listed among counters of other kinds.
const DEVICE_PREFIX: &str = "odp_";

impl Entry {
    /// The name in the list of a region's counters.
    pub fn name(&self) -> &'static CStr {
        let rest = self.name.to_bytes_with_nul().get(DEVICE_PREFIX.len()..);
        rest.and_then(|rest| CStr::from_bytes_with_nul(rest).ok())
            .unwrap_or(self.name)
    }

    /// The name in the list of a device's counters.
    pub fn device_name(&self) -> &'static CStr {
        self.name
    }
}

impl Stats {
    /// The number of counters.
    pub const COUNT: usize = 17;

    /// Every counter.
    pub fn entries(&self) -> [Entry; Self::COUNT] {
        let entry = |name, value| Entry { name, value };
        [
            entry(c"odp_page_faults", self.page_faults.get()),
            entry(c"odp_page_faults_handled", self.page_faults_handled.get()),
            entry(c"odp_page_faults_failed", self.page_faults_failed.get()),
            entry(c"odp_page_fault_retries", self.page_fault_retries.get()),
            entry(c"odp_page_fault_waits", self.page_fault_waits.get()),
            entry(
                c"odp_page_fault_wait_nanoseconds",
                self.page_fault_wait_nanoseconds.get(),
            ),
            entry(
                c"odp_page_fault_nanoseconds",
                self.page_fault_nanoseconds.get(),
            ),
            entry(c"odp_pages_mapped", self.pages_mapped.get()),
            entry(c"odp_pages_mapped_around", self.pages_mapped_around.get()),
            entry(c"odp_pages_prefetched", self.pages_prefetched.get()),
            entry(c"odp_invalidations", self.invalidations.get()),
            entry(c"odp_page_invalidations", self.page_invalidations.get()),
            entry(c"odp_chunks", self.chunks.get()),
            entry(c"odp_chunks_alive", self.chunks_alive.get()),
            entry(c"odp_chunks_reaped", self.chunks_reaped.get()),
            entry(c"odp_pages_reaped", self.pages_reaped.get()),
            entry(c"odp_memory_bytes", self.memory_bytes.get()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_counter_has_a_name_of_its_own() {
        let entries = Stats::default().entries();
        let names: BTreeSet<_> = entries.iter().map(Entry::name).collect();
        assert_eq!(names.len(), Stats::COUNT);
        for entry in entries {
            assert!(entry.device_name().to_str().unwrap().starts_with("odp_"));
            assert!(!entry.name().to_str().unwrap().starts_with("odp_"));
            assert!(entry
                .device_name()
                .to_bytes()
                .ends_with(entry.name().to_bytes()));
        }
    }

    #[test]
    fn an_entry_has_the_value_of_its_counter() {
        let stats = Stats::default();
        stats.page_faults.add(3);
        stats.chunks.add(7);
        stats.memory_bytes.add(4096);
        stats.memory_bytes.sub(96);
        let value = |name: &str| {
            let entries = stats.entries();
            let found = entries
                .iter()
                .find(|entry| entry.name().to_str() == Ok(name));
            found.map(|entry| entry.value)
        };
        assert_eq!(value("page_faults"), Some(3));
        assert_eq!(value("chunks"), Some(7));
        assert_eq!(value("memory_bytes"), Some(4000));
        assert_eq!(value("pages_mapped"), Some(0));
    }
}
