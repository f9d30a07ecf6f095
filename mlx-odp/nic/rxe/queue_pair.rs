// SPDX-License-Identifier: GPL-2.0

//! The state of the queue pairs of a device that have parked requests ([`crate::parked`]).
//!
//! # Locking
//!
//! [`Parked::queue_pairs`] is a spinlock, held to look at the state of a queue pair. The spinlock of a fault
//! (`mlx_odp::ticket`) nests inside it, never the other way round: resuming finds the queue pair through rxe's pool.

use core::ptr::NonNull;

use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{new_spinlock, SpinLock};

use mlx_odp::{Region, Ticket, Wanted};

use crate::rxe;

/// The packet consumes a receive.
pub(crate) const TAKES_RECEIVE: u32 = rxe::rxe_hdr_mask_RXE_RWR_MASK;

/// A state machine of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Engine {
    /// The responder.
    Responder = rxe::rxe_shim_engine_RXE_SHIM_RESPONDER,
    /// The requester.
    Requester = rxe::rxe_shim_engine_RXE_SHIM_REQUESTER,
    /// The completer.
    Completer = rxe::rxe_shim_engine_RXE_SHIM_COMPLETER,
}

/// The fault of one engine of a queue pair.
#[derive(Default)]
pub(crate) struct Fault {
    /// The last fault that this engine has raised.
    ticket: Option<Ticket>,
    /// How often this engine has repeated the access since.
    tries: u32,
    /// Whether this engine is leaving the request through rxe's error handling.
    pub(crate) stopping: bool,
}

/// The state of a page that a queue pair needs.
pub(crate) enum Known {
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
    /// Takes the ticket. Dropping it withdraws the fault.
    pub(crate) fn take_ticket(&mut self) -> Option<Ticket> {
        self.ticket.take()
    }

    /// A new fault was raised.
    pub(crate) fn raised(&mut self, ticket: Option<Ticket>) {
        (self.ticket, self.tries) = (ticket, 0);
    }

    /// What is known of the first page of `wanted`. Takes the ticket unless the page is being brought in.
    pub(crate) fn look(&mut self, region: &Region, wanted: Wanted) -> Known {
        match &self.ticket {
            Some(ticket) if region.has_raised(ticket, wanted) => match ticket.outcome() {
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

/// An RNR NAK to send.
#[derive(Clone, Copy)]
pub(crate) struct NotReady {
    /// For this packet, if not the one that is answered.
    pub(crate) psn: Option<u32>,
    /// How often it was sent for the same page before.
    pub(crate) tries: u32,
}

/// The state with which a responder resumes.
pub(crate) struct Receive {
    /// The packet's mask, as rxe has it.
    pub(crate) mask: u32,
    /// The receive of the message.
    pub(crate) wqe: *mut rxe::rxe_recv_wqe,
    /// The packet, unless the requester sends it again.
    pub(crate) packet: Option<Packet>,
}

// SAFETY: The receive is a part of the queue pair, and only its task uses it.
unsafe impl Send for Receive {}

impl Receive {
    /// Whether the packet consumes a receive.
    pub(crate) fn takes_receive(&self) -> bool {
        self.mask & TAKES_RECEIVE != 0
    }
}

/// A receive of a shared receive queue, taken for a message that it does not contain yet.
pub(crate) struct KeptReceive(pub(crate) *mut rxe::rxe_recv_wqe);

// SAFETY: As for `Receive`.
unsafe impl Send for KeptReceive {}

/// A packet that was removed from a queue. Dropping it frees it.
pub(crate) struct Packet(NonNull<rxe::sk_buff>);

// SAFETY: A packet belongs to no thread.
unsafe impl Send for Packet {}

impl Packet {
    /// Takes `skb` over.
    ///
    /// # Safety
    ///
    /// `skb` is null, or a packet that its owner gives up.
    pub(crate) unsafe fn from_raw(skb: *mut rxe::sk_buff) -> Option<Self> {
        NonNull::new(skb).map(Self)
    }

    /// Gives it up to the caller.
    pub(crate) fn into_raw(self) -> *mut rxe::sk_buff {
        core::mem::ManuallyDrop::new(self).0.as_ptr()
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // SAFETY: It is ours.
        unsafe { rxe::rxe_shim_free_packet(self.0.as_ptr()) };
    }
}

/// The completer's place before a response.
#[derive(Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) psn: u32,
    pub(crate) opcode: c_int,
}

/// The parked requests of a queue pair.
#[derive(Default)]
pub(crate) struct QueuePair {
    responder: Fault,
    requester: Fault,
    completer: Fault,
    /// The responder's RNR NAK in place of its next response.
    not_ready: Option<NotReady>,
    /// The state with which the responder resumes.
    pub(crate) receive: Option<Receive>,
    /// The receive that it has already taken.
    pub(crate) kept_receive: Option<KeptReceive>,
    /// The completer's place before the response that it has to ask for again.
    pub(crate) answer: Option<Answer>,
}

impl QueuePair {
    /// The fault of `engine`.
    pub(crate) fn fault(&mut self, engine: Engine) -> &mut Fault {
        match engine {
            Engine::Responder => &mut self.responder,
            Engine::Requester => &mut self.requester,
            Engine::Completer => &mut self.completer,
        }
    }

    /// Makes the responder send an RNR NAK for this packet, or for the current one.
    pub(crate) fn tell_not_ready(&mut self, psn: Option<u32>) {
        let tries = self.responder.tries;
        self.not_ready = Some(NotReady { psn, tries });
    }

    /// Takes the RNR NAK that is to be sent.
    pub(crate) fn take_not_ready(&mut self) -> Option<NotReady> {
        self.not_ready.take()
    }

    /// Whether the fault of `engine` is resolved, or there is none.
    pub(crate) fn may_go_on(&mut self, engine: Engine) -> bool {
        let ticket = self.fault(engine).ticket.as_ref();
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
    pub(crate) fn ensure(&self, qp: *mut rxe::rxe_qp) -> Result {
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
    pub(crate) fn forget(&self, qp: *mut rxe::rxe_qp) {
        let removed = self.queue_pairs.lock().remove_node(&qp.addr());
        // Without the lock.
        drop(removed);
    }
}
