// SPDX-License-Identifier: GPL-2.0

//! Prefetch: at once, by the thread that asks for it, or in the background, by a job.
//!
//! A prefetch goes from PMD to PMD. It holds the region for one PMD at a time, and does not sleep for a page
//! while it does; a deregistration waits for that. To sleep it drops the region, as a fault does ([`hmm::Owned`]), and
//! looks it up again afterwards. So a region can be deregistered at any time.
//!
//! A thread of the application leaves even that sleep to a job ([`By::Application`]): some file systems do not
//! wake a thread that is killed, and a process that cannot exit keeps everything it has.

use core::sync::atomic::{AtomicU64, Ordering};

use hmm::{pmd_range, Backing, FaultError, Owned, PageRange, Permitted};

use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

use crate::advice::{Advice, ADVISE_FLUSH};
use crate::device::Device;
use crate::errno::not_supported;
use crate::fault::{AccessError, Wanted};
use crate::job::{Body, Job, Kind};
use crate::observer::RegionStats;
use crate::region::Region;
use crate::shim;
use crate::stats::Stats;
use crate::ticket::{Awaited, Resume, Ticket};

/// How often the pages of a PMD may be gone again after they were brought in, before the prefetch gives up.
const TRIES: u32 = 16;

/// The context of a prefetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// A thread of the application.
    Application,
    /// A job.
    Job,
}

/// A range of a region to prefetch, and how.
pub struct Target {
    device: Arc<Device>,
    region_stats: Arc<RegionStats>,
    pages: PageRange,
    owned: Arc<Owned>,
    advice: Advice,
    /// The access that pages are faulted in for.
    permitted: Option<Permitted>,
}

/// The errno of ibv_advise_mr(3), where a range outside of the region is `EFAULT`, too.
fn prefetch_error(error: AccessError) -> Error {
    match error {
        AccessError::OutOfRange => EFAULT,
        fault => fault.into(),
    }
}

impl Target {
    /// The `len` bytes from `iova` of `region`.
    ///
    /// # Errors
    ///
    /// `EFAULT` if they are not all in the region; `EPERM` if `advice` is for writing and the NIC may not write.
    pub fn new<B: Backing>(
        region: &Region<B>,
        iova: u64,
        len: u64,
        advice: Advice,
    ) -> Result<Self> {
        let permitted = advice.access().map(|access| region.permit(access));
        Ok(Self {
            device: region.device().clone(),
            region_stats: region.region_stats().clone(),
            permitted: permitted.transpose().map_err(prefetch_error)?,
            pages: region.translate(iova, len).map_err(prefetch_error)?.pages(),
            owned: region.owned().clone(),
            advice,
        })
    }

    /// Prefetches until `go_on`, which is called at least every 2 MiB, returns false or the region is gone. Sleeps
    /// for as long as the pages take.
    ///
    /// # Errors
    ///
    /// That of the fault for a page that cannot be had; the PMDs before it are prefetched. [`FaultError::TimedOut`] if
    /// pages were unmapped as fast as they came in, [`FaultError::Interrupted`].
    fn prefetch(&self, by: By, go_on: impl Fn() -> bool) -> Result {
        let mut added = 0;
        let result = self.prefetch_counted(by, go_on, &mut added);
        self.region_stats
            .prefetch_ends(self.pages, self.advice, added, result);
        Ok(result?)
    }

