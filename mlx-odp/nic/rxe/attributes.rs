// SPDX-License-Identifier: GPL-2.0

//! Changes of the attributes of queue pairs and shared receive queues: one at a time, and those that rxe does not check.
//!
//! The RDMA core does not serialise modify calls on one object, and rxe has no lock for them. One of two resets of a queue
//! pair goes on while the other has enabled the tasks again; two calls that set how many READs it takes both free the list
//! of them; a query of the size of a shared receive queue reads the buffer that a resize frees. [`Change`] is that lock;
//! only other calls of these kinds wait for it. The core does not destroy the object before they are done.
//!
//! The responder keeps what it has answered to READs, atomics and FLUSHes, as many as its queue pair says
//! (`max_dest_rd_atomic`). rxe makes a power of two of that number, in 8 bits: more than 128 become 0, and it then works
//! on with no end to the list.
//!
//! rxe converts an invalid path MTU to -1 and only rejects values that are too large.

use kernel::ffi::c_int;
use kernel::prelude::*;

use mlx_odp::{errno, not_supported};

use crate::pool::Pooled;
use crate::registration::rxes;
use crate::rxe;

const MAX_DEST_RD_ATOMIC: c_int = rxe::ib_qp_attr_mask_IB_QP_MAX_DEST_RD_ATOMIC as c_int;

const PATH_MTU: c_int = rxe::ib_qp_attr_mask_IB_QP_PATH_MTU as c_int;

/// The right to change an object, until it is dropped.
///
/// # Invariants
///
/// The object with this element is valid, and its lock for changes is ours.
struct Change(*mut rxe::rxe_pool_elem);

impl Change {
    /// Waits until there is no other. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINTR` if the thread was killed meanwhile.
    ///
    /// # Safety
    ///
    /// `object` is valid for as long as this is.
    unsafe fn of<T: Pooled>(object: *mut T) -> Result<Self> {
        // SAFETY: By the contract.
        let elem = unsafe { T::elem(object) };
        // SAFETY: As above.
        kernel::error::to_result(unsafe { rxe::rxe_shim_begin_change(elem) })?;
        // INVARIANT: Just locked.
        Ok(Self(elem))
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        // SAFETY: By the invariant.
        unsafe { rxe::rxe_shim_end_change(self.0) };
    }
}

/// `ibv_modify_qp`.
///
/// # Safety
///
/// Called by the RDMA core with a queue pair of rxe's.
pub(crate) unsafe extern "C" fn modify_qp(
    ibqp: *mut rxe::ib_qp,
    attributes: *mut rxe::ib_qp_attr,
    mask: c_int,
    udata: *mut rxe::ib_udata,
) -> c_int {
    // SAFETY: By the contract.
    errno(unsafe { modify(ibqp, attributes, mask, udata) })
}

/// # Errors
///
/// `EINVAL` if the queue pair is to take more READs than the device can, or to have no path MTU; those of rxe and of
/// [`Change::of`].
///
/// # Safety
///
/// As for [`modify_qp`].
unsafe fn modify(
    ibqp: *mut rxe::ib_qp,
    attributes: *mut rxe::ib_qp_attr,
    mask: c_int,
    udata: *mut rxe::ib_udata,
) -> Result {
    let modify = rxes()?.modify_qp.ok_or_else(not_supported)?;
    // SAFETY: By the contract; a `rxe_dev` contains its `ib_device`.
    unsafe {
        let device = kernel::container_of!((*ibqp).device, rxe::rxe_dev, ib_dev);
        let most = i64::from((*device).attr.max_qp_rd_atom);
        if mask & MAX_DEST_RD_ATOMIC != 0 && i64::from((*attributes).max_dest_rd_atomic) > most {
            return Err(EINVAL);
        }
        if mask & PATH_MTU != 0 && (*attributes).path_mtu == 0 {
            return Err(EINVAL);
        }
    }
    // SAFETY: A `rxe_qp` contains its `ib_qp`. The queue pair is valid until this returns; rxe gets its own function's
    // arguments.
    unsafe {
        let qp = kernel::container_of!(ibqp, rxe::rxe_qp, ibqp);
        let _change = Change::of(qp)?;
        let result = kernel::error::to_result(modify(ibqp, attributes, mask, udata));
        if (*qp).resp.resources.is_null() {
            // There was no memory for as many as rxe has noted. Its responder does not run.
            (*qp).attr.max_dest_rd_atomic = 0;
        }
        // To change how many READs it takes, rxe disables the receiving task while the queue pair runs: what has
        // scheduled it meanwhile (a page that has come, a packet, an error) does not do so again. A reset queue pair
        // has nothing to do, and its receives may already be the next ones.
        if mask & MAX_DEST_RD_ATOMIC != 0 && (*qp).attr.qp_state != rxe::ib_qp_state_IB_QPS_RESET {
            rxe::rxe_sched_task(&raw mut (*qp).recv_task);
        }
        result
    }
}

/// `ibv_modify_srq`.
///
/// # Safety
///
/// Called by the RDMA core with a shared receive queue of rxe's.
pub(crate) unsafe extern "C" fn modify_srq(
    ibsrq: *mut rxe::ib_srq,
    attributes: *mut rxe::ib_srq_attr,
    mask: rxe::ib_srq_attr_mask,
    udata: *mut rxe::ib_udata,
) -> c_int {
    let modify = || {
        let modify = rxes()?.modify_srq.ok_or_else(not_supported)?;
        // SAFETY: By the contract, a `rxe_srq` contains its `ib_srq`; it is valid until this returns. rxe gets its own
        // function's arguments.
        unsafe {
            let _change = Change::of(kernel::container_of!(ibsrq, rxe::rxe_srq, ibsrq))?;
            kernel::error::to_result(modify(ibsrq, attributes, mask, udata))
        }
    };
    errno(modify())
}

/// `ibv_query_srq`.
///
/// # Safety
///
/// As for [`modify_srq`].
pub(crate) unsafe extern "C" fn query_srq(
    ibsrq: *mut rxe::ib_srq,
    attributes: *mut rxe::ib_srq_attr,
) -> c_int {
    let query = || {
        let query = rxes()?.query_srq.ok_or_else(not_supported)?;
        // SAFETY: As in `modify_srq`.
        unsafe {
            let _change = Change::of(kernel::container_of!(ibsrq, rxe::rxe_srq, ibsrq))?;
            kernel::error::to_result(query(ibsrq, attributes))
        }
    };
    errno(query())
}
