// SPDX-License-Identifier: GPL-2.0

//! The life of a page fault of a NIC that somebody has to be waited for: raised, parked, resolved, resumed.
//!
//! A NIC that has no translation for a page stops the request that needs it and raises a fault ([`Raised`]). The
//! NIC then goes on with something else: it keeps the request ([`Raised::park`]), and the fault owns nothing of
//! it but what it takes to find it again, the [`Waiter`]. Somebody else, for whom nobody waits, brings the
//! page in (`resolve.rs`) and says how that ended ([`Parked::resolve`]); that is one step. The other is that the
//! NIC goes on ([`Resolved::resume`]): it looks at the request anew, finds the page or raises another fault.
//!
//! It is all the same whether the requester, the responder or a receive needs the page, and how the NIC keeps
//! its request:
//!
//! * soft-RoCE's is a queue pair whose task runs again (`../nic/rxe/parked.rs`);
//! * a NIC whose faults arrive by a queue posts a command (the one in `fault/tests.rs`).
//!
//! A fault is resumed exactly once: resuming consumes it, and dropping it, at any stage, resumes it with
//! [`AccessError::Abandoned`]. So an error on the way, or a queue that is torn down, fails the requests
//! that wait, and hangs none. Only the NIC itself can give its request up ([`Parked::withdraw`]).
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

use hmm::{Access, FaultError, PageRange};

/// What a NIC cannot go on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The pages that it is known to want; not none. Only the first is waited for.
    pub pages: PageRange,
    /// What it wants to do there.
    pub access: Access,
}

/// Why a request cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// Not all of it is in the region.
    OutOfRange,
    /// A page could not be had.
    Fault(FaultError),
    /// Somebody has to be waited for, and not here: raise a fault.
    MustWait(Wanted),
    /// Nobody has looked for the page.
    Abandoned,
}

/// The NIC's side of a fault: what waits for it to be resolved.
pub trait Waiter {
    /// The NIC goes on: it looks at the request anew, or fails it, that one alone.
    fn resume(self, outcome: Result<(), AccessError>);
}

/// A request that is owed an answer.
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

/// A fault of a NIC that has stopped.
pub struct Raised<W: Waiter>(Owed<W>);

impl<W: Waiter> Raised<W> {
    /// The NIC has stopped and wants `wanted`.
    pub fn new(wanted: Wanted, waiter: W) -> Self {
        Self(Owed {
            wanted,
            waiter: Some(waiter),
        })
    }

    /// The NIC has let go of everything that others may wait for.
    pub fn park(self) -> Parked<W> {
        Parked(self.0)
    }
}

/// A fault whose request holds nothing that anybody waits for.
pub struct Parked<W: Waiter>(Owed<W>);

impl<W: Waiter> Parked<W> {
    /// What the NIC wants.
    pub fn wanted(&self) -> Wanted {
        self.0.wanted
    }

    /// The page is there, or cannot be had.
    pub fn resolve(self, outcome: Result<(), AccessError>) -> Resolved<W> {
        let Self(owed) = self;
        Resolved { owed, outcome }
    }

    /// The NIC has given the request up: nobody is resumed.
    pub fn withdraw(mut self) -> Option<W> {
        self.0.waiter.take()
    }
}

/// A fault of which is known how it ended.
pub struct Resolved<W: Waiter> {
    owed: Owed<W>,
    outcome: Result<(), AccessError>,
}

impl<W: Waiter> Resolved<W> {
    /// The NIC goes on.
    pub fn resume(self) {
        self.owed.resume(self.outcome);
    }
}

/// A fault while somebody resolves it, and the NIC may give it up: whichever comes first. Both have to look under
/// a lock of theirs.
pub struct UnderWay<W: Waiter> {
    /// Until it is resolved or withdrawn.
    parked: Option<Parked<W>>,
    /// From then on, if it was resolved.
    outcome: Option<Result<(), AccessError>>,
}

impl<W: Waiter> UnderWay<W> {
    /// `parked` has just been handed to who resolves it.
    pub fn new(parked: Parked<W>) -> Self {
        Self {
            parked: Some(parked),
            outcome: None,
        }
    }

    /// It has ended; `None` if it had before.
    #[must_use]
    pub fn resolve(&mut self, outcome: Result<(), AccessError>) -> Option<Resolved<W>> {
        let parked = self.parked.take()?;
        self.outcome = Some(outcome);
        Some(parked.resolve(outcome))
    }

    /// The NIC has given the request up: nobody is resumed any more.
    pub fn withdraw(&mut self) -> Option<W> {
        self.parked.take().and_then(Parked::withdraw)
    }

    /// How it has ended; `None` as long as it has not.
    pub fn outcome(&self) -> Option<Result<(), AccessError>> {
        self.outcome
    }
}

#[cfg(test)]
mod tests;
