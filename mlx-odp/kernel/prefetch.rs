// SPDX-License-Identifier: GPL-2.0

//! Prefetches: at once, by the thread that asks for it, or in the background, by a job.
//!
//! A prefetch goes from PMD to PMD and holds the region for one at a time, in which it waits for nobody. What
//! it has to wait for it waits for without the region, as a fault does ([`hmm::Owned`]); afterwards it looks
//! for the region anew. So a region can be deregistered at any time.
//!
//! A thread of the application's has it brought in by somebody else even so ([`By::Application`]): not every file
//! system lets go of a thread that has been killed, and a process that cannot end keeps all that it has.

use core::sync::atomic::{AtomicU64, Ordering};

use hmm::{pmd_range, FaultError, Owned, PageRange};

use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

use crate::advice::Advice;
use crate::fault::{AccessError, Wanted};
use crate::job::{Body, Job};
use crate::observer::Counting;
use crate::region::Region;
use crate::shim;
use crate::ticket::{Extent, Resume, Ticket};

/// How often a PMD may have gone again when it was there, before the prefetch gives up.
const TRIES: u32 = 16;

/// Who prefetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A thread of the application's.
    Application,
    /// A job.
    Job,
}

/// Pages of a region that are to be prefetched.
pub struct Target {
    counting: Arc<Counting>,
    pages: PageRange,
    owned: Arc<Owned>,
}

impl Target {
    /// The `len` bytes from `iova` of `region`.
    ///
    /// # Errors
    ///
    /// Those of [`Region::may_prefetch`].
    pub fn new(region: &Region, iova: u64, len: u64, advice: Advice) -> Result<Self, AccessError> {
        Ok(Self {
            counting: region.counting().clone(),
            pages: region.may_prefetch(iova, len, advice)?,
            owned: region.owned().clone(),
        })
    }

    /// Prefetches for as long as `go_on` says so, which is asked after every 2 MiB at most, and the region is
    /// there. Sleeps, and waits for whoever has to bring the pages.
    ///
    /// # Errors
    ///
    /// A fault error for a page that cannot be had, with the PMDs of 2 MiB before it prefetched;
    /// [`FaultError::TimedOut`] if pages went as fast as they came, [`FaultError::Interrupted`].
    pub fn prefetch(
        &self,
        by: By,
        advice: Advice,
        go_on: impl Fn() -> bool,
    ) -> Result<(), AccessError> {
        let mut added = 0;
        let result = self.prefetch_counted(by, advice, go_on, &mut added);
        self.counting
            .prefetch_ends(self.pages, advice, added, result);
        result.map_err(AccessError::Fault)
    }

    fn prefetch_counted(
        &self,
        by: By,
        advice: Advice,
        go_on: impl Fn() -> bool,
        added: &mut u64,
    ) -> Result<(), FaultError> {
        let (mut rest, mut tries) = (self.pages, 0);
        while !rest.is_empty() && go_on() {
            let Some(region) = self.counting.device().find(self.counting.number()) else {
                return Ok(());
            };
            let (reached, result) = region.prefetch_at_once(rest, advice, &go_on, added);
            drop(region);
            tries = match reached > rest.start() {
                true => 0,
                false => tries + 1,
            };
            rest = PageRange::new(reached, rest.end());
            match (result, advice.access()) {
                (Ok(()), _) => {}
                (Err(FaultError::WouldWait), _) if tries > TRIES => {
                    return Err(FaultError::TimedOut)
                }
                (Err(FaultError::WouldWait), Some(access)) => {
                    let pages = rest.intersection(&pmd_range(rest.start()));
                    match by {
                        By::Job => self.owned.populate(pages, access)?,
                        By::Application => self.wait_for(Wanted { pages, access })?,
                    }
                }
                // What is resident and cannot be looked at now is not worth waiting for.
                (Err(FaultError::WouldWait), None) => return Ok(()),
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
    }

    /// Has `wanted` brought in, and waits for it until the current thread is killed.
    fn wait_for(&self, wanted: Wanted) -> Result<(), FaultError> {
        let done = Arc::pin_init(Done::new(), GFP_KERNEL).map_err(|_| FaultError::NoMemory)?;
        let ticket = Ticket::raise(&self.owned, &self.counting, wanted, Extent::All, done.clone())
            .map_err(|_| FaultError::NoMemory)?;
        // Who takes the region or the device away afterwards finds the fault, and ends it.
        if self.counting.device().find(self.counting.number()).is_none() {
            return Ok(());
        }
        if !done.wait() {
            return Err(FaultError::Interrupted);
        }
        match ticket.outcome() {
            Some(Err(AccessError::Fault(error))) => Err(error),
            // The region has gone: the next look at it will tell.
            _ => Ok(()),
        }
    }
}

/// What a thread waits for.
#[pin_data]
struct Done {
    #[pin]
    completion: Opaque<bindings::completion>,
}

// SAFETY: A completion may be used from any thread.
unsafe impl Send for Done {}
// SAFETY: As above.
unsafe impl Sync for Done {}

impl Done {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `completion` is pinned memory for one.
            completion <- Opaque::ffi_init(|done| unsafe { shim::mlx_odp_shim_init_completion(done) }),
        })
    }

    /// Waits; whether it is done, and not the thread killed.
    fn wait(&self) -> bool {
        // SAFETY: It is initialised.
        unsafe { shim::mlx_odp_shim_wait_killable(self.completion.get()) == 0 }
    }
}

impl Resume for Done {
    fn resume(&self) {
        // SAFETY: It is initialised.
        unsafe { bindings::complete(self.completion.get()) };
    }
}

/// A prefetch in the background.
pub(crate) struct Prefetch {
    targets: KVec<Target>,
    advice: Advice,
    /// The region that it is at.
    at: AtomicU64,
}

impl Prefetch {
    pub(crate) fn run(&self, go_on: impl Fn() -> bool) {
        for target in &self.targets {
            // Relaxed: whoever looks at it makes sure that the region cannot be found any more first.
            self.at.store(target.counting.number(), Ordering::Relaxed);
            // Advice may fail: whoever needs the page will fault on it and be told.
            let _ = target.prefetch(By::Job, self.advice, &go_on);
        }
    }

    /// Whether nobody is left for whom it prefetches. They are regions of one process: of a protection domain.
    pub(crate) fn is_orphaned(&self) -> bool {
        self.targets.first().is_none_or(|target| target.owned.is_orphaned())
    }

    /// Whether it is at this region now.
    pub(crate) fn is_at(&self, region: u64) -> bool {
        self.at.load(Ordering::Relaxed) == region
    }
}

/// Prefetches `targets` in the background, if who registered the first of them has not too many prefetches there
/// already: it is advice.
///
/// # Errors
///
/// `ENOMEM`.
pub fn later(targets: KVec<Target>, advice: Advice) -> Result {
    let Some(first) = targets.first() else {
        return Ok(());
    };
    let user = first.owned.credentials().accountable_user();
    let prefetch = Prefetch {
        targets,
        advice,
        at: AtomicU64::new(u64::MAX),
    };
    Job::submit(user, Body::Prefetch(prefetch)).map(drop)
}
