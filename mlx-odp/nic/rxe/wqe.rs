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
//! A WQE whose page is being brought in has not failed: it is put back ([`crate::parked`]). So is one that has failed
//! before the WQEs before it have completed: it completes after them.

use crate::parked;
use crate::queue_pair::Engine;
use crate::rxe;

/// Replaces `rxe_qp_error` in `rxe_req.c`, where the requester gives up on a WQE.
///
/// The oldest WQE is left to the completer, which runs right after the requester. A later one has to wait for those
/// before it: if nothing of it was sent, it is put back, and fails again once it is the oldest. Its other failures are
/// handled by rxe.
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
        if (*wqe).dma.reserved != 0 && (*wqe).status != rxe::ib_wc_status_IB_WC_WR_FLUSH_ERR {
            // Refused when it was taken (`send_queue.rs`).
            (*wqe).status = (*wqe).dma.reserved;
        }
        let status = (*wqe).status;
        let waits = status == MEMORY_FAILED && parked::stopped(qp, Engine::Requester);
        if waits {
            put_back(wqe);
            // The requester comes to it again when its page is present. This packet may have been due to ask for an
            // acknowledgement: the next one does.
            (*qp).req.wqe_index = failed as i32;
            (*qp).req.noack_pkts = ASKS;
            return;
        }
        if (*qp).attr.qp_state == rxe::ib_qp_state_IB_QPS_ERR {
            false
        } else if failed == rxe::rxe_shim_oldest_send_index(qp) {
            true
        } else if nothing_was_sent(wqe) {
            put_back(wqe);
            (*qp).req.wqe_index = failed as i32;
            // Whatever completes next makes the requester run again, as for a fence.
            (*qp).req.wait_fence = 1;
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

/// The operations that are done without a packet.
const LOCAL: u32 = rxe::rxe_wr_mask_WR_LOCAL_OP_MASK;

/// Whether a failed WQE, or its last packet, has left no trace: it can be tried again from there.
///
/// # Safety
///
/// `wqe` is the requester's current WQE in the send queue.
unsafe fn nothing_was_sent(wqe: *mut rxe::rxe_send_wqe) -> bool {
    // SAFETY: By the contract.
    unsafe {
        (*wqe).status == MEMORY_FAILED || (*wqe).dma.reserved != 0 || (*wqe).mask & LOCAL != 0
    }
}

/// Resets a failed WQE to the state before its failure. A copy that failed has not advanced.
///
/// # Safety
///
/// `wqe` is the requester's current WQE in the send queue.
unsafe fn put_back(wqe: *mut rxe::rxe_send_wqe) {
    // SAFETY: By the contract.
    unsafe {
        (*wqe).status = rxe::ib_wc_status_IB_WC_SUCCESS;
        (*wqe).state = match (*wqe).dma.resid == (*wqe).dma.length {
            true => rxe::wqe_state_wqe_state_posted,
            false => rxe::wqe_state_wqe_state_processing,
        };
    }
}

/// Replaces `rxe_get_av` in `rxe_req.c`, where the requester looks up the address for a packet that it is about to
/// make. Where it sends a request again it takes an address in the peer's memory for READ, WRITE and atomics only, and
/// 0 for FLUSH and ATOMIC WRITE.
///
/// # Safety
///
/// Called by rxe's requester with its arguments for `rxe_get_av`.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_get_av(
    packet: *mut rxe::rxe_pkt_info,
    handle: *mut *mut rxe::rxe_ah,
) -> *mut rxe::rxe_av {
    const FORGOTTEN: u32 =
        rxe::rxe_hdr_mask_RXE_FLUSH_MASK | rxe::rxe_hdr_mask_RXE_ATOMIC_WRITE_MASK;
    // SAFETY: By the contract: the packet is for the requester's current WQE. The address is the first of the parameters
    // of each operation that has one.
    unsafe {
        if (*packet).mask & FORGOTTEN != 0 {
            let wqe = (*packet).wqe;
            (*wqe).iova = (*wqe).wr.wr.rdma.remote_addr;
        }
        // What rxe would have called.
        rxe::rxe_get_av(packet, handle)
    }
}
