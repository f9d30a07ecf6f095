// SPDX-License-Identifier: GPL-2.0

//! The message that the NIC is receiving, as announced by its first packet.
//!
//! A message of many packets touches page after page. Its first packet says how long it is, so the first
//! fault can ask for several pages at once instead of one. This is not a guess: the peer may write these pages
//! and has said that it will.

use core::sync::atomic::{AtomicU64, Ordering};

use hmm::ByteRange;

/// The most bytes that a fault asks for because of an announcement. The peer's acknowledgement waits for
/// the fault.
const MOST: u64 = 256 << 10;

/// The last message announced to a region, by virtual addresses. The accesses are relaxed: several queue pairs may mix
/// up their messages. Then a fault asks for less, or for more of a message that was announced earlier.
#[derive(Debug, Default)]
pub struct Announced {
    start: AtomicU64,
    end: AtomicU64,
}

impl Announced {
    /// Announces that a message will use `bytes`, which are in the region, in order.
    #[inline]
    pub fn announce(&self, bytes: ByteRange) {
        let (start, end) = (bytes.start(), bytes.start().saturating_add(bytes.len()));
        // Each packet announces the rest of its message. What is known already costs no write.
        let known =
            self.end.load(Ordering::Relaxed) == end && self.start.load(Ordering::Relaxed) <= start;
        if !known {
            self.start.store(start, Ordering::Relaxed);
            self.end.store(end, Ordering::Relaxed);
        }
    }

    /// What a fault that needs `bytes` of the region should ask for: these, and more of their message. That is in the
    /// region as well, as its end is.
    pub fn wanted(&self, bytes: ByteRange) -> ByteRange {
        let (at, len) = (bytes.start(), bytes.len());
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        match start <= at && at < end {
            true => ByteRange::new(at, (end - at).min(MOST).max(len)).unwrap_or(bytes),
            false => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(start: u64, len: u64) -> ByteRange {
        ByteRange::new(start, len).unwrap()
    }

    /// How many bytes a fault on the `len` bytes from `start` asks for.
    fn wanted(announced: &Announced, start: u64, len: u64) -> u64 {
        let wanted = announced.wanted(bytes(start, len));
        assert_eq!(wanted.start(), start);
        wanted.len()
    }

    #[test]
    fn a_fault_asks_for_the_rest_of_its_message() {
        let announced = Announced::default();
        assert_eq!(wanted(&announced, 0, 64), 64);
        announced.announce(bytes(10_000, 50_000));
        assert_eq!(wanted(&announced, 10_000, 1024), 50_000);
        // The packets that follow announce what is left.
        announced.announce(bytes(11_024, 48_976));
        assert_eq!(wanted(&announced, 11_024, 1024), 48_976);
        assert_eq!(wanted(&announced, 59_999, 1), 1);
        // Beside the message.
        assert_eq!(wanted(&announced, 60_000, 1024), 1024);
        assert_eq!(wanted(&announced, 9_999, 1024), 1024);
        // What the fault itself needs it gets in any case.
        assert_eq!(wanted(&announced, 59_000, 5000), 5000);
    }

    #[test]
    fn no_message_is_asked_for_without_bound() {
        let announced = Announced::default();
        announced.announce(bytes(0, u64::MAX));
        assert_eq!(wanted(&announced, 4096, 1024), MOST);
        assert_eq!(wanted(&announced, 4096, 2 * MOST), 2 * MOST);
        announced.announce(bytes(u64::MAX - 10, 11));
        assert_eq!(wanted(&announced, u64::MAX - 10, 4), 10);
    }
}
