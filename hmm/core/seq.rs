// SPDX-License-Identifier: GPL-2.0

//! The sequence protocol between a fault and the invalidations that race with it, as types.
//!
//! 1. [`ReadSide::begin`] waits until no invalidation of the domain is under way and notes the
//!    sequence number.
//! 2. A walk turns the `ReadSide` into [`Faulted`]. It holds page frames that may already be stale
//!    and therefore shows them to nobody.
//! 3. [`Faulted::validate`] takes the domain's lock. If no invalidation came in between, the result
//!    is a [`ValidRange`], which owns the lock: while it lives, the invalidation that would make
//!    its frames stale has to wait.
//!
//! A sequence is used once: each step consumes the one before.
//!
//! ```compile_fail,E0599
//! # use hmm::seq::{Domain, Faulted};
//! fn pfns_before_validation<D: Domain>(faulted: &Faulted<'_, D>) {
//!     faulted.runs(); // only a `ValidRange` has them
//! }
//! ```
//!
//! ```compile_fail,E0382
//! # use hmm::{addr::PageRange, run::Runs, seq::{Domain, ReadSide}};
//! fn sequence_used_twice<D: Domain>(side: ReadSide<'_, D>, done: PageRange) {
//!     let _ = side.faulted(Runs::new(), done);
//!     let _ = side.faulted(Runs::new(), done);
//! }
//! ```
//!
//! ```compile_fail,E0505
//! # use hmm::seq::{Domain, ValidRange};
//! fn pfns_outlive_the_guard<'d, D: Domain>(valid: ValidRange<'d, D>) {
//!     let runs = valid.runs();
//!     drop(valid);
//!     let _ = runs.len();
//! }
//! ```

use crate::addr::PageRange;
use crate::run::{Run, Runs};
use crate::walk::FaultError;

/// What invalidations collide in: a range of pages with a sequence number and a lock.
pub trait Domain {
    /// Proof that the lock is held for writing. Invalidations of the domain wait for it.
    type Guard<'d>
    where
        Self: 'd;

    /// Waits until no invalidation is under way; returns the sequence number from then on.
    fn read_begin(&self) -> u64;

    /// Takes the lock.
    fn lock(&self) -> Self::Guard<'_>;

    /// Whether an invalidation has come since `seq` was returned. Exact, as the lock is held.
    fn must_retry(&self, guard: &Self::Guard<'_>, seq: u64) -> bool;

    /// The same without the lock: `true` is certain, `false` may be out of date at once.
    fn may_have_collided(&self, seq: u64) -> bool;
}

/// An invalidation came in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collided;

/// A fault that has begun and has no result yet.
pub struct ReadSide<'d, D: Domain> {
    domain: &'d D,
    seq: u64,
}

impl<'d, D: Domain> ReadSide<'d, D> {
    /// Begins; waits for invalidations under way.
    pub fn begin(domain: &'d D) -> Self {
        let seq = domain.read_begin();
        Self { domain, seq }
    }

    /// Whether the result is known to be in vain already.
    pub fn collided(&self) -> bool {
        self.domain.may_have_collided(self.seq)
    }

    /// Binds what a walk found to the sequence it was found under.
    ///
    /// `done` is the part of the range that the walk got through.
    pub fn faulted(self, runs: Runs, done: PageRange) -> Faulted<'d, D> {
        Faulted {
            side: self,
            runs,
            done,
        }
    }
}

/// Pages found that may be stale already. There is no way to look at them.
pub struct Faulted<'d, D: Domain> {
    side: ReadSide<'d, D>,
    runs: Runs,
    done: PageRange,
}

impl<'d, D: Domain> Faulted<'d, D> {
    /// Takes the lock and checks that nothing has come in between.
    pub fn validate(self) -> Result<ValidRange<'d, D>, Collided> {
        let ReadSide { domain, seq } = self.side;
        let guard = domain.lock();
        if domain.must_retry(&guard, seq) {
            return Err(Collided);
        }
        Ok(ValidRange {
            guard,
            runs: self.runs,
            done: self.done,
        })
    }
}

/// Pages that are what the CPU sees, for as long as this value lives.
pub struct ValidRange<'d, D: Domain + 'd> {
    guard: D::Guard<'d>,
    runs: Runs,
    done: PageRange,
}

impl<'d, D: Domain> ValidRange<'d, D> {
    /// The pages found.
    pub fn runs(&self) -> &[Run] {
        self.runs.as_slice()
    }

    /// The part of the range that the walk got through.
    pub fn done(&self) -> PageRange {
        self.done
    }

    /// What the lock protects.
    pub fn guard(&self) -> &D::Guard<'d> {
        &self.guard
    }

    /// The pages found, and what the lock protects.
    pub fn split(&mut self) -> (&[Run], &mut D::Guard<'d>) {
        (self.runs.as_slice(), &mut self.guard)
    }
}

/// When to stop trying.
pub trait Deadline {
    /// Whether it is over.
    fn passed(&self) -> bool;
}

/// Faults until the result is valid: the one retry loop.
///
/// `fault` turns a fresh [`ReadSide`] into a result; it runs again whenever an invalidation came
/// in between, until `deadline` has passed.
pub fn until_valid<'d, D: Domain>(
    domain: &'d D,
    deadline: &impl Deadline,
    mut fault: impl FnMut(ReadSide<'d, D>) -> Result<Faulted<'d, D>, FaultError>,
    mut collided: impl FnMut(),
) -> Result<ValidRange<'d, D>, FaultError> {
    loop {
        match fault(ReadSide::begin(domain)) {
            Ok(faulted) => {
                if let Ok(valid) = faulted.validate() {
                    return Ok(valid);
                }
            }
            Err(FaultError::Collided) => {}
            Err(other) => return Err(other),
        }
        collided();
        if deadline.passed() {
            return Err(FaultError::TimedOut);
        }
    }
}

#[cfg(test)]
mod tests;
