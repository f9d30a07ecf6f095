// SPDX-License-Identifier: GPL-2.0

//! The counters of a port: rxe's own, followed by ours over all regions of the device.
//!
//! The RDMA core shows them as `rdma statistic show link` and in sysfs, as files of `hw_counters`.
//!
//! It stays here: the counters before ours are rxe's, and the core's structures are those of rxe's bindings; mlx5_ib
//! has counters of its own.

use core::ptr::NonNull;

use kernel::ffi::c_int;
use kernel::prelude::*;

use mlx_odp::Stats;

use crate::rxe;

/// How long the core caches the counters that it has read, in milliseconds.
const LIFESPAN: usize = rxe::RDMA_HW_STATS_DEFAULT_LIFESPAN as usize;

/// The number of rxe's counters.
const THEIRS: usize = rxe::rxe_counters_RXE_NUM_OF_COUNTERS as usize;

/// The names of a port's counters, in order.
pub(crate) struct Counters {
    descriptors: KVec<rxe::rdma_stat_desc>,
}

// SAFETY: The pointers in the descriptors are to names, which are constants.
unsafe impl Send for Counters {}
// SAFETY: As above; nothing changes the descriptors.
unsafe impl Sync for Counters {}

impl Counters {
    /// Collects those of `ibdev`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `ibdev` is one of rxe's.
    pub(crate) unsafe fn new(ibdev: *mut rxe::ib_device) -> Result<Self> {
        const FIRST_PORT: u32 = 1;
        let ours = Stats::default().entries();
        let mut descriptors = KVec::with_capacity(THEIRS + ours.len(), GFP_KERNEL)?;
        // SAFETY: By the contract.
        let theirs = unsafe { rxe::rxe_ib_alloc_hw_port_stats(ibdev, FIRST_PORT) };
        let theirs = NonNull::new(theirs).ok_or(ENOMEM)?;
        // SAFETY: It was just made, with that many constant descriptors. They outlive it.
        let copied = unsafe {
            let all = core::slice::from_raw_parts(theirs.as_ref().descs, THEIRS);
            let copied = descriptors.extend_from_slice(all, GFP_KERNEL);
            rxe::rdma_free_hw_stats_struct(theirs.as_ptr());
            copied
        };
        copied?;
        for entry in ours {
            let descriptor = rxe::rdma_stat_desc {
                name: entry.device_name().as_char_ptr(),
                ..Default::default()
            };
            descriptors.push(descriptor, GFP_KERNEL)?;
        }
        Ok(Self { descriptors })
    }

    /// Allocates the structure for the values, which refers to `self`; null if there is no memory.
    pub(crate) fn allocate(&self) -> *mut rxe::rdma_hw_stats {
        let (descriptors, count) = (self.descriptors.as_ptr(), self.descriptors.len() as c_int);
        // SAFETY: There are so many descriptors, and they live until `dealloc_driver`.
        unsafe { rxe::rdma_alloc_hw_stats_struct(descriptors, count, LIFESPAN) }
    }

    /// Reads all values of `port` into `stats`; returns their number or a negative errno.
    ///
    /// # Safety
    ///
    /// `stats` is from [`Counters::allocate`] for `ibdev`, and nothing else uses its values meanwhile.
    pub(crate) unsafe fn read(
        ours: &Stats,
        ibdev: *mut rxe::ib_device,
        stats: *mut rxe::rdma_hw_stats,
        port: u32,
        index: c_int,
    ) -> c_int {
        // SAFETY: By the contract; rxe writes its own counters, which are the first.
        let theirs = unsafe { rxe::rxe_ib_get_hw_stats(ibdev, stats, port, index) };
        let Ok(count) = usize::try_from(theirs) else {
            return theirs;
        };
        let ours = ours.entries();
        // SAFETY: `allocate` made room for rxe's values and for ours.
        let values = unsafe {
            let first = (&raw mut (*stats).value).cast::<u64>();
            core::slice::from_raw_parts_mut(first, THEIRS + ours.len())
        };
        for (value, entry) in values.iter_mut().skip(count).zip(&ours) {
            *value = entry.value;
        }
        (count + ours.len()) as c_int
    }
}
