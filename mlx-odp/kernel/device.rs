// SPDX-License-Identifier: GPL-2.0

//! Devices: what the regions of one NIC have in common.

use core::fmt;

use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::sync::{new_mutex, Arc, Mutex};

use crate::observer::Counting;
use crate::stats::Stats;

/// A NIC. Its binding holds it for as long as the NIC can be used, and each region of it, too.
#[pin_data]
pub struct Device {
    stats: Stats,
    /// Its regions, for debugfs, in the order of their registration.
    #[pin]
    regions: Mutex<Regions>,
}

#[derive(Default)]
struct Regions {
    all: RBTree<u64, Arc<Counting>>,
    /// How many there have been.
    registered: u64,
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

    /// The counters over all regions that the device has or had.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Calls `visit` for each region, the oldest first, until it fails. Sleeps; no region comes or goes
    /// meanwhile.
    pub(crate) fn each_region(
        &self,
        mut visit: impl FnMut(&Counting) -> fmt::Result,
    ) -> fmt::Result {
        let regions = self.regions.lock();
        for region in regions.all.values() {
            visit(region)?;
        }
        Ok(())
    }
}

/// A region among those of its device, for as long as this lives.
pub(crate) struct Listed {
    device: Arc<Device>,
    number: u64,
}

impl Listed {
    /// Adds `region` to `device`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(device: &Arc<Device>, region: Arc<Counting>) -> Result<Self> {
        let mut regions = device.regions.lock();
        let number = regions.registered;
        regions
            .all
            .try_create_and_insert(number, region, GFP_KERNEL)?;
        regions.registered += 1;
        Ok(Self {
            device: device.clone(),
            number,
        })
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let removed = self.device.regions.lock().all.remove(&self.number);
        // Without the lock: it may be the last reference.
        drop(removed);
    }
}
