// SPDX-License-Identifier: GPL-2.0

//! The states of a NIC's page fault that has to sleep: raised, parked, resolved, resumed.
//!
//! A NIC that has no translation for a page stops the request that needs it and raises a fault ([`Raised`]). It
//! keeps the request ([`Raised::park`]) and goes on with other work. The fault owns nothing of the request
//! except the [`Waiter`], which finds it again. A worker brings the page in (`resolve.rs`) and reports the
//! outcome ([`Parked::resolve`]). Then the NIC is resumed ([`Resolved::resume`]): it repeats the access, and
//! finds the page or raises another fault.
//!
//! None of this depends on whether the requester, the responder or a receive needs the page, or on how the NIC
//! keeps its request:
//!
//! * soft-RoCE runs the task of the queue pair again (`../nic/rxe/parked.rs`);
//! * a NIC that reports faults through a queue is sent a command (the one in `fault/tests.rs`).
//!
//! A fault is resumed exactly once: resuming consumes it, and dropping it in any state resumes it with
//! [`AccessError::Abandoned`]. So an error, or the teardown of a queue, fails the waiting requests; none
//! hangs. Only the NIC itself can drop its request ([`Parked::withdraw`]).
//!
//! ```compile_fail,E0382
//! # use mlx_odp::fault::{Parked, Waiter};
//! fn resolved_twice<W: Waiter>(fault: Parked<W>) {
//!     let _ = fault.resolve(Ok(()));
//!     let _ = fault.resolve(Ok(()));
//! }
//! ```
//!
//! ```compile_fail,E0599
//! # use mlx_odp::fault::{Parked, Waiter};
//! fn resumed_before_it_is_resolved<W: Waiter>(fault: Parked<W>) {
//!     fault.resume();
//! }
//! ```

use hmm::{FaultError, PageRange, Permitted};

/// The pages that a NIC's request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The pages that it is known to need. The NIC waits for the first only. If there is none, it waits for whoever has the
    /// address space to itself.
    pub pages: PageRange,
    /// The access that it needs, which the region permits.
    pub permitted: Permitted,
}

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// It is not within the region.
    OutOfRange,
    /// A page could not be faulted in.
    Fault(FaultError),
    /// The fault has to sleep, which is not allowed here: raise it.
    MustWait(Wanted),
    /// The fault was dropped before it was resolved.
    Abandoned,
}

impl AccessError {
    /// `error` ended the fault on `wanted`, which was not allowed to wait.
    pub fn of_fault(error: FaultError, wanted: Wanted) -> Self {
        match error {
            FaultError::WouldWait => Self::MustWait(wanted),
            error => Self::Fault(error),
        }
    }
}

/// The NIC's side of a fault: finds the waiting request.
pub trait Waiter {
    /// The NIC repeats the access, or fails this request and no other.
    fn resume(self, outcome: Result<(), AccessError>);
}

/// A request that has to be resumed.
struct Owed<W: Waiter> {
    wanted: Wanted,
    /// `None` once the NIC has been resumed.
    waiter: Option<W>,
}

impl<W: Waiter> Owed<W> {
    fn resume(mut self, outcome: Result<(), AccessError>) {
        if let Some(waiter) = self.waiter.take() {
            waiter.resume(outcome);
        }
    }
}

impl<W: Waiter> Drop for Owed<W> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.resume(Err(AccessError::Abandoned));
        }
    }
}

/// A fault whose request has stopped.
pub struct Raised<W: Waiter>(Owed<W>);

impl<W: Waiter> Raised<W> {
    /// The NIC has stopped a request that needs `wanted`.
    pub fn new(wanted: Wanted, waiter: W) -> Self {
        Self(Owed {
            wanted,
            waiter: Some(waiter),
        })
    }

    /// The NIC has released everything that others may wait for.
    pub fn park(self) -> Parked<W> {
        Parked(self.0)
    }
}

/// A fault whose request holds nothing that others may wait for.
pub struct Parked<W: Waiter>(Owed<W>);

impl<W: Waiter> Parked<W> {
    /// The pages that the request needs.
    pub fn wanted(&self) -> Wanted {
        self.0.wanted
    }

    /// The page is present, or could not be faulted in.
    pub fn resolve(self, outcome: Result<(), AccessError>) -> Resolved<W> {
        let Self(owed) = self;
        Resolved { owed, outcome }
    }

    /// The NIC has dropped the request: it is not resumed.
    pub fn withdraw(mut self) -> Option<W> {
        self.0.waiter.take()
    }
}

/// A fault with its outcome.
pub struct Resolved<W: Waiter> {
    owed: Owed<W>,
    outcome: Result<(), AccessError>,
}

impl<W: Waiter> Resolved<W> {
    /// Resumes the request.
    pub fn resume(self) {
        self.owed.resume(self.outcome);
    }
}

/// A fault that a worker may resolve and the NIC may withdraw; the first of them wins. The callers serialize
/// with a lock.
pub struct UnderWay<W: Waiter> {
    /// `Some` until it is resolved or withdrawn.
    parked: Option<Parked<W>>,
    /// `Some` once it is resolved.
    outcome: Option<Result<(), AccessError>>,
}

impl<W: Waiter> UnderWay<W> {
    /// `parked` has been given to the one that resolves it.
    pub fn new(parked: Parked<W>) -> Self {
        Self {
            parked: Some(parked),
            outcome: None,
        }
    }

    /// Resolves it; `None` if it was resolved or withdrawn before.
    #[must_use]
    pub fn resolve(&mut self, outcome: Result<(), AccessError>) -> Option<Resolved<W>> {
        let parked = self.parked.take()?;
        self.outcome = Some(outcome);
        Some(parked.resolve(outcome))
    }

    /// The NIC has dropped the request: it is no longer resumed.
    pub fn withdraw(&mut self) -> Option<W> {
        self.parked.take().and_then(Parked::withdraw)
    }

    /// The outcome; `None` while it is not resolved.
    pub fn outcome(&self) -> Option<Result<(), AccessError>> {
        self.outcome
    }
}

#[cfg(test)]
mod tests;
