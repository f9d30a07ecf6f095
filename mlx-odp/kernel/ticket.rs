// SPDX-License-Identifier: GPL-2.0

//! Page faults that somebody has to be waited for, from when the NIC has parked the request until it goes on.
//!
//! `Ticket::raise` queues the fault; a worker (`job.rs`) resolves it ([`crate::resolve`]) and resumes
//! the NIC through [`Resume`]. What the worker has is the address space, the credentials of who registered it, and
//! its own state; nothing of the NIC's and no region.
//!
//! The NIC keeps the [`Ticket`]. It asks it how the fault has ended when it looks at the request anew, and
//! drops it when the request is gone: then nobody is resumed any more, and the worker ends its wait.

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

/// The NIC's side: how a request is found again and goes on.
pub trait Resume: Send + Sync {
    /// The request goes on: it is looked at anew. Called once, under a spinlock.
    fn resume(&self);
}

impl Waiter for Arc<dyn Resume> {
    fn resume(self, _outcome: Result<(), AccessError>) {
        // The outcome is kept for the NIC to ask for: `Ticket::outcome`.
        Resume::resume(&*self);
    }
}

impl Memory for Owned {
    fn bring_in(&self, pages: PageRange, access: Access) -> Result<(), FaultError> {
        self.populate(pages, access)
    }
}

/// A fault that is being resolved.
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

/// How much of what is wanted is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The first page; the others are brought in when the NIC has gone on.
    First,
    /// All of it.
    All,
}

impl Resolving {
    /// Waits for whoever brings the page in. Sleeps.
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

    /// It has ended, if it had not before.
    pub(crate) fn finish(&self, outcome: Result<(), AccessError>) {
        let mut state = self.state.lock();
        if let Some(resolved) = state.resolve(outcome) {
            self.counting.wait_ends(&self.raised);
            // Under the lock: whoever withdraws the fault knows that this has been done, or never will be.
            resolved.resume();
        }
    }

    /// The address space that it waits for a page of.
    pub(crate) fn owned(&self) -> &Owned {
        &self.owned
    }

    /// Whether it is a fault of this region.
    pub(crate) fn is_of(&self, region: u64) -> bool {
        self.counting.number() == region
    }

    /// Whether a thread of an application waits for it, in a system call on `device`.
    pub(crate) fn is_awaited_on(&self, device: &Device) -> bool {
        self.extent == Extent::All && core::ptr::eq(&**self.counting.device(), device)
    }

    fn withdraw(&self) {
        let waiter = self.state.lock().withdraw();
        // Without the lock.
        drop(waiter);
    }
}

/// A fault that has been raised, as long as the NIC keeps the request.
pub struct Ticket(Arc<Job>);

impl Ticket {
    /// Has `wanted` brought into memory that is `owned`, and `waiter` resumed when `extent` of it is there.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; the waiter may have been resumed even so.
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

    /// How it has ended; `None` as long as it has not.
    pub fn outcome(&self) -> Option<Result<(), AccessError>> {
        self.resolving()?.state.lock().outcome()
    }

    /// Whether the page of `region` that it waits for is the first of `wanted`, and for the same.
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
