// SPDX-License-Identifier: GPL-2.0

//! Receives: how the responder takes one from its queue, and with which status it completes.
//!
//! A receive is in memory that the application can write at any time. rxe copies it, but looks at the number of its
//! elements before that. Here it is copied first, to where rxe keeps its copy, and checked there
//! ([`mlx_odp::rxe::request`]).
//!
//! rxe completes a receive that fails with the status that the requester gets. The InfiniBand specification (volume 1,
//! 11.6.2) has others for it: the receive is too short (Local Length Error), its memory cannot be had (Local Protection
//! Error), or it is that of a RDMA WRITE with immediate data which may not write there (Local Access Error).

use core::ptr::NonNull;

use kernel::ffi::{c_int, c_void};

use mlx_odp::rxe::request::{Capacity, Claim};

use crate::rxe;

/// The most elements that rxe has room for.
const MOST_ELEMENTS: usize = rxe::rxe_device_param_RXE_MAX_SGE;
/// No queue has room for so many elements: rxe refuses the receive.
const MALFORMED: u32 = u32::MAX;
/// More than a datagram has. Elements are cut to this length: rxe adds them up in 32 bits.
const DATAGRAM: u32 = 1 << 16;

/// Called in place of `queue_head` in `rxe_resp.c`, with the oldest receive of a queue that an application shares, or
/// null. Returns the responder's own copy of it.
///
/// # Safety
///
/// Called by rxe's responder of `qp` with its receive queue, or the shared one that it uses, whose consumer lock is held.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_take_receive(
    qp: *mut rxe::rxe_qp,
    shared: *const rxe::rxe_recv_wqe,
) -> *mut c_void {
    if shared.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: By the contract, the responder's copy is not in use, and has room for so many elements. The elements of
    // the queue have at least room for the fixed part, and for as many elements as the queue was made for.
    unsafe {
        let most = match NonNull::new((*qp).srq) {
            Some(srq) => (*srq.as_ptr()).rq.max_sge,
            None => (*qp).rq.max_sge,
        };
        let most = MOST_ELEMENTS.min(most as usize);
        let offered = (&raw const (*shared).dma.num_sge).read_volatile();
        let elements = most.min(offered as usize);
        let own = &raw mut (*qp).resp.srq_wqe.wqe;
        rxe::rxe_shim_snapshot_receive(own, shared, elements);
        check(qp, own, elements as u32);
        own.cast()
    }
}

/// Checks the responder's copy `wqe` of a receive, with so many `elements`.
///
/// # Safety
///
/// The responder of `qp` runs here, and the copy is its own.
unsafe fn check(qp: *mut rxe::rxe_qp, wqe: *mut rxe::rxe_recv_wqe, elements: u32) {
    // SAFETY: By the contract.
    unsafe {
        let dma = &raw mut (*wqe).dma;
        let list = (&raw mut (*dma).__bindgen_anon_1).cast::<rxe::rxe_sge>();
        let claim = Claim {
            length: (*dma).length,
            left: (*dma).resid,
            element: (*dma).cur_sge,
            offset: (*dma).sge_offset,
            elements: (*dma).num_sge,
        };
        let capacity = Capacity {
            elements,
            inline: 0,
        };
        (*dma).reserved = 0;
        let Ok(mut length) = claim.check_receive(capacity, |i| (*list.add(i as usize)).length)
        else {
            (*dma).num_sge = MALFORMED;
            return;
        };
        let kind = (*qp).ibqp.qp_type;
        if kind == rxe::ib_qp_type_IB_QPT_UD || kind == rxe::ib_qp_type_IB_QPT_GSI {
            length = 0;
            for element in (0..claim.elements).map(|i| list.add(i as usize)) {
                (*element).length = (*element).length.min(DATAGRAM);
                length += (*element).length;
            }
        }
        (*dma).length = length;
        (*dma).resid = length;
    }
}

/// Replaces `rxe_cq_post` in `rxe_resp.c`: a receive is completed.
///
/// # Safety
///
/// Called by rxe's responder with its arguments for `rxe_cq_post`.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_complete_receive(
    cq: *mut rxe::rxe_cq,
    cqe: *mut rxe::rxe_cqe,
    solicited: c_int,
) -> c_int {
    // SAFETY: By the contract. The status is at the same place for kernel and user.
    unsafe {
        let status = &raw mut (*cqe).__bindgen_anon_1.ibwc.status;
        if *status != rxe::ib_wc_status_IB_WC_SUCCESS
            && *status != rxe::ib_wc_status_IB_WC_WR_FLUSH_ERR
        {
            *status = status_of_failure(*status);
        }
        // What rxe would have called.
        rxe::rxe_cq_post(cq, cqe, solicited)
    }
}

/// The status of a receive that failed, where rxe has `status`.
///
/// # Safety
///
/// Called by the responder that completes it.
#[cold]
unsafe fn status_of_failure(status: rxe::ib_wc_status) -> rxe::ib_wc_status {
    // SAFETY: The task runs until this call returns, so its queue pair is valid; the copy is the responder's own.
    unsafe {
        let task = rxe::rxe_shim_current_task();
        if task.is_null() {
            return status;
        }
        let qp = (*task).qp;
        let noted = (*qp).resp.srq_wqe.wqe.dma.reserved;
        let kind = (*qp).ibqp.qp_type;
        let connected = kind == rxe::ib_qp_type_IB_QPT_RC || kind == rxe::ib_qp_type_IB_QPT_UC;
        match status {
            _ if noted != 0 => noted,
            rxe::ib_wc_status_IB_WC_REM_ACCESS_ERR => rxe::ib_wc_status_IB_WC_LOC_ACCESS_ERR,
            // The only request that is invalid as a datagram is one that does not fit.
            rxe::ib_wc_status_IB_WC_REM_INV_REQ_ERR if !connected => {
                rxe::ib_wc_status_IB_WC_LOC_LEN_ERR
            }
            status => status,
        }
    }
}
