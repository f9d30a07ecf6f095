// SPDX-License-Identifier: GPL-2.0
//! What both ends of a queue pair know: the requesting one of requests and packets that are under way, the responding one
//! of what has come and what is to be answered. `requester` and `responder` work on it.
//!
//! Packets count from 0 in the order in which they are sent first; the numbers on the wire are these counts from the
//! driver's first number on.

use std::collections::VecDeque;
use std::time::Duration;

use crate::access::Use;
use crate::completion::Syndrome;
use crate::fabric::{Connection, Kind, Place, Remote, NUMBERS};
use crate::wqe::{Operation, Receive, Request};

/// A request that was taken from the queue.
pub(crate) struct Taken {
    pub(crate) request: Request,
    /// Its first packet, how many there are, and how many answers of a read have come.
    pub(crate) first: u64,
    pub(crate) packets: u64,
    pub(crate) answered: u64,
    /// Why it fails when its turn comes.
    pub(crate) failed: Option<Syndrome>,
}

impl Taken {
    pub(crate) fn end(&self) -> u64 {
        self.first + self.packets
    }

    /// It is only done with its answers' data.
    pub(crate) fn is_read(&self) -> bool {
        matches!(
            self.request.operation,
            Ok(Operation::Read { .. } | Operation::Atomic { .. })
        )
    }
}

/// What the requesting end knows.
#[derive(Default)]
pub(crate) struct Requester {
    pub(crate) taken: VecDeque<Taken>,
    /// The packet after the last one of the last request that was taken; the next packet to send; the first that is not
    /// acknowledged.
    pub(crate) end: u64,
    pub(crate) next: u64,
    pub(crate) acknowledged: u64,
    /// How often something was sent again since an answer came.
    pub(crate) retries: u32,
    pub(crate) waits: u32,
    /// When to send again what was not answered, and until when not to send anything.
    pub(crate) deadline: Option<Duration>,
    pub(crate) pause: Option<Duration>,
    /// That of an initiator, since its last request.
    pub(crate) connection: Option<Connection>,
}

impl Requester {
    /// Whether there is something to look after when time goes by.
    pub(crate) fn waits(&self) -> bool {
        self.deadline.is_some() || self.pause.is_some()
    }

    /// Takes out what was begun, for it to be flushed: opcodes and counters.
    pub(crate) fn abandon(&mut self) -> Vec<(u8, u16)> {
        self.deadline = None;
        self.pause = None;
        self.end = self.acknowledged;
        self.next = self.acknowledged;
        let left = self.taken.drain(..);
        left.map(|taken| (taken.request.opcode, taken.request.counter))
            .collect()
    }

    pub(crate) fn add(&mut self, request: Request, packets: u64, failed: Option<Syndrome>) {
        let first = self.end;
        self.end += packets;
        self.taken.push_back(Taken {
            request,
            first,
            packets,
            answered: 0,
            failed,
        });
    }

    /// The connection that an initiator has to begin for a request, if that is not the one that it has.
    pub(crate) fn connection_for(&self, request: &Request, base: u32) -> Option<Connection> {
        let to = request.to?;
        let place = Place {
            port: to.port,
            pair: to.pair,
        };
        let has = self.connection;
        let same = has.is_some_and(|now| now.to == place && now.key == to.access_key);
        let goes_on = same && !self.taken.is_empty();
        (!goes_on).then_some(Connection {
            serial: 0,
            to: place,
            key: to.access_key,
            first: on_wire(base, self.end),
        })
    }

    /// Which of the packets that were sent a number means; nothing if it was acknowledged before.
    pub(crate) fn find(&self, number: u32, base: u32) -> Option<u64> {
        let acknowledged = on_wire(base, self.acknowledged);
        let distance = number.wrapping_sub(acknowledged) % NUMBERS;
        let found = self.acknowledged + u64::from(distance);
        (distance < NUMBERS / 2 && found < self.end).then_some(found)
    }
}

/// A packet's number on the wire.
pub(crate) fn on_wire(base: u32, count: u64) -> u32 {
    (u64::from(base) + count) as u32 % NUMBERS
}

/// A message of which some packets have come.
pub(crate) enum Message {
    Send { receive: Receive, done: u64 },
    Write { remote: Remote, done: u64 },
}

/// An answer that is to be sent.
pub(crate) enum Answer {
    Packet(u32, Kind),
    /// What was read, by whom.
    Data {
        number: u32,
        remote: Remote,
        done: u64,
        user: Use,
    },
}

/// What the responding end knows.
#[derive(Default)]
pub(crate) struct Responder {
    /// How many packets have come in order.
    pub(crate) count: u64,
    pub(crate) message: Option<Message>,
    /// The receive of a message that was lost; the next message gets it.
    pub(crate) kept: Option<Receive>,
    pub(crate) answers: VecDeque<Answer>,
    /// What the last atomics have found, by their packets' numbers: they are not done again.
    pub(crate) found: VecDeque<(u32, u64)>,
    /// That packets are missing has been said.
    pub(crate) complained: bool,
    /// Something was refused: no more is taken.
    pub(crate) closed: bool,
}

impl Responder {
    /// Takes out the receive that was begun, for it to be flushed.
    pub(crate) fn abandon(&mut self) -> Option<Receive> {
        self.answers.clear();
        match self.message.take() {
            Some(Message::Send { receive, .. }) => Some(receive),
            Some(Message::Write { .. }) | None => self.kept.take(),
        }
    }

    /// Sends an answer, after those that come before.
    pub(crate) fn answer(&mut self, sequence: u32, kind: Kind) {
        self.answers.push_back(Answer::Packet(sequence, kind));
    }

    /// Answers an atomic, and remembers what it has found as long as it may be asked for again: of so many.
    pub(crate) fn answer_atomic(&mut self, sequence: u32, value: u64, most: usize) {
        self.found.push_back((sequence, value));
        if self.found.len() > most {
            self.found.pop_front();
        }
        self.answer(sequence, Kind::AtomicData(value));
    }
}
