// SPDX-License-Identifier: GPL-2.0

//! Devices: what the regions of one NIC have in common.

use kernel::prelude::*;
use kernel::sync::Arc;

use crate::stats::Stats;

/// A NIC. Its binding holds it for as long as the NIC can be used, and each region of it, too.
#[derive(Default)]
pub struct Device {
    stats: Stats,
}

impl Device {
    /// A device without regions.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Self::default(), GFP_KERNEL)?)
    }

    /// The counters over all regions that the device has or had.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}
