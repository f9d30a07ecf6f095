// SPDX-License-Identifier: GPL-2.0

//! Parked responders: how a responder leaves a request whose page is being brought in, and returns to it.
//!
//! rxe's responder is in the middle of a packet when an access has to be parked ([`stop`]). It takes its path for a
//! refused packet: it drops the region, answers, removes the packet from its queue and puts the queue pair into
//! the error state. Two calls on that path are redirected to this file:
//!
//! * over a reliable connection the answer becomes an RNR NAK, and the requester sends the packet again after a
//!   while. The InfiniBand specification (volume 1, 9.7.5.2.8) has it for a request that the responder cannot take
//!   at the moment, and a ConnectX uses it for a page that is being brought in;
//! * the error state is not entered.
//!
//! Unreliable connections and datagrams have no such answer. There the packet is kept. An empty one takes its place
//! in the queue and is dropped, and the task waits ([`mlx_odp_rxe_receive_again`]) until the page is present.
//!
//! A receive from a shared receive queue cannot be put back, as another queue pair may have taken the next one. It is
//! kept for the packet that it was taken for.

use core::ptr::{null_mut, NonNull};

use kernel::ffi::c_int;
use kernel::prelude::*;

use mlx_odp::rxe::rnr;

use crate::device::parked_of;
use crate::parked;
use crate::pool::in_pool;
use crate::queue_pair::{Engine, KeptReceive, NotReady, Packet, QueuePair, Receive, TAKES_RECEIVE};
use crate::rxe;

const RC: rxe::ib_qp_type = rxe::ib_qp_type_IB_QPT_RC;
const UC: rxe::ib_qp_type = rxe::ib_qp_type_IB_QPT_UC;

const ACKNOWLEDGE: u8 = rxe::IB_OPCODE_RC_ACKNOWLEDGE as u8;

/// The packet has immediate data.
const IMMEDIATE: u32 = rxe::rxe_hdr_mask_RXE_IMMDT_MASK;

/// The responder of `qp` has come to an access that has to be parked.
///
/// # Safety
///
/// The responder of `qp` runs here, inside that access, which will fail.
pub(crate) unsafe fn stop(qp: *mut rxe::rxe_qp) {
    // SAFETY: By the contract: only fields of the responder are used, and its current packet is the first of its
    // queue.
    unsafe {
        let packet = rxe::rxe_shim_first_req_pkt(qp);
        if packet.is_null() {
            return;
        }
        let kind = (*qp).ibqp.qp_type;
        // With the opcode's mask: the packet's own changes once it has its receive.
        let (mask, mut psn) = (rxe::rxe_shim_mask(packet), (*packet).psn);
        // rxe reports a refused request with immediate data by its receive, and not by an event.
        (*packet).mask |= IMMEDIATE;
        if let Some(reached) = give_back_resource(qp) {
            psn = reached;
        }
        // A message without a receive is not completed.
        let wqe = core::mem::replace(&mut (*qp).resp.wqe, null_mut());
        rewind(wqe, kind);
        let mut receive = Receive {
            mask,
            wqe,
            packet: None,
        };
        match kind {
            RC => expect_again(qp),
            _ => receive.packet = Packet::from_raw(rxe::rxe_shim_take_req_pkt(qp)),
        }
        if kind != RC || receive.takes_receive() && !(*qp).srq.is_null() {
            (*qp).recv_task.func = Some(mlx_odp_rxe_receive_again);
        }
        let keeps = receive.takes_receive() && !(*qp).srq.is_null();
        let parked = parked_of((*qp).ibqp.device);
        let before = parked.with(qp, |queue_pair| {
            if kind == RC {
                queue_pair.tell_not_ready(Some(psn));
            }
            if keeps {
                queue_pair.kept_receive = Some(KeptReceive(wqe));
            }
            queue_pair.receive.replace(receive)
        });
        drop(before);
    }
}

