// SPDX-License-Identifier: GPL-2.0

//! Parked requests: a worker brings their page in.
//!
//! rxe's task for a queue pair holds references: to the queue pair, the region, the address handle and, through a
//! packet from the same machine, the sender's queue pair. So it must not sleep for a page. When an access would
//! ([`AccessError::MustWait`]), [`crate::stop`] raises a fault and fails the access. rxe's own error handling then
//! releases everything. The effects of the error are suppressed, and the state is restored to that before the request:
//!
//! * the requester puts its WQE back into the send queue ([`crate::wqe`]);
//! * the responder ([`crate::responder_wait`]) of a reliable connection answers RNR NAK, as a ConnectX does, and the
//!   requester sends again. Other responders keep the packet;
//! * the completer ([`crate::completer_wait`]) drops the response to a READ and asks for it again; the response to an
//!   atomic stays in its queue.
//!
//! When the page is present, or cannot be had, the task runs again and repeats the access. A queue pair has at most
//! one fault for each of the three. It is found by the number of the queue pair, and freed with it
//! ([`crate::queue_pair`]).

use kernel::prelude::*;
use kernel::sync::Arc;

use mlx_odp::{AccessError, Region, Resume, Wanted};

use crate::device::parked_of;
use crate::pool::in_pool;
use crate::queue_pair::{Engine, Known};
use crate::rxe;
use crate::send_queue::{self, mlx_odp_rxe_sender};

/// Resumes an engine of a queue pair when its fault is resolved.
struct Waker {
    device: *mut rxe::rxe_dev,
    number: u32,
    engine: Engine,
}

// SAFETY: The device may be used from any thread. It outlives its tickets: these are dropped with the queue pairs, and
// nothing is resumed afterwards.
unsafe impl Send for Waker {}
// SAFETY: As above.
unsafe impl Sync for Waker {}

impl Resume for Waker {
    fn resume(&self) {
        // SAFETY: The device is valid, as above. Does not sleep.
        unsafe { rxe::rxe_shim_resume(self.device, self.number, self.engine as u32) };
    }
}

/// The queue pair whose task runs here, and its engine, which depends on whether it `writes` to memory.
fn running(writes: bool) -> Option<(*mut rxe::rxe_qp, Engine)> {
    // SAFETY: Reads the state of the current thread.
    let task = unsafe { rxe::rxe_shim_current_task() };
    if task.is_null() {
        return None;
    }
    // SAFETY: The task runs until this call returns, so its queue pair is valid.
    let qp = unsafe { (*task).qp };
    // SAFETY: As above.
    let receives = unsafe { task == &raw mut (*qp).recv_task };
    let engine = match (receives, writes) {
        (true, _) => Engine::Responder,
        (false, true) => Engine::Completer,
        (false, false) => Engine::Requester,
    };
    Some((qp, engine))
}

/// Whether the queue pair whose task runs here is being destroyed, which waits for the task.
pub(crate) fn is_ending() -> bool {
    // SAFETY: Its task runs here.
    running(true).is_some_and(|(qp, _)| unsafe { !in_pool(qp) })
}

/// Raises the fault, unless the same one is in progress. `None` if the access has failed for good.
pub(crate) fn wait_for(
    region: &Region,
    error: AccessError,
    writes: bool,
) -> Option<(*mut rxe::rxe_qp, Engine)> {
    let AccessError::MustWait(wanted) = error else {
        return None;
    };
    let (qp, engine) = running(writes)?;
    // SAFETY: Its task runs here.
    let is_being_destroyed = unsafe { !in_pool(qp) };
    // SAFETY: As above.
    (!is_being_destroyed && unsafe { raise(qp, engine, region, wanted) }).then_some((qp, engine))
}

