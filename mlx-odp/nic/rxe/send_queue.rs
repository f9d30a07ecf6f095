// SPDX-License-Identifier: GPL-2.0

//! The send queue of an application's queue pair: the kernel's own copy of it.
//!
//! An application shares its send queue with the kernel, and rxe works on the requests where they are: it keeps its own
//! state in them, and trusts their operation, lengths and offsets whenever it reads them. An application can write there
//! at any time, so rxe reads kernel memory at an index or an offset of the application's choice.
//!
//! Here rxe gets a queue of its own (`buf` of its `rxe_queue`). Before the task that sends runs, the requests that are
//! new are copied to it and checked ([`mlx_odp::rxe::request`]). One that is refused becomes an invalid operation, with
//! the status that it completes with ([`crate::wqe`]). The shared queue has one more use: rxe's consumer index is copied to
//! it (`redirect_comp.h`), so that the application sees how much room there is.
//!
//! The queue pairs of kernel users have one queue, as before.

use core::mem::size_of;
use core::ptr::{null_mut, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};

use kernel::alloc::VVec;
use kernel::ffi::c_int;
use kernel::prelude::*;

use mlx_odp::rxe::request::{BadRequest, Capacity, Claim, Data, WORD};
use mlx_odp::{errno, not_supported};

use crate::registration::rxes;
use crate::rxe;

/// An operation that rxe has no code for: the requester ends it with a local queue pair operation error.
const NO_OPERATION: u32 = rxe::ib_wr_opcode_IB_WR_LSO;

const INLINE: u32 = rxe::ib_send_flags_IB_SEND_INLINE as u32;

/// `ibv_create_qp`.
///
/// # Safety
///
/// Called by the RDMA core with a new queue pair of rxe's.
pub(crate) unsafe extern "C" fn create_qp(
    ibqp: *mut rxe::ib_qp,
    attributes: *mut rxe::ib_qp_init_attr,
    udata: *mut rxe::ib_udata,
) -> c_int {
    // SAFETY: By the contract.
    errno(unsafe { create(ibqp, attributes, udata) })
}

/// # Errors
///
/// `ENOMEM`, and those of rxe.
///
/// # Safety
///
/// As for [`create_qp`].
unsafe fn create(
    ibqp: *mut rxe::ib_qp,
    attributes: *mut rxe::ib_qp_init_attr,
    udata: *mut rxe::ib_udata,
) -> Result {
    let rxes = rxes()?;
    let create = rxes.create_qp.ok_or_else(not_supported)?;
    let destroy = rxes.destroy_qp.ok_or_else(not_supported)?;
    // SAFETY: By the contract; rxe gets its own function's arguments.
    kernel::error::to_result(unsafe { create(ibqp, attributes, udata) })?;
    // SAFETY: rxe has made the queue pair; a `rxe_qp` contains its `ib_qp`. It is not published yet, so its task does not
    // run.
    unsafe {
        let qp = kernel::container_of!(ibqp, rxe::rxe_qp, ibqp);
        if let Err(error) = separate((*qp).sq.queue) {
            destroy(ibqp, null_mut());
            return Err(error);
        }
    }
    Ok(())
}

/// Gives the kernel a buffer of its own for `queue`, if an application shares it.
///
/// # Errors
///
/// `ENOMEM`.
///
/// # Safety
///
/// The queue is new and used by nothing else.
unsafe fn separate(queue: *mut rxe::rxe_queue) -> Result {
    // SAFETY: By the contract.
    unsafe {
        if (*queue).ip.is_null() {
            return Ok(());
        }
        // Words: the buffer is aligned for what it has. Charged to the application, which chose the size.
        let words = (*queue).buf_size.div_ceil(size_of::<u64>());
        let flags = GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN;
        let buffer = VVec::<u64>::with_capacity(words, flags)?;
        (*queue).buf = buffer.into_raw_parts().0.cast();
    }
    Ok(())
}

/// The buffer that an application shares with the kernel, if `queue` has another one of its own.
///
/// # Safety
///
/// `queue` is valid.
#[inline]
unsafe fn shared_with(queue: *mut rxe::rxe_queue) -> Option<NonNull<rxe::rxe_queue_buf>> {
    // SAFETY: By the contract.
    unsafe {
        let shared: *mut rxe::rxe_queue_buf = NonNull::new((*queue).ip)?.as_ref().obj.cast();
        NonNull::new(shared).filter(|shared| shared.as_ptr() != (*queue).buf)
    }
}

