// SPDX-License-Identifier: GPL-2.0

//! `rdma statistic show mr`: the counters of a region. Any user may read them, so they contain no address and no key.

use kernel::prelude::*;

use mlx_odp::Entry;

use crate::mlx5;
use crate::umem::region_of;

/// Adds the counters of a region to `msg`. Returns whether there was room.
///
/// # Safety
///
/// Called by `shim.c`: `msg` is a message that is being built, `mr` is referenced.
#[no_mangle]
unsafe extern "C" fn mlx_odp_mlx5_put_counters(
    msg: *mut mlx5::sk_buff,
    mr: *mut mlx5::mlx5_ib_mr,
) -> bool {
    // SAFETY: By the contract.
    let Some(region) = (unsafe { region_of(mr) }) else {
        return true;
    };
    let put = |entry: &Entry| {
        // SAFETY: By the contract; the name is a constant.
        unsafe { mlx5::mlx5_odp_shim_put_counter(msg, entry.name().as_char_ptr(), entry.value) }
    };
    region.stats().entries().iter().all(put)
}
