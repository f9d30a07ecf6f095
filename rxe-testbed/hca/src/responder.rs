// SPDX-License-Identifier: GPL-2.0
//! The responding end of a reliable connection: packets go to memory, and are answered.

use std::collections::VecDeque;

use crate::completion::{Completion, Outcome, Syndrome};
use crate::data::{Access, DataError};
use crate::device::Device;
use crate::eq::Event;
use crate::fabric::{Kind, Packet, Part, Refusal, Remote, NUMBERS};
use crate::port::LID;
use crate::qp::{Queue, QueuePair, Service, State};
use crate::translate::{self, check, Span};

/// A receive that was taken from the queue.
pub(crate) struct Receive {
    pub(crate) counter: u16,
    pub(crate) spans: Vec<Span>,
}

/// A message of which some packets have come.
enum Message {
    Send { receive: Receive, done: u64 },
    Write { remote: Remote, done: u64 },
}

/// An answer that is to be sent.
enum Answer {
    Packet(u32, Kind),
    Data {
        number: u32,
        remote: Remote,
        done: u64,
    },
}

/// What the responding end knows.
#[derive(Default)]
pub(crate) struct Responder {
    /// How many packets have come in order.
    count: u64,
    message: Option<Message>,
    answers: VecDeque<Answer>,
    /// That packets are missing has been said.
    complained: bool,
    /// Something was refused: no more is taken.
    closed: bool,
}

impl Responder {
    /// Takes out the receive that was begun, for it to be flushed.
    pub(crate) fn abandon(&mut self) -> Option<u16> {
        self.answers.clear();
        match self.message.take() {
            Some(Message::Send { receive, .. }) => Some(receive.counter),
            Some(Message::Write { .. }) | None => None,
        }
    }
}

/// Why a packet is not taken.
enum Problem {
    /// There is no receive.
    NotReady,
    /// The other end asked for what must not be.
    Theirs(Refusal),
    /// A receive is at fault.
    Ours(Receive, Syndrome, Refusal),
}

const INVALID: Problem = Problem::Theirs(Refusal::Invalid);
const DENIED: Problem = Problem::Theirs(Refusal::Access);

impl Device {
    /// A packet has arrived.
    pub(crate) fn arrive(&mut self, packet: Packet) {
        let number = packet.pair;
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        let takes = matches!(pair.state(), State::ReadyToReceive | State::ReadyToSend);
        let known = pair.remote_pair() == packet.from && pair.service() == Service::Reliable;
        if !takes || !known {
            return;
        }
        self.active.insert(number);
        match packet.kind {
            Kind::Send | Kind::Write(_) | Kind::Read(_) => self.requested(number, packet),
            _ => self.answered(number, packet),
        }
    }

