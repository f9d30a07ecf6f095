// SPDX-License-Identifier: GPL-2.0

//! Devices: the regions and the counters of one NIC.

use core::fmt;
use core::ops::Deref;

use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{new_mutex, Arc, Mutex};

use crate::job::{self, Body};
use crate::observer::Counting;
use crate::region::Region;
use crate::stats::Stats;

/// A NIC. The binding holds a reference for as long as the NIC can be used, and so does each region.
#[pin_data]
pub struct Device {
    stats: Stats,
    #[pin]
    regions: Mutex<Regions>,
}

/// The regions of a device.
#[derive(Default)]
struct Regions {
    /// By number, which is the order of registration.
    by_number: RBTree<u64, Arc<Region>>,
    /// The device is being removed: no region is found any more.
    removed: bool,
}

impl Device {
    /// A device without regions.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                stats: Stats::default(),
                regions <- new_mutex!(Regions::default()),
            }),
            GFP_KERNEL,
        )
    }

    /// The counters of all regions that the device has or had.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Calls `visit` for each region, the oldest first, until it fails. Sleeps; no region is registered or
    /// deregistered meanwhile.
    pub(crate) fn each_region(
        &self,
        mut visit: impl FnMut(&Counting) -> fmt::Result,
    ) -> fmt::Result {
        let regions = self.regions.lock();
        for region in regions.by_number.values() {
            visit(region.counting())?;
        }
        Ok(())
    }

    /// The region with this number; `None` if it is not registered, or if the device is being removed.
    pub(crate) fn find(&self, number: u64) -> Option<Arc<Region>> {
        let regions = self.regions.lock();
        match regions.removed {
            true => None,
            false => regions.by_number.get(&number).cloned(),
        }
    }

    /// The device is being removed: ends prefetches, including those that an application waits for in a system
    /// call. The binding calls this before the RDMA core waits for these calls. Sleeps.
    pub fn remove(&self) {
        self.regions.lock().removed = true;
        job::each(|job| {
            if matches!(job.body(), Body::Fault(fault) if fault.is_awaited_on(self)) {
                job.abandon();
            }
        });
    }
}

/// A region that is registered with its device. Dropping it deregisters the region.
pub struct Registered(Arc<Region>);

impl Registered {
    /// Registers `region`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(region: Region) -> Result<Self> {
        let region = Arc::new(region, GFP_KERNEL_ACCOUNT)?;
        let node = RBTreeNode::new(region.number(), region.clone(), GFP_KERNEL_ACCOUNT)?;
        region.device().regions.lock().by_number.insert(node);
        Ok(Self(region))
    }
}

impl Deref for Registered {
    type Target = Region;

    #[inline]
    fn deref(&self) -> &Region {
        &self.0
    }
}

impl Drop for Registered {
    /// The region is not found any more, and the jobs that wait for its pages are given up: parked requests are
    /// resumed, look up the region and fail; prefetches end. Accesses under way do not sleep for a page, so they end
    /// soon.
    fn drop(&mut self) {
        let number = self.0.number();
        let removed = self.0.device().regions.lock().by_number.remove(&number);
        drop(removed);
        job::each_of(self.0.owned().credentials().accountable_user(), |job| {
            let is_of_region = match job.body() {
                Body::Fault(fault) => fault.is_of(number),
                Body::Prefetch(prefetch) => prefetch.is_at(number),
            };
            if is_of_region {
                job.abandon();
            }
        });
    }
}
