// SPDX-License-Identifier: GPL-2.0

//! `ibv_advise_mr`: prefetch, at once or in the background, as long as the region is registered.
//!
//! The region is looked up here, by key and domain, and put before the prefetch waits for anything
//! ([`mlx_odp::advise`]).

use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;

use mlx_odp::{advise, errno, Advice, Target, ADVISE_FLUSH};

use crate::keys::{HeldRegion, Mkey};
use crate::mlx5;

const _: () =
    assert!(ADVISE_FLUSH == mlx5::ib_uverbs_advise_mr_flag_IB_UVERBS_ADVISE_MR_FLAG_FLUSH);

/// Finds the range of a region that an element of the scatter-gather list names.
///
/// # Errors
///
/// `ENOENT` if there is no ODP region with that key, `EINVAL` if the key is of another kind, `EPERM` if the region is
/// of another protection domain; those of [`Target::new`].
///
/// # Safety
///
/// `pd` is valid, and `dev` its device.
unsafe fn target(
    dev: *mut mlx5::mlx5_ib_dev,
    pd: *mut mlx5::ib_pd,
    sge: &mlx5::ib_sge,
    advice: Advice,
) -> Result<Target> {
    // SAFETY: By the contract.
    let key = unsafe { Mkey::find(dev, sge.lkey) };
    let key = key.ok().flatten().ok_or(ENOENT)?;
    let mr = key.mr().ok_or(EINVAL)?;
    let held = HeldRegion::new(key).map_err(|_| EINVAL)?;
    // SAFETY: Held.
    if unsafe { mlx5::mlx5_odp_shim_pd(mr) } != pd {
        return Err(EPERM);
    }
    let region = held.region().ok_or(EINVAL)?;
    Target::new(region, sge.addr, u64::from(sge.length), advice)
}

/// `ibv_advise_mr`.
///
/// # Safety
///
/// Called by mr.c: `pd` is one of mlx5's, `sges` points to `count` elements; `current` is the application.
#[no_mangle]
unsafe extern "C" fn mlx5_ib_advise_mr_prefetch(
    pd: *mut mlx5::ib_pd,
    advice: c_uint,
    flags: u32,
    sges: *mut mlx5::ib_sge,
    count: u32,
) -> c_int {
    // SAFETY: By the contract.
    let (dev, sges) = unsafe {
        let sges = core::slice::from_raw_parts(sges, count as usize);
        (mlx5::mlx5_odp_shim_dev_of(pd), sges)
    };
    errno(advise(advice, flags, sges, |sge, advice| {
        // SAFETY: `pd` is valid.
        unsafe { target(dev, pd, sge, advice) }
    }))
}