/// The kernel's own buffer of the send queue of `qp`, to be freed after the queue: rxe uses it until then; the shared
/// queue could keep refilling.
///
/// # Safety
///
/// `qp` has no references and no task that runs; its creation may have failed. The buffer outlives the queue, and this
/// is not called again.
pub(crate) unsafe fn own_buffer(qp: *mut rxe::rxe_qp) -> Option<VVec<u64>> {
    // SAFETY: By the contract.
    unsafe {
        let queue = NonNull::new((*qp).sq.queue)?.as_ptr();
        shared_with(queue)?;
        let words = (*queue).buf_size.div_ceil(size_of::<u64>());
        // SAFETY: Made by `separate`, with at least this capacity; it has no elements.
        Some(VVec::<u64>::from_raw_parts((*queue).buf.cast(), 0, words))
    }
}

/// Replaces `rxe_sender` in `rxe_qp.c`, where it becomes the function of the task that sends.
///
/// # Safety
///
/// Called by that task of `qp`, or in its place.
#[no_mangle]
pub(crate) unsafe extern "C" fn mlx_odp_rxe_sender(qp: *mut rxe::rxe_qp) -> c_int {
    // SAFETY: By the contract.
    unsafe {
        take_requests(qp);
        rxe::rxe_sender(qp)
    }
}

/// Copies the requests that are new to the kernel's own send queue.
///
/// # Safety
///
/// As for [`mlx_odp_rxe_sender`].
#[inline]
unsafe fn take_requests(qp: *mut rxe::rxe_qp) {
    // SAFETY: By the contract.
    unsafe {
        let queue = (*qp).sq.queue;
        if queue.is_null() {
            return;
        }
        let Some(shared) = shared_with(queue) else {
            return;
        };
        let produced = &raw mut (*shared.as_ptr()).producer_index;
        // Acquire: the requests before the index are there.
        let produced = AtomicU32::from_ptr(produced).load(Ordering::Acquire) & (*queue).index_mask;
        if produced != (*(*queue).buf).producer_index {
            take(qp, queue, shared, produced);
        }
    }
}

/// # Safety
///
/// As for [`mlx_odp_rxe_sender`], with the send queue of `qp` and the buffer that is shared.
#[inline(never)]
unsafe fn take(
    qp: *mut rxe::rxe_qp,
    queue: *mut rxe::rxe_queue,
    shared: NonNull<rxe::rxe_queue_buf>,
    produced: u32,
) {
    // SAFETY: By the contract; indices are masked, so they are within both buffers, which are of one size.
    unsafe {
        let (mask, own) = ((*queue).index_mask, (*queue).buf);
        let from_oldest = |index: u32| index.wrapping_sub((*queue).index) & mask;
        let room = (*queue).elem_size - size_of::<rxe::rxe_send_wqe>();
        let datagram = (*qp).ibqp.qp_type == rxe::ib_qp_type_IB_QPT_UD;
        let mut next = (*own).producer_index;
        if from_oldest(produced) < from_oldest(next) {
            // A posted request cannot be taken back: it may be under way.
            return;
        }
        while next != produced {
            let offset = (next as usize) << (*queue).log2_elem_size;
            let from = (&raw const (*shared.as_ptr()).data).byte_add(offset);
            let wqe: *mut rxe::rxe_send_wqe = (&raw mut (*own).data).byte_add(offset).cast();
            // From now on the application cannot change it.
            rxe::rxe_shim_snapshot_send(wqe, from.cast(), room, datagram);
            check(qp, wqe);
            next = (next + 1) & mask;
        }
        (*own).producer_index = produced;
    }
}

