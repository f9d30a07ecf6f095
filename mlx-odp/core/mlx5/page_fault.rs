// SPDX-License-Identifier: GPL-2.0

//! A page fault as the device reports it, and the command that resumes it.
//!
//! There are two schemes. In the *transport* scheme the event names a request: a WQE whose own memory is missing, or
//! the message of a peer by key and address. Each is resumed. In the *memory* scheme it names a key and an address and
//! nothing else; of several events for one request only the last is resumed. If an earlier one could not be served, the
//! request resumes too early, and the device reports what is still missing.

use hmm::Access;

use super::{be16, be32, be64};

/// The bytes of an event queue entry.
pub const EQE: usize = 64;

/// The type of an event that reports a page fault.
pub const EVENT_PAGE_FAULT: u8 = 0x0c;

/// Where an entry has its type, its subtype and what it reports.
const TYPE: usize = 1;
const SUB_TYPE: usize = 3;
const DATA: usize = 32;

/// Subtypes.
const WQE: u8 = 0;
const RDMA: u8 = 1;
const MEMORY: u8 = 2;

/// Bits of the type of a fault: the requester has it; it is for a write.
const REQUESTER: u8 = 1 << 0;
const WRITE: u8 = 1 << 1;
const TYPE_BITS: u32 = 0x7;
const TYPE_SHIFT: u32 = 24;
const NUMBER: u32 = (1 << 24) - 1;

/// In the flags of the memory scheme: the last event for its request.
const LAST: u8 = 1 << 7;
/// The unit of the memory scheme's lengths, whatever the size of a page is.
const UNIT: u64 = 4096;

/// An event that is not understood. It has no token that could be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAFault {
    /// Its type is another.
    Type(u8),
    /// The scheme is not known.
    SubType(u8),
}

/// The queue that a WQE is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The send queue of a queue pair.
    Send,
    /// The receive queue of a queue pair.
    Receive,
    /// A shared receive queue, which has a number of its own.
    Shared,
}

/// The memory that a WQE names is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WqeFault {
    /// The queue.
    pub queue: Queue,
    /// The number of the queue pair or of the shared receive queue.
    pub wq_number: u32,
    /// The number of the WQE in its queue.
    pub wqe_index: u16,
    /// The access that the NIC needs.
    pub access: Access,
    /// How many bytes of the message it has moved.
    pub bytes_committed: u32,
    resume: Transport,
}

/// The memory that a peer's message names is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdmaFault {
    /// The key.
    pub rkey: u32,
    /// The first address that is missing.
    pub va: u64,
    /// How many bytes from there the packet needs; at least one.
    pub packet: u64,
    /// How many bytes from there the message will use, if the device knows.
    pub message: Option<u64>,
    /// The access that the NIC needs.
    pub access: Access,
    resume: Transport,
}

/// A page of a key is missing. The event does not say which request needs it, nor for which access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFault {
    /// The key; never one that stands for others.
    pub mkey: u32,
    /// The first address that is missing.
    pub va: u64,
    /// How many bytes from there the NIC waits for. 0: it waits for none, and this is a hint.
    pub demand: u64,
    /// How many bytes that precede them it would like to have.
    pub before: u64,
    /// How many bytes that follow them it would like to have.
    pub after: u64,
    token: u64,
    last: bool,
}

/// A page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFault {
    /// Transport scheme: of a WQE.
    Wqe(WqeFault),
    /// Transport scheme: of a peer's message.
    Rdma(RdmaFault),
    /// Memory scheme.
    Memory(MemoryFault),
}

/// What the transport scheme's resume command names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Transport {
    page_fault_type: u8,
    wq_number: u32,
    token: u32,
}

/// The command that resumes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// In the transport scheme.
    Transport {
        /// The type of the fault, as reported.
        page_fault_type: u8,
        /// The work queue; for a peer's message, the token.
        wq_number: u32,
        /// The token of the fault.
        token: u32,
        /// The request is to fail.
        error: bool,
    },
    /// In the memory scheme.
    Memory {
        /// The token of the fault, 48 bits.
        token: u64,
        /// The request is to fail.
        error: bool,
    },
}

