// SPDX-License-Identifier: GPL-2.0

//! Work requests that are for the kernel's own users of a device.
//!
//! One of them registers memory, and names the region by a pointer. From the kernel's users, storage over
//! RDMA for instance, that is as good as any argument. An application's send queue, however, is memory that
//! the application writes as it likes, and rxe does not ask whose queue it is before it follows the pointer.

use kernel::ffi::c_int;
use kernel::prelude::*;

use crate::rxe;

/// Takes the place of `rxe_reg_fast_mr` in `rxe_req.c`: an application's request is refused.
///
/// # Safety
///
/// Called by rxe's requester with its queue pair and a request in its send queue.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_register_by_pointer(
    qp: *mut rxe::rxe_qp,
    wqe: *mut rxe::rxe_send_wqe,
) -> c_int {
    // SAFETY: The queue pair is valid, and it never changes whose it is.
    if unsafe { (*qp).is_user } {
        return EINVAL.to_errno();
    }
    // SAFETY: The arguments are passed on.
    unsafe { rxe::rxe_reg_fast_mr(qp, wqe) }
}