/// The requester is told to send this packet again. Those after it, which it has already sent, are out of sequence
/// and are dropped silently: a NAK for the sequence would use up one of its retries.
///
/// # Safety
///
/// The responder of `qp` runs here.
pub(crate) unsafe fn expect_again(qp: *mut rxe::rxe_qp) {
    // SAFETY: By the contract: the field is the responder's, which clears it with the next packet in sequence.
    unsafe { (*qp).resp.sent_psn_nak = 1 };
}

/// Resets a receive to the state before the parked packet.
///
/// # Safety
///
/// `wqe` is null or the receive of the responder that runs here, whose queue pair is of this `kind`.
unsafe fn rewind(wqe: *mut rxe::rxe_recv_wqe, kind: rxe::ib_qp_type) {
    let Some(wqe) = NonNull::new(wqe) else {
        return;
    };
    // SAFETY: By the contract. It is rxe's own copy: the application cannot change it.
    unsafe {
        let dma = &raw mut (*wqe.as_ptr()).dma;
        // Noted by the copy that failed.
        (*dma).reserved = 0;
        if kind != RC && kind != UC {
            // The header of a datagram and its data are copied one after the other.
            (*dma).resid = (*dma).length;
            (*dma).sge_offset = 0;
            (*dma).cur_sge = 0;
        }
    }
}

/// Gives back the resource of a READ, an atomic or a FLUSH that the responder of `qp` has begun to answer: it will
/// begin again when it is asked again. For a READ, returns the PSN of the response that it could not send.
///
/// # Safety
///
/// The responder of `qp` runs here.
pub(crate) unsafe fn give_back_resource(qp: *mut rxe::rxe_qp) -> Option<u32> {
    const READ: c_int = rxe::rxe_hdr_mask_RXE_READ_MASK as c_int;
    // SAFETY: By the contract: these fields are the responder's own.
    unsafe {
        let resp = &raw mut (*qp).resp;
        let resource = core::mem::replace(&mut (*resp).res, null_mut());
        if resource.is_null() {
            return None;
        }
        let reads = (*resource).type_ == READ;
        let reached = reads.then_some((*resource).cur_psn);
        // A replay was answered before, and stays recorded as it is. It may go on beyond what was answered, to where the
        // READ was parked the last time and further: the requester asks for the rest.
        if (*resource).replay != 0 {
            if reads && follows((*resource).cur_psn, (*resp).psn) {
                (*resp).psn = (*resource).cur_psn;
            }
            return reached;
        }
        if reads {
            // Counted when the request arrived, and counted again when it is repeated.
            (*resp).msn = (*resp).msn.wrapping_sub(1);
        }
        if reads && (*resource).cur_psn != (*resource).first_psn {
            // The responses before were sent, so the requester asks for the rest. If some were lost, it asks for these
            // again, and for everything after them: all of it stays recorded.
            (*resp).psn = (*resource).cur_psn;
        } else {
            (*resource).type_ = 0;
            let all = u32::from((*qp).attr.max_dest_rd_atomic);
            (*resp).res_head = match (*resp).res_head {
                0 => all.saturating_sub(1),
                head => head - 1,
            };
        }
        reached
    }
}

/// Whether a packet sequence number comes after another one: they have 24 bits, and wrap.
pub(crate) fn follows(psn: u32, other: u32) -> bool {
    (psn.wrapping_sub(other) << 8) as i32 > 0
}

