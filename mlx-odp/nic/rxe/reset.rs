// SPDX-License-Identifier: GPL-2.0

//! Reset of a queue pair after a failure.
//!
//! When a request has failed, an application may reset its queue pair and connect it again. That is rare with
//! pinned memory. With on-demand paging an unmapped address is an ordinary error. rxe's reset leaves three
//! things:
//!
//! * the state of a READ that was partly answered. The first response after the reset does not fit it, so the
//!   completer warns, and completes the request as if it had been done;
//! * the error state. The completer reports the failed request before it sets that state, so a quick application
//!   resets the queue pair in between, and cannot connect it afterwards;
//! * the index of the requester. It is set to the oldest request before those that are under way are dropped, so it is
//!   too small by as many, and the requester sends what is there: WRITEs of no bytes.

use kernel::ffi::c_int;

use crate::{parked, rxe};

/// Replaces `rxe_enable_task` in `rxe_qp.c`, where a reset ends with enabling the tasks of the queue pair. The
/// sending task is the last, and is enabled nowhere else; the other one also where a change of attributes ends
/// (`attributes.rs`).
///
/// # Safety
///
/// Called by rxe with a task of a valid queue pair that it has disabled. No other thread changes the queue pair
/// (`attributes.rs`).
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_enable_task(task: *mut rxe::rxe_task) {
    // SAFETY: The task is valid, and so is its queue pair. This is state of requester and completer, which run in
    // the sending task, and that is disabled until it is enabled here. The other task was enabled just before, but the
    // responder does nothing while the queue pair is in the reset state.
    unsafe {
        let qp = (*task).qp;
        if task == &raw mut (*qp).send_task {
            // No response has come yet, nothing is under way, and nothing is parked.
            (*qp).comp.opcode = -1;
            (*qp).req.wqe_index = rxe::rxe_shim_oldest_send_index(qp) as c_int;
            (*qp).req.wait_fence = 0;
            parked::forget(qp);
            rxe::rxe_shim_set_reset_state(qp);
        }
        rxe::rxe_enable_task(task);
    }
}