    fn prefetch_counted(
        &self,
        by: By,
        go_on: impl Fn() -> bool,
        added: &mut u64,
    ) -> Result<(), FaultError> {
        let (mut rest, mut tries) = (self.pages, 0);
        while !rest.is_empty() && go_on() {
            let Some(region) = self.device.find(self.region_stats.number()) else {
                return Ok(());
            };
            let goes_on = || go_on() && !region.is_awaited();
            let (reached, result) = region.prefetch_at_once(rest, self.permitted, &goes_on, added);
            drop(region);
            tries = match reached > rest.start() {
                true => 0,
                false => tries + 1,
            };
            rest = PageRange::new(reached, rest.end());
            match (result, self.permitted) {
                (Ok(()), _) => {}
                (Err(FaultError::WouldWait), _) if tries > TRIES => {
                    return Err(FaultError::TimedOut)
                }
                (Err(FaultError::WouldWait), Some(permitted)) => {
                    let pages = rest.intersection(&pmd_range(rest.start()));
                    match by {
                        By::Job => self.owned.populate(pages, permitted)?,
                        By::Application => self.wait_for(Wanted { pages, permitted })?,
                    }
                }
                // Looking at resident pages is not worth sleeping for.
                (Err(FaultError::WouldWait), None) => return Ok(()),
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes a job bring `wanted` in, and waits for it. A fatal signal ends the wait.
    fn wait_for(&self, wanted: Wanted) -> Result<(), FaultError> {
        let done = Arc::pin_init(Done::new(), GFP_KERNEL).map_err(|_| FaultError::NoMemory)?;
        let ticket = Ticket::raise(
            &self.owned,
            &self.region_stats,
            wanted,
            Awaited::All,
            done.clone(),
        )
        .map_err(|_| FaultError::NoMemory)?;
        // From here on, deregistering the region or removing the device finds the fault and ends it.
        if self.device.find(self.region_stats.number()).is_none() {
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
struct Prefetch {
    targets: KVec<Target>,
    /// The number of the region that it has reached.
    at: AtomicU64,
}

impl Body for Prefetch {
    fn run(&self, go_on: &dyn Fn() -> bool) {
        for target in &self.targets {
            // Relaxed: a reader has hidden the region on its device first.
            self.at
                .store(target.region_stats.number(), Ordering::Relaxed);
            // Advice may fail: the request that needs the page will fault and get the error.
            let _ = target.prefetch(By::Job, go_on);
        }
    }

    /// All targets are in one protection domain, so of one process.
    fn is_orphaned(&self) -> bool {
        self.targets
            .first()
            .is_none_or(|target| target.owned.is_orphaned())
    }

    fn is_at(&self, region: u64) -> bool {
        self.at.load(Ordering::Relaxed) == region
    }

    fn is_awaited_on(&self, _device: &Stats) -> bool {
        false
    }
}

/// `ibv_advise_mr`: prefetches `ranges`, which `target` finds, at once or in the background.
///
/// # Errors
///
/// `EOPNOTSUPP` if there is no such advice; those of `target`; at once, that of the fault for a page that
/// cannot be had, and `EINTR`; in the background, `ENOMEM`.
pub fn advise<R>(
    advice: u32,
    flags: u32,
    ranges: &[R],
    target: impl Fn(&R, Advice) -> Result<Target>,
) -> Result {
    let advice = Advice::from_number(advice).ok_or_else(not_supported)?;
    let mut targets = ranges.iter().map(|range| target(range, advice));
    match flags & ADVISE_FLUSH {
        0 => later(&mut targets),
        _ => now(&mut targets),
    }
}

/// Prefetches `targets` one after the other, in the thread of the application.
fn now(targets: &mut dyn Iterator<Item = Result<Target>>) -> Result {
    // SAFETY: Reads the state of the current task.
    let killed = || unsafe { shim::mlx_odp_shim_fatal_signal_pending() };
    for target in targets {
        target?.prefetch(By::Application, || !killed())?;
        if killed() {
            return Err(EINTR);
        }
    }
    Ok(())
}

/// Prefetches `targets` in the background. It is advice: nothing is done if the user that registered the first of
/// them has too many background prefetches already.
fn later(targets: &mut dyn Iterator<Item = Result<Target>>) -> Result {
    let mut found = KVec::with_capacity(targets.size_hint().0, GFP_KERNEL_ACCOUNT)?;
    for target in targets {
        found.push(target?, GFP_KERNEL_ACCOUNT)?;
    }
    let Some(first) = found.first() else {
        return Ok(());
    };
    let user = first.owned.credentials().accountable_user();
    let prefetch = Prefetch {
        targets: found,
        at: AtomicU64::new(u64::MAX),
    };
    let prefetch = Arc::new(prefetch, GFP_KERNEL_ACCOUNT)?;
    Job::submit(user, Kind::Prefetch, prefetch).map(drop)
}
