// SPDX-License-Identifier: GPL-2.0

//! Fault-around: how many resident pages a fault maps besides those it was asked for.
//!
//! A device that goes through memory in order faults where the last fault ended. Then the pages that follow
//! are mapped with the fault, as far as they are resident: twice as many each time. Random accesses cost
//! nothing, and memory that nobody has touched costs a look now and then. For random accesses to resident pages, and
//! for those in descending order, there is [`crate::look_around`].

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::addr::{PageIndex, PageRange};

/// The first window, in pages.
const FIRST: u64 = 8;
/// After looks in vain, the most faults in order that look at nothing.
const LONGEST_PAUSE: u32 = 64;

/// The fault-around window of one mirror.
///
/// A hint: several faults that use it at once may disturb each other's stream.
#[derive(Debug)]
pub struct FaultAround {
    /// The largest window, in pages.
    largest: u64,
    /// The page at which a fault would be in order.
    next: AtomicU64,
    window: AtomicU64,
    /// How many faults in order look at nothing before the next look, and how many if that one is in vain:
    /// twice as many each time.
    pause: AtomicU32,
    next_pause: AtomicU32,
}

impl FaultAround {
    /// For a mirror in which a fault may map `largest` pages around those it was asked for.
    pub fn new(largest: u64) -> Self {
        Self {
            largest,
            next: AtomicU64::new(0),
            window: AtomicU64::new(0),
            pause: AtomicU32::new(0),
            next_pause: AtomicU32::new(0),
        }
    }

    /// How many pages after `wanted` the fault should look at.
    #[inline]
    pub fn window(&self, wanted: PageRange) -> u64 {
        if self.next.load(Ordering::Relaxed) != wanted.start().get() {
            self.window.store(0, Ordering::Relaxed);
            self.next_pause.store(0, Ordering::Relaxed);
            self.pause.store(0, Ordering::Relaxed);
            return 0;
        }
        let pause = self.pause.load(Ordering::Relaxed);
        if pause > 0 {
            self.pause.store(pause - 1, Ordering::Relaxed);
            return 0;
        }
        let window = (self.window.load(Ordering::Relaxed) * 2)
            .max(FIRST)
            .min(self.largest);
        self.window.store(window, Ordering::Relaxed);
        window
    }

    /// Records that the fault on `wanted`, which looked at the `window` pages after it, mapped everything
    /// before `reached`.
    #[inline]
    pub fn record(&self, wanted: PageRange, window: u64, reached: PageIndex) {
        if reached > wanted.end() {
            self.next_pause.store(0, Ordering::Relaxed);
        } else if window > 0 {
            let pause = self.next_pause.load(Ordering::Relaxed);
            let longer = (2 * pause).clamp(1, LONGEST_PAUSE);
            self.next_pause.store(longer, Ordering::Relaxed);
            self.pause.store(longer, Ordering::Relaxed);
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
        let fault_around = FaultAround::new(512);
        let mut page = 100;
        let mut windows = std::vec::Vec::new();
        for _ in 0..9 {
            let window = fault_around.window(at(page));
            windows.push(window);
            fault_around.record(at(page), window, PageIndex::new(page + 1 + window));
            page += 1 + window;
        }
        // The first two faults tell that it is a stream.
        assert_eq!(windows, [0, 8, 16, 32, 64, 128, 256, 512, 512]);
    }

    #[test]
    fn the_window_ends_where_it_was_told_to() {
        for largest in [0, 1, 5, 8, 100] {
            let fault_around = FaultAround::new(largest);
            let mut page = 100;
            for fault in 0..9 {
                let window = fault_around.window(at(page));
                let expected = if fault == 0 { 0 } else { FIRST << (fault - 1) };
                assert_eq!(window, expected.min(largest));
                fault_around.record(at(page), window, PageIndex::new(page + 1 + window));
                page += 1 + window;
            }
        }
    }

    #[test]
    fn jumps_are_left_alone() {
        let fault_around = FaultAround::new(512);
        for page in [10, 500, 3, 77] {
            assert_eq!(fault_around.window(at(page)), 0);
            fault_around.record(at(page), 0, PageIndex::new(page + 1));
        }
    }

    #[test]
    fn untouched_memory_is_looked_at_less_and_less() {
        let fault_around = FaultAround::new(512);
        let mut looked = std::vec::Vec::new();
        for page in 0..200 {
            let window = fault_around.window(at(page));
            assert!(window == 0 || window == FIRST);
            if window > 0 {
                looked.push(page);
            }
            fault_around.record(at(page), window, PageIndex::new(page + 1));
        }
        assert_eq!(looked, [0, 2, 5, 10, 19, 36, 69, 134, 199]);
        // Then there is something: from the next look on it is taken along as ever.
        let mut page = 200;
        let window = loop {
            match fault_around.window(at(page)) {
                0 => fault_around.record(at(page), 0, PageIndex::new(page + 1)),
                window => break window,
            }
            page += 1;
        };
        assert_eq!(window, FIRST);
        fault_around.record(at(page), window, PageIndex::new(page + 1 + window));
        assert_eq!(fault_around.window(at(page + 1 + window)), 2 * FIRST);
    }
}
