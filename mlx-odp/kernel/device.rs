// SPDX-License-Identifier: GPL-2.0

//! Devices: the regions and the counters of one NIC.

use core::fmt;
use core::ops::Deref;

use hmm::{FaultError, Owned, PageIndex, PageRange, Permitted};

use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{new_condvar, new_mutex, Arc, CondVar, Mutex};
use kernel::task::Pid;

use crate::job;
use crate::key::Key;
use crate::observer::RegionStats;
use crate::stats::Stats;

/// A NIC. The binding holds a reference for as long as the NIC can be used, and so does each region.
#[pin_data]
pub struct Device {
    stats: Arc<Stats>,
    #[pin]
    regions: Mutex<Regions>,
    /// Signalled when a reference to a region that is being deregistered was dropped.
    #[pin]
    unused: CondVar,
}

/// A region, wherever its translations are.
pub(crate) trait AnyRegion: Send + Sync {
    /// Its number, counters and tracepoints.
    fn region_stats(&self) -> &Arc<RegionStats>;

    /// The address space and credentials that its pages are faulted in with.
    fn owned(&self) -> &Arc<Owned>;

    /// What it covers.
    fn key(&self) -> &Key;

    /// The process that registered it.
    fn pid(&self) -> Pid;

    /// Prefetches: faults in `pages` for the `permitted` access; with `None` maps only resident ones. Ends when a fault
    /// has to sleep, or `go_on`, which is called at least every 2 MiB, returns false. Returns the page that it has
    /// reached and why it stopped there; adds the number of new translations to `added`.
    fn prefetch_at_once(
        &self,
        pages: PageRange,
        permitted: Option<Permitted>,
        go_on: &dyn Fn() -> bool,
        added: &mut u64,
    ) -> (PageIndex, Result<(), FaultError>);
}

/// The regions of a device.
#[derive(Default)]
struct Regions {
    /// By number, which is the order of registration.
    by_number: RBTree<u64, Listed>,
    /// The device is being removed: no region is found any more.
    removed: bool,
}

struct Listed {
    region: Arc<dyn AnyRegion>,
    /// References to it ([`FoundRegion`]).
    users: usize,
    /// It is being deregistered, and is not found any more.
    going: bool,
}

/// A region that was found. Its deregistration waits until this is dropped: what a NIC has for a region may not outlive
/// its registration.
pub(crate) struct FoundRegion<'d> {
    device: &'d Device,
    number: u64,
    region: Arc<dyn AnyRegion>,
}

impl FoundRegion<'_> {
    /// Whether this is to be dropped soon: the region is being deregistered, or the device removed.
    pub(crate) fn is_awaited(&self) -> bool {
        let regions = self.device.regions.lock();
        let listed = regions.by_number.get(&self.number);
        regions.removed || listed.is_none_or(|listed| listed.going)
    }
}

impl Deref for FoundRegion<'_> {
    type Target = dyn AnyRegion;

    fn deref(&self) -> &(dyn AnyRegion + 'static) {
        &*self.region
    }
}

impl Drop for FoundRegion<'_> {
    fn drop(&mut self) {
        let mut regions = self.device.regions.lock();
        if let Some(listed) = regions.by_number.get_mut(&self.number) {
            listed.users -= 1;
            if listed.going {
                self.device.unused.notify_all();
            }
        }
    }
}

impl Device {
    /// A device without regions.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>> {
        let stats = Arc::new(Stats::default(), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                stats,
                regions <- new_mutex!(Regions::default()),
                unused <- new_condvar!(),
            }),
            GFP_KERNEL,
        )
    }

    /// The counters of all regions that the device has or had.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Calls `visit` for each region, the oldest first, until it fails. Sleeps; no region is registered or
    /// deregistered meanwhile.
    pub(crate) fn each_region(
        &self,
        mut visit: impl FnMut(&dyn AnyRegion) -> fmt::Result,
    ) -> fmt::Result {
        let regions = self.regions.lock();
        for listed in regions.by_number.values() {
            visit(&*listed.region)?;
        }
        Ok(())
    }

    /// The region with this number; `None` if it is not registered, or if the device is being removed.
    pub(crate) fn find(&self, number: u64) -> Option<FoundRegion<'_>> {
        let mut regions = self.regions.lock();
        if regions.removed {
            return None;
        }
        let listed = regions.by_number.get_mut(&number)?;
        if listed.going {
            return None;
        }
        listed.users += 1;
        Some(FoundRegion {
            device: self,
            number,
            region: listed.region.clone(),
        })
    }

    /// The device is being removed: ends prefetches, including those that an application waits for in a system
    /// call. The binding calls this before the RDMA core waits for these calls. Sleeps.
    pub fn remove(&self) {
        self.regions.lock().removed = true;
        job::each(|job| {
            if job.body().is_awaited_on(&self.stats) {
                job.abandon();
            }
        });
    }

    /// Adds a region, which is one of this device.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn register(&self, region: Arc<dyn AnyRegion>) -> Result {
        let number = region.region_stats().number();
        let listed = Listed {
            region,
            users: 0,
            going: false,
        };
        let node = RBTreeNode::new(number, listed, GFP_KERNEL_ACCOUNT)?;
        self.regions.lock().by_number.insert(node);
        Ok(())
    }

    /// Hides `region` and cancels the jobs that wait for its pages: parked requests are resumed, look up the region and
    /// fail; prefetches end. Accesses under way do not sleep for a page, so they end soon; a prefetch that is just
    /// bringing in pages is waited for, up to the end of its PMD.
    pub(crate) fn deregister(&self, region: &dyn AnyRegion) {
        let number = region.region_stats().number();
        if let Some(listed) = self.regions.lock().by_number.get_mut(&number) {
            listed.going = true;
        }
        job::each_of(region.owned().credentials().accountable_user(), |job| {
            if job.body().is_at(number) {
                job.abandon();
            }
        });
        let mut regions = self.regions.lock();
        let used = |regions: &Regions| {
            regions
                .by_number
                .get(&number)
                .is_some_and(|listed| listed.users > 0)
        };
        while used(&regions) {
            self.unused.wait(&mut regions);
        }
        let removed = regions.by_number.remove(&number);
        drop(regions);
        drop(removed);
    }
}
