// SPDX-License-Identifier: GPL-2.0

//! Announces each message to its region: rxe's responder knows the length before it copies the first packet.

use kernel::ffi::c_int;

use crate::mr::region_of;
use crate::rxe;

/// Replaces `mr_check_range` in `rxe_resp.c`, where the responder checks the rest of a message, from this packet on,
/// right before it copies the packet.
///
/// # Safety
///
/// Called by rxe with a reference to `mr` held.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_check_message(
    mr: *mut rxe::rxe_mr,
    iova: u64,
    length: usize,
) -> c_int {
    // SAFETY: What rxe would have called.
    let result = unsafe { rxe::mr_check_range(mr, iova, length) };
    if result == 0 {
        // SAFETY: The reference is held for as long as this call lasts.
        if let Some(region) = unsafe { region_of(mr) } {
            region.announce(iova, length as u64);
        }
    }
    result
}
