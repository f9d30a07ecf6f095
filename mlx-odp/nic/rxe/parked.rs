// SPDX-License-Identifier: GPL-2.0

//! Parked requests: a worker brings their page in.
//!
//! rxe's task for a queue pair holds references: to the queue pair, the region, the address handle and, through a
//! packet from the same machine, the sender's queue pair. So it must not sleep for a page. When an access would
//! ([`AccessError::MustWait`]), [`stop`] raises a fault and fails the access. rxe's own error handling then releases
//! everything. The effects of the error are suppressed, and the state is restored to that before the request:
//!
//! * the requester puts its WQE back into the send queue ([`crate::wqe`]);
//! * the responder ([`crate::responder_wait`]) of a reliable connection answers RNR NAK, as a ConnectX does, and the
//!   requester sends again. Other responders keep the packet;
//! * the completer ([`crate::completer_wait`]) drops the response to a READ and asks for it again; the response to an
//!   atomic stays in its queue.
//!
//! When the page is present, or cannot be had, the task runs again and repeats the access. A queue pair has at most
//! one fault for each of the three. It is found by the number of the queue pair, and freed with it.
//!
//! # Locking
//!
//! [`Parked::queue_pairs`] is a spinlock, held to look at the state of a queue pair. The spinlock of a fault
//! (`mlx_odp::ticket`) nests inside it, never the other way round: resuming finds the queue pair through rxe's pool.

use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{new_spinlock, Arc, SpinLock};

use mlx_odp::region::{AccessError, Region, Wanted};
use mlx_odp::ticket::{Resume, Ticket};

use crate::device::parked_of;
use crate::pool::in_pool;
use crate::responder_wait::{self, KeptReceive, Receive};
use crate::rxe;

/// The part of a queue pair that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Side {
    /// The responder.
    Responder = rxe::rxe_shim_side_RXE_SHIM_RESPONDER,
    /// The requester.
    Requester = rxe::rxe_shim_side_RXE_SHIM_REQUESTER,
    /// The completer.
    Completer = rxe::rxe_shim_side_RXE_SHIM_COMPLETER,
}

/// The fault of one side of a queue pair.
#[derive(Default)]
struct Fault {
    /// The last fault that this side has raised.
    ticket: Option<Ticket>,
    /// How often this side has repeated the access since.
    tries: u32,
    /// Whether this side is leaving the request through rxe's error handling.
    stopping: bool,
}

/// An RNR NAK to send.
#[derive(Clone, Copy)]
pub(crate) struct NotReady {
    /// For this packet, if not the one that is answered.
    pub(crate) psn: Option<u32>,
    /// How often it was sent for the same page before.
    pub(crate) tries: u32,
}

/// The parked requests of a queue pair.
#[derive(Default)]
pub(crate) struct QueuePair {
    responder: Fault,
    requester: Fault,
    completer: Fault,
    /// The responder's RNR NAK in place of its next response.
    not_ready: Option<NotReady>,
    /// What the responder resumes with.
    pub(crate) receive: Option<Receive>,
    /// The receive that it has already taken.
    pub(crate) kept_receive: Option<KeptReceive>,
    /// The completer's place before the response that it has to ask for again.
    pub(crate) answer: Option<crate::completer_wait::Answer>,
}

impl QueuePair {
    fn fault(&mut self, side: Side) -> &mut Fault {
        match side {
            Side::Responder => &mut self.responder,
            Side::Requester => &mut self.requester,
            Side::Completer => &mut self.completer,
        }
    }

    /// Has the responder send an RNR NAK for this packet, or for the current one.
    pub(crate) fn tell_not_ready(&mut self, psn: Option<u32>) {
        let tries = self.responder.tries;
        self.not_ready = Some(NotReady { psn, tries });
    }

    /// Takes the RNR NAK that is to be sent.
    pub(crate) fn take_not_ready(&mut self) -> Option<NotReady> {
        self.not_ready.take()
    }

    /// Whether the fault of this side is resolved, or there is none.
    pub(crate) fn may_go_on(&mut self, side: Side) -> bool {
        let ticket = self.fault(side).ticket.as_ref();
        ticket.is_none_or(|ticket| ticket.outcome().is_some())
    }
}

/// The parked requests of the queue pairs of a device.
#[pin_data]
pub(crate) struct Parked {
    /// By address: a number may be reused before the old queue pair is freed.
    #[pin]
    queue_pairs: SpinLock<RBTree<usize, QueuePair>>,
}

