// SPDX-License-Identifier: GPL-2.0

//! The reference count of a chunk, with the mark that it was accessed.
//!
//! A chunk is found in a map under RCU, without a lock. A user that sleeps while it needs the chunk takes a
//! reference. The reaper removes a chunk from the map only after [`Refcount::retire`], which fails while
//! there are references. [`Refcount::try_get`] fails from then on, and the caller makes the chunk anew. A
//! retired chunk is freed after a grace period.
//!
//! `refcount/tests.rs` explores this under many thread schedules, together with the faults and
//! invalidations of [`crate::seq`].

#[cfg(not(test))]
use core::sync::atomic::{AtomicU32, Ordering};
#[cfg(test)]
use shuttle::sync::atomic::{AtomicU32, Ordering};

/// Removed from the map: nobody gets a reference again.
const RETIRED: u32 = 1 << 31;
/// Accessed since [`Refcount::test_and_clear_accessed`] was last called.
const ACCESSED: u32 = 1 << 30;
/// The other bits count references.
const ONE: u32 = 1;

/// References to a chunk, its accessed bit, and whether it is retired.
#[derive(Debug)]
pub struct Refcount(AtomicU32);

/// What the reaper may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reap {
    /// A chunk without references that was not accessed since [`Refcount::test_and_clear_accessed`].
    Idle,
    /// A chunk without references.
    Unreferenced,
}

impl Refcount {
    /// One reference, its maker's; accessed.
    pub fn referenced() -> Self {
        Self(AtomicU32::new(ACCESSED | ONE))
    }

    /// Takes a reference, to be followed by one [`Refcount::put`]; marks the chunk as accessed. Returns
    /// `false` if the chunk has been retired.
    #[inline]
    pub fn try_get(&self) -> bool {
        let referenced = |word: u32| (word & RETIRED == 0).then(|| (word + ONE) | ACCESSED);
        // Acquire: what earlier owners of a reference did to the chunk is seen. `retire` needs the
        // atomicity alone, for which Relaxed would do.
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, referenced)
            .is_ok()
    }

    /// Gives a reference back.
    #[inline]
    pub fn put(&self) {
        // Release: what was done under this reference is done before the chunk can be retired.
        self.0.fetch_sub(ONE, Ordering::Release);
    }

    /// Marks the chunk as accessed. Writes only if it is not marked yet, so that many can call this at once
    /// without sharing a dirty cache line.
    #[inline]
    pub fn mark_accessed(&self) {
        // Relaxed, here and in `test_and_clear_accessed`: a hint.
        if self.0.load(Ordering::Relaxed) & ACCESSED == 0 {
            self.0.fetch_or(ACCESSED, Ordering::Relaxed);
        }
    }

    /// Whether the chunk was accessed since the last call.
    pub fn test_and_clear_accessed(&self) -> bool {
        self.0.fetch_and(!ACCESSED, Ordering::Relaxed) & ACCESSED != 0
    }

    /// Retires the chunk, if `reap` allows it. Succeeds once.
    pub fn retire(&self, reap: Reap) -> bool {
        let ignored = match reap {
            Reap::Idle => 0,
            Reap::Unreferenced => ACCESSED,
        };
        let free = |word: u32| (word & !ignored == 0).then_some(RETIRED);
        // Acquire: pairs with `put`.
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, free)
            .is_ok()
    }
}

#[cfg(test)]
mod tests;