/// Replaces `rxe_prepare` in `rxe_resp.c`, where an answer is about to be sent: if the request is parked, the NAK
/// becomes an RNR NAK, with a longer timer from try to try. A queue pair that is being destroyed says nothing: it
/// has lost its windows and no longer waits for pages, and the requester would take that for a refusal.
///
/// # Safety
///
/// Called by rxe's responder with its arguments for `rxe_prepare`.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_prepare_answer(
    av: *mut rxe::rxe_av,
    answer: *mut rxe::rxe_pkt_info,
    skb: *mut rxe::sk_buff,
) -> c_int {
    // SAFETY: The answer is a packet of the queue pair whose responder runs here.
    unsafe {
        let qp = (*answer).qp;
        // The first is set for a request that is refused; the second by `expect_again`, or for a missing packet.
        if (*qp).resp.goto_error != 0 || (*qp).resp.sent_psn_nak != 0 {
            if !in_pool(qp) {
                return ENXIO.to_errno();
            }
            answer_not_ready(qp, answer);
        }
        // What rxe would have called.
        rxe::rxe_prepare(av, answer, skb)
    }
}

/// # Safety
///
/// The responder of `qp` runs here, and `answer` is about to be sent.
#[cold]
#[inline(never)]
unsafe fn answer_not_ready(qp: *mut rxe::rxe_qp, answer: *mut rxe::rxe_pkt_info) {
    // SAFETY: By the contract.
    unsafe {
        let parked = parked_of((*qp).ibqp.device);
        // Not a response with data.
        if (*answer).opcode != ACKNOWLEDGE {
            return;
        }
        let not_ready = parked.with(qp, QueuePair::take_not_ready).flatten();
        if let Some(NotReady { psn, tries }) = not_ready {
            let psn = psn.unwrap_or((*answer).psn);
            let timer = rnr::timer((*qp).attr.min_rnr_timer, tries);
            rxe::rxe_shim_make_rnr_nak(answer, psn, timer);
        }
    }
}

/// Replaces `rxe_qp_error` in `rxe_resp.c`, where the responder gives up on its queue pair.
///
/// # Safety
///
/// Called by rxe's responder with its queue pair.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_responder_failed(qp: *mut rxe::rxe_qp) {
    // SAFETY: By the contract.
    unsafe {
        if parked::stopped(qp, Engine::Responder) {
            get_out(qp);
            // rxe's task is about to end; there may be more packets.
            rxe::rxe_sched_task(&raw mut (*qp).recv_task);
            return;
        }
        // An overflow of the receive completion queue ends the request in the middle. In the error state the region is
        // not needed any more, and its deregistration would wait for the end of the queue pair.
        let region = core::mem::replace(&mut (*qp).resp.mr, null_mut());
        if !region.is_null() {
            rxe::__rxe_put(&raw mut (*region).elem);
        }
        rxe::rxe_qp_error(qp);
    }
}

/// The responder of `qp` has left the parked request.
///
/// # Safety
///
/// It runs here.
unsafe fn get_out(qp: *mut rxe::rxe_qp) {
    // SAFETY: By the contract: the fields are the responder's own.
    unsafe {
        let parked = parked_of((*qp).ibqp.device);
        parked.with(qp, |queue_pair| {
            // Still there if there was no memory for the answer: then none is sent, and the requester sends again.
            let _ = queue_pair.take_not_ready();
            let Some(receive) = &queue_pair.receive else {
                return;
            };
            // A message continues with its receive; the first packet of one takes it again.
            if !receive.takes_receive() {
                (*qp).resp.wqe = receive.wqe;
            }
            match receive.packet {
                // rxe would drop the rest of a message after a refused packet.
                Some(_) => (*qp).resp.drop_msg = 0,
                None => queue_pair.receive = None,
            }
        });
    }
}

