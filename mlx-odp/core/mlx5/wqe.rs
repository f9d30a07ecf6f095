// SPDX-License-Identifier: GPL-2.0

//! The memory that a WQE needs.
//!
//! A WQE consists of segments of 16 bytes. One in a send queue begins with a control segment, which has the number of
//! segments and the opcode; addresses of the peer follow, as the transport and the opcode say, and then data segments.
//! One in a receive queue has data segments only, up to one that ends the list or to the end of the WQE; in a shared
//! receive queue a link to the next WQE comes first. A data segment is a key, an address and a length, or, in a send
//! queue, the data themselves.
//!
//! The queue is in the application's memory, and the application may be writing to it. So the bytes are a copy, and
//! every length in them is checked against its end.

use super::{be32, be64};

/// The bytes of a segment. All others are multiples.
pub const SEGMENT: usize = 16;

/// The most bytes of a WQE: its length is a number of six bits, in segments.
pub const MOST: usize = 0x3f * SEGMENT;

/// In the control segment.
const OPCODE: u32 = 0xff;
const SEGMENTS: u32 = 0x3f;

/// Opcodes.
mod opcode {
    pub(super) const RDMA_WRITE: u8 = 0x08;
    pub(super) const RDMA_WRITE_IMM: u8 = 0x09;
    pub(super) const SEND: u8 = 0x0a;
    pub(super) const SEND_IMM: u8 = 0x0b;
    pub(super) const RDMA_READ: u8 = 0x10;
    pub(super) const ATOMIC_CS: u8 = 0x11;
    pub(super) const ATOMIC_FA: u8 = 0x12;
    pub(super) const SEND_INVAL: u8 = 0x01;
}

/// An address vector: where it says whether it is an extended one, and how many segments it has then and otherwise.
const AV_DQP_DCT: usize = 8;
const AV_EXTENDED: u32 = 1 << 31;
const AV_SEGMENTS: usize = 3;
const BASE_AV_SEGMENTS: usize = 1;

/// In the first word of a data segment: the data follow.
const INLINE: u32 = 1 << 31;
/// The bytes of that word; the data follow it.
const INLINE_HEADER: usize = 4;

/// What a length of 0 means.
const WHOLE: u64 = 1 << 31;

/// The transport of a send queue, as far as WQEs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Connected: the WQE does not say to whom.
    Connected,
    /// Each WQE has an address vector: UD, and the initiator of DC.
    Addressed,
    /// Each WQE names a shared receive queue: the initiator of XRC.
    Xrc,
}

/// Memory that a WQE needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataSegment {
    /// The key.
    pub lkey: u32,
    /// The first address.
    pub va: u64,
    /// In bytes; at least one.
    pub len: u64,
}

/// Why a WQE is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadWqe {
    /// It has no control segment, or the control segment says that it has no segments.
    Empty,
    /// It is longer than what was read of its queue.
    Truncated {
        /// Its length, in bytes.
        says: usize,
        /// How many there are.
        has: usize,
    },
    /// It ends within what its opcode and transport require.
    Short,
    /// An opcode that names no memory, or one that is not known.
    Opcode(u8),
    /// Its inline data are longer than the WQE.
    InlineTooLong,
    /// Inline data to receive into.
    InlineReceive,
    /// Data at addresses that do not exist.
    Wraps,
}

/// The data segments of a WQE that the NIC has not done yet, in order.
///
/// The first error is the last item.
#[derive(Clone, Debug)]
pub struct DataSegments<'a> {
    rest: &'a [u8],
    /// Bytes of the message that the NIC has moved, as far as they are not taken off yet.
    committed: u64,
    /// In a receive queue: the key that ends the list.
    terminator: Option<u32>,
}

