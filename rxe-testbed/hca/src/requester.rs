// SPDX-License-Identifier: GPL-2.0
//! The requesting end of a queue pair: requests become packets, answers become completions. `engine` calls it when it
//! may send, when an answer has come and when time has gone by; what it knows is in `qp::ends`.

mod packet;

use std::time::Duration;

use crate::access;
use crate::completion::{Completion, Outcome, Syndrome};
use crate::counters::Counter;
use crate::data::Access;
use crate::device::Device;
use crate::fabric::{Connection, Kind, Packet, Refusal};
use crate::faults::{Cause, End, Verdict};
use crate::hold::Update;
use crate::qp::{Queue, State};
use crate::service::Service;
use crate::wqe::Operation;
use packet::{judge, packet, receive_wait, spans};

/// Requests that are under way at most.
const MOST_REQUESTS: usize = 64;

/// The number of retries that means: without an end.
const FOR_EVER: u32 = 7;

impl Device {
    /// Sends a packet of a queue pair, or takes its next request. Gives whether there was something to do.
    pub(crate) fn request(&mut self, number: u32) -> bool {
        if self.faults.waits(number, End::Requester) {
            return false;
        }
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return false;
        };
        let requester = &pair.requester;
        if pair.state() != State::ReadyToSend || requester.pause.is_some() {
            return false;
        }
        match requester.next < requester.end {
            true => self.send_packet(number),
            false => self.take_request(number),
        }
    }

    fn take_request(&mut self, number: u32) -> bool {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return false;
        };
        let failing = pair
            .requester
            .taken
            .iter()
            .any(|taken| taken.failed.is_some());
        if failing || pair.requester.taken.len() >= MOST_REQUESTS {
            return false;
        }
        let reads = pair.requester.taken.iter().filter(|taken| taken.is_read());
        let reads = reads.count();
        let Some(next) = pair.peek_request(&self.bus) else {
            return false;
        };
        let busy = !pair.requester.taken.is_empty();
        let updating = matches!(next.operation, Ok(Operation::Update));
        let reading = matches!(
            next.operation,
            Ok(Operation::Read { .. } | Operation::Atomic { .. })
        );
        if (next.fenced && busy) || (reading && reads >= pair.reads_at_once()) {
            return false;
        }
        if pair.service() == Service::Initiator {
            match pair.requester.connection_for(&next, pair.first_number()) {
                // What goes elsewhere waits for what was begun; and what was idle is connected no more.
                Some(_) if busy => return false,
                Some(connection) => {
                    self.connections += 1;
                    let serial = self.connections;
                    pair.requester.connection = Some(Connection {
                        serial,
                        ..connection
                    });
                }
                None => {}
            }
        }
        let fate = match updating {
            true => self.fate_of_update(number, next.counter),
            false => Update::Done,
        };
        if fate == Update::Waits {
            return false;
        }
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return false;
        };
        pair.consume_request(&next);
        let packets = next.length().div_ceil(pair.mtu()).max(1);
        match judge(pair, &next) {
            Err(syndrome) => pair.requester.add(next, 0, Some(syndrome)),
            Ok(Operation::Nothing) => pair.requester.add(next, 0, None),
            Ok(Operation::Update) => {
                let failed = match fate {
                    Update::Fails => Some(Syndrome::KeyUpdate),
                    _ => self.update_key(number, &next).err(),
                };
                if let Ok(pair) = self.queue_pairs.get_mut(number) {
                    pair.requester.add(next, 0, failed);
                }
            }
            Ok(_) => pair.requester.add(next, packets, None),
        }
        self.settle(number);
        true
    }

    fn send_packet(&mut self, number: u32) -> bool {
        let now = self.bus.now();
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return false;
        };
        let next = pair.requester.next;
        let at = pair
            .requester
            .taken
            .iter()
            .position(|taken| next < taken.end());
        let Some(taken) = at.and_then(|at| pair.requester.taken.get(at)) else {
            return false;
        };
        if taken.failed.is_some() {
            return false;
        }
        let access = Access {
            keys: &self.mkeys,
            bus: &self.bus,
            user: pair.user(number, access::Access::LocalRead),
        };
        match packet(pair, number, taken, next, access, self.port) {
            Ok(packet) => {
                let sent = match taken.is_read() {
                    true => taken.end(),
                    false => next + 1,
                };
                self.fabric.send(packet);
                pair.requester.next = sent;
                if pair.service().is_reliable() {
                    pair.requester.deadline = pair.ack_timeout().map(|timeout| now + timeout);
                } else {
                    // Nobody answers.
                    self.advance(number, sent);
                }
            }
            Err(error) => {
                let skip = (next - taken.first) * pair.mtu();
                let at = at.unwrap_or_default();
                let waits = error.is_fault() && self.wait_for_memory(number, at, skip, false);
                if !waits {
                    self.fail_taken(number, at, Syndrome::LocalProtection);
                    self.settle(number);
                }
            }
        }
        true
    }

    /// Completes the requests whose turn it is.
    fn settle(&mut self, number: u32) {
        loop {
            let Ok(pair) = self.queue_pairs.get_mut(number) else {
                return;
            };
            let requester = &mut pair.requester;
            let acknowledged = requester.acknowledged;
            let Some(front) = requester.taken.front() else {
                return;
            };
            let unread = front.is_read() && front.answered < front.packets;
            if let Some(syndrome) = front.failed.filter(|_| front.first <= acknowledged) {
                return self.fail_request(number, syndrome);
            }
            if front.end() > acknowledged || unread {
                return;
            }
            let Some(done) = requester.taken.pop_front() else {
                return;
            };
            if done.request.signalled {
                let read = u64::from(done.is_read());
                let completion = Completion {
                    opcode: done.request.opcode,
                    bytes: (read * done.request.length()) as u32,
                    ..pair.completion(number, done.request.counter, Outcome::Requested)
                };
                let queue = pair.completion_queue(Queue::Send);
                self.complete(queue, &completion.bytes(), false);
            }
        }
    }

    /// The first request fails, and with it the queue pair.
    fn fail_request(&mut self, number: u32, syndrome: Syndrome) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        let Some(failed) = pair.requester.taken.pop_front() else {
            return;
        };
        let completion = Completion {
            opcode: failed.request.opcode,
            ..pair.completion(
                number,
                failed.request.counter,
                Outcome::RequestFailed(syndrome),
            )
        };
        let queue = pair.completion_queue(Queue::Send);
        match pair.service().is_datagram() {
            true => pair.fail_sending(),
            false => self.fail(number),
        }
        self.complete(queue, &completion.bytes(), false);
        self.flush(number);
    }

    /// An answer to what a queue pair has sent.
    pub(crate) fn answered(&mut self, number: u32, packet: Packet) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        let base = pair.first_number();
        let Some(count) = pair.requester.find(packet.number, base) else {
            return;
        };
        match packet.kind {
            Kind::Acknowledge => self.acknowledge(number, count + 1),
            Kind::ReadData => self.read_data(number, count, &packet.payload),
            Kind::AtomicData(before) => {
                let data = self.capabilities.byte_order().bytes(before);
                self.read_data(number, count, &data);
            }
            Kind::NotReady(timer) => {
                self.count(number, Counter::ReceiverNotReady);
                self.acknowledge(number, count);
                self.wait_for_receive(number, timer);
            }
            Kind::Refuse(Refusal::Sequence) => {
                self.count(number, Counter::SequenceError);
                self.acknowledge(number, count);
                self.send_again(number);
            }
            Kind::Refuse(refusal) => {
                self.acknowledge(number, count);
                self.refused(number, count, refusal);
            }
            Kind::Send | Kind::Write(_) | Kind::Read(_) | Kind::Atomic(..) => {}
        }
    }

    /// All packets before `count` have arrived; but a read is only done with its data.
    fn acknowledge(&mut self, number: u32, count: u64) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        let unread = pair.requester.taken.iter();
        let mut unread = unread.filter(|taken| taken.is_read() && taken.answered < taken.packets);
        let missing = unread.next().map(|taken| taken.first + taken.answered);
        let lost = missing.is_some_and(|missing| missing < count);
        let count = missing.map_or(count, |missing| missing.min(count));
        self.advance(number, count);
        if lost {
            self.send_again(number);
        }
    }

    fn advance(&mut self, number: u32, count: u64) {
        let now = self.bus.now();
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        let timeout = pair.ack_timeout();
        let requester = &mut pair.requester;
        if count > requester.acknowledged {
            requester.acknowledged = count;
            requester.next = requester.next.max(count);
            requester.retries = 0;
            requester.waits = 0;
            let waiting = requester.next > count;
            requester.deadline = timeout.filter(|_| waiting).map(|timeout| now + timeout);
        }
        self.settle(number);
    }

    /// A request cannot go on `skip` bytes after its beginning. Gives whether it waits for what it lacks there; time
    /// does not go by for it.
    fn wait_for_memory(&mut self, number: u32, at: usize, skip: u64, reads: bool) -> bool {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return false;
        };
        let right = match reads {
            true => access::Access::LocalWrite,
            false => access::Access::LocalRead,
        };
        let access = Access {
            keys: &self.mkeys,
            bus: &self.bus,
            user: pair.user(number, right),
        };
        let Some(taken) = pair.requester.taken.get(at) else {
            return false;
        };
        let lacks = access.lacks(&taken.request.data, skip, pair.mtu());
        let cause = Cause::Request {
            counter: taken.request.counter,
            reads,
            done: skip,
        };
        pair.requester.deadline = None;
        self.page_fault(number, End::Requester, &lacks, cause) == Verdict::Wait
    }

    fn fail_taken(&mut self, number: u32, at: usize, syndrome: Syndrome) {
        let pair = self.queue_pairs.get_mut(number);
        let taken = pair.ok().and_then(|pair| pair.requester.taken.get_mut(at));
        taken
            .into_iter()
            .for_each(|taken| taken.failed = Some(syndrome));
    }

    /// What was waited for is there, or is not to be had: everything that was not answered is sent again.
    pub(crate) fn request_after_fault(&mut self, number: u32) {
        if let Ok(pair) = self.queue_pairs.get_mut(number) {
            pair.requester.next = pair.requester.acknowledged;
            self.active.insert(number);
        }
    }

    fn read_data(&mut self, number: u32, count: u64, payload: &[u8]) {
        if self.faults.waits(number, End::Requester) {
            return;
        }
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        let mtu = pair.mtu();
        let user = pair.user(number, access::Access::LocalWrite);
        let mut all = pair.requester.taken.iter();
        let at = all.position(|taken| taken.is_read() && taken.answered < taken.packets);
        let Some((at, read)) = at.and_then(|at| Some((at, pair.requester.taken.get_mut(at)?)))
        else {
            return;
        };
        let expected = read.first + read.answered;
        if count > expected {
            return self.send_again(number);
        }
        let skip = read.answered * mtu;
        let left = read.request.length().saturating_sub(skip).min(mtu);
        if count < expected || payload.len() as u64 != left {
            self.fail_taken(number, at, Syndrome::BadResponse);
            return self.advance(number, expected);
        }
        let access = Access {
            keys: &self.mkeys,
            bus: &self.bus,
            user,
        };
        match access.scatter(&spans(&read.request), skip, payload) {
            Ok(()) => {
                read.answered += 1;
                self.advance(number, expected + 1);
            }
            // What could not be taken is asked for again.
            Err(error) if error.is_fault() && self.wait_for_memory(number, at, skip, true) => {}
            Err(_) => {
                self.fail_taken(number, at, Syndrome::LocalProtection);
                self.advance(number, expected);
            }
        }
    }

    fn wait_for_receive(&mut self, number: u32, timer: u32) {
        let now = self.bus.now();
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        let allowed = pair.receive_retries();
        let requester = &mut pair.requester;
        if allowed != FOR_EVER && requester.waits >= allowed {
            return self.fail_front(number, Syndrome::ReceiveRetries);
        }
        requester.waits += 1;
        requester.next = requester.acknowledged;
        requester.deadline = None;
        requester.pause = Some(now + receive_wait(timer));
    }

    /// Sends everything again that was not acknowledged, unless that was done too often.
    fn send_again(&mut self, number: u32) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        let allowed = pair.retries();
        let requester = &mut pair.requester;
        if requester.taken.is_empty() {
            return;
        }
        if requester.retries >= allowed {
            return self.fail_front(number, Syndrome::Retries);
        }
        requester.retries += 1;
        requester.next = requester.acknowledged;
        requester.deadline = None;
        self.active.insert(number);
    }

    /// The request that packet `count` is of was refused. If something before it is missing, it comes again first.
    fn refused(&mut self, number: u32, count: u64, refusal: Refusal) {
        let pair = self.queue_pairs.get(number);
        if !pair.is_ok_and(|pair| pair.requester.acknowledged == count) {
            return;
        }
        let syndrome = match refusal {
            Refusal::Access => Syndrome::RemoteAccess,
            Refusal::Operation => Syndrome::RemoteOperation,
            Refusal::Invalid | Refusal::Sequence => Syndrome::RemoteInvalid,
        };
        self.fail_front(number, syndrome);
    }

    fn fail_front(&mut self, number: u32, syndrome: Syndrome) {
        if let Ok(pair) = self.queue_pairs.get_mut(number) {
            if pair.state() == State::ReadyToSend {
                self.fail_request(number, syndrome);
            }
        }
    }

    /// Time has gone by.
    pub(crate) fn expire(&mut self, number: u32, now: Duration) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        let requester = &mut pair.requester;
        if requester.pause.is_some_and(|until| until <= now) {
            requester.pause = None;
            self.active.insert(number);
        } else if requester.deadline.is_some_and(|deadline| deadline <= now) {
            requester.deadline = None;
            self.count(number, Counter::AckTimeout);
            self.send_again(number);
        }
    }
}
