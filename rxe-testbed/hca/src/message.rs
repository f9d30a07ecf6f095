// SPDX-License-Identifier: GPL-2.0
//! What the packets of connections do at their destination, when `responder` has put them in order: they fill receives,
//! write, read and change memory.

use crate::access::{self, Span, Use};
use crate::completion::{Completion, Outcome, Syndrome};
use crate::data::{Access, DataError};
use crate::device::Device;
use crate::fabric::{Packet, Part, Refusal, Remote};
use crate::faults::{Cause, End, Verdict};
use crate::layout::mkc;
use crate::qp::ends::{Answer, Message};
use crate::translate::{check, owned};
use crate::wqe::{Change, Receive, Segment};

/// Why a packet is not taken.
pub(crate) enum Problem {
    /// There is no receive.
    NotReady,
    /// Memory that it needs is not there yet.
    NotThere,
    /// The other end asked for what must not be.
    Theirs(Refusal),
    /// A receive is at fault.
    Ours(Receive, Syndrome, Refusal),
}

pub(crate) const INVALID: Problem = Problem::Theirs(Refusal::Invalid);
const DENIED: Problem = Problem::Theirs(Refusal::Access);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Theirs(refusal)
    }
}

/// Bytes that an atomic changes.
const WORD: u64 = 8;

impl Device {
    fn receive(&mut self, number: u32, packet: &Packet) -> Result<Receive, Problem> {
        if let Ok(pair) = self.queue_pairs.get_mut(number) {
            if let Some(kept) = pair.responder.kept.take() {
                return Ok(kept);
            }
        }
        let receive = self.take_receive(number, packet.shared)?;
        receive.ok_or(Problem::NotReady)
    }

    /// Takes a packet of a SEND. Gives how many packets' numbers have gone by.
    pub(crate) fn take_send(&mut self, number: u32, packet: &Packet) -> Result<u64, Problem> {
        let message = self.begun(number, packet)?;
        let (receive, done) = match message {
            None => (self.receive(number, packet)?, 0),
            Some(Message::Send { receive, done }) => (receive, done),
            Some(Message::Write { .. }) => return Err(INVALID),
        };
        match self.fill(number, &receive, done, &packet.payload) {
            Err(DataError::Short) => {
                let (syndrome, refusal) = (Syndrome::LocalLength, Refusal::Invalid);
                return Err(Problem::Ours(receive, syndrome, refusal));
            }
            Err(error) => {
                let length = packet.payload.len() as u64;
                if error.is_fault() && self.wait_for_receive_memory(number, &receive, done, length)
                {
                    self.hold(number, packet, Message::Send { receive, done });
                    return Err(Problem::NotThere);
                }
                let (syndrome, refusal) = (Syndrome::LocalProtection, Refusal::Operation);
                return Err(Problem::Ours(receive, syndrome, refusal));
            }
            Ok(()) => {}
        }
        let done = done + packet.payload.len() as u64;
        if !packet.part.ends() {
            self.go_on(number, Message::Send { receive, done });
            return Ok(1);
        }
        if let Some(key) = packet.invalidate {
            if !self.free_key(number, packet.shared, key) {
                let (syndrome, refusal) = (Syndrome::LocalAccess, Refusal::Access);
                return Err(Problem::Ours(receive, syndrome, refusal));
            }
        }
        self.received(number, &receive, done, packet, false);
        Ok(1)
    }

    /// Frees a key, as the other end asks for it. Gives whether that may be.
    fn free_key(&mut self, number: u32, shared: Option<u32>, key: u32) -> bool {
        let user = self.responder_use(number, shared, access::Access::LocalRead);
        let Ok(user) = user else {
            return false;
        };
        let span = Span {
            key,
            address: 0,
            length: 0,
        };
        let Ok(found) = owned(&self.mkeys, user, span) else {
            return false;
        };
        let may = mkc::EN_RINVAL.is_set(found.context());
        if let Ok(found) = self.mkeys.get_mut(key >> 8) {
            if may {
                mkc::FREE.set(found.context_mut(), 1_u64);
                found.set_free(true);
                self.key_gone(key >> 8, "free");
            }
        }
        may
    }

