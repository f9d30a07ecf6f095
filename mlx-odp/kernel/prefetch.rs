// SPDX-License-Identifier: GPL-2.0

//! Prefetches: at once, by the thread that asks for it, or in the background, by a job.
//!
//! A prefetch goes from unit to unit and holds the region for one at a time, in which it waits for nobody. What
//! it has to wait for it waits for without the region, as a fault does ([`hmm::populate`]); afterwards it looks
//! for the region anew. So a region can be deregistered at any time.

use core::sync::atomic::{AtomicU64, Ordering};

use hmm::addr::PageRange;
use hmm::table::unit_around;
use hmm::walk::FaultError;

use kernel::prelude::*;
use kernel::sync::Arc;

use crate::advice::Advice;
use crate::fault::AccessError;
use crate::job::{Body, Job};
use crate::observer::Counting;
use crate::region::Region;

/// How often a unit may have gone again when it was there, before the prefetch gives up.
const TRIES: u32 = 16;

/// Pages of a region that are to be prefetched.
pub struct Target {
    counting: Arc<Counting>,
    pages: PageRange,
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
        })
    }

    /// Prefetches for as long as `go_on` says so, which is asked after every 2 MiB at most, and the region is
    /// there. Sleeps, and waits for whoever has to bring the pages.
    ///
    /// # Errors
    ///
    /// A fault error for a page that cannot be had, with the units of 2 MiB before it prefetched;
    /// [`FaultError::TimedOut`] if pages went as fast as they came, [`FaultError::Interrupted`].
    pub fn prefetch(&self, advice: Advice, go_on: impl Fn() -> bool) -> Result<(), AccessError> {
        let mut added = 0;
        let result = self.prefetch_counted(advice, go_on, &mut added);
        self.counting
            .prefetch_ends(self.pages, advice, added, result);
        result.map_err(AccessError::Fault)
    }

    fn prefetch_counted(
        &self,
        advice: Advice,
        go_on: impl Fn() -> bool,
        added: &mut u64,
    ) -> Result<(), FaultError> {
        let (mut rest, mut tries) = (self.pages, 0);
        while !rest.is_empty() && go_on() {
            let Some(region) = self.counting.device().find(self.counting.number()) else {
                return Ok(());
            };
            let owned = region.owned().clone();
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
                    let unit = rest.intersection(&unit_around(rest.start()));
                    owned.populate(unit, access)?;
                }
                // What is resident and cannot be looked at now is not worth waiting for.
                (Err(FaultError::WouldWait), None) => return Ok(()),
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
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
            let _ = target.prefetch(self.advice, &go_on);
        }
    }

    /// Whether it is at this region now.
    pub(crate) fn is_at(&self, region: u64) -> bool {
        self.at.load(Ordering::Relaxed) == region
    }
}

/// Prefetches `targets` in the background, if `user` has not too many prefetches there already: it is advice.
///
/// # Errors
///
/// `ENOMEM`.
pub fn later(targets: KVec<Target>, advice: Advice, user: u32) -> Result {
    let prefetch = Prefetch {
        targets,
        advice,
        at: AtomicU64::new(u64::MAX),
    };
    Job::submit(user, Body::Prefetch(prefetch)).map(drop)
}