/// The data segments of a WQE in a send queue, of which `bytes` have been read, less the `committed` bytes that the
/// NIC has moved.
///
/// # Errors
///
/// [`BadWqe`].
pub fn send(
    bytes: &[u8],
    transport: Transport,
    committed: u32,
) -> Result<DataSegments<'_>, BadWqe> {
    let opcode = (be32(bytes, 0).ok_or(BadWqe::Empty)? & OPCODE) as u8;
    let segments = be32(bytes, 4).ok_or(BadWqe::Empty)? & SEGMENTS;
    if segments == 0 {
        return Err(BadWqe::Empty);
    }
    let says = segments as usize * SEGMENT;
    let wqe = bytes.get(..says).ok_or(BadWqe::Truncated {
        says,
        has: bytes.len(),
    })?;
    let rest = skip(wqe, 1)?;
    let rest = match transport {
        Transport::Connected => rest,
        Transport::Xrc => skip(rest, 1)?,
        Transport::Addressed => {
            let extended = be32(rest, AV_DQP_DCT).ok_or(BadWqe::Short)? & AV_EXTENDED != 0;
            let segments = match extended {
                true => AV_SEGMENTS,
                false => BASE_AV_SEGMENTS,
            };
            skip(rest, segments)?
        }
    };
    let rest = match opcode {
        opcode::SEND | opcode::SEND_IMM | opcode::SEND_INVAL => rest,
        // The peer's address and key.
        opcode::RDMA_WRITE | opcode::RDMA_WRITE_IMM | opcode::RDMA_READ => skip(rest, 1)?,
        // And the operands.
        opcode::ATOMIC_CS | opcode::ATOMIC_FA => skip(rest, 2)?,
        other => return Err(BadWqe::Opcode(other)),
    };
    Ok(DataSegments {
        rest,
        committed: committed.into(),
        terminator: None,
    })
}

/// The data segments of a WQE of `size` bytes in a receive queue, of which `bytes` have been read. A segment of no
/// bytes with the key `terminator` ends the list. `committed` is as for [`send`].
///
/// # Errors
///
/// [`BadWqe`].
pub fn receive(
    bytes: &[u8],
    size: usize,
    terminator: u32,
    committed: u32,
) -> Result<DataSegments<'_>, BadWqe> {
    if size == 0 {
        return Err(BadWqe::Empty);
    }
    let rest = bytes.get(..size).ok_or(BadWqe::Truncated {
        says: size,
        has: bytes.len(),
    })?;
    Ok(DataSegments {
        rest,
        committed: committed.into(),
        terminator: Some(terminator),
    })
}

/// As [`receive`], in a shared receive queue.
///
/// # Errors
///
/// [`BadWqe`].
pub fn shared_receive(
    bytes: &[u8],
    size: usize,
    terminator: u32,
    committed: u32,
) -> Result<DataSegments<'_>, BadWqe> {
    let mut segments = receive(bytes, size, terminator, committed)?;
    // The link to the next WQE.
    segments.rest = skip(segments.rest, 1)?;
    Ok(segments)
}

/// What follows so many segments of `wqe`.
///
/// # Errors
///
/// [`BadWqe::Short`] if there are fewer.
fn skip(wqe: &[u8], segments: usize) -> Result<&[u8], BadWqe> {
    wqe.get(segments * SEGMENT..).ok_or(BadWqe::Short)
}

impl DataSegments<'_> {
    /// Returns how many of the next `len` bytes the NIC has moved, and counts these as done.
    fn take_committed(&mut self, len: u64) -> u64 {
        let done = self.committed.min(len);
        self.committed -= done;
        done
    }

    /// The next segment that is not done; `None` at the end.
    fn advance(&mut self) -> Result<Option<DataSegment>, BadWqe> {
        while !self.rest.is_empty() {
            let word = be32(self.rest, 0).ok_or(BadWqe::Short)?;
            if word & INLINE != 0 {
                self.skip_inline((word & !INLINE) as usize)?;
                continue;
            }
            let lkey = be32(self.rest, 4).ok_or(BadWqe::Short)?;
            let va = be64(self.rest, 8).ok_or(BadWqe::Short)?;
            if word == 0 && self.terminator == Some(lkey) {
                return Ok(None);
            }
            self.rest = skip(self.rest, 1)?;
            let len = match word {
                0 => WHOLE,
                len => len.into(),
            };
            let done = self.take_committed(len);
            if done < len {
                let (va, len) = (va.checked_add(done), len - done);
                let va = va.filter(|va| va.checked_add(len - 1).is_some());
                let va = va.ok_or(BadWqe::Wraps)?;
                return Ok(Some(DataSegment { lkey, va, len }));
            }
        }
        Ok(None)
    }

    /// Steps over a segment of `len` inline bytes.
    fn skip_inline(&mut self, len: usize) -> Result<(), BadWqe> {
        if self.terminator.is_some() {
            return Err(BadWqe::InlineReceive);
        }
        let segments = (INLINE_HEADER + len).div_ceil(SEGMENT);
        self.rest = skip(self.rest, segments).map_err(|_| BadWqe::InlineTooLong)?;
        self.take_committed(len as u64);
        Ok(())
    }
}

impl Iterator for DataSegments<'_> {
    type Item = Result<DataSegment, BadWqe>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        // What ends the list ends it for good.
        if !matches!(next, Some(Ok(_))) {
            self.rest = &[];
        }
        next
    }
}

#[cfg(test)]
mod tests;
