// SPDX-License-Identifier: GPL-2.0

//! Work requests that only kernel users of a device may make.
//!
//! `IB_WR_REG_MR` names its region by a pointer. That is fine for kernel users such as storage over RDMA. An
//! application's send queue, however, is memory that the application can write, and rxe follows the pointer without
//! checking whose queue it is.

use kernel::ffi::c_int;
use kernel::prelude::*;

use crate::rxe;

/// Replaces `rxe_reg_fast_mr` in `rxe_req.c`: refuses the request of an application.
///
/// # Safety
///
/// Called by rxe's requester with its queue pair and a WQE of its send queue.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_register_by_pointer(
    qp: *mut rxe::rxe_qp,
    wqe: *mut rxe::rxe_send_wqe,
) -> c_int {
    // SAFETY: The queue pair is valid, and this field never changes.
    if unsafe { (*qp).is_user } {
        return EINVAL.to_errno();
    }
    // SAFETY: The arguments are passed on.
    unsafe { rxe::rxe_reg_fast_mr(qp, wqe) }
}
