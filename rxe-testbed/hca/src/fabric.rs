// SPDX-License-Identifier: GPL-2.0
//! What lies between ports: packets, and who carries them.

use std::collections::VecDeque;

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
    ReadData,
    Acknowledge,
    /// There is no receive; how long to wait, by its number.
    NotReady(u32),
    Refuse(Refusal),
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// The port and the queue pair that it goes to, and those that it comes from.
    pub(crate) port: u16,
    pub(crate) pair: u32,
    pub(crate) from_port: u16,
    pub(crate) from: u32,
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) part: Part,
    pub(crate) payload: Vec<u8>,
    pub(crate) immediate: Option<[u8; 4]>,
    pub(crate) solicited: bool,
}

/// What carries packets.
pub(crate) trait Fabric: Send {
    /// Takes a packet.
    fn send(&mut self, packet: Packet);
    /// The next packet for a port.
    fn receive(&mut self, port: u16) -> Option<Packet>;
}

/// A fabric of one port: what goes elsewhere is lost.
#[derive(Default)]
pub(crate) struct Loopback(VecDeque<Packet>);

impl Fabric for Loopback {
    fn send(&mut self, packet: Packet) {
        if packet.port == packet.from_port {
            self.0.push_back(packet);
        }
    }

    fn receive(&mut self, _: u16) -> Option<Packet> {
        self.0.pop_front()
    }
}
