// SPDX-License-Identifier: GPL-2.0

//! Parked completers: a page for the response is being brought in.
//!
//! The response to a READ is treated as if the network had lost it: its data is dropped, the completer stays where it
//! was ([`Answer`]), and when the page is present, the requester asks for the rest again. So does a ConnectX. Until
//! then all responses are dropped, and no timeout counts: the peer has done its part.
//!
//! An atomic cannot be repeated that cheaply, and rxe's completer has no way out between writing the result and
//! completing the request. So the result is written before, when the response is the next in the queue. The
//! completer sees the response only once that has succeeded or failed for good.

use kernel::ffi::{c_int, c_void};

use crate::copy::mlx_odp_rxe_copy;
use crate::device::parked_of;
use crate::parked;
use crate::pool::in_pool;
use crate::queue_pair::{Answer, Engine};
use crate::rxe;
use crate::send_queue::mlx_odp_rxe_sender;

const ATOMIC: usize = size_of::<u64>();
const LOCAL_WRITE: c_int = rxe::ib_access_flags_IB_ACCESS_LOCAL_WRITE as c_int;

/// Called when rxe's completer failed with `error` to copy a response to the memory of its request. Returns the result
/// for the completer.
///
/// # Safety
///
/// Called by rxe's completer with the `dma` of a WQE in its send queue.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_answer_failed(dma: *mut rxe::rxe_dma_info, error: c_int) -> c_int {
    // SAFETY: It is the completer that runs here, in a task.
    unsafe {
        let task = rxe::rxe_shim_current_task();
        if task.is_null() {
            return error;
        }
        let qp = (*task).qp;
        if !parked::stopped(qp, Engine::Completer) {
            return error;
        }
        // An atomic comes here if its result could not be written before, and ends its request in any case.
        let wqe = kernel::container_of!(dma, rxe::rxe_send_wqe, dma);
        if rxe::rxe_shim_is_atomic(wqe) || (*dma).resid == 0 {
            return error;
        }
        let answer = Answer {
            psn: (*qp).comp.psn,
            opcode: (*qp).comp.opcode,
        };
        let parked = parked_of((*qp).ibqp.device);
        parked.with(qp, |queue_pair| queue_pair.answer = Some(answer));
        // It runs next: for the completer this response is one of several, and it reports that there is more to do.
        (*qp).send_task.func = Some(mlx_odp_rxe_send_again);
        0
    }
}

/// The function of the sending task, in place of `rxe_sender`, from a dropped response until its page is present or
/// cannot be had. All responses are dropped meanwhile (`mlx_odp_rxe_next_answer`, `shim.c`): each one after the missing
/// one would have everything asked for again at once.
///
/// # Safety
///
/// Called by rxe's task that sends for `qp`.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_send_again(qp: *mut rxe::rxe_qp) -> c_int {
    // SAFETY: By the contract: the fields are the completer's own.
    unsafe {
        let parked = parked_of((*qp).ibqp.device);
        let alive = in_pool(qp) && rxe::rxe_shim_runs(qp);
        let state = parked.with(qp, |queue_pair| {
            (
                queue_pair.answer.take(),
                queue_pair.may_go_on(Engine::Completer),
            )
        });
        let (answer, may_go_on) = state.unwrap_or((None, true));
        if let Some(Answer { psn, opcode }) = answer {
            (*qp).comp.psn = psn;
            (*qp).comp.opcode = opcode;
        }
        if may_go_on || !alive {
            (*qp).send_task.func = Some(mlx_odp_rxe_sender);
            // A resume before this did not know that there is something to ask for again.
            (*qp).req.need_retry = 1;
        }
        mlx_odp_rxe_sender(qp)
    }
}

/// Writes the result `original` of an atomic, whose response `psn` is the next in the queue of `qp`. Returns what
/// became of it.
///
/// # Safety
///
/// Called where rxe's completer is about to remove the response from the queue.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_enter_atomic(
    qp: *mut rxe::rxe_qp,
    psn: u32,
    mut original: u64,
) -> rxe::rxe_shim_atomic {
    // SAFETY: By the contract, the completer runs here, and the send queue has been made.
    unsafe {
        let Some(wqe) = answered_by(qp, psn) else {
            // If the completer does not wait for it, it drops it or handles it itself.
            return rxe::rxe_shim_atomic_RXE_SHIM_NOT_ENTERED;
        };
        let dma = &raw mut (*wqe).dma;
        let failed = mlx_odp_rxe_copy(
            (*qp).pd,
            LOCAL_WRITE,
            dma,
            (&raw mut original).cast::<c_void>(),
            ATOMIC as c_int,
            rxe::rxe_mr_copy_dir_RXE_TO_MR_OBJ,
        );
        if failed == 0 {
            return rxe::rxe_shim_atomic_RXE_SHIM_ENTERED;
        }
        match parked::stopped(qp, Engine::Completer) && (*dma).resid != 0 {
            true => rxe::rxe_shim_atomic_RXE_SHIM_PARKED,
            false => rxe::rxe_shim_atomic_RXE_SHIM_NOT_ENTERED,
        }
    }
}

/// The atomic WQE of `qp` that the response `psn` is for, if the completer will take the response for that one. A WQE
/// that has been completed stays in its place as it was, but nothing is answered any more there.
///
/// # Safety
///
/// The completer of `qp` runs here.
unsafe fn answered_by(qp: *mut rxe::rxe_qp, psn: u32) -> Option<*mut rxe::rxe_send_wqe> {
    // SAFETY: By the contract; the WQEs are in memory of the kernel's, and the completer's up to the newest.
    unsafe {
        let end = rxe::rxe_shim_end_of_send_queue(qp);
        let mut index = rxe::rxe_shim_oldest_send_index(qp);
        while index != end {
            let wqe = rxe::rxe_shim_send_wqe(qp, index);
            // The response may also be the first for the WQEs before.
            if !rxe::rxe_shim_done_by(wqe, psn) {
                let waits = (*wqe).state == rxe::wqe_state_wqe_state_pending
                    && rxe::rxe_shim_is_atomic(wqe);
                return (waits && (*wqe).last_psn == psn).then_some(wqe);
            }
            index = rxe::rxe_shim_send_index_after(qp, index);
        }
        None
    }
}
