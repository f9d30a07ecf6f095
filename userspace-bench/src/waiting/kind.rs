// SPDX-License-Identifier: GPL-2.0
//! The ways in which a queue pair, or a process, comes to wait for a page, and where their data is.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{loopback::GRH, memory::PAGE, verbs::Transport};

/// Where in its page a message is, in the file's memory and in the pinned one: odd, but for atomic operations.
const AT: usize = 13;
const NEAR_AT: usize = 21;
const ALIGNED: usize = 16;
/// How long a message is: one packet.
const LEN: usize = 700;

/// Who waits, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Kind {
    /// A requester, for the data of a WRITE.
    WriteSource,
    /// A requester, for the data of a message.
    SendSource,
    /// A requester, for the data of a datagram.
    DatagramSource,
    /// A requester, for what a READ has brought.
    ReadTarget,
    /// The same, for an atomic operation.
    AtomicResult,
    /// A responder, for the target of a WRITE.
    WriteTarget,
    /// A responder, for what a READ asks for.
    ReadSource,
    /// A responder, for the target of an atomic operation.
    AtomicTarget,
    /// A responder, for the target of a WRITE through a window.
    Window,
    /// A receiver, for where the message goes.
    Receive,
    /// The same, with receives that are shared.
    SharedReceive,
    /// The same, on a connection that never sends twice.
    UnreliableReceive,
    /// The same, of a datagram.
    DatagramReceive,
    /// A responder, for the target of a WRITE on a connection that never sends twice.
    UnreliableWriteTarget,
    /// A process that wants to know when its prefetch is done.
    PrefetchAndWait,
    /// A prefetch in the background.
    Prefetch,
}

use Kind::*;

impl Kind {
    /// Whether there is a queue pair that waits, and not only the process.
    pub fn has_queue_pairs(self) -> bool {
        !matches!(self, PrefetchAndWait | Prefetch)
    }

    pub(super) fn transport(self) -> Transport {
        match self {
            DatagramSource | DatagramReceive => Transport::Ud,
            UnreliableReceive | UnreliableWriteTarget => Transport::Uc,
            _ => Transport::Rc,
        }
    }

    /// Whether the data comes out of the file's memory.
    pub(super) fn reads(self) -> bool {
        let reads = [
            WriteSource,
            SendSource,
            DatagramSource,
            ReadSource,
            AtomicTarget,
        ];
        reads.contains(&self) || !self.has_queue_pairs()
    }

    /// Whether it is the first queue pair, the one that is asked, that touches the file's memory.
    pub fn is_near_side(self) -> bool {
        let first = [
            WriteSource,
            SendSource,
            DatagramSource,
            ReadTarget,
            AtomicResult,
        ];
        first.contains(&self)
    }

    /// Whether the one that is asked hears of the end only when all has been done with the page.
    pub fn is_answered(self) -> bool {
        let answered = self.has_queue_pairs() && self.transport() == Transport::Rc;
        answered || self == DatagramSource
    }

    pub(super) fn is_atomic(self) -> bool {
        matches!(self, AtomicResult | AtomicTarget)
    }

    /// Whether the message is one that is received.
    pub fn is_received(self) -> bool {
        let received = [
            SendSource,
            DatagramSource,
            Receive,
            SharedReceive,
            UnreliableReceive,
            DatagramReceive,
        ];
        received.contains(&self)
    }

    pub(super) fn len(self) -> usize {
        if self.is_atomic() {
            8
        } else {
            LEN
        }
    }

    /// How many bytes come before those of the message.
    pub(super) fn header(self) -> usize {
        match self {
            DatagramSource | DatagramReceive => GRH,
            _ => 0,
        }
    }

    /// Where message `n` is in the file's memory. The first page has none.
    pub(super) fn far(self, n: usize) -> usize {
        (n + 1) * PAGE + if self.is_atomic() { ALIGNED } else { AT }
    }

    /// Where it is in the pinned memory.
    pub(super) fn near(self, n: usize) -> usize {
        n * PAGE + if self.is_atomic() { ALIGNED } else { NEAR_AT }
    }
}
