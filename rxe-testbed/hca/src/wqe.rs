// SPDX-License-Identifier: GPL-2.0
//! Work requests as drivers write them: segments of 16 bytes, the first of which says what is to be done.

use crate::access::Span;
use crate::service::Service;

/// Bytes of a segment, and of a piece of a send queue.
pub(crate) const SEGMENT: usize = 16;
pub(crate) const PIECE: usize = 64;

/// What a request is to do, by the number that says so.
pub(crate) const NOTHING: u8 = 0x00;
pub(crate) const SEND_INVALIDATE: u8 = 0x01;
pub(crate) const WRITE: u8 = 0x08;
pub(crate) const WRITE_IMMEDIATE: u8 = 0x09;
pub(crate) const SEND: u8 = 0x0a;
pub(crate) const SEND_IMMEDIATE: u8 = 0x0b;
pub(crate) const READ: u8 = 0x10;
pub(crate) const COMPARE_AND_SWAP: u8 = 0x11;
pub(crate) const FETCH_AND_ADD: u8 = 0x12;
pub(crate) const UPDATE: u8 = 0x25;

/// In the first segment: there is to be a completion; it is a solicited one at the other end; what was begun before
/// has to be finished.
const SIGNALLED: u8 = 0x08;
const SOLICITED: u8 = 0x02;
const FENCE: u8 = 0xe0;

/// In a segment of data: the data follow.
const INLINE: u32 = 1 << 31;
const INLINE_BYTES: u32 = 0x3ff;

/// The key that ends a list of receives, in a segment of no bytes.
const NO_KEY: u32 = 0x100;

/// What no bytes mean otherwise.
const MOST: u64 = 1 << 31;

/// Data of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Memory(Span),
    Inline(Vec<u8>),
}

impl Segment {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Memory(span) => span.length,
            Self::Inline(bytes) => bytes.len() as u64,
        }
    }
}

/// How eight bytes are changed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add(u64),
    Swap { compare: u64, swap: u64 },
}

impl Change {
    /// What becomes of a value.
    pub(crate) fn of(self, value: u64) -> u64 {
        match self {
            Self::Add(more) => value.wrapping_add(more),
            Self::Swap { compare, swap } if compare == value => swap,
            Self::Swap { .. } => value,
        }
    }
}

/// Where a datagram goes, or a request of an initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The key that the other end has to have, or that of the sender if its highest bit is set.
    pub(crate) key: u32,
    /// The key that a target has to have, which lies in the same place.
    pub(crate) access_key: u64,
    pub(crate) pair: u32,
    pub(crate) port: u16,
    pub(crate) level: u8,
    pub(crate) route: Option<Route>,
}

/// What a global routing header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) class: u8,
    pub(crate) flow: u32,
    pub(crate) hops: u8,
    /// Which of its own addresses the sender names.
    pub(crate) source: u8,
    pub(crate) destination: [u8; 16],
}

/// Bytes of an address; it is one with a global route; it has the long form, which is the only one that is known.
const ADDRESS: usize = 48;
const GLOBAL: u32 = 1 << 30;
const LONG: u32 = 1 << 31;

/// What goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Nothing,
    Send,
    Write {
        address: u64,
        key: u32,
    },
    Read {
        address: u64,
        key: u32,
    },
    Atomic {
        address: u64,
        key: u32,
        change: Change,
    },
    /// A memory key is changed.
    Update,
}

/// A change of a memory key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) key: u32,
    pub(crate) flags: u8,
    /// How much of the translation comes, and after how much of it.
    pub(crate) octwords: u16,
    pub(crate) offset: u64,
    /// Which parts of the context.
    pub(crate) mask: u64,
    pub(crate) context: [u8; PIECE],
}

/// Bytes of what says how a key is changed, before the context; the translation is in the request itself.
const UPDATE_CONTROL: usize = 48;
const UPDATE_INLINE: u8 = 1 << 7;

/// Why a request is not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// It is not known what it asks for.
    Operation,
    /// It ends before what it has to say, or it is longer than what was posted.
    Length,
}

/// A request of a send queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) opcode: u8,
    /// The number of its first piece.
    pub(crate) counter: u16,
    /// How many pieces it has.
    pub(crate) pieces: u16,
    pub(crate) signalled: bool,
    pub(crate) solicited: bool,
    pub(crate) fenced: bool,
    pub(crate) immediate: Option<[u8; 4]>,
    /// The key that is to be free at the other end.
    pub(crate) invalidate: Option<u32>,
    /// Where it goes, if the queue pair is for datagrams or an initiator, and to which shared queue if it is for extended connections.
    pub(crate) to: Option<Address>,
    pub(crate) shared: Option<u32>,
    pub(crate) data: Vec<Segment>,
    pub(crate) update: Option<Update>,
    /// What it asks for, if that is known and complete.
    pub(crate) operation: Result<Operation, Malformed>,
}

