// SPDX-License-Identifier: GPL-2.0

//! How far a fault looks ahead for pages that are resident already.
//!
//! A device that goes through memory in order faults where the last fault ended. Then it pays to
//! take along the pages behind, as many again each time, for as long as there are any. A device that
//! jumps about costs nothing, and memory that nobody has touched a look now and then.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::addr::{PageIndex, PageRange};

/// The first window, in pages.
const FIRST: u64 = 8;
/// For how many faults in order, at most, nothing is looked at after it was in vain.
const LONGEST_PAUSE: u32 = 64;

/// The state of one mirror.
///
/// Several faults may use it at once and mix up each other's stream: a hint may be wrong.
#[derive(Debug)]
pub struct Ahead {
    /// The largest window, in pages.
    largest: u64,
    /// The page at which a fault would be in order.
    next: AtomicU64,
    window: AtomicU64,
    /// How many faults in order are left alone before the next look, and how many after that if it is in
    /// vain: twice as many each time.
    pause: AtomicU32,
    next_pause: AtomicU32,
}

impl Ahead {
    /// That of a mirror in which `largest` pages may come along with a fault.
    pub fn new(largest: u64) -> Self {
        Self {
            largest,
            next: AtomicU64::new(0),
            window: AtomicU64::new(0),
            pause: AtomicU32::new(0),
            next_pause: AtomicU32::new(0),
        }
    }

    /// How many pages behind `wanted` the fault should look at.
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

    /// The fault on `wanted`, which looked at `window` pages behind, has mapped everything up to and
    /// without `reached`.
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
        let ahead = Ahead::new(512);
        let mut page = 100;
        let mut windows = std::vec::Vec::new();
        for _ in 0..9 {
            let window = ahead.window(at(page));
            windows.push(window);
            ahead.record(at(page), window, PageIndex::new(page + 1 + window));
            page += 1 + window;
        }
        // The first two faults tell that it is a stream.
        assert_eq!(windows, [0, 8, 16, 32, 64, 128, 256, 512, 512]);
    }

    #[test]
    fn the_window_ends_where_it_was_told_to() {
        for largest in [0, 1, 5, 8, 100] {
            let ahead = Ahead::new(largest);
            let mut page = 100;
            for fault in 0..9 {
                let window = ahead.window(at(page));
                let expected = if fault == 0 { 0 } else { FIRST << (fault - 1) };
                assert_eq!(window, expected.min(largest));
                ahead.record(at(page), window, PageIndex::new(page + 1 + window));
                page += 1 + window;
            }
        }
    }

    #[test]
    fn jumps_are_left_alone() {
        let ahead = Ahead::new(512);
        for page in [10, 500, 3, 77] {
            assert_eq!(ahead.window(at(page)), 0);
            ahead.record(at(page), 0, PageIndex::new(page + 1));
        }
    }

    #[test]
    fn untouched_memory_is_looked_at_less_and_less() {
        let ahead = Ahead::new(512);
        let mut looked = std::vec::Vec::new();
        for page in 0..200 {
            let window = ahead.window(at(page));
            assert!(window == 0 || window == FIRST);
            if window > 0 {
                looked.push(page);
            }
            ahead.record(at(page), window, PageIndex::new(page + 1));
        }
        assert_eq!(looked, [0, 2, 5, 10, 19, 36, 69, 134, 199]);
        // Then there is something: from the next look on it is taken along as ever.
        let mut page = 200;
        let window = loop {
            match ahead.window(at(page)) {
                0 => ahead.record(at(page), 0, PageIndex::new(page + 1)),
                window => break window,
            }
            page += 1;
        };
        assert_eq!(window, FIRST);
        ahead.record(at(page), window, PageIndex::new(page + 1 + window));
        assert_eq!(ahead.window(at(page + 1 + window)), 2 * FIRST);
    }
}
