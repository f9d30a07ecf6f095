// SPDX-License-Identifier: GPL-2.0

//! Requests that fail on their own side: the status that the application gets.
//!
//! rxe's requester marks such a request with its status, puts the queue pair into the error state at
//! once, and its completer then flushes everything: the application sees `IBV_WC_WR_FLUSH_ERR` for
//! the very request that failed, and never learns why. With pinned memory that is rare; with memory
//! that is faulted in on demand, an address without memory behind it is an everyday error, and the
//! InfiniBand specification (volume 1, 11.6.2, Local Protection Error) has a status for it.
//!
//! rxe's completer does the right thing if it is let: it completes a request marked as failed with
//! its status, in order, and then sets the error state itself. So all that is done here is not to
//! set that state first.

use crate::rxe;

/// Takes the place of `rxe_qp_error` in `rxe_req.c`, where the requester gives up on a request.
///
/// The oldest request is left to the completer, which runs right after the requester. A younger one
/// has to wait for those before it; it is put back and tried again when it is the oldest.
///
/// # Safety
///
/// Called by rxe's requester with its queue pair, after it has marked the request before
/// `req.wqe_index` as failed. Requester and completer of one queue pair never run at the same time.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_request_failed(qp: *mut rxe::rxe_qp) {
    // SAFETY: `qp` is valid. If its state changes now, the next run of the requester sees it.
    if unsafe { (*qp).attr.qp_state } == rxe::ib_qp_state_IB_QPS_ERR {
        // It failed because everything does; the completer flushes.
        // SAFETY: What rxe would have called.
        return unsafe { rxe::rxe_qp_error(qp) };
    }
    // SAFETY: `qp` is valid, and its requester, whose index this is, is what runs here.
    unsafe {
        let failed = rxe::rxe_shim_send_index_before(qp, (*qp).req.wqe_index as u32);
        (*qp).req.wqe_index = failed as i32;
        if failed != rxe::rxe_shim_oldest_send_index(qp) {
            put_back(rxe::rxe_shim_send_wqe(qp, failed));
        }
    }
}

/// Makes a failed request one that is still to be sent.
///
/// # Safety
///
/// `wqe` is a request in the send queue that the requester is at.
unsafe fn put_back(wqe: *mut rxe::rxe_send_wqe) {
    // SAFETY: The entry is in the queue's memory. The application shares it and may write it at
    // any time; nothing here depends on what it holds.
    unsafe {
        let untouched = (*wqe).dma.resid == (*wqe).dma.length;
        (*wqe).status = rxe::ib_wc_status_IB_WC_SUCCESS;
        (*wqe).state = match untouched {
            true => rxe::wqe_state_wqe_state_posted,
            false => rxe::wqe_state_wqe_state_processing,
        };
    }
}
