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
//!
//! A request whose page is being brought in has not failed: it is put back ([`crate::parked`]).

use crate::dma_info::{undo_failed_copy, Remaining};
use crate::parked::{self, Side};
use crate::rxe;

/// Takes the place of `rxe_qp_error` in `rxe_req.c`, where the requester gives up on a request.
///
/// The oldest request is left to the completer, which runs right after the requester. A younger one
/// has to wait for those before it: if its own memory failed, it is put back, and fails again when it
/// is the oldest. Other failures of younger ones take rxe's own way.
///
/// # Safety
///
/// Called by rxe's requester with its queue pair, after it has marked the request before
/// `req.wqe_index` as failed. Requester and completer of one queue pair never run at the same time.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_wqe_failed(qp: *mut rxe::rxe_qp) {
    // SAFETY: `qp` is valid, and its requester, whose index this is, is what runs here. If the state
    // changes now, the next run of the requester sees it.
    let left_to_completer = unsafe {
        let failed = rxe::rxe_shim_send_index_before(qp, (*qp).req.wqe_index as u32);
        let wqe = rxe::rxe_shim_send_wqe(qp, failed);
        let status = (&raw const (*wqe).status).read_volatile();
        let waits = status == MEMORY_FAILED && parked::stopped(qp, Side::Requester);
        if waits && put_back(wqe, (*qp).sq.max_sge as u32) {
            // It is looked at again when its page is there. The packet may have been the one that was to ask for an
            // acknowledgement: the next one does.
            (*qp).req.wqe_index = failed as i32;
            (*qp).req.noack_pkts = ASKS;
            return;
        }
        if (*qp).attr.qp_state == rxe::ib_qp_state_IB_QPS_ERR {
            false
        } else if failed == rxe::rxe_shim_oldest_send_index(qp) {
            // The completer takes a failed request without a failure for a bug of its own; the
            // application can write here.
            status != rxe::ib_wc_status_IB_WC_SUCCESS
        } else if status == MEMORY_FAILED && put_back(wqe, (*qp).sq.max_sge as u32) {
            (*qp).req.wqe_index = failed as i32;
            true
        } else {
            false
        }
    };
    if !left_to_completer {
        // SAFETY: What rxe would have called.
        unsafe { rxe::rxe_qp_error(qp) };
    }
}

/// As if so many packets had asked for no acknowledgement: more than rxe sends.
const ASKS: i32 = 1 << 16;

/// The status that the requester gives to a request for a failed copy out of its own memory and for
/// nothing else: then nothing of the packet has been sent or entered.
const MEMORY_FAILED: u32 = rxe::ib_wc_status_IB_WC_LOC_PROT_ERR;

/// Makes a failed request one that is still to be sent, from where it was before the copy that
/// failed. Says whether it could.
///
/// # Safety
///
/// `wqe` is the request in the send queue that the requester is at, with room for `max_sge` elements.
unsafe fn put_back(wqe: *mut rxe::rxe_send_wqe, max_sge: u32) -> bool {
    // SAFETY: By the contract.
    unsafe {
        let Some(Remaining { length, resid }) = undo_failed_copy(&raw mut (*wqe).dma, max_sge) else {
            return false;
        };
        (*wqe).status = rxe::ib_wc_status_IB_WC_SUCCESS;
        (*wqe).state = match resid == length {
            true => rxe::wqe_state_wqe_state_posted,
            false => rxe::wqe_state_wqe_state_processing,
        };
    }
    true
}
