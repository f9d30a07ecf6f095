// SPDX-License-Identifier: GPL-2.0

//! The life of a part of a mirror: made by a fault, used, idle, reaped.
//!
//! A part is found in a map, without a lock, and looked at while a grace period cannot end. Whoever
//! needs it for longer, and sleeps, holds it. The reaper takes a part out of the map only with
//! [`Life::retire`], which fails while anybody holds it; later [`Life::hold`] fails, and whoever came
//! too late makes the part anew. What is retired is freed after a grace period, when nobody can be
//! looking any more.
//!
//! `life/tests.rs` explores this under many thread schedules, together with the faults and
//! invalidations of [`crate::seq`].

#[cfg(not(test))]
use core::sync::atomic::{AtomicU32, Ordering};
#[cfg(test)]
use shuttle::sync::atomic::{AtomicU32, Ordering};

/// Taken out of the map: nobody gets to hold it again.
const RETIRED: u32 = 1 << 31;
/// Used since [`Life::cool`] was last called.
const USED: u32 = 1 << 30;
/// The other bits count the holders.
const ONE: u32 = 1;

/// How a part of a mirror is used.
#[derive(Debug)]
pub struct Life(AtomicU32);

/// What the reaper may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reap {
    /// What nobody holds nor has used since [`Life::cool`].
    Idle,
    /// What nobody holds.
    Unheld,
}

impl Life {
    /// Of a part that its maker holds.
    pub fn held() -> Self {
        Self(AtomicU32::new(USED | ONE))
    }

    /// Holds the part; every `true` is to be followed by one [`Life::release`]. `false` if it has been
    /// retired.
    #[inline]
    pub fn hold(&self) -> bool {
        let held = |word: u32| (word & RETIRED == 0).then(|| (word + ONE) | USED);
        // Acquire: what earlier holders have done to the part is seen. Relaxed would do for `retire`,
        // which needs the atomicity alone.
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, held)
            .is_ok()
    }

    /// Lets go of the part.
    #[inline]
    pub fn release(&self) {
        // Release: what this holder did is done before the part can be retired.
        self.0.fetch_sub(ONE, Ordering::Release);
    }

    /// The part is being used. Writes only if that was not known yet, so that many can say so at once.
    #[inline]
    pub fn touch(&self) {
        // Relaxed, here and in `cool`: a hint.
        if self.0.load(Ordering::Relaxed) & USED == 0 {
            self.0.fetch_or(USED, Ordering::Relaxed);
        }
    }

    /// Whether the part was used since this was last asked.
    pub fn cool(&self) -> bool {
        self.0.fetch_and(!USED, Ordering::Relaxed) & USED != 0
    }

    /// Retires the part, if it may be taken. One call succeeds, and none after that.
    pub fn retire(&self, reap: Reap) -> bool {
        let ignored = match reap {
            Reap::Idle => 0,
            Reap::Unheld => USED,
        };
        let idle = |word: u32| (word & !ignored == 0).then_some(RETIRED);
        // Acquire: pairs with `release`.
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, idle)
            .is_ok()
    }
}

#[cfg(test)]
mod tests;
