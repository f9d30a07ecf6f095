// SPDX-License-Identifier: GPL-2.0

//! Reset of a queue pair after a failure.
//!
//! When a request has failed, an application may reset its queue pair and connect it again. That is rare with
//! pinned memory. With on-demand paging an unmapped address is an ordinary error. rxe's reset leaves two things:
//!
//! * the state of a READ that was partly answered. The first response after the reset does not fit it, so the
//!   completer warns, and completes the request as if it had been done;
//! * the error state. The completer reports the failed request before it sets that state, so a quick application
//!   resets the queue pair in between, and cannot connect it afterwards.

use crate::{parked, rxe};

/// Replaces `rxe_enable_task` in `rxe_qp.c`, where a reset ends with enabling the tasks of the queue pair. The
/// sending task is the last, and is enabled nowhere else.
///
/// # Safety
///
/// Called by rxe with a task of a valid queue pair that it has disabled.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_enable_task(task: *mut rxe::rxe_task) {
    // SAFETY: The task is valid, and so is its queue pair. This is state of requester and completer, which run in
    // the sending task, and that is disabled. The other task was enabled just before, but the responder does nothing
    // while the queue pair is in the reset state.
    unsafe {
        let qp = (*task).qp;
        if task == &raw mut (*qp).send_task {
            // No response has come yet, and nothing is parked.
            (*qp).comp.opcode = -1;
            parked::forget(qp);
            rxe::rxe_shim_set_reset_state(qp);
        }
        rxe::rxe_enable_task(task);
    }
}