    /// Takes a packet of an RDMA WRITE.
    pub(crate) fn take_write(
        &mut self,
        number: u32,
        remote: Option<Remote>,
        packet: &Packet,
    ) -> Result<u64, Problem> {
        let user = self.responder_use(number, packet.shared, access::Access::RemoteWrite)?;
        let pair = self.queue_pairs.get(number).map_err(|_| INVALID)?;
        let allowed = pair.allows_writes();
        let message = self.begun(number, packet)?;
        let (remote, done) = match (message, remote) {
            (None, Some(remote)) => (remote, 0),
            (Some(Message::Write { remote, done }), None) => (remote, done),
            (Some(Message::Send { receive, .. }), _) => {
                let (syndrome, refusal) = (Syndrome::LocalOperation, Refusal::Invalid);
                return Err(Problem::Ours(receive, syndrome, refusal));
            }
            _ => return Err(INVALID),
        };
        let valid = remote.length == 0 || check(&self.mkeys, user, remote.span()).is_ok();
        if !allowed || !valid {
            return Err(DENIED);
        }
        let now = done + packet.payload.len() as u64;
        if now > remote.length || (packet.part.ends() && now != remote.length) {
            return Err(INVALID);
        }
        let length = packet.payload.len() as u64;
        if let Err(problem) = self.have_remote(number, user, remote, done, length) {
            self.hold(number, packet, Message::Write { remote, done });
            return Err(problem);
        }
        let receive = match packet.immediate {
            Some(_) => match self.receive(number, packet) {
                Ok(receive) => Some(receive),
                Err(problem) => {
                    self.hold(number, packet, Message::Write { remote, done });
                    return Err(problem);
                }
            },
            None => None,
        };
        let access = Access {
            keys: &self.mkeys,
            bus: &self.bus,
            user,
        };
        let target = Span {
            address: remote.address + done,
            length: packet.payload.len() as u64,
            key: remote.key,
        };
        access.write(target, &packet.payload).map_err(|_| DENIED)?;
        match (packet.part.ends(), receive) {
            (true, Some(receive)) => self.received(number, &receive, now, packet, true),
            (true, None) => {}
            (false, _) => self.go_on(number, Message::Write { remote, done: now }),
        }
        Ok(1)
    }

    /// Takes an RDMA READ: its answers will be sent.
    pub(crate) fn take_read(
        &mut self,
        number: u32,
        remote: Remote,
        packet: &Packet,
    ) -> Result<u64, Problem> {
        let user = self.responder_use(number, packet.shared, access::Access::RemoteRead)?;
        let pair = self.queue_pairs.get_mut(number).map_err(|_| INVALID)?;
        if pair.responder.message.is_some() {
            return Err(INVALID);
        }
        let valid = remote.length == 0 || check(&self.mkeys, user, remote.span()).is_ok();
        if !pair.allows_reads() || !valid {
            return Err(DENIED);
        }
        if remote.length > pair.longest_message() {
            return Err(INVALID);
        }
        let mtu = pair.mtu();
        let packets = remote.length.div_ceil(mtu).max(1);
        // What is missing further on is found when it is read.
        self.have_remote(number, user, remote, 0, remote.length.min(mtu))?;
        let pair = self.queue_pairs.get_mut(number).map_err(|_| INVALID)?;
        pair.responder.answers.push_back(Answer::Data {
            number: packet.number,
            remote,
            done: 0,
            user,
        });
        Ok(packets)
    }

