// SPDX-License-Identifier: GPL-2.0

//! Page faults that have to sleep, from parking the request to resuming it.
//!
//! `Ticket::raise` queues the fault; a worker (`job.rs`) resolves it ([`crate::resolve`]) and resumes
//! the request through [`Resume`]. The worker holds the address space, the credentials of the region's owner, and
//! its own state; nothing of the NIC's and no region.
//!
//! The NIC keeps the [`Ticket`]. It reads the outcome from it when it repeats the access, and drops it when the
//! request is gone: then the request is not resumed any more, and the worker ends its wait.

use hmm::{Access, FaultError, Owned, PageRange};

use kernel::prelude::*;
use kernel::sync::{new_spinlock, Arc, SpinLock};

use crate::device::Device;
use crate::fault::{AccessError, Raised, UnderWay, Waiter, Wanted};
use crate::job::{Body, Job};
use crate::observer::Counting;
use crate::region::Region;
use crate::resolve::{bring_first, bring_rest, Memory};
use crate::trace::Moment;

/// The NIC's side: finds a parked request again.
pub trait Resume: Send + Sync {
    /// Has the NIC repeat the access. Called once, under a spinlock.
    fn resume(&self);
}

impl Waiter for Arc<dyn Resume> {
    fn resume(self, _outcome: Result<(), AccessError>) {
        // The NIC reads the outcome from the ticket: `Ticket::outcome`.
        Resume::resume(&*self);
    }
}

impl Memory for Owned {
    fn bring_in(&self, pages: PageRange, access: Access) -> Result<(), FaultError> {
        self.populate(pages, access)
    }
}

/// A fault that a worker resolves.
#[pin_data]
pub(crate) struct Resolving {
    wanted: Wanted,
    owned: Arc<Owned>,
    counting: Arc<Counting>,
    raised: Moment,
    extent: Extent,
    #[pin]
    state: SpinLock<UnderWay<Arc<dyn Resume>>>,
}

/// How many of the wanted pages the waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The first; the others are brought in after the NIC was resumed.
    First,
    /// All.
    All,
}

impl Resolving {
    /// Brings the pages in. Sleeps for as long as that takes.
    pub(crate) fn run(&self) {
        let (memory, Wanted { pages, access }) = (&*self.owned, self.wanted);
        if self.extent == Extent::All {
            let outcome = memory.bring_in(pages, access);
            return self.finish(outcome.map_err(AccessError::Fault));
        }
        let outcome = bring_first(memory, self.wanted);
        let failed = outcome.is_err();
        self.finish(outcome);
        if !failed {
            bring_rest(memory, self.wanted);
        }
    }

    /// Ends the fault with `outcome`, unless it has ended before.
    pub(crate) fn finish(&self, outcome: Result<(), AccessError>) {
        let mut state = self.state.lock();
        if let Some(resolved) = state.resolve(outcome) {
            self.counting.wait_ends(&self.raised);
            // Under the lock: after a withdrawal this has been done, or never will be.
            resolved.resume();
        }
    }

    /// The address space of its pages.
    pub(crate) fn owned(&self) -> &Owned {
        &self.owned
    }

    /// Whether it is a fault of the region with this number.
    pub(crate) fn is_of(&self, region: u64) -> bool {
        self.counting.number() == region
    }

    /// Whether a thread waits for it in a system call on `device`.
    pub(crate) fn is_awaited_on(&self, device: &Device) -> bool {
        self.extent == Extent::All && core::ptr::eq(&**self.counting.device(), device)
    }

    fn withdraw(&self) {
        let waiter = self.state.lock().withdraw();
        // Without the lock.
        drop(waiter);
    }
}

/// A fault that was raised. The NIC keeps it as long as it keeps the request.
pub struct Ticket(Arc<Job>);

impl Ticket {
    /// Has a worker bring `wanted` into `owned`, and resume `waiter` when `extent` of it is present.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `waiter` may have been resumed even so.
    pub(crate) fn raise(
        owned: &Arc<Owned>,
        counting: &Arc<Counting>,
        wanted: Wanted,
        extent: Extent,
        waiter: Arc<dyn Resume>,
    ) -> Result<Self> {
        let state = UnderWay::new(Raised::new(wanted, waiter).park());
        let resolving = KBox::pin_init(
            pin_init!(Resolving {
                wanted,
                owned: owned.clone(),
                counting: counting.clone(),
                raised: Moment::now(),
                extent,
                state <- new_spinlock!(state, "mlx_odp::ticket::state"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        counting.wait_begins();
        let user = owned.credentials().accountable_user();
        Job::submit(user, Body::Fault(resolving)).map(Self)
    }

    fn resolving(&self) -> Option<&Resolving> {
        match self.0.body() {
            Body::Fault(resolving) => Some(resolving),
            Body::Prefetch(_) => None,
        }
    }

    /// The outcome; `None` while the fault is not resolved.
    pub fn outcome(&self) -> Option<Result<(), AccessError>> {
        self.resolving()?.state.lock().outcome()
    }

    /// Whether it is for the first page of `wanted`, in `region` and for the same access.
    pub fn is_for(&self, region: &Region, wanted: Wanted) -> bool {
        self.resolving().is_some_and(|resolving| {
            resolving.is_of(region.number())
                && resolving.wanted.access == wanted.access
                && resolving.wanted.pages.start() == wanted.pages.start()
        })
    }
}

impl Drop for Ticket {
    /// Sleeps.
    fn drop(&mut self) {
        if let Some(resolving) = self.resolving() {
            resolving.withdraw();
        }
        self.0.withdraw();
    }
}