/// Checks the kernel's copy `wqe` of a new request, and sets what rxe keeps in it.
///
/// # Safety
///
/// The copy is new, in the send queue of `qp`.
unsafe fn check(qp: *mut rxe::rxe_qp, wqe: *mut rxe::rxe_send_wqe) {
    // SAFETY: By the contract.
    unsafe {
        (*wqe).status = rxe::ib_wc_status_IB_WC_SUCCESS;
        (*wqe).state = rxe::wqe_state_wqe_state_posted;
        (*wqe).has_rd_atomic = 0;
        // The address is the first of the parameters of each operation that has one.
        (*wqe).iova = (*wqe).wr.wr.rdma.remote_addr;
        let dma = &raw mut (*wqe).dma;
        (*dma).reserved = 0;
        let inline = (*wqe).wr.send_flags & INLINE != 0;
        let Some(data) = data_of((*wqe).wr.opcode, inline) else {
            return refuse(wqe, rxe::ib_wc_status_IB_WC_LOC_QP_OP_ERR);
        };
        let claim = Claim {
            length: (*dma).length,
            left: (*dma).resid,
            element: (*dma).cur_sge,
            offset: (*dma).sge_offset,
            elements: (*dma).num_sge,
        };
        let capacity = Capacity {
            elements: (*qp).sq.max_sge as u32,
            inline: (*qp).sq.max_inline as u32,
        };
        let list = (&raw const (*dma).__bindgen_anon_1).cast::<rxe::rxe_sge>();
        match claim.check_send(data, capacity, |i| (*list.add(i as usize)).length) {
            Ok(()) if data == Data::List => {}
            // No more comes, however much room there is.
            Ok(()) if data == Data::ListForWord => ((*dma).length, (*dma).resid) = (WORD, WORD),
            Ok(()) => (*dma).num_sge = 0,
            Err(BadRequest::Length) => refuse(wqe, rxe::ib_wc_status_IB_WC_LOC_LEN_ERR),
            Err(BadRequest::Malformed) => refuse(wqe, rxe::ib_wc_status_IB_WC_LOC_QP_OP_ERR),
        }
        if data == Data::None {
            ((*dma).length, (*dma).resid) = (0, 0);
            ((*dma).cur_sge, (*dma).sge_offset) = (0, 0);
        }
    }
}

/// Where the data of an application's operation is; `None` if it has no such operation.
#[inline]
fn data_of(opcode: u32, inline: bool) -> Option<Data> {
    match opcode {
        rxe::ib_wr_opcode_IB_WR_SEND
        | rxe::ib_wr_opcode_IB_WR_SEND_WITH_IMM
        | rxe::ib_wr_opcode_IB_WR_SEND_WITH_INV
        | rxe::ib_wr_opcode_IB_WR_RDMA_WRITE
        | rxe::ib_wr_opcode_IB_WR_RDMA_WRITE_WITH_IMM
            if inline =>
        {
            Some(Data::Inline)
        }
        rxe::ib_wr_opcode_IB_WR_SEND
        | rxe::ib_wr_opcode_IB_WR_SEND_WITH_IMM
        | rxe::ib_wr_opcode_IB_WR_SEND_WITH_INV
        | rxe::ib_wr_opcode_IB_WR_RDMA_WRITE
        | rxe::ib_wr_opcode_IB_WR_RDMA_WRITE_WITH_IMM
        | rxe::ib_wr_opcode_IB_WR_RDMA_READ => Some(Data::List),
        rxe::ib_wr_opcode_IB_WR_ATOMIC_CMP_AND_SWP
        | rxe::ib_wr_opcode_IB_WR_ATOMIC_FETCH_AND_ADD => Some(Data::ListForWord),
        rxe::ib_wr_opcode_IB_WR_ATOMIC_WRITE => Some(Data::InlineWord),
        rxe::ib_wr_opcode_IB_WR_FLUSH => Some(Data::Remote),
        rxe::ib_wr_opcode_IB_WR_LOCAL_INV | rxe::ib_wr_opcode_IB_WR_BIND_MW => Some(Data::None),
        // Those that rxe has no code for; and memory is registered with a pointer, which only kernel users may do.
        _ => None,
    }
}

/// Makes a request end with `status`, without anything being done or sent.
///
/// # Safety
///
/// `wqe` is the kernel's copy of a new request.
#[cold]
unsafe fn refuse(wqe: *mut rxe::rxe_send_wqe, status: rxe::ib_wc_status) {
    // SAFETY: By the contract.
    unsafe {
        (*wqe).wr.opcode = NO_OPERATION;
        (*wqe).wr.send_flags = 0;
        (*wqe).dma = rxe::rxe_dma_info {
            reserved: status,
            ..Default::default()
        };
    }
}
