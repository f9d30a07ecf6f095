// SPDX-License-Identifier: GPL-2.0

//! Page faults that have to sleep, from parking the request to resuming it.
//!
//! `Ticket::raise` queues the fault; a worker (`job.rs`) resolves it ([`crate::resolve`]) and resumes
//! the request through [`Resume`]. The worker holds the address space, the credentials of the region's owner, and
//! its own state; nothing of the NIC's and no region.
//!
//! The NIC keeps the [`Ticket`]. It reads the outcome from it when it repeats the access, and drops it when the
//! request is gone: then the request is no longer resumed, and the worker ends its wait.

use hmm::{FaultError, Owned, PageRange, Permitted};

use kernel::prelude::*;
use kernel::sync::{new_spinlock, Arc, SpinLock};

use crate::fault::{AccessError, Raised, UnderWay, Waiter, Wanted};
use crate::job::{Body, Job, Kind};
use crate::observer::RegionStats;
use crate::resolve::{bring_first, bring_rest, Memory};
use crate::stats::Stats;
use crate::trace::Moment;

/// The NIC's side: finds a parked request again.
pub trait Resume: Send + Sync {
    /// Makes the NIC repeat the access. Called once, under a spinlock.
    fn resume(&self);
}

impl Waiter for Arc<dyn Resume> {
    fn resume(self, _outcome: Result<(), AccessError>) {
        // The NIC reads the outcome from the ticket: `Ticket::outcome`.
        Resume::resume(&*self);
    }
}

impl Memory for Owned {
    fn bring_in(&self, pages: PageRange, permitted: Permitted) -> Result<(), FaultError> {
        self.populate(pages, permitted)
    }
}

/// A fault that a worker resolves.
#[pin_data]
pub(crate) struct Resolving {
    wanted: Wanted,
    owned: Arc<Owned>,
    region_stats: Arc<RegionStats>,
    raised: Moment,
    awaited: Awaited,
    #[pin]
    state: SpinLock<UnderWay<Arc<dyn Resume>>>,
}

/// How many of the wanted pages the waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The first; the others are brought in after the NIC was resumed.
    First,
    /// All.
    All,
}

impl Resolving {
    /// Ends the fault with `outcome`, unless it has ended before.
    fn finish(&self, outcome: Result<(), AccessError>) {
        let mut state = self.state.lock();
        if let Some(resolved) = state.resolve(outcome) {
            self.region_stats.wait_ends(&self.raised);
            // Under the lock: after a withdrawal this has been done, or never will be.
            resolved.resume();
        }
    }

    fn withdraw(&self) {
        let waiter = self.state.lock().withdraw();
        // Without the lock.
        drop(waiter);
    }
}

impl Body for Resolving {
    /// Brings the pages in.
    fn run(&self, _go_on: &dyn Fn() -> bool) {
        let memory = &*self.owned;
        if self.awaited == Awaited::All {
            let outcome = memory.bring_in(self.wanted.pages, self.wanted.permitted);
            return self.finish(outcome.map_err(AccessError::Fault));
        }
        let outcome = bring_first(memory, self.wanted);
        let failed = outcome.is_err();
        self.finish(outcome);
        if !failed {
            bring_rest(memory, self.wanted);
        }
    }

    fn abandon(&self) {
        self.finish(Err(AccessError::Abandoned));
    }

    fn is_orphaned(&self) -> bool {
        self.owned.is_orphaned()
    }

    fn is_at(&self, region: u64) -> bool {
        self.region_stats.number() == region
    }

    fn is_awaited_on(&self, device: &Stats) -> bool {
        self.awaited == Awaited::All && self.region_stats.is_on(device)
    }
}

/// A fault that was raised. The NIC keeps it as long as it keeps the request.
pub struct Ticket {
    job: Arc<Job>,
    fault: Arc<Resolving>,
}

impl Ticket {
    /// Makes a worker bring `wanted` into `owned`, and resume `waiter` when the pages that it awaits are present.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `waiter` may have been resumed even so.
    pub(crate) fn raise(
        owned: &Arc<Owned>,
        region_stats: &Arc<RegionStats>,
        wanted: Wanted,
        awaited: Awaited,
        waiter: Arc<dyn Resume>,
    ) -> Result<Self> {
        let state = UnderWay::new(Raised::new(wanted, waiter).park());
        let fault = Arc::pin_init(
            pin_init!(Resolving {
                wanted,
                owned: owned.clone(),
                region_stats: region_stats.clone(),
                raised: Moment::now(),
                awaited,
                state <- new_spinlock!(state, "mlx_odp::ticket::state"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        region_stats.wait_begins();
        let user = owned.credentials().accountable_user();
        let job = Job::submit(user, Kind::Fault, fault.clone())?;
        Ok(Self { job, fault })
    }

    /// The outcome; `None` while the fault is not resolved.
    pub fn outcome(&self) -> Option<Result<(), AccessError>> {
        self.fault.state.lock().outcome()
    }

    /// Whether it is for the first page of `wanted`, in the region with this number and for the same access.
    pub(crate) fn is_for(&self, region: u64, wanted: Wanted) -> bool {
        let own = self.fault.wanted;
        self.fault.is_at(region)
            && own.permitted == wanted.permitted
            && own.pages.start() == wanted.pages.start()
    }
}

impl Drop for Ticket {
    /// Sleeps.
    fn drop(&mut self) {
        self.fault.withdraw();
        self.job.withdraw();
    }
}
