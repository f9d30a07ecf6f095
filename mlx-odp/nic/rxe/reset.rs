// SPDX-License-Identifier: GPL-2.0

//! Queue pairs that are used again after a failure: the state that they begin in.
//!
//! An application that has seen a request fail may put its queue pair into the reset state and connect it
//! anew. With pinned memory that is rare; with memory that is faulted in on demand, an address without
//! memory behind it is an everyday error. Two things of the old life stay with rxe's queue pair:
//!
//! * that a READ was only partly answered. The first answer in the new life does not fit that, and the
//!   completer completes its request, without looking further, as if it had been done (and warns);
//! * the error state. The completer reports the failed request first and sets that state then, so an
//!   application that is quick resets the queue pair in between, and cannot connect it afterwards.

use crate::{parked, rxe};

/// Takes the place of `rxe_enable_task` in `rxe_qp.c`, where a reset ends with letting the tasks of the
/// queue pair run again: the one that sends comes last, and is enabled nowhere else.
///
/// # Safety
///
/// Called by rxe with a task of a valid queue pair that it has disabled.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_enable_task(task: *mut rxe::rxe_task) {
    // SAFETY: The task is valid, and so is its queue pair. Requester and completer, whose state this is,
    // run in the task that sends, which is disabled; the other one was enabled just before, and the responder of a
    // queue pair in the reset state does nothing.
    unsafe {
        let qp = (*task).qp;
        if task == &raw mut (*qp).send_task {
            // No answer has come yet, and nothing is waited for.
            (*qp).comp.opcode = -1;
            parked::forget(qp);
            rxe::rxe_shim_set_reset_state(qp);
        }
        rxe::rxe_enable_task(task);
    }
}