    fn requested(&mut self, number: u32, packet: Packet) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        if pair.responder.closed {
            return;
        }
        let expected = pair.expected_number(pair.responder.count);
        match packet.number.wrapping_sub(expected) % NUMBERS {
            0 => self.in_order(number, packet),
            distance if distance < NUMBERS / 2 => {
                if !pair.responder.complained {
                    pair.responder.complained = true;
                    pair.answer(expected, Kind::Refuse(Refusal::Sequence));
                }
            }
            _ => self.again(number, packet, expected),
        }
    }

    /// A packet that has come before: a read is done once more, anything else is only acknowledged.
    fn again(&mut self, number: u32, packet: Packet, expected: u32) {
        let user = self.user(number, translate::Access::RemoteRead);
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        match packet.kind {
            Kind::Read(remote) => {
                let allowed = user.is_some_and(|user| {
                    remote.length == 0 || check(&self.mkeys, user, span(remote)).is_ok()
                });
                if allowed {
                    pair.responder.answers.push_back(Answer::Data {
                        number: packet.number,
                        remote,
                        done: 0,
                    });
                }
            }
            _ => pair.answer(expected.wrapping_sub(1) % NUMBERS, Kind::Acknowledge),
        }
    }

    fn in_order(&mut self, number: u32, packet: Packet) {
        let sequence = packet.number;
        let ends = packet.part.ends();
        let read = matches!(packet.kind, Kind::Read(_));
        let result = match packet.kind.clone() {
            Kind::Send => self.take_send(number, packet),
            Kind::Write(remote) => self.take_write(number, remote, packet),
            Kind::Read(remote) => self.take_read(number, remote, sequence),
            _ => Err(INVALID),
        };
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        match result {
            Ok(packets) => {
                pair.responder.complained = false;
                pair.responder.count += packets;
                if ends && !read {
                    pair.answer(sequence, Kind::Acknowledge);
                }
            }
            Err(Problem::NotReady) => {
                let timer = pair.receive_timer();
                pair.answer(sequence, Kind::NotReady(timer));
            }
            Err(Problem::Theirs(refusal)) => self.refuse(number, sequence, refusal),
            Err(Problem::Ours(receive, syndrome, refusal)) => {
                let outcome = Outcome::ReceiveFailed(syndrome);
                let completion = pair.completion(number, receive.counter, outcome);
                let queue = pair.completion_queue(Queue::Receive);
                self.complete(queue, &completion.bytes(), false);
                self.refuse(number, sequence, refusal);
            }
        }
    }

    /// Says no, behind the answers that come before. With that the queue pair ends.
    fn refuse(&mut self, number: u32, sequence: u32, refusal: Refusal) {
        if let Ok(pair) = self.queue_pairs.get_mut(number) {
            pair.responder.closed = true;
            pair.answer(sequence, Kind::Refuse(refusal));
        }
    }

    /// Ends a queue pair that has refused a request. The driver hears of it.
    fn close(&mut self, number: u32, refusal: Refusal) {
        let event = match refusal {
            // What is missing comes again.
            Refusal::Sequence => return,
            Refusal::Access => Event::AccessError,
            Refusal::Operation => Event::QueueError,
            Refusal::Invalid => Event::RequestError,
        };
        if let Ok(pair) = self.queue_pairs.get_mut(number) {
            pair.fail();
        }
        let mut data = [0; 28];
        data[24..].copy_from_slice(&number.to_be_bytes());
        if let Some(queue) = self.listener(event) {
            self.post_event(queue, event, &data);
        }
        self.flush(number);
    }

    fn user(&self, number: u32, access: translate::Access) -> Option<translate::Use> {
        let pair = self.queue_pairs.get(number).ok()?;
        Some(pair.user(number, access))
    }

    /// The next receive of a queue pair's own queue.
    fn receive(&mut self, number: u32) -> Result<Receive, Problem> {
        let pair = self.queue_pairs.get_mut(number).map_err(|_| INVALID)?;
        if pair.receives_from_shared() {
            // These are not modelled.
            return Err(Problem::Theirs(Refusal::Operation));
        }
        pair.take_receive(&self.bus).ok_or(Problem::NotReady)
    }

    fn take_send(&mut self, number: u32, packet: Packet) -> Result<u64, Problem> {
        let message = self.begun(number, &packet)?;
        let (receive, done) = match message {
            None => (self.receive(number)?, 0),
            Some(Message::Send { receive, done }) => (receive, done),
            Some(Message::Write { .. }) => return Err(INVALID),
        };
        let user = self.user(number, translate::Access::LocalWrite);
        let access = Access {
            keys: &self.mkeys,
            bus: &self.bus,
            user: user.ok_or(INVALID)?,
        };
        match access.scatter(&receive.spans, done, &packet.payload) {
            Err(DataError::Short) => {
                return Err(Problem::Ours(
                    receive,
                    Syndrome::LocalLength,
                    Refusal::Invalid,
                ))
            }
            Err(_) => {
                let syndrome = Syndrome::LocalProtection;
                return Err(Problem::Ours(receive, syndrome, Refusal::Operation));
            }
            Ok(()) => {}
        }
        let done = done + packet.payload.len() as u64;
        match packet.part.ends() {
            true => self.received(number, receive.counter, done, &packet, false),
            false => self.go_on(number, Message::Send { receive, done }),
        }
        Ok(1)
    }

    fn take_write(
        &mut self,
        number: u32,
        remote: Option<Remote>,
        packet: Packet,
    ) -> Result<u64, Problem> {
        let pair = self.queue_pairs.get(number).map_err(|_| INVALID)?;
        let allowed = pair.allows_writes();
        let user = pair.user(number, translate::Access::RemoteWrite);
        let message = self.begun(number, &packet)?;
        let (remote, done) = match (message, remote) {
            (None, Some(remote)) => (remote, 0),
            (Some(Message::Write { remote, done }), None) => (remote, done),
            _ => return Err(INVALID),
        };
        let valid = remote.length == 0 || check(&self.mkeys, user, span(remote)).is_ok();
        if !allowed || !valid {
            return Err(DENIED);
        }
        let now = done + packet.payload.len() as u64;
        if now > remote.length || (packet.part.ends() && now != remote.length) {
            return Err(INVALID);
        }
        let receive = match packet.immediate {
            Some(_) => match self.receive(number) {
                Ok(receive) => Some(receive),
                Err(problem) => {
                    // The packet comes once more.
                    if !packet.part.begins() {
                        self.go_on(number, Message::Write { remote, done });
                    }
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
            (true, Some(receive)) => {
                self.received(number, receive.counter, now, &packet, true);
            }
            (true, None) => {}
            (false, _) => self.go_on(number, Message::Write { remote, done: now }),
        }
        Ok(1)
    }

    fn take_read(&mut self, number: u32, remote: Remote, sequence: u32) -> Result<u64, Problem> {
        let user = self.user(number, translate::Access::RemoteRead);
        let user = user.ok_or(INVALID)?;
        let pair = self.queue_pairs.get_mut(number).map_err(|_| INVALID)?;
        if pair.responder.message.is_some() {
            return Err(INVALID);
        }
        let valid = remote.length == 0 || check(&self.mkeys, user, span(remote)).is_ok();
        if !pair.allows_reads() || !valid {
            return Err(DENIED);
        }
        if remote.length > pair.longest_message() {
            return Err(INVALID);
        }
        let packets = remote.length.div_ceil(pair.mtu()).max(1);
        pair.responder.answers.push_back(Answer::Data {
            number: sequence,
            remote,
            done: 0,
        });
        Ok(packets)
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

    fn go_on(&mut self, number: u32, message: Message) {
        if let Ok(pair) = self.queue_pairs.get_mut(number) {
            pair.responder.message = Some(message);
        }
    }

    /// A message has come as a whole.
    fn received(&mut self, number: u32, counter: u16, bytes: u64, packet: &Packet, write: bool) {
        let Ok(pair) = self.queue_pairs.get(number) else {
            return;
        };
        let outcome = match (write, packet.immediate) {
            (true, _) => Outcome::Written,
            (false, Some(_)) => Outcome::ReceivedImmediate,
            (false, None) => Outcome::Received,
        };
        let completion = Completion {
            bytes: bytes as u32,
            immediate: packet.immediate.unwrap_or_default(),
            port: packet.from_port,
            from: packet.from,
            ..pair.completion(number, counter, outcome)
        };
        let queue = pair.completion_queue(Queue::Receive);
        self.complete(queue, &completion.bytes(), packet.solicited);
    }

    /// Sends an answer of a queue pair, if there is one to send.
    pub(crate) fn respond(&mut self, number: u32) -> bool {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return false;
        };
        match pair.responder.answers.pop_front() {
            None => return false,
            Some(Answer::Packet(sequence, kind)) => {
                let packet = answer(pair, number, sequence, kind.clone(), Part::Only);
                self.fabric.send(packet);
                if let Kind::Refuse(refusal) = kind {
                    self.close(number, refusal);
                }
            }
            Some(Answer::Data {
                number: first,
                remote,
                done,
            }) => self.send_data(number, first, remote, done),
        }
        true
    }

    /// Sends the next packet of what was read.
    fn send_data(&mut self, number: u32, first: u32, remote: Remote, done: u64) {
        let user = self.user(number, translate::Access::RemoteRead);
        let (Ok(pair), Some(user)) = (self.queue_pairs.get_mut(number), user) else {
            return;
        };
        let mtu = pair.mtu();
        let (index, count) = (done / mtu, remote.length.div_ceil(mtu).max(1));
        let sequence = (u64::from(first) + index) as u32 % NUMBERS;
        let length = (remote.length - done).min(mtu);
        let access = Access {
            keys: &self.mkeys,
            bus: &self.bus,
            user,
        };
        let source = Span {
            address: remote.address + done,
            length,
            key: remote.key,
        };
        let Ok(payload) = access.read(source) else {
            pair.responder.answers.clear();
            return self.refuse(number, sequence, Refusal::Access);
        };
        let part = Part::of(index, count);
        let packet = Packet {
            payload,
            ..answer(pair, number, sequence, Kind::ReadData, part)
        };
        self.fabric.send(packet);
        if !part.ends() {
            pair.responder.answers.push_front(Answer::Data {
                number: first,
                remote,
                done: done + length,
            });
        }
    }
}

impl QueuePair {
    fn answer(&mut self, sequence: u32, kind: Kind) {
        let answer = Answer::Packet(sequence, kind);
        self.responder.answers.push_back(answer);
    }
}

fn span(remote: Remote) -> Span {
    Span {
        key: remote.key,
        address: remote.address,
        length: remote.length,
    }
}

/// A packet back to where requests come from.
fn answer(pair: &QueuePair, number: u32, sequence: u32, kind: Kind, part: Part) -> Packet {
    Packet {
        port: pair.remote_port(),
        pair: pair.remote_pair(),
        from_port: LID,
        from: number,
        number: sequence,
        kind,
        part,
        payload: Vec::new(),
        immediate: None,
        solicited: false,
    }
}