impl Request {
    /// Bytes that it moves.
    pub(crate) fn length(&self) -> u64 {
        self.data.iter().map(Segment::length).sum()
    }

    /// Reads a request from its pieces. What cannot be read is malformed, but has an opcode and a counter.
    pub(crate) fn parse(bytes: &[u8], counter: u16, service: Service) -> Self {
        let control: [u8; SEGMENT] = first(bytes).unwrap_or_default();
        let flags = control[11];
        let units = usize::from(control[7] & 0x3f);
        let pieces = (units * SEGMENT).div_ceil(PIECE).max(1) as u16;
        let mut request = Self {
            opcode: control[3],
            counter,
            pieces,
            signalled: flags & SIGNALLED != 0,
            solicited: flags & SOLICITED != 0,
            fenced: flags & FENCE != 0,
            immediate: None,
            invalidate: None,
            to: None,
            shared: None,
            data: Vec::new(),
            update: None,
            operation: Err(Malformed::Length),
        };
        match request.opcode {
            WRITE_IMMEDIATE | SEND_IMMEDIATE => request.immediate = first(&control[12..]),
            SEND_INVALIDATE => {
                request.invalidate = first(&control[12..]).map(u32::from_be_bytes);
            }
            _ => {}
        }
        let known = bytes.get(..units * SEGMENT).unwrap_or_default();
        if let Some(rest) = known.get(SEGMENT..) {
            request.operation = match (control[3], control[0]) {
                (_, 1..) => Err(Malformed::Operation),
                (NOTHING, 0) => Ok(Operation::Nothing),
                (UPDATE, 0) => request.read_update(&control, rest),
                (_, 0) => request.read_transport(service, rest),
            };
        }
        request
    }

    /// What comes first depends on the service.
    fn read_transport(
        &mut self,
        service: Service,
        mut rest: &[u8],
    ) -> Result<Operation, Malformed> {
        if service == Service::ExtendedReliable {
            let segment: [u8; SEGMENT] = first(rest).ok_or(Malformed::Length)?;
            self.shared = first(&segment).map(|word| u32::from_be_bytes(word) & 0xff_ffff);
            rest = &rest[SEGMENT..];
        } else if service.is_datagram() || service == Service::Initiator {
            let segment = first(rest).ok_or(Malformed::Length)?;
            self.to = Some(address(&segment).ok_or(Malformed::Operation)?);
            rest = &rest[ADDRESS..];
        }
        self.read_rest(rest)
    }

    fn read_update(
        &mut self,
        control: &[u8; SEGMENT],
        rest: &[u8],
    ) -> Result<Operation, Malformed> {
        let how: [u8; UPDATE_CONTROL] = first(rest).ok_or(Malformed::Length)?;
        let context = first(&rest[UPDATE_CONTROL..]).ok_or(Malformed::Length)?;
        let data = &rest[UPDATE_CONTROL + PIECE..];
        let half = |at: usize| u16::from_be_bytes([how[at], how[at + 1]]);
        let octwords = half(4);
        self.data = match how[0] & UPDATE_INLINE {
            0 => segments(data)?,
            _ => {
                let length = usize::from(octwords) * SEGMENT;
                let data = data.get(..length).ok_or(Malformed::Length)?;
                vec![Segment::Inline(data.to_vec())]
            }
        };
        self.update = Some(Update {
            key: first(&control[12..]).map_or(0, u32::from_be_bytes),
            flags: how[0],
            octwords,
            offset: (u64::from(half(16)) << 32) | (u64::from(half(18)) << 16) | u64::from(half(6)),
            mask: first(&how[8..]).map_or(0, u64::from_be_bytes),
            context,
        });
        Ok(Operation::Update)
    }

