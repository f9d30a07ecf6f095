// SPDX-License-Identifier: GPL-2.0

//! Netlink attributes of a region: `rdma statistic show mr`, `rdma resource show mr -dd`.
//!
//! Any user may read both, so they contain no address and no key.

use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;

use mlx_odp::key::KeyKind;
use mlx_odp::region::Region;
use mlx_odp::stats::Entry;

use crate::mr::region_of;
use crate::rxe;

/// Adds the counters of a region to `msg`.
///
/// # Safety
///
/// Called by the RDMA core: `msg` is a message being built, `ibmr` is one of rxe's and referenced.
pub(crate) unsafe extern "C" fn fill_stat_mr_entry(
    msg: *mut rxe::sk_buff,
    ibmr: *mut rxe::ib_mr,
) -> c_int {
    const COUNTERS: c_uint = rxe::rdma_nldev_attr_RDMA_NLDEV_ATTR_STAT_HWCOUNTERS;
    // SAFETY: By the contract.
    unsafe {
        fill(msg, ibmr, COUNTERS, |region| {
            let put = |entry: &Entry| {
                rxe::rdma_nl_stat_hwcounter_entry(msg, entry.name().as_char_ptr(), entry.value)
            };
            region.stats().entries().iter().all(|entry| put(entry) == 0)
        })
    }
}

/// Adds the kind of a region to `msg`.
///
/// # Safety
///
/// As for [`fill_stat_mr_entry`].
pub(crate) unsafe extern "C" fn fill_res_mr_entry(
    msg: *mut rxe::sk_buff,
    ibmr: *mut rxe::ib_mr,
) -> c_int {
    const DRIVER: c_uint = rxe::rdma_nldev_attr_RDMA_NLDEV_ATTR_DRIVER;
    // SAFETY: By the contract; the names and the string are constants.
    unsafe {
        fill(msg, ibmr, DRIVER, |region| {
            let kind = match region.kind() {
                KeyKind::Explicit => c"explicit",
                KeyKind::Implicit => c"implicit",
            };
            rxe::rdma_nl_put_driver_string(msg, c"odp".as_char_ptr(), kind.as_char_ptr()) == 0
        })
    }
}

/// Has `put` add to `msg`, nested in `attribute`; adds nothing for pinned memory. `put` returns whether there was
/// room. Returns 0 or `-EMSGSIZE`.
///
/// # Safety
///
/// As for [`fill_stat_mr_entry`].
unsafe fn fill(
    msg: *mut rxe::sk_buff,
    ibmr: *mut rxe::ib_mr,
    attribute: c_uint,
    put: impl FnOnce(&Region) -> bool,
) -> c_int {
    // SAFETY: rxe's MRs contain their `ib_mr`.
    let mr = unsafe { kernel::container_of!(ibmr, rxe::rxe_mr, ibmr) };
    // SAFETY: The core holds `ibmr` for this call.
    let Some(region) = (unsafe { region_of(mr) }) else {
        return 0;
    };
    // SAFETY: `msg` is valid.
    let nest = unsafe { rxe::rxe_shim_begin_nest(msg, attribute as c_int) };
    if nest.is_null() {
        return EMSGSIZE.to_errno();
    }
    if !put(region) {
        // SAFETY: Undoes what was begun above.
        unsafe { rxe::rxe_shim_cancel_nest(msg, nest) };
        return EMSGSIZE.to_errno();
    }
    // SAFETY: Begun above.
    unsafe { rxe::rxe_shim_end_nest(msg, nest) };
    0
}
