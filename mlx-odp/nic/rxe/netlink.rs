// SPDX-License-Identifier: GPL-2.0

//! Netlink attributes of a region: `rdma statistic show mr`, `rdma resource show mr -dd`.
//!
//! Any user may read both, so they contain no address and no key.

use kernel::prelude::*;

use mlx_odp::{Entry, KeyKind};

use crate::mr::region_of;
use crate::region::RxeRegion;
use crate::rxe;

/// Adds the counters of a region to `msg`. Returns whether there was room.
///
/// # Safety
///
/// Called by `shim.c`: `msg` is a message that is being built, `ibmr` is one of rxe's and referenced.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_put_counters(
    msg: *mut rxe::sk_buff,
    ibmr: *mut rxe::ib_mr,
) -> bool {
    // SAFETY: By the contract.
    let Some(region) = (unsafe { region(ibmr) }) else {
        return true;
    };
    let put = |entry: &Entry| {
        // SAFETY: By the contract; the name is a constant.
        let error = unsafe {
            rxe::rdma_nl_stat_hwcounter_entry(msg, entry.name().as_char_ptr(), entry.value)
        };
        error == 0
    };
    region.stats().entries().iter().all(put)
}

/// Adds the kind of a region to `msg`. Returns whether there was room.
///
/// # Safety
///
/// As for [`mlx_odp_rxe_put_counters`].
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_put_kind(msg: *mut rxe::sk_buff, ibmr: *mut rxe::ib_mr) -> bool {
    // SAFETY: By the contract.
    let Some(region) = (unsafe { region(ibmr) }) else {
        return true;
    };
    let kind = match region.key().kind() {
        KeyKind::Explicit => c"explicit",
        KeyKind::Implicit => c"implicit",
    };
    // SAFETY: By the contract; the strings are constants.
    unsafe { rxe::rdma_nl_put_driver_string(msg, c"odp".as_char_ptr(), kind.as_char_ptr()) == 0 }
}

/// The region of `ibmr`; `None` if its memory is pinned.
///
/// # Safety
///
/// As for [`mlx_odp_rxe_put_counters`].
unsafe fn region<'a>(ibmr: *mut rxe::ib_mr) -> Option<&'a RxeRegion> {
    // SAFETY: rxe's MRs contain their `ib_mr`; the core holds it for this call.
    unsafe { region_of(kernel::container_of!(ibmr, rxe::rxe_mr, ibmr)) }
}
