// SPDX-License-Identifier: GPL-2.0

//! Requests that are parked: their page is being brought in by somebody who may wait for it.
//!
//! rxe works on a queue pair in a task, and holds references meanwhile: to the queue pair, the region, the address
//! handle, and by a packet from the same machine to the sender's queue pair. So nothing may wait in there. When
//! an access says that somebody has to be waited for ([`AccessError::MustWait`]), [`stop`] raises a fault, and has
//! rxe's own error handling let go of everything, as if the access had failed; what it would tell the world of that
//! is kept from it, and afterwards all is as it was before the request was looked at:
//!
//! * the requester has its request back in the queue ([`crate::wqe`]);
//! * the responder ([`crate::responder_wait`]) of a reliable connection has answered that it is not ready (RNR
//!   NAK), as a ConnectX does, and the requester comes again. Others keep the packet;
//! * the completer ([`crate::completer_wait`]) has lost the answer to a READ, and asks again; that to an atomic
//!   stays in its queue.
//!
//! When the page is there, or cannot be had, the task runs again and comes to the same access. A queue pair keeps
//! at most one fault for each of the three. They are found by its number, and go when it goes.
//!
//! # Locking
//!
//! [`Parked::queue_pairs`] is a spinlock, held for a look at what a queue pair has. Under it the spinlock of a
//! fault is taken (`mlx_odp::ticket`); not the other way round: what is resumed is found by rxe's own pool.

use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{new_spinlock, Arc, SpinLock};

use mlx_odp::region::{AccessError, Region, Wanted};
use mlx_odp::ticket::{Resume, Ticket};

use crate::device::parked_of;
use crate::pool::in_pool;
use crate::responder_wait::{self, KeptReceive, Receive};
use crate::rxe;

/// Who of a queue pair is at work.
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

/// What one side of a queue pair waits for.
#[derive(Default)]
struct Fault {
    /// The last fault that it has raised.
    ticket: Option<Ticket>,
    /// How often it has come to the same access since.
    tries: u32,
    /// Whether it is on its way out of the request, which has to look as if it had failed.
    stopping: bool,
}

/// That a responder is not ready.
#[derive(Clone, Copy)]
pub(crate) struct NotReady {
    /// For which packet, if not the one that is answered.
    pub(crate) psn: Option<u32>,
    /// How often that was said of the same page before.
    pub(crate) tries: u32,
}

/// What a queue pair has parked.
#[derive(Default)]
pub(crate) struct QueuePair {
    responder: Fault,
    requester: Fault,
    completer: Fault,
    /// What the responder tells its requester instead of its next answer.
    not_ready: Option<NotReady>,
    /// What the responder goes on with.
    pub(crate) receive: Option<Receive>,
    /// The receive that it has taken already.
    pub(crate) kept_receive: Option<KeptReceive>,
    /// Where the completer was before the answer that it has to ask for again.
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

    /// The responder will not answer this packet, or the one that it is at: the requester has to come again.
    pub(crate) fn tell_not_ready(&mut self, psn: Option<u32>) {
        let tries = self.responder.tries;
        self.not_ready = Some(NotReady { psn, tries });
    }

    /// What the responder has to tell, once.
    pub(crate) fn take_not_ready(&mut self) -> Option<NotReady> {
        self.not_ready.take()
    }

    /// Whether the page that this side waits for may be had now, or is known not to be.
    pub(crate) fn may_go_on(&mut self, side: Side) -> bool {
        let ticket = self.fault(side).ticket.as_ref();
        ticket.is_none_or(|ticket| ticket.outcome().is_some())
    }
}

/// What the queue pairs of a device have parked.
#[pin_data]
pub(crate) struct Parked {
    /// By their addresses: a number may be another's before the queue pair has gone.
    #[pin]
    queue_pairs: SpinLock<RBTree<usize, QueuePair>>,
}

impl Parked {
    /// Nothing yet.
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

    /// Looks at what `qp` has parked, under the lock; `None` if that is nothing.
    pub(crate) fn with<T>(
        &self,
        qp: *mut rxe::rxe_qp,
        look: impl FnOnce(&mut QueuePair) -> T,
    ) -> Option<T> {
        self.queue_pairs.lock().get_mut(&qp.addr()).map(look)
    }

