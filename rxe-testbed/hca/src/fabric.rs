// SPDX-License-Identifier: GPL-2.0
//! What lies between ports: packets, and who carries them.

use std::collections::VecDeque;

use crate::access::Span;
use crate::service::Service;
use crate::wqe::Change;

/// Numbers of packets count modulo this.
pub(crate) const NUMBERS: u32 = 1 << 24;

/// The part of a message that a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    First,
    Middle,
    Last,
    Only,
}

impl Part {
    /// That of the packet `number` out of `count`.
    pub(crate) fn of(number: u64, count: u64) -> Self {
        match (number == 0, number + 1 == count) {
            (true, true) => Self::Only,
            (true, false) => Self::First,
            (false, true) => Self::Last,
            (false, false) => Self::Middle,
        }
    }

    pub(crate) fn begins(self) -> bool {
        matches!(self, Self::First | Self::Only)
    }

    pub(crate) fn ends(self) -> bool {
        matches!(self, Self::Last | Self::Only)
    }
}

/// Memory at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) address: u64,
    pub(crate) key: u32,
    pub(crate) length: u64,
}

impl Remote {
    pub(crate) fn span(self) -> Span {
        Span {
            key: self.key,
            address: self.address,
            length: self.length,
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Packets are missing before it.
    Sequence,
    Invalid,
    Access,
    Operation,
}

/// What a packet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Send,
    /// The first one says where to.
    Write(Option<Remote>),
    Read(Remote),
    Atomic(Remote, Change),
    ReadData,
    /// What was there before.
    AtomicData(u64),
    Acknowledge,
    /// There is no receive; how long to wait, by its number.
    NotReady(u32),
    Refuse(Refusal),
}

impl Kind {
    /// It asks for something; the others answer.
    pub(crate) fn is_request(&self) -> bool {
        matches!(
            self,
            Self::Send | Self::Write(_) | Self::Read(_) | Self::Atomic(..)
        )
    }
}

/// A queue pair as others find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) port: u16,
    pub(crate) pair: u32,
}

/// What only packets of the dynamically connected transport have: which connection of its initiator's they are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Later ones have greater numbers.
    pub(crate) serial: u64,
    pub(crate) to: Place,
    /// The key that the target has to have.
    pub(crate) key: u64,
    /// The number of its first packet.
    pub(crate) first: u32,
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) service: Service,
    pub(crate) to: Place,
    pub(crate) from: Place,
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) part: Part,
    pub(crate) payload: Vec<u8>,
    pub(crate) immediate: Option<[u8; 4]>,
    /// A key that is to be free.
    pub(crate) invalidate: Option<u32>,
    pub(crate) solicited: bool,
    /// The shared queue of an extended connection.
    pub(crate) shared: Option<u32>,
    pub(crate) datagram: Option<Datagram>,
    /// That of an initiator.
    pub(crate) connection: Option<Connection>,
}

/// What only datagrams have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// The key that the queue pair has to have.
    pub(crate) key: u32,
    pub(crate) level: u8,
    pub(crate) route: Option<[u8; GLOBAL_HEADER]>,
}

/// Bytes of a global routing header.
pub(crate) const GLOBAL_HEADER: usize = 40;

impl Packet {
    /// One that is complete, of no bytes.
    pub(crate) fn new(service: Service, from: Place, to: Place, number: u32, kind: Kind) -> Self {
        Self {
            service,
            to,
            from,
            number,
            kind,
            part: Part::Only,
            payload: Vec::new(),
            immediate: None,
            invalidate: None,
            solicited: false,
            shared: None,
            datagram: None,
            connection: None,
        }
    }
}

/// What carries packets.
pub(crate) trait Fabric: Send {
    /// Takes a packet.
    fn send(&mut self, packet: Packet);
    /// The next packet for a port.
    fn receive(&mut self, port: u16) -> Option<Packet>;
    /// How many steps a device takes at once.
    fn steps(&self) -> u32 {
        1 << 16
    }
}

/// A fabric of one port: what goes elsewhere is lost. Ports that have others to talk to are on a `subnet`.
#[derive(Default)]
pub(crate) struct Loopback(VecDeque<Packet>);

impl Fabric for Loopback {
    fn send(&mut self, packet: Packet) {
        if packet.to.port == packet.from.port {
            self.0.push_back(packet);
        }
    }

    fn receive(&mut self, _: u16) -> Option<Packet> {
        self.0.pop_front()
    }
}