/// The function of the responder's task, in place of `rxe_receiver`, while a packet or a receive is kept.
///
/// # Safety
///
/// Called by rxe's task for the responder of `qp`.
unsafe extern "C" fn mlx_odp_rxe_receive_again(qp: *mut rxe::rxe_qp) -> c_int {
    const IDLE: c_int = -(kernel::bindings::EAGAIN as c_int);
    // SAFETY: By the contract: the responder runs here.
    unsafe {
        // A responder of an unreliable connection leaves without an answer.
        if parked::stopped(qp, Engine::Responder) {
            get_out(qp);
        }
        let parked = parked_of((*qp).ibqp.device);
        let alive = in_pool(qp) && rxe::rxe_shim_runs(qp);
        let next = parked.with(qp, |queue_pair| next_of(qp, queue_pair, alive));
        match next.unwrap_or(Next::Leave(None)) {
            Next::Wait => {
                rxe::rxe_shim_keep_req_pkts(qp);
                return IDLE;
            }
            Next::Others => {}
            Next::GoOn(receive, kept) => {
                (*qp).recv_task.func = Some(rxe::rxe_receiver);
                go_on(qp, receive, kept);
            }
            // The packet is freed.
            Next::Leave(_receive) => (*qp).recv_task.func = Some(rxe::rxe_receiver),
        }
        rxe::rxe_receiver(qp)
    }
}

/// What the responder of `qp`, whose state this is, does next.
///
/// # Safety
///
/// It runs here.
unsafe fn next_of(qp: *mut rxe::rxe_qp, queue_pair: &mut QueuePair, alive: bool) -> Next {
    if !alive {
        queue_pair.kept_receive = None;
        return Next::Leave(queue_pair.receive.take());
    }
    let may_go_on = queue_pair.may_go_on(Engine::Responder);
    match &queue_pair.receive {
        Some(receive) if receive.packet.is_some() && !may_go_on => Next::Wait,
        Some(receive) if receive.packet.is_some() => match receive.takes_receive() {
            true => Next::GoOn(queue_pair.receive.take(), queue_pair.kept_receive.take()),
            false => Next::GoOn(queue_pair.receive.take(), None),
        },
        // SAFETY: By the contract.
        _ if queue_pair.kept_receive.is_some() => match unsafe { takes_kept(qp) } {
            true => Next::GoOn(None, queue_pair.kept_receive.take()),
            false => Next::Others,
        },
        _ => Next::Leave(None),
    }
}

/// What a responder with something kept does next.
enum Next {
    /// Wait: the page is not present yet.
    Wait,
    /// Resume: the next packet is the one that is kept, or one that a receive is kept for.
    GoOn(Option<Receive>, Option<KeptReceive>),
    /// Receive: another packet comes first.
    Others,
    /// Return to rxe's function: nothing is kept any more.
    Leave(Option<Receive>),
}

/// Whether the next packet of `qp` consumes the receive that is kept.
///
/// # Safety
///
/// The responder of `qp` runs here.
unsafe fn takes_kept(qp: *mut rxe::rxe_qp) -> bool {
    // SAFETY: By the contract.
    unsafe {
        let packet = rxe::rxe_shim_first_req_pkt(qp);
        let takes = |packet: &rxe::rxe_pkt_info| {
            packet.mask & TAKES_RECEIVE != 0
                && ((*qp).ibqp.qp_type != RC || packet.psn == (*qp).resp.psn)
        };
        packet.as_ref().is_some_and(takes)
    }
}

/// Puts the parked packet back into the queue, and gives the next packet the receive that was kept.
///
/// # Safety
///
/// The responder of `qp` runs here.
unsafe fn go_on(qp: *mut rxe::rxe_qp, receive: Option<Receive>, kept: Option<KeptReceive>) {
    // SAFETY: By the contract. A kept packet goes to the head of the queue; if the device is going, it is freed
    // instead.
    unsafe {
        if let Some(Receive {
            mask,
            packet: Some(packet),
            ..
        }) = receive
        {
            if !rxe::rxe_shim_give_back_req_pkt(qp, packet.into_raw()) {
                return;
            }
            (*rxe::rxe_shim_first_req_pkt(qp)).mask = mask;
        }
        let packet = rxe::rxe_shim_first_req_pkt(qp);
        if let (Some(KeptReceive(wqe)), false) = (kept, packet.is_null()) {
            // It has its receive already.
            (*packet).mask &= !TAKES_RECEIVE;
            (*qp).resp.wqe = wqe;
        }
    }
}