/// # Safety
///
/// The task of this `engine` of `qp` runs here.
unsafe fn raise(qp: *mut rxe::rxe_qp, engine: Engine, region: &Region, wanted: Wanted) -> bool {
    // SAFETY: The queue pair and its device are in use.
    let (parked, number) = unsafe { (parked_of((*qp).ibqp.device), (*qp).elem.index) };
    if parked.ensure(qp).is_err() {
        return false;
    }
    match parked.with(qp, |queue_pair| {
        queue_pair.fault(engine).look(region, wanted)
    }) {
        Some(Known::UnderWay) => return true,
        // Dropped here, without the lock.
        Some(Known::CannotBeHad(_ticket)) => return false,
        Some(Known::Gone(_ticket)) => region.counts_retry(),
        Some(Known::Nothing(_ticket)) => {}
        None => return false,
    }
    // SAFETY: As above; a `rxe_dev` contains its `ib_device`.
    let device = unsafe { kernel::container_of!((*qp).ibqp.device, rxe::rxe_dev, ib_dev) };
    let waker = Waker {
        device,
        number,
        engine,
    };
    let Ok(waker) = Arc::new(waker, GFP_KERNEL) else {
        return false;
    };
    let Ok(ticket) = region.raise(wanted, waker) else {
        return false;
    };
    let mut ticket = Some(ticket);
    parked.with(qp, |queue_pair| {
        queue_pair.fault(engine).raised(ticket.take());
    });
    // Left if the queue pair was destroyed meanwhile.
    ticket.is_none()
}

/// This `engine` of `qp` is about to leave its request, through rxe's error handling.
///
/// # Safety
///
/// `qp` is valid.
pub(crate) unsafe fn set_stopping(qp: *mut rxe::rxe_qp, engine: Engine) {
    // SAFETY: By the contract.
    let parked = unsafe { parked_of((*qp).ibqp.device) };
    parked.with(qp, |queue_pair| queue_pair.fault(engine).stopping = true);
}

/// Whether this `engine` of `qp` was leaving a parked request. It has left now.
///
/// # Safety
///
/// `qp` is valid.
pub(crate) unsafe fn stopped(qp: *mut rxe::rxe_qp, engine: Engine) -> bool {
    // SAFETY: By the contract.
    let parked = unsafe { parked_of((*qp).ibqp.device) };
    let stopped = parked.with(qp, |queue_pair| {
        core::mem::take(&mut queue_pair.fault(engine).stopping)
    });
    stopped.unwrap_or(false)
}

/// Drops the state of `qp`, and gives its tasks rxe's own functions again.
///
/// # Safety
///
/// `qp` is valid, its sending task does not run, and its responder is without references or in the reset state, where it
/// parks nothing. No other thread does the same.
pub(crate) unsafe fn forget(qp: *mut rxe::rxe_qp) {
    // SAFETY: By the contract.
    unsafe {
        parked_of((*qp).ibqp.device).forget(qp);
        for (task, function) in [
            (&raw mut (*qp).recv_task, rxe::rxe_receiver as Task),
            (&raw mut (*qp).send_task, mlx_odp_rxe_sender as Task),
        ] {
            // One that was never made has none.
            if (*task).func.is_some() {
                (*task).func = Some(function);
            }
        }
    }
}

/// The function of a queue pair's task.
pub(crate) type Task = unsafe extern "C" fn(*mut rxe::rxe_qp) -> kernel::ffi::c_int;

/// Replaces `rxe_qp_cleanup` in `rxe_pool.c`, the last function called on a queue pair.
///
/// # Safety
///
/// Called by rxe with the element of a queue pair without references.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_qp_cleanup(elem: *mut rxe::rxe_pool_elem) {
    // SAFETY: A queue pair contains its element. A running task would have a reference.
    unsafe {
        let qp = kernel::container_of!(elem, rxe::rxe_qp, elem);
        // One whose creation failed has no device yet.
        if !(*qp).ibqp.device.is_null() {
            forget(qp);
        }
        let requests = send_queue::own_buffer(qp);
        // Flushes the queues. It does so at once, as this is process context.
        rxe::rxe_qp_cleanup(elem);
        drop(requests);
    }
}

/// The queue pair is being destroyed: withdraws its faults and runs its tasks once more.
///
/// # Safety
///
/// Called by `mlx_odp_rxe_wait_unused` with the element of a queue pair that was removed from its pool.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_abandon(elem: *mut rxe::rxe_pool_elem) {
    // SAFETY: As above; valid as long as its references are waited for.
    unsafe {
        let qp = kernel::container_of!(elem, rxe::rxe_qp, elem);
        let parked = parked_of((*qp).ibqp.device);
        let tickets = parked.with(qp, |queue_pair| {
            [Engine::Responder, Engine::Requester, Engine::Completer]
                .map(|engine| queue_pair.fault(engine).take_ticket())
        });
        // Without the lock.
        drop(tickets);
        rxe::rxe_shim_run_tasks(qp);
    }
}
