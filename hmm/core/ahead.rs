// SPDX-License-Identifier: GPL-2.0

//! How far a fault looks ahead for pages that are resident already.
//!
//! A device that goes through memory in order faults where the last fault ended. Then it pays to
//! take along the pages behind, as many again each time, for as long as there are any. A device that
//! jumps about, or memory that nobody has touched, costs nothing.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{PageIndex, PageRange};

/// The first window, in pages.
const FIRST: u64 = 8;
/// The largest window, in pages.
const LARGEST: u64 = 512;

/// The state of one mirror.
///
/// Several faults may use it at once and mix up each other's stream: a hint may be wrong.
#[derive(Debug, Default)]
pub struct Ahead {
    /// The page at which a fault would be in order.
    next: AtomicU64,
    window: AtomicU64,
}

impl Ahead {
    /// How many pages behind `wanted` the fault should look at.
    pub fn window(&self, wanted: PageRange) -> u64 {
        if self.next.load(Ordering::Relaxed) != wanted.start().get() {
            self.window.store(0, Ordering::Relaxed);
            return 0;
        }
        let window = (self.window.load(Ordering::Relaxed) * 2).clamp(FIRST, LARGEST);
        self.window.store(window, Ordering::Relaxed);
        window
    }

    /// The fault on `wanted` has mapped everything up to and without `reached`.
    pub fn record(&self, wanted: PageRange, reached: PageIndex) {
        if reached <= wanted.end() {
            self.window.store(0, Ordering::Relaxed);
        }
        self.next
            .store(reached.max(wanted.end()).get(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(page: u64) -> PageRange {
        PageRange::new(PageIndex::new(page), PageIndex::new(page + 1))
    }

    #[test]
    fn a_stream_over_resident_pages_looks_further_and_further() {
        let ahead = Ahead::default();
        let mut page = 100;
        let mut windows = std::vec::Vec::new();
        for _ in 0..9 {
            let window = ahead.window(at(page));
            windows.push(window);
            ahead.record(at(page), PageIndex::new(page + 1 + window));
            page += 1 + window;
        }
        // The first two faults tell that it is a stream.
        assert_eq!(windows, [0, 8, 16, 32, 64, 128, 256, 512, 512]);
    }

    #[test]
    fn jumps_and_untouched_memory_are_left_alone() {
        let ahead = Ahead::default();
        for page in [10, 500, 3, 77] {
            assert_eq!(ahead.window(at(page)), 0);
            ahead.record(at(page), PageIndex::new(page + 1));
        }
        // In order, but nothing resident: the window does not grow.
        for page in 78..90 {
            assert!(ahead.window(at(page)) <= FIRST);
            ahead.record(at(page), PageIndex::new(page + 1));
        }
    }
}
