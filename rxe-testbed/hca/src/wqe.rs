// SPDX-License-Identifier: GPL-2.0
//! Work requests as drivers write them: segments of 16 bytes, the first of which says what is to be done.

use crate::translate::Span;

/// Bytes of a segment, and of a piece of a send queue.
pub(crate) const SEGMENT: usize = 16;
pub(crate) const PIECE: usize = 64;

/// What a request is to do, by the number that says so.
pub(crate) const NOTHING: u8 = 0x00;
pub(crate) const WRITE: u8 = 0x08;
pub(crate) const WRITE_IMMEDIATE: u8 = 0x09;
pub(crate) const SEND: u8 = 0x0a;
pub(crate) const SEND_IMMEDIATE: u8 = 0x0b;
pub(crate) const READ: u8 = 0x10;
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
    /// A memory key is changed.
    Update,
}

/// A change of a memory key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) key: u32,
    pub(crate) flags: u8,
    /// How much of the translation comes, and behind how much of it.
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
    pub(crate) fn parse(bytes: &[u8], counter: u16) -> Self {
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
            data: Vec::new(),
            update: None,
            operation: Err(Malformed::Length),
        };
        if matches!(request.opcode, WRITE_IMMEDIATE | SEND_IMMEDIATE) {
            request.immediate = first(&control[12..]);
        }
        let known = bytes.get(..units * SEGMENT).unwrap_or_default();
        if let Some(rest) = known.get(SEGMENT..) {
            request.operation = match (control[3], control[0]) {
                (UPDATE, 0) => request.read_update(&control, rest),
                (_, modifier) => request.read_rest(modifier, rest),
            };
        }
        request
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

    fn read_rest(&mut self, modifier: u8, rest: &[u8]) -> Result<Operation, Malformed> {
        if modifier != 0 {
            return Err(Malformed::Operation);
        }
        let remote = || -> Result<(u64, u32), Malformed> {
            let address = first(rest).ok_or(Malformed::Length)?;
            let key = first(&rest[8..]).ok_or(Malformed::Length)?;
            Ok((u64::from_be_bytes(address), u32::from_be_bytes(key)))
        };
        let (operation, data) = match self.opcode {
            NOTHING => return Ok(Operation::Nothing),
            SEND | SEND_IMMEDIATE => (Operation::Send, rest),
            WRITE | WRITE_IMMEDIATE => {
                let (address, key) = remote()?;
                (Operation::Write { address, key }, &rest[SEGMENT..])
            }
            READ => {
                let (address, key) = remote()?;
                (Operation::Read { address, key }, &rest[SEGMENT..])
            }
            _ => return Err(Malformed::Operation),
        };
        self.data = segments(data)?;
        // What is read has to go to memory.
        let to_request = self.data.iter().any(|s| matches!(s, Segment::Inline(_)));
        match self.opcode == READ && to_request {
            true => Err(Malformed::Operation),
            false => Ok(operation),
        }
    }
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn control(opcode: u8, units: u8, flags: u8) -> Vec<u8> {
        vec![0, 0, 9, opcode, 0, 0, 7, units, 0, 0, 0, flags, 1, 2, 3, 4]
    }

    fn segment(length: u32, key: u32, address: u64) -> Vec<u8> {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(key.to_be_bytes());
        bytes.extend(address.to_be_bytes());
        bytes
    }

    #[test]
    fn a_write_names_both_ends() {
        let mut bytes = control(WRITE_IMMEDIATE, 4, 0x0a);
        bytes.extend(0x1122_3344_5566_7788_u64.to_be_bytes());
        bytes.extend([0, 0, 0x12, 0x5a, 0, 0, 0, 0]);
        bytes.extend(segment(5, 0x900, 0x10_0000_0001));
        bytes.extend([0x80, 0, 0, 3, 0xa, 0xb, 0xc]);
        bytes.resize(PIECE, 0);
        let request = Request::parse(&bytes, 9);
        let (address, key) = (0x1122_3344_5566_7788, 0x125a);
        assert_eq!(request.operation, Ok(Operation::Write { address, key }));
        assert_eq!(request.immediate, Some([1, 2, 3, 4]));
        assert!(request.signalled && request.solicited && !request.fenced);
        let memory = Segment::Memory(Span {
            key: 0x900,
            address: 0x10_0000_0001,
            length: 5,
        });
        assert_eq!(request.data, [memory, Segment::Inline(vec![0xa, 0xb, 0xc])]);
        assert_eq!(request.length(), 8);
    }

    #[test]
    fn what_is_not_known_is_malformed() {
        let operation = |bytes: &[u8]| Request::parse(bytes, 0).operation;
        assert_eq!(operation(&[]), Err(Malformed::Length));
        assert_eq!(operation(&control(SEND, 0, 0)), Err(Malformed::Length));
        assert_eq!(operation(&control(SEND, 2, 0)), Err(Malformed::Length));
        assert_eq!(operation(&control(SEND, 1, 0)), Ok(Operation::Send));
        assert_eq!(operation(&control(READ, 1, 0)), Err(Malformed::Length));
        assert_eq!(operation(&control(0x0e, 1, 0)), Err(Malformed::Operation));
        let mut odd = control(SEND, 1, 0);
        odd[0] = 1;
        assert_eq!(operation(&odd), Err(Malformed::Operation));
        let mut long = control(SEND, 2, 0);
        long.extend([0x80, 0, 0, 13]);
        long.resize(2 * SEGMENT, 0);
        assert_eq!(operation(&long), Err(Malformed::Length));
        let mut read = control(READ, 3, 0);
        read.extend([0; SEGMENT]);
        read.extend([0x80, 0, 0, 1]);
        read.resize(3 * SEGMENT, 0);
        assert_eq!(operation(&read), Err(Malformed::Operation));
    }

    #[test]
    fn a_list_of_receives_may_end_early() {
        let mut bytes = segment(4, 0x900, 0x1000);
        bytes.extend(segment(0, 0x901, 0x2000));
        bytes.extend(segment(0, NO_KEY, 0));
        bytes.extend(segment(4, 0x902, 0x3000));
        let spans = receives(&bytes);
        let lengths: Vec<u64> = spans.iter().map(|span| span.length).collect();
        assert_eq!(lengths, [4, MOST]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn no_request_is_too_odd(
            opcode in 0_u8..0x30, units in 0_u8..70, rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = control(opcode, units, 0);
            bytes.extend(&rest);
            let request = Request::parse(&bytes, 3);
            let known = usize::from(units & 0x3f) * SEGMENT <= bytes.len();
            prop_assert!(known || request.operation == Err(Malformed::Length));
            let inline: usize = request.data.iter().map(|segment| match segment {
                Segment::Inline(bytes) => bytes.len(),
                Segment::Memory(_) => 0,
            }).sum();
            prop_assert!(inline <= rest.len());
            let _ = receives(&rest);
        }
    }
}
