// SPDX-License-Identifier: GPL-2.0
//! The responding end of connections: packets are put in order, and answered if the service is a reliable one. `engine`
//! brings them, `message` does what they ask for; what this end knows is in `qp::ends`.

use crate::access::{self, Span, Use};
use crate::completion::Outcome;
use crate::counters::Counter;
use crate::data::Access;
use crate::device::Device;
use crate::eq::Event;
use crate::fabric::{Kind, Packet, Part, Place, Refusal, Remote, NUMBERS};
use crate::faults::End;
use crate::message::{Problem, INVALID};
use crate::qp::ends::{Answer, Message};
use crate::qp::QueuePair;
use crate::translate::check;

impl Device {
    /// A request of a reliable connection has arrived.
    pub(crate) fn requested(&mut self, number: u32, packet: Packet) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        if pair.responder.closed {
            return;
        }
        let expected = pair.expected_number(pair.responder.count);
        let distance = packet.number.wrapping_sub(expected) % NUMBERS;
        if self.faults.waits(number, End::Responder) {
            // All of it comes again, in order, when it is time.
            let read = matches!(packet.kind, Kind::Read(_)) && distance >= NUMBERS / 2;
            if distance == 0 || read {
                self.not_ready(number, packet.number);
            }
            return;
        }
        match distance {
            0 => self.in_order(number, packet),
            distance if distance < NUMBERS / 2 => {
                if !pair.responder.complained {
                    pair.responder.complained = true;
                    pair.responder
                        .answer(expected, Kind::Refuse(Refusal::Sequence));
                    self.count(number, Counter::OutOfSequence);
                }
            }
            _ => {
                self.count(number, Counter::DuplicateRequest);
                self.again(number, packet, expected);
            }
        }
    }

    /// A packet that has come before: a read is done once more, an atomic's answer is given once more, anything else
    /// is only acknowledged.
    fn again(&mut self, number: u32, packet: Packet, expected: u32) {
        let user = self.responder_use(number, packet.shared, access::Access::RemoteRead);
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        match packet.kind {
            Kind::Read(remote) => {
                let Ok(user) = user else {
                    return;
                };
                if remote.length == 0 || check(&self.mkeys, user, remote.span()).is_ok() {
                    pair.responder.answers.push_back(Answer::Data {
                        number: packet.number,
                        remote,
                        done: 0,
                        user,
                    });
                }
            }
            Kind::Atomic(..) => {
                let mut found = pair.responder.found.iter();
                if let Some(value) = found.find(|(at, _)| *at == packet.number) {
                    let kind = Kind::AtomicData(value.1);
                    pair.responder.answer(packet.number, kind);
                }
            }
            _ => pair
                .responder
                .answer(expected.wrapping_sub(1) % NUMBERS, Kind::Acknowledge),
        }
    }

    /// Does what a packet asks for. Gives how many packets' numbers have gone by.
    fn take(&mut self, number: u32, packet: &Packet) -> Result<u64, Problem> {
        match &packet.kind {
            Kind::Send => self.take_send(number, packet),
            Kind::Write(remote) => {
                self.count(number, Counter::WriteRequests);
                self.take_write(number, *remote, packet)
            }
            Kind::Read(remote) => {
                self.count(number, Counter::ReadRequests);
                self.take_read(number, *remote, packet)
            }
            Kind::Atomic(remote, change) => {
                self.count(number, Counter::AtomicRequests);
                self.take_atomic(number, (*remote, *change), packet)
            }
            _ => Err(INVALID),
        }
    }

    fn in_order(&mut self, number: u32, packet: Packet) {
        let sequence = packet.number;
        let result = self.take(number, &packet);
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        match result {
            Ok(packets) => {
                pair.responder.complained = false;
                pair.responder.count += packets;
                let message = matches!(packet.kind, Kind::Send | Kind::Write(_));
                if packet.part.ends() && message {
                    pair.responder.answer(sequence, Kind::Acknowledge);
                }
            }
            Err(Problem::NotReady) => {
                self.not_ready(number, sequence);
                self.count(number, Counter::OutOfBuffer);
            }
            Err(Problem::NotThere) => self.not_ready(number, sequence),
            Err(Problem::Theirs(refusal)) => self.refuse(number, sequence, refusal),
            Err(Problem::Ours(receive, syndrome, refusal)) => {
                let outcome = Outcome::ReceiveFailed(syndrome);
                self.complete_receive(number, &receive, outcome, false, |completion| completion);
                self.refuse(number, sequence, refusal);
            }
        }
    }

    /// A packet that nobody waits for an answer to: a message of which something is missing, that does not fit or is
    /// not allowed is lost.
    pub(crate) fn unacknowledged(&mut self, number: u32, packet: Packet) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        if packet.part.begins() || pair.expected_number(pair.responder.count) != packet.number {
            self.lose(number);
        }
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        if pair.responder.message.is_none() && !packet.part.begins() {
            return;
        }
        pair.responder.count = pair.received_before(packet.number) + 1;
        let allowed = matches!(packet.kind, Kind::Send | Kind::Write(_));
        let result = match allowed {
            true => self.take(number, &packet),
            false => Ok(0),
        };
        match result {
            Ok(_) | Err(Problem::Theirs(_)) => {}
            Err(Problem::NotReady) => self.count(number, Counter::OutOfBuffer),
            Err(Problem::NotThere) => self.lose(number),
            Err(Problem::Ours(receive, syndrome, _)) => {
                let outcome = Outcome::ReceiveFailed(syndrome);
                self.complete_receive(number, &receive, outcome, false, |completion| completion);
                self.fail(number);
                self.tell(Event::QueueError, number);
                self.flush(number);
            }
        }
    }

    /// What came of a message is lost; the next one gets its receive.
    fn lose(&mut self, number: u32) {
        if let Ok(pair) = self.queue_pairs.get_mut(number) {
            if let Some(Message::Send { receive, .. }) = pair.responder.message.take() {
                pair.responder.kept = Some(receive);
            }
        }
    }

    /// The other end is to try again later. Until it does, what comes after it lacks something for a good reason.
    fn not_ready(&mut self, number: u32, sequence: u32) {
        if let Ok(pair) = self.queue_pairs.get_mut(number) {
            pair.responder.complained = true;
            let timer = pair.receive_timer();
            pair.responder.answer(sequence, Kind::NotReady(timer));
        }
    }

    /// What was waited for is there, or is not to be had: the other end tries again by itself.
    pub(crate) fn respond_after_fault(&mut self, number: u32) {
        self.active.insert(number);
    }

    /// Says no, after the answers that come before. With that the queue pair ends.
    fn refuse(&mut self, number: u32, sequence: u32, refusal: Refusal) {
        if let Ok(pair) = self.queue_pairs.get_mut(number) {
            pair.responder.closed = true;
            pair.responder.answer(sequence, Kind::Refuse(refusal));
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
        // That of an initiator is its own matter: others may go on.
        if self
            .queue_pairs
            .get(number)
            .is_ok_and(|pair| pair.connection().is_some())
        {
            return self.hang_up(number);
        }
        self.fail(number);
        self.tell(event, number);
        self.flush(number);
    }

    /// Sends an answer of a queue pair, if there is one to send.
    pub(crate) fn respond(&mut self, number: u32) -> bool {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return false;
        };
        match pair.responder.answers.pop_front() {
            None => return false,
            Some(Answer::Packet(sequence, kind)) => {
                let packet = answer(pair, number, self.port.lid, sequence, kind.clone());
                self.fabric.send(packet);
                if let Kind::Refuse(refusal) = kind {
                    self.close(number, refusal);
                }
            }
            Some(Answer::Data {
                number: first,
                remote,
                done,
                user,
            }) => self.send_data(number, first, remote, done, user),
        }
        true
    }

    /// Sends the next packet of what was read.
    fn send_data(&mut self, number: u32, first: u32, remote: Remote, done: u64, user: Use) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
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
        let payload = match access.read(source) {
            Ok(payload) => payload,
            Err(error) => {
                pair.responder.answers.clear();
                // Whatever was refused comes again, too.
                pair.responder.closed = false;
                let there = match error.is_fault() {
                    true => self.have_remote(number, user, remote, done, length),
                    false => Ok(()),
                };
                return match there {
                    Err(Problem::NotThere) => self.not_ready(number, sequence),
                    _ => self.refuse(number, sequence, Refusal::Access),
                };
            }
        };
        let part = Part::of(index, count);
        let packet = Packet {
            payload,
            part,
            ..answer(pair, number, self.port.lid, sequence, Kind::ReadData)
        };
        self.fabric.send(packet);
        if !part.ends() {
            pair.responder.answers.push_front(Answer::Data {
                number: first,
                remote,
                done: done + length,
                user,
            });
        }
    }
}

/// A packet back to where requests come from.
fn answer(pair: &QueuePair, number: u32, port: u16, sequence: u32, kind: Kind) -> Packet {
    let own = Place {
        port,
        pair: pair.wire_number(number),
    };
    Packet::new(pair.service(), own, pair.remote(), sequence, kind)
}
