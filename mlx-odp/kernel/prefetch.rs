// SPDX-License-Identifier: GPL-2.0

//! Prefetch: at once, by the thread that asks for it, or in the background, by a job.
//!
//! A prefetch goes from PMD to PMD. It holds the region for one PMD at a time, and does not sleep for a page
//! while it does. To sleep it drops the region, as a fault does ([`hmm::Owned`]), and looks it up again afterwards.
//! So a region can be deregistered at any time.
//!
//! A thread of the application leaves even that sleep to a job ([`By::Application`]): some file systems do not
//! wake a thread that is killed, and a process that cannot exit keeps everything it has.

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

/// How often the pages of a PMD may be gone again after they were brought in, before the prefetch gives up.
const TRIES: u32 = 16;

/// The context of a prefetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A thread of the application.
    Application,
    /// A job.
    Job,
}

/// A range of a region to prefetch.
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

    /// Prefetches until `go_on`, which is called at least every 2 MiB, returns false or the region is gone. Sleeps
    /// for as long as the pages take.
    ///
    /// # Errors
    ///
    /// A fault error for a page that cannot be had; the PMDs before it are prefetched. [`FaultError::TimedOut`] if
    /// pages were unmapped as fast as they came in, [`FaultError::Interrupted`].
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
                // Looking at resident pages is not worth sleeping for.
                (Err(FaultError::WouldWait), None) => return Ok(()),
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
    }

    /// Has a job bring `wanted` in, and waits for it. A fatal signal ends the wait.
    fn wait_for(&self, wanted: Wanted) -> Result<(), FaultError> {
        let done = Arc::pin_init(Done::new(), GFP_KERNEL).map_err(|_| FaultError::NoMemory)?;
        let ticket = Ticket::raise(&self.owned, &self.counting, wanted, Extent::All, done.clone())
            .map_err(|_| FaultError::NoMemory)?;
        // From here on, deregistering the region or removing the device finds the fault and ends it.
        if self.counting.device().find(self.counting.number()).is_none() {
            return Ok(());
        }
        if !done.wait() {
            return Err(FaultError::Interrupted);
        }
        match ticket.outcome() {
            Some(Err(AccessError::Fault(error))) => Err(error),
            // If the region is gone, the next lookup finds out.
            _ => Ok(()),
        }
    }
}

/// A completion that a thread waits for.
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

    /// Waits; returns false if the thread was killed first.
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

/// A background prefetch.
pub(crate) struct Prefetch {
    targets: KVec<Target>,
    advice: Advice,
    /// The number of the region that it has reached.
    at: AtomicU64,
}

impl Prefetch {
    pub(crate) fn run(&self, go_on: impl Fn() -> bool) {
        for target in &self.targets {
            // Relaxed: whoever reads it has removed the region from the device first.
            self.at.store(target.counting.number(), Ordering::Relaxed);
            // Advice may fail: the request that needs the page will fault and get the error.
            let _ = target.prefetch(By::Job, self.advice, &go_on);
        }
    }

    /// Whether the process that it prefetches for is gone. All targets are in one protection domain, so of one
    /// process.
    pub(crate) fn is_orphaned(&self) -> bool {
        self.targets.first().is_none_or(|target| target.owned.is_orphaned())
    }

    /// Whether it has reached this region.
    pub(crate) fn is_at(&self, region: u64) -> bool {
        self.at.load(Ordering::Relaxed) == region
    }
}

/// Prefetches `targets` in the background. It is advice: nothing is done if the user that registered the first of
/// them has too many background prefetches already.
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