impl Parked {
    /// Without any.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                queue_pairs <- new_spinlock!(RBTree::new(), "rxe::parked"),
            }),
            GFP_KERNEL,
        )
    }

    /// Calls `look` on the state of `qp`, under the lock; `None` if there is none.
    pub(crate) fn with<T>(
        &self,
        qp: *mut rxe::rxe_qp,
        look: impl FnOnce(&mut QueuePair) -> T,
    ) -> Option<T> {
        self.queue_pairs.lock().get_mut(&qp.addr()).map(look)
    }

    /// Ensures that `qp` has a state. Sleeps.
    fn ensure(&self, qp: *mut rxe::rxe_qp) -> Result {
        if self.queue_pairs.lock().get(&qp.addr()).is_some() {
            return Ok(());
        }
        let node = RBTreeNode::new(qp.addr(), QueuePair::default(), GFP_KERNEL)?;
        // Only the other task of the queue pair may make one at the same time: one of the two is dropped.
        let mut queue_pairs = self.queue_pairs.lock();
        if queue_pairs.get(&qp.addr()).is_none() {
            queue_pairs.insert(node);
        }
        Ok(())
    }

    /// Drops the state of `qp`.
    fn forget(&self, qp: *mut rxe::rxe_qp) {
        let removed = self.queue_pairs.lock().remove_node(&qp.addr());
        // Without the lock.
        drop(removed);
    }
}

/// A side of a queue pair, for a fault to resume.
struct Place {
    device: *mut rxe::rxe_dev,
    number: u32,
    side: Side,
}

// SAFETY: The device may be used from any thread. It outlives its tickets: these are dropped with the queue pairs, and
// nothing is resumed afterwards.
unsafe impl Send for Place {}
// SAFETY: As above.
unsafe impl Sync for Place {}

impl Resume for Place {
    fn resume(&self) {
        // SAFETY: The device is valid, as above. Does not sleep.
        unsafe { rxe::rxe_shim_resume(self.device, self.number, self.side as u32) };
    }
}

/// The queue pair whose task runs here, and its side, which depends on whether it `writes` to memory.
fn running(writes: bool) -> Option<(*mut rxe::rxe_qp, Side)> {
    // SAFETY: Reads the state of the current thread.
    let task = unsafe { rxe::rxe_shim_current_task() };
    if task.is_null() {
        return None;
    }
    // SAFETY: The task runs until this call returns, so its queue pair is valid.
    let qp = unsafe { (*task).qp };
    // SAFETY: As above.
    let receives = unsafe { task == &raw mut (*qp).recv_task };
    let side = match (receives, writes) {
        (true, _) => Side::Responder,
        (false, true) => Side::Completer,
        (false, false) => Side::Requester,
    };
    Some((qp, side))
}

/// Parks the request of an access to `region` that ended with [`AccessError::MustWait`]. Called by rxe's tasks, inside
/// the access, which then fails. May allocate, but does not sleep for the page.
pub(crate) fn stop(region: &Region, error: AccessError, writes: bool) {
    let Some((qp, side)) = wait_for(region, error, writes) else {
        return;
    };
    // SAFETY: This is the task of `qp`.
    unsafe { set_stopping(qp, side) };
    if side == Side::Responder {
        // SAFETY: As above, and it is the responder that runs.
        unsafe { responder_wait::stop(qp) };
    }
}

/// As [`stop`], for an atomic operation: the responder itself can be told to send an RNR NAK. Returns whether it has
/// to.
pub(crate) fn stop_atomic(region: &Region, error: AccessError) -> bool {
    match wait_for(region, error, true) {
        Some((qp, _)) => {
            // SAFETY: The responder of `qp` runs here.
            unsafe {
                responder_wait::give_back_resource(qp);
                responder_wait::expect_again(qp);
                let parked = parked_of((*qp).ibqp.device);
                parked.with(qp, |queue_pair| queue_pair.tell_not_ready(None));
            }
            true
        }
        None => false,
    }
}

/// Raises the fault, unless the same one is in progress. `None` if the access has failed for good.
fn wait_for(
    region: &Region,
    error: AccessError,
    writes: bool,
) -> Option<(*mut rxe::rxe_qp, Side)> {
    let AccessError::MustWait(wanted) = error else {
        return None;
    };
    let (qp, side) = running(writes)?;
    // SAFETY: Its task runs here.
    let goes = unsafe { !in_pool(qp) };
    // SAFETY: As above.
    (!goes && unsafe { raise(qp, side, region, wanted) }).then_some((qp, side))
}