    /// Makes sure that there is something to look at. Sleeps.
    fn ensure(&self, qp: *mut rxe::rxe_qp) -> Result {
        if self.queue_pairs.lock().get(&qp.addr()).is_some() {
            return Ok(());
        }
        let node = RBTreeNode::new(qp.addr(), QueuePair::default(), GFP_KERNEL)?;
        // Nobody else makes one for the same queue pair but its other task: then one of the two is dropped.
        let mut queue_pairs = self.queue_pairs.lock();
        if queue_pairs.get(&qp.addr()).is_none() {
            queue_pairs.insert(node);
        }
        Ok(())
    }

    /// What `qp` has parked is given up.
    fn forget(&self, qp: *mut rxe::rxe_qp) {
        let removed = self.queue_pairs.lock().remove_node(&qp.addr());
        // Without the lock.
        drop(removed);
    }
}

/// A side of a queue pair, as a fault finds it again.
struct Place {
    device: *mut rxe::rxe_dev,
    number: u32,
    side: Side,
}

// SAFETY: The device may be used from any thread. It is there for as long as there is a ticket: those of a device
// are dropped with its queue pairs, and nobody is resumed afterwards.
unsafe impl Send for Place {}
// SAFETY: As above.
unsafe impl Sync for Place {}

impl Resume for Place {
    fn resume(&self) {
        // SAFETY: The device is there, as above. Does not sleep.
        unsafe { rxe::rxe_shim_resume(self.device, self.number, self.side as u32) };
    }
}

/// The queue pair whose task runs here, and which side of it is at work if it `writes` to memory or reads it.
fn running(writes: bool) -> Option<(*mut rxe::rxe_qp, Side)> {
    // SAFETY: Looks at the current thread.
    let task = unsafe { rxe::rxe_shim_current_task() };
    if task.is_null() {
        return None;
    }
    // SAFETY: The task runs, so its queue pair is valid, and does so until this call returns.
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

/// Has the request that an access to `region` belongs to parked, if the access ended because somebody has to be
/// waited for. Called by rxe's tasks, inside of the access, which then fails. Sleeps, but waits for nobody.
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

/// As [`stop`], for an atomic operation of a responder, which can be told itself that the requester has to come
/// again; says whether it has to.
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

/// Raises the fault, unless the same is under way already. `None` if the access has failed, and not because
/// somebody has to be waited for.
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
    // SAFETY: As above; rxe's devices contain their `ib_device`.
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
    // Left if the queue pair goes meanwhile.
    ticket.is_none()
}

/// What is known of a page that a queue pair cannot go on without.
enum Known {
    /// It is being brought in.
    UnderWay,
    /// It could not be had.
    CannotBeHad(Option<Ticket>),
    /// It was there, and has gone again.
    Gone(Option<Ticket>),
    /// Nothing.
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

/// Whether this `side` of `qp` was on its way out of a request that is parked. Now it is out.
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

/// Gives up what `qp` has parked, and lets its tasks be rxe's own again.
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

/// What a task of a queue pair does.
pub(crate) type Task = unsafe extern "C" fn(*mut rxe::rxe_qp) -> kernel::ffi::c_int;

/// Takes the place of `rxe_qp_cleanup` in `rxe_pool.c`: the last that is done to a queue pair.
///
/// # Safety
///
/// Called by rxe with the element of a queue pair to which nobody has a reference any more.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_qp_cleanup(elem: *mut rxe::rxe_pool_elem) {
    // SAFETY: Queue pairs contain their elements. A task that runs has a reference.
    unsafe {
        let qp = kernel::container_of!(elem, rxe::rxe_qp, elem);
        // One that could not be made has no device yet.
        if !(*qp).ibqp.device.is_null() {
            forget(qp);
        }
        rxe::rxe_qp_cleanup(elem);
    }
}

/// The queue pair is waited for, as somebody destroys it: it waits for nothing any more. Its tasks run once more.
///
/// # Safety
///
/// Called by rxe with the element of a queue pair that has been taken out of its pool.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_abandon(elem: *mut rxe::rxe_pool_elem) {
    // SAFETY: As above; valid as long as it is waited for.
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
