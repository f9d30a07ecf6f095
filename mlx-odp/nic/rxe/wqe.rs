// SPDX-License-Identifier: GPL-2.0

//! Send WQEs whose own memory fails: the status that the application gets.
//!
//! rxe's requester stores the status in such a WQE and puts the queue pair into the error state at once. Then
//! the completer flushes the whole queue: the application gets `IBV_WC_WR_FLUSH_ERR` for the very request that
//! failed, and no reason. That is rare with pinned memory. With on-demand paging an unmapped address is an
//! ordinary error, and the InfiniBand specification (volume 1, 11.6.2, Local Protection Error) has a status for it.
//!
//! rxe's completer can do this: it completes a WQE that is marked as failed with its status, in order, and then
//! sets the error state itself. So it is enough not to set that state first.
//!
//! A WQE whose page is being brought in has not failed: it is put back ([`crate::parked`]).

use crate::dma_info::{undo_failed_copy, Remaining};
use crate::parked::{self, Side};
use crate::rxe;

/// Replaces `rxe_qp_error` in `rxe_req.c`, where the requester gives up on a WQE.
///
/// The oldest WQE is left to the completer, which runs right after the requester. A later one has to wait for
/// those before it: if its memory failed, it is put back, and fails again once it is the oldest. Its other failures
/// are handled by rxe.
///
/// # Safety
///
/// Called by rxe's requester with its queue pair, after it has marked the WQE before `req.wqe_index` as
/// failed. Requester and completer of a queue pair never run at the same time.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_wqe_failed(qp: *mut rxe::rxe_qp) {
    // SAFETY: `qp` is valid, and its requester, which owns this index, runs here. If the state changes now, the
    // next run of the requester sees it.
    let left_to_completer = unsafe {
        let failed = rxe::rxe_shim_send_index_before(qp, (*qp).req.wqe_index as u32);
        let wqe = rxe::rxe_shim_send_wqe(qp, failed);
        let status = (&raw const (*wqe).status).read_volatile();
        let waits = status == MEMORY_FAILED && parked::stopped(qp, Side::Requester);
        if waits && put_back(wqe, (*qp).sq.max_sge as u32) {
            // The requester comes to it again when its page is present. This packet may have been due to ask for an
            // acknowledgement: the next one does.
            (*qp).req.wqe_index = failed as i32;
            (*qp).req.noack_pkts = ASKS;
            return;
        }
        if (*qp).attr.qp_state == rxe::ib_qp_state_IB_QPS_ERR {
            false
        } else if failed == rxe::rxe_shim_oldest_send_index(qp) {
            // The completer takes a failed WQE without a failure for a bug of its own, and the application
            // can write the status.
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

/// A number of packets without a request for an acknowledgement, larger than any that rxe allows.
const ASKS: i32 = 1 << 16;

/// The requester's status for a failed copy from the WQE's own memory, and for nothing else. Nothing of the packet
/// has been sent or accounted then.
const MEMORY_FAILED: u32 = rxe::ib_wc_status_IB_WC_LOC_PROT_ERR;

/// Resets a failed WQE to the state before the copy that failed, to be sent from there. Returns whether it could.
///
/// # Safety
///
/// `wqe` is the requester's current WQE in the send queue, with room for `max_sge` elements.
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
