// SPDX-License-Identifier: GPL-2.0

//! Page faults of a NIC: raised, resolved, resumed.
//!
//! A NIC that has no translation for a page stops the request that needs it and raises a fault: a
//! [`PendingFault`]. [`crate::resolve::Resolver::resolve`] has the page brought in and resumes the NIC,
//! through the [`Waiter`] that the fault carries, with the page or with the reason why there is none. It is
//! all the same whether the requester, the responder or a receive needs the page, and how the NIC waits:
//!
//! * soft-RoCE waits in its own call. Its waiter uses the page, which stays for that long, and keeps the
//!   outcome for the caller (`../kernel/region.rs`);
//! * a NIC whose faults arrive by a queue goes on with something else. Its waiter enters the page into the
//!   NIC's own table and posts a command; a worker resolves one fault after the other
//!   (`fault/tests.rs`).
//!
//! A fault is resumed exactly once: resuming consumes it, and dropping it resumes it with
//! [`AccessError::Abandoned`]. So an error on the way, or a queue that is torn down, fails the requests
//! that wait, and hangs none.

use hmm::pfn::Access;
use hmm::walk::FaultError;

/// What a NIC cannot go on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where it wants to go on, in the numbering of the region.
    pub iova: u64,
    /// How many bytes it is known to want from there; not 0. Only the first page is waited for.
    pub len: u64,
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
    /// Nobody has looked for the page.
    Abandoned,
}

/// The NIC's side of a fault: what waits for it to be resolved.
pub trait Waiter {
    /// A page that is there, and stays for `'p`.
    type Page<'p>;

    /// The NIC goes on with the page, or fails the request: that one alone. Must not sleep, as the page
    /// is kept by a lock.
    fn resume(self, outcome: Result<Self::Page<'_>, AccessError>);
}

/// A fault that a NIC waits for.
pub struct PendingFault<W: Waiter> {
    wanted: Wanted,
    /// `None` once the NIC has been resumed.
    waiter: Option<W>,
}

impl<W: Waiter> PendingFault<W> {
    /// The NIC has stopped and wants `wanted`.
    #[inline]
    pub fn new(wanted: Wanted, waiter: W) -> Self {
        let waiter = Some(waiter);
        Self { wanted, waiter }
    }

    /// What it wants.
    pub fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// The NIC goes on.
    pub fn resume(mut self, outcome: Result<W::Page<'_>, AccessError>) {
        if let Some(waiter) = self.waiter.take() {
            waiter.resume(outcome);
        }
    }
}

impl<W: Waiter> Drop for PendingFault<W> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.resume(Err(AccessError::Abandoned));
        }
    }
}

#[cfg(test)]
mod tests;
