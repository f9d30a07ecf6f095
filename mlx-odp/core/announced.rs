// SPDX-License-Identifier: GPL-2.0

//! The message that the NIC is receiving, as announced by its first packet.
//!
//! A message of many packets touches page after page. Its first packet says how long it is, so the first
//! fault can ask for several pages at once instead of one. This is not a guess: the peer may write these pages
//! and has said that it will.

use core::sync::atomic::{AtomicU64, Ordering};

/// The most bytes that a fault asks for because of an announcement. The peer's acknowledgement waits for
/// the fault.
const MOST: u64 = 256 << 10;

/// The last message announced to a region. The accesses are relaxed: several queue pairs may mix up their
/// messages. Then a fault asks for less, or for more of a message that was announced earlier.
#[derive(Debug, Default)]
pub struct Announced {
    start: AtomicU64,
    end: AtomicU64,
}

impl Announced {
    /// Announces that a message will use the `len` bytes from `iova` in order. All of them are in the region.
    #[inline]
    pub fn announce(&self, iova: u64, len: u64) {
        let end = iova.saturating_add(len);
        // Each packet announces the rest of its message. What is known already costs no write.
        let known =
            self.end.load(Ordering::Relaxed) == end && self.start.load(Ordering::Relaxed) <= iova;
        if !known {
            self.start.store(iova, Ordering::Relaxed);
            self.end.store(end, Ordering::Relaxed);
        }
    }

    /// How many bytes a fault at `iova` should ask for. At least `len`, which it needs.
    pub fn wanted(&self, iova: u64, len: u64) -> u64 {
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        match start <= iova && iova < end {
            true => (end - iova).min(MOST).max(len),
            false => len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_asks_for_the_rest_of_its_message() {
        let announced = Announced::default();
        assert_eq!(announced.wanted(0, 64), 64);
        announced.announce(10_000, 50_000);
        assert_eq!(announced.wanted(10_000, 1024), 50_000);
        // The packets that follow announce what is left.
        announced.announce(11_024, 48_976);
        assert_eq!(announced.wanted(11_024, 1024), 48_976);
        assert_eq!(announced.wanted(59_999, 1), 1);
        // Beside the message.
        assert_eq!(announced.wanted(60_000, 1024), 1024);
        assert_eq!(announced.wanted(9_999, 1024), 1024);
        // What the fault itself needs it gets in any case.
        assert_eq!(announced.wanted(59_000, 5000), 5000);
    }

    #[test]
    fn no_message_is_asked_for_without_bound() {
        let announced = Announced::default();
        announced.announce(0, u64::MAX);
        assert_eq!(announced.wanted(4096, 1024), MOST);
        assert_eq!(announced.wanted(4096, 2 * MOST), 2 * MOST);
        announced.announce(u64::MAX - 10, 100);
        assert_eq!(announced.wanted(u64::MAX - 10, 4), 10);
    }
}
