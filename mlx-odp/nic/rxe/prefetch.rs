// SPDX-License-Identifier: GPL-2.0

//! `ibv_advise_mr`: prefetch, at once or in the background, as long as the region is registered.
//!
//! The region is looked up here, by key and domain. A prefetch keeps no reference to rxe's MR
//! ([`mlx_odp::advise`]).

use kernel::ffi::{c_int, c_uint, c_void};
use kernel::prelude::*;

use mlx_odp::{advise, errno, Advice, Target, ADVISE_FLUSH};

use crate::mr::{find_local, region_of};
use crate::rxe;

const _: () = assert!(ADVISE_FLUSH == rxe::ib_uverbs_advise_mr_flag_IB_UVERBS_ADVISE_MR_FLAG_FLUSH);

/// Finds the range of a region that an element of the scatter-gather list names.
///
/// # Errors
///
/// `ENOENT` if there is no region with that key in `pd`, `EINVAL` if its memory is pinned; those of
/// [`Target::new`].
///
/// # Safety
///
/// `pd` is valid.
unsafe fn target(pd: *mut rxe::rxe_pd, sge: &rxe::ib_sge, advice: Advice) -> Result<Target> {
    // SAFETY: `pd` is valid.
    let mr = unsafe { find_local(pd, 0, sge.lkey) }.ok_or(ENOENT)?;
    // SAFETY: The reference is held for as long as `region` is used.
    let region = unsafe { region_of(mr.as_ptr()) }.ok_or(EINVAL)?;
    Target::new(region, sge.addr, u64::from(sge.length), advice)
}

/// `ibv_advise_mr`.
///
/// # Safety
///
/// Called by the RDMA core: `pd` is one of rxe's, `sges` points to `count` elements.
#[no_mangle]
unsafe extern "C" fn rxe_ib_advise_mr(
    pd: *mut rxe::ib_pd,
    advice: c_uint,
    flags: u32,
    sges: *mut rxe::ib_sge,
    count: u32,
    _attrs: *mut c_void,
) -> c_int {
    // SAFETY: rxe's `struct rxe_pd` contains its `ibpd`.
    let pd = unsafe { kernel::container_of!(pd, rxe::rxe_pd, ibpd) };
    // SAFETY: By the contract.
    let sges = unsafe { core::slice::from_raw_parts(sges, count as usize) };
    errno(advise(advice, flags, sges, |sge, advice| {
        // SAFETY: `pd` is valid.
        unsafe { target(pd, sge, advice) }
    }))
}
