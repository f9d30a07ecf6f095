// SPDX-License-Identifier: GPL-2.0

//! `ibv_advise_mr`: prefetch, at once or in the background, as long as the region is registered.
//!
//! The region is looked up here, by key and domain. A prefetch keeps no reference to rxe's MR
//! ([`mlx_odp::prefetch`]).

use kernel::ffi::{c_int, c_uint, c_void};
use kernel::prelude::*;

use mlx_odp::advice::Advice;
use mlx_odp::prefetch::{later, By, Target};
use mlx_odp::region::AccessError;

use crate::errno::{errno, not_supported};
use crate::mr::region_of;
use crate::pool::Ref;
use crate::rxe;

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
    let local = rxe::rxe_mr_lookup_type_RXE_LOOKUP_LOCAL;
    // SAFETY: `pd` is valid. Returns null or an MR with a reference for us.
    let mr = unsafe { Ref::<rxe::rxe_mr>::from_raw(rxe::lookup_mr(pd, 0, sge.lkey, local)) };
    let mr = mr.ok_or(ENOENT)?;
    // SAFETY: The reference is held for as long as `region` is used.
    let region = unsafe { region_of(mr.as_ptr()) }.ok_or(EINVAL)?;
    Target::new(region, sge.addr, u64::from(sge.length), advice).map_err(prefetch_error)
}

/// The errno of ibv_advise_mr(3), where a range outside of the region is `EFAULT`, too.
fn prefetch_error(error: AccessError) -> Error {
    match error {
        AccessError::OutOfRange => EFAULT,
        fault => fault.into(),
    }
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
    let Some(advice) = Advice::from_number(advice) else {
        return not_supported().to_errno();
    };
    // SAFETY: rxe's `struct rxe_pd` contains its `ibpd`.
    let pd = unsafe { kernel::container_of!(pd, rxe::rxe_pd, ibpd) };
    // SAFETY: By the contract.
    let sges = unsafe { core::slice::from_raw_parts(sges, count as usize) };
    let now = flags & rxe::ib_uverbs_advise_mr_flag_IB_UVERBS_ADVISE_MR_FLAG_FLUSH != 0;
    // SAFETY: `pd` is valid.
    errno(unsafe {
        if now {
            prefetch_now(pd, sges, advice)
        } else {
            prefetch_later(pd, sges, advice)
        }
    })
}

/// # Safety
///
/// `pd` is valid.
unsafe fn prefetch_now(pd: *mut rxe::rxe_pd, sges: &[rxe::ib_sge], advice: Advice) -> Result {
    // SAFETY: Reads the state of the current task.
    let killed = || unsafe { rxe::rxe_shim_fatal_signal_pending() };
    for sge in sges {
        // SAFETY: `pd` is valid.
        let target = unsafe { target(pd, sge, advice)? };
        target
            .prefetch(By::Application, advice, || !killed())
            .map_err(prefetch_error)?;
        if killed() {
            return Err(EINTR);
        }
    }
    Ok(())
}

/// # Safety
///
/// `pd` is valid.
unsafe fn prefetch_later(pd: *mut rxe::rxe_pd, sges: &[rxe::ib_sge], advice: Advice) -> Result {
    let mut targets = KVec::with_capacity(sges.len(), GFP_KERNEL_ACCOUNT)?;
    for sge in sges {
        // SAFETY: `pd` is valid.
        targets.push(unsafe { target(pd, sge, advice)? }, GFP_KERNEL_ACCOUNT)?;
    }
    later(targets, advice)
}
