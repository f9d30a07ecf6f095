// SPDX-License-Identifier: GPL-2.0

//! Decides which faults on read-only memory fail, in the memory scheme, whose faults do not say whether they are writes.
//!
//! A page that may not be written is given for reading. A request that reads continues then. One that writes faults on the
//! page that the device has, again and again. A request that reads may do that, too, but hardly more than once: if its
//! fault came while that of another request was served.

use core::sync::atomic::{AtomicU8, Ordering};

/// How often a fault may be of a page that the device has for reading.
const MOST: u8 = 3;

/// Pages are counted by their address modulo this.
const COUNTS: usize = 16;

/// The faults of a region's pages that may only be read.
#[derive(Debug, Default)]
pub struct Refusals([AtomicU8; COUNTS]);

impl Refusals {
    /// Whether the fault at `address` is to be taken for one of a write. `had`: the device had the page before.
    pub fn writes(&self, address: u64, had: bool) -> bool {
        let count = &self.0[(address >> hmm::PAGE_SHIFT) as usize % COUNTS];
        if !had {
            count.store(0, Ordering::Relaxed);
            return false;
        }
        // Racing faults may be counted as one. The request that writes comes again.
        let had = count.load(Ordering::Relaxed).saturating_add(1);
        count.store(had, Ordering::Relaxed);
        had > MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_refused_soon_and_from_then_on() {
        let refusals = Refusals::default();
        let faults: [bool; 300] = core::array::from_fn(|fault| refusals.writes(0x5000, fault > 0));
        assert!(faults[..4].iter().all(|writes| !writes));
        assert!(faults[4..].iter().all(|writes| *writes));
    }

    #[test]
    fn reads_of_new_pages_never_are_a_write() {
        let refusals = Refusals::default();
        assert!((0..1000).all(|page| !refusals.writes(page << hmm::PAGE_SHIFT, false)));
    }

    #[test]
    fn a_page_that_has_gone_may_be_read_again() {
        let refusals = Refusals::default();
        assert!((0..9).any(|_| refusals.writes(0x5000, true)));
        assert!(!refusals.writes(0x5000, false));
        assert!(!refusals.writes(0x5000, true));
        // Neighbours are counted apart.
        assert!(!refusals.writes(0x6000, true));
    }
}