/// # Safety
///
/// The task of this `side` of `qp` runs here.
unsafe fn raise(qp: *mut rxe::rxe_qp, side: Side, region: &Region, wanted: Wanted) -> bool {
    // SAFETY: The queue pair and its device are in use.
    let (parked, number) = unsafe { (parked_of((*qp).ibqp.device), (*qp).elem.index) };
    if parked.ensure(qp).is_err() {
        return false;
    }
    match parked.with(qp, |queue_pair| queue_pair.fault(side).look(region, wanted)) {
        Some(Known::UnderWay) => return true,
        // Dropped here, without the lock.
        Some(Known::CannotBeHad(_ticket)) => return false,
        Some(Known::Gone(_ticket)) => region.counts_retry(),
        Some(Known::Nothing(_ticket)) => {}
        None => return false,
    }
    // SAFETY: As above; a `rxe_dev` contains its `ib_device`.
    let device = unsafe { kernel::container_of!((*qp).ibqp.device, rxe::rxe_dev, ib_dev) };
    let place = Place {
        device,
        number,
        side,
    };
    let Ok(place) = Arc::new(place, GFP_KERNEL) else {
        return false;
    };
    let Ok(ticket) = region.raise(wanted, place) else {
        return false;
    };
    let mut ticket = Some(ticket);
    parked.with(qp, |queue_pair| {
        let fault = queue_pair.fault(side);
        (fault.ticket, fault.tries) = (ticket.take(), 0);
    });
    // Left if the queue pair was destroyed meanwhile.
    ticket.is_none()
}

/// The state of a page that a queue pair needs.
enum Known {
    /// It is being brought in.
    UnderWay,
    /// It could not be had.
    CannotBeHad(Option<Ticket>),
    /// It was brought in, and is gone again.
    Gone(Option<Ticket>),
    /// Unknown.
    Nothing(Option<Ticket>),
}

impl Fault {
    fn look(&mut self, region: &Region, wanted: Wanted) -> Known {
        match &self.ticket {
            Some(ticket) if ticket.is_for(region, wanted) => match ticket.outcome() {
                None => {
                    self.tries = self.tries.saturating_add(1);
                    Known::UnderWay
                }
                Some(Err(_)) => Known::CannotBeHad(self.ticket.take()),
                Some(Ok(())) => Known::Gone(self.ticket.take()),
            },
            _ => Known::Nothing(self.ticket.take()),
        }
    }
}

/// # Safety
///
/// `qp` is valid.
unsafe fn set_stopping(qp: *mut rxe::rxe_qp, side: Side) {
    // SAFETY: By the contract.
    let parked = unsafe { parked_of((*qp).ibqp.device) };
    parked.with(qp, |queue_pair| queue_pair.fault(side).stopping = true);
}

/// Whether this `side` of `qp` was leaving a parked request. It has left now.
///
/// # Safety
///
/// `qp` is valid.
pub(crate) unsafe fn stopped(qp: *mut rxe::rxe_qp, side: Side) -> bool {
    // SAFETY: By the contract.
    let parked = unsafe { parked_of((*qp).ibqp.device) };
    let stopped = parked.with(qp, |queue_pair| {
        core::mem::take(&mut queue_pair.fault(side).stopping)
    });
    stopped.unwrap_or(false)
}

/// Drops the state of `qp`, and gives its tasks rxe's own functions again.
///
/// # Safety
///
/// `qp` is valid, and its tasks do not run.
pub(crate) unsafe fn forget(qp: *mut rxe::rxe_qp) {
    // SAFETY: By the contract.
    unsafe {
        parked_of((*qp).ibqp.device).forget(qp);
        for (task, function) in [
            (&raw mut (*qp).recv_task, rxe::rxe_receiver as Task),
            (&raw mut (*qp).send_task, rxe::rxe_sender as Task),
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
        rxe::rxe_qp_cleanup(elem);
    }
}

/// The queue pair is being destroyed: gives up its faults, and has its tasks run once more.
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
            [Side::Responder, Side::Requester, Side::Completer]
                .map(|side| queue_pair.fault(side).ticket.take())
        });
        // Without the lock.
        drop(tickets);
        rxe::rxe_shim_run_tasks(qp);
    }
}