    fn read_rest(&mut self, rest: &[u8]) -> Result<Operation, Malformed> {
        let remote = || -> Result<(u64, u32), Malformed> {
            let address = first(rest).ok_or(Malformed::Length)?;
            let key = first(&rest[8..]).ok_or(Malformed::Length)?;
            Ok((u64::from_be_bytes(address), u32::from_be_bytes(key)))
        };
        let after = |length: usize| rest.get(length..).ok_or(Malformed::Length);
        let (operation, data) = match self.opcode {
            SEND | SEND_IMMEDIATE | SEND_INVALIDATE => (Operation::Send, rest),
            WRITE | WRITE_IMMEDIATE => {
                let (address, key) = remote()?;
                (Operation::Write { address, key }, after(SEGMENT)?)
            }
            READ => {
                let (address, key) = remote()?;
                (Operation::Read { address, key }, after(SEGMENT)?)
            }
            COMPARE_AND_SWAP | FETCH_AND_ADD => {
                let (address, key) = remote()?;
                let word = |at| first(after(at)?).ok_or(Malformed::Length);
                let [value, compare] = [word(SEGMENT)?, word(SEGMENT + 8)?].map(u64::from_be_bytes);
                let change = match self.opcode {
                    FETCH_AND_ADD => Change::Add(value),
                    _ => Change::Swap {
                        compare,
                        swap: value,
                    },
                };
                let operation = Operation::Atomic {
                    address,
                    key,
                    change,
                };
                (operation, after(2 * SEGMENT)?)
            }
            _ => return Err(Malformed::Operation),
        };
        self.data = segments(data)?;
        // What is read has to go to memory.
        let reads = matches!(operation, Operation::Read { .. } | Operation::Atomic { .. });
        let to_request = self.data.iter().any(|s| matches!(s, Segment::Inline(_)));
        match reads && to_request {
            true => Err(Malformed::Operation),
            false => Ok(operation),
        }
    }
}

/// A receive that was taken from its queue.
pub(crate) struct Receive {
    pub(crate) counter: u16,
    pub(crate) spans: Vec<Span>,
    /// The shared queue that it was taken from.
    pub(crate) shared: Option<u32>,
}

impl Receive {
    /// One of a queue pair's own queue.
    pub(crate) fn own(counter: u16, spans: Vec<Span>) -> Self {
        Self {
            counter,
            spans,
            shared: None,
        }
    }
}

/// Reads where a datagram goes, if it says so in the long form.
fn address(bytes: &[u8; ADDRESS]) -> Option<Address> {
    let word = |at: usize| first(&bytes[at..]).map_or(0, u32::from_be_bytes);
    let global = word(28);
    let route = Route {
        class: bytes[26],
        flow: global & 0xf_ffff,
        hops: bytes[27],
        source: (global >> 20) as u8,
        destination: first(&bytes[32..])?,
    };
    let address = Address {
        key: word(0),
        access_key: first(bytes).map_or(0, u64::from_be_bytes),
        pair: word(8) & 0xff_ffff,
        port: first(&bytes[14..]).map_or(0, u16::from_be_bytes),
        level: bytes[12] & 0xf,
        route: (global & GLOBAL != 0).then_some(route),
    };
    (word(8) & LONG != 0).then_some(address)
}

/// Reads segments of data up to the end.
fn segments(mut rest: &[u8]) -> Result<Vec<Segment>, Malformed> {
    let mut all = Vec::new();
    while let Some(word) = first(rest).map(u32::from_be_bytes) {
        let used = if word & INLINE != 0 {
            let length = (word & INLINE_BYTES) as usize;
            let data = rest.get(4..4 + length).ok_or(Malformed::Length)?;
            all.push(Segment::Inline(data.to_vec()));
            4 + length
        } else {
            let segment = first(rest).ok_or(Malformed::Length)?;
            all.push(Segment::Memory(pointer(&segment)));
            SEGMENT
        };
        rest = rest
            .get(used.next_multiple_of(SEGMENT)..)
            .unwrap_or_default();
    }
    Ok(all)
}

/// Reads an entry of a receive queue.
pub(crate) fn receives(bytes: &[u8]) -> Vec<Span> {
    let all = bytes.chunks_exact(SEGMENT).map_while(|segment| {
        let ends = segment[..4] == [0; 4] && segment[4..8] == NO_KEY.to_be_bytes();
        first(segment).filter(|_| !ends)
    });
    all.map(|segment| pointer(&segment)).collect()
}

/// A segment that says where data are.
fn pointer(segment: &[u8; SEGMENT]) -> Span {
    let word = |at: usize| first(&segment[at..]).map_or(0, u32::from_be_bytes);
    let length = match word(0) {
        0 => MOST,
        length => u64::from(length),
    };
    Span {
        key: word(4),
        address: (u64::from(word(8)) << 32) | u64::from(word(12)),
        length,
    }
}

/// The first bytes.
fn first<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.get(..N)?.try_into().ok()
}

#[cfg(test)]
mod tests;