impl PageFault {
    /// Decodes an event queue entry.
    ///
    /// # Errors
    ///
    /// [`NotAFault`].
    pub fn decode(eqe: &[u8; EQE]) -> Result<Self, NotAFault> {
        if eqe[TYPE] != EVENT_PAGE_FAULT {
            return Err(NotAFault::Type(eqe[TYPE]));
        }
        let data = &eqe[DATA..];
        let fault = match eqe[SUB_TYPE] {
            WQE => decode_wqe(data).map(Self::Wqe),
            RDMA => decode_rdma(data).map(Self::Rdma),
            MEMORY => decode_memory(data).map(Self::Memory),
            _ => None,
        };
        fault.ok_or(NotAFault::SubType(eqe[SUB_TYPE]))
    }

    /// The command that ends it with `error` or without; `None` if the device expects none.
    pub fn resume(&self, error: bool) -> Option<Resume> {
        match *self {
            Self::Wqe(WqeFault { resume, .. }) | Self::Rdma(RdmaFault { resume, .. }) => {
                Some(Resume::Transport {
                    page_fault_type: resume.page_fault_type,
                    wq_number: resume.wq_number,
                    token: resume.token,
                    error,
                })
            }
            Self::Memory(MemoryFault { token, last, .. }) => {
                last.then_some(Resume::Memory { token, error })
            }
        }
    }
}

fn decode_wqe(data: &[u8]) -> Option<WqeFault> {
    let (page_fault_type, wq_number) = split(be32(data, 24)?);
    Some(WqeFault {
        queue: match (
            page_fault_type & REQUESTER != 0,
            page_fault_type & WRITE != 0,
        ) {
            (true, _) => Queue::Send,
            (false, true) => Queue::Receive,
            (false, false) => Queue::Shared,
        },
        wq_number,
        wqe_index: be16(data, 6)?,
        // Only a requester that sends or writes reads its own memory.
        access: match page_fault_type & (REQUESTER | WRITE) {
            REQUESTER => Access::Read,
            _ => Access::Write,
        },
        bytes_committed: be32(data, 0)?,
        resume: Transport {
            page_fault_type,
            wq_number,
            token: be32(data, 12)? & NUMBER,
        },
    })
}

fn decode_rdma(data: &[u8]) -> Option<RdmaFault> {
    let (page_fault_type, token) = split(be32(data, 24)?);
    let committed = u64::from(be32(data, 0)?);
    let whole = u64::from(be32(data, 12)?);
    let message = Some(whole.saturating_sub(committed)).filter(|left| *left > 0);
    let packet = u64::from(be16(data, 10)?);
    Some(RdmaFault {
        rkey: be32(data, 4)?,
        // The address may be anything that a peer has sent: whether the key has it, its lookup says.
        va: be64(data, 16)?.wrapping_add(committed),
        // A part of the packet may have been moved: no more is left of it than of the message.
        packet: packet.min(message.unwrap_or(packet)).max(1),
        message,
        access: match page_fault_type & WRITE {
            0 => Access::Read,
            _ => Access::Write,
        },
        resume: Transport {
            page_fault_type,
            wq_number: token,
            token,
        },
    })
}

fn decode_memory(data: &[u8]) -> Option<MemoryFault> {
    let units = |count: u32| u64::from(count) * UNIT;
    Some(MemoryFault {
        mkey: be32(data, 16)?,
        va: be64(data, 20)?,
        // Bits 31 to 12 count units; the others are not used.
        demand: units(be32(data, 12)? >> 12),
        before: units(be16(data, 4)?.into()),
        after: units(be16(data, 2)?.into()),
        token: (u64::from(be16(data, 6)?) << 32) | u64::from(be32(data, 8)?),
        last: data.first()? & LAST != 0,
    })
}

/// The type of a fault, and the number that shares its word.
fn split(word: u32) -> (u8, u32) {
    (((word >> TYPE_SHIFT) & TYPE_BITS) as u8, word & NUMBER)
}

#[cfg(test)]
mod tests;