    /// Takes an atomic: eight bytes are changed, and what was there is the answer.
    pub(crate) fn take_atomic(
        &mut self,
        number: u32,
        (remote, change): (Remote, Change),
        packet: &Packet,
    ) -> Result<u64, Problem> {
        let user = self.responder_use(number, packet.shared, access::Access::RemoteAtomic)?;
        let pair = self.queue_pairs.get(number).map_err(|_| INVALID)?;
        let (allowed, begun) = (pair.allows_atomics(), pair.responder.message.is_some());
        if begun || remote.length != WORD || remote.address % WORD != 0 {
            return Err(INVALID);
        }
        if !allowed || check(&self.mkeys, user, remote.span()).is_err() {
            return Err(DENIED);
        }
        self.have_remote(number, user, remote, 0, WORD)?;
        let access = Access {
            keys: &self.mkeys,
            bus: &self.bus,
            user,
        };
        let before = access.read(remote.span()).map_err(|_| DENIED)?;
        let order = self.capabilities.byte_order();
        let before = order.value(&before);
        let after = order.bytes(change.of(before));
        access.write(remote.span(), &after).map_err(|_| DENIED)?;
        let pair = self.queue_pairs.get_mut(number).map_err(|_| INVALID)?;
        let most = pair.answers_at_once();
        pair.responder.answer_atomic(packet.number, before, most);
        Ok(1)
    }

    /// The message that a packet goes on with. Its place in the message and its size have to fit.
    fn begun(&mut self, number: u32, packet: &Packet) -> Result<Option<Message>, Problem> {
        let pair = self.queue_pairs.get_mut(number).map_err(|_| INVALID)?;
        let message = pair.responder.message.take();
        let length = packet.payload.len() as u64;
        let fits = match packet.part {
            Part::First | Part::Middle => length == pair.mtu(),
            Part::Last => (1..=pair.mtu()).contains(&length),
            Part::Only => length <= pair.mtu(),
        };
        match fits && message.is_some() != packet.part.begins() {
            true => Ok(message),
            false => match message {
                Some(Message::Send { receive, .. }) => {
                    let syndrome = Syndrome::LocalOperation;
                    Err(Problem::Ours(receive, syndrome, Refusal::Invalid))
                }
                _ => Err(INVALID),
            },
        }
    }

    /// Looks whether memory that a packet names is there. If not, the driver is asked for it.
    pub(crate) fn have_remote(
        &mut self,
        number: u32,
        user: Use,
        remote: Remote,
        done: u64,
        packet: u64,
    ) -> Result<(), Problem> {
        let access = Access {
            keys: &self.mkeys,
            bus: &self.bus,
            user,
        };
        let target = Segment::Memory(remote.span());
        let lacks = access.lacks(&[target], done, packet);
        let cause = Cause::Remote {
            remote,
            done,
            packet,
            write: user.access != access::Access::RemoteRead,
        };
        if lacks.is_empty() {
            return Ok(());
        }
        match self.page_fault(number, End::Responder, &lacks, cause) {
            Verdict::Wait => Err(Problem::NotThere),
            Verdict::Fail => Err(DENIED),
        }
    }

    /// A packet of a message comes once more.
    fn hold(&mut self, number: u32, packet: &Packet, message: Message) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        match (packet.part.begins(), message) {
            (false, message) => pair.responder.message = Some(message),
            (true, Message::Send { receive, .. }) => pair.responder.kept = Some(receive),
            (true, Message::Write { .. }) => {}
        }
    }

    fn go_on(&mut self, number: u32, message: Message) {
        if let Ok(pair) = self.queue_pairs.get_mut(number) {
            pair.responder.message = Some(message);
        }
    }

    /// A message has come as a whole.
    fn received(
        &mut self,
        number: u32,
        receive: &Receive,
        bytes: u64,
        packet: &Packet,
        write: bool,
    ) {
        let outcome = match (write, packet.immediate, packet.invalidate) {
            (true, ..) => Outcome::Written,
            (false, Some(_), _) => Outcome::ReceivedImmediate,
            (false, None, Some(_)) => Outcome::ReceivedInvalidate,
            (false, None, None) => Outcome::Received,
        };
        let freed = packet.invalidate.map(u32::to_be_bytes);
        self.complete_receive(number, receive, outcome, packet.solicited, |completion| {
            Completion {
                bytes: bytes as u32,
                immediate: packet.immediate.or(freed).unwrap_or_default(),
                port: packet.from.port,
                from: packet.from.pair,
                ..completion
            }
        });
    }
}
