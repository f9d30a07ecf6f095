// SPDX-License-Identifier: GPL-2.0
//! Bytes of requests and packets: from memory and to it, through keys.

use crate::access::{KeyError, Missing, Span, Use};
use crate::bus::Bus;
use crate::mkey::MemoryKey;
use crate::table::Table;
use crate::translate::{missing, walk, Place};
use crate::wqe::Segment;

/// Who these accesses to memory are by.
const WHO: &str = "work request";

/// Why bytes were not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataError {
    /// A key does not lead to them.
    Key(KeyError),
    /// The device may not access that memory; that has been reported.
    Memory,
    /// There is not as much room.
    Short,
}

impl DataError {
    /// Whether the driver can be asked for what is not there.
    pub(crate) fn is_fault(self) -> bool {
        matches!(self, Self::Key(KeyError::Fault(_)))
    }
}

/// The device's memory through its keys.
#[derive(Clone, Copy)]
pub(crate) struct Access<'a> {
    pub(crate) keys: &'a Table<MemoryKey>,
    pub(crate) bus: &'a Bus,
    pub(crate) user: Use,
}

impl Access<'_> {
    /// Reads `length` bytes of a request's data from `skip` on.
    pub(crate) fn gather(
        &self,
        data: &[Segment],
        skip: u64,
        length: u64,
    ) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        for (segment, from, count) in overlap(data, Segment::length, skip, length) {
            match segment {
                Segment::Inline(inline) => {
                    let from = from as usize;
                    let part = inline.get(from..from + count as usize);
                    bytes.extend(part.ok_or(DataError::Short)?);
                }
                Segment::Memory(span) => bytes.extend(self.read(part(span, from, count))?),
            }
        }
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(DataError::Short),
        }
    }

    /// Writes bytes to the place `skip` bytes after the beginning of `spans`.
    pub(crate) fn scatter(&self, spans: &[Span], skip: u64, bytes: &[u8]) -> Result<(), DataError> {
        let mut rest = bytes;
        for (span, from, count) in overlap(spans, |span| span.length, skip, bytes.len() as u64) {
            let (now, later) = rest.split_at(count as usize);
            self.write(part(span, from, count), now)?;
            rest = later;
        }
        match rest.is_empty() {
            true => Ok(()),
            false => Err(DataError::Short),
        }
    }

    /// What is not there yet of the `length` bytes of a request's data from `skip` on.
    pub(crate) fn lacks(&self, data: &[Segment], skip: u64, length: u64) -> Vec<Missing> {
        let mut lacks = Vec::new();
        for (segment, from, count) in overlap(data, Segment::length, skip, length) {
            if let Segment::Memory(span) = segment {
                lacks.extend(missing(self.keys, self.user, part(span, from, count)));
            }
        }
        lacks
    }

    /// Reads all of a span.
    pub(crate) fn read(&self, span: Span) -> Result<Vec<u8>, DataError> {
        let places = walk(self.keys, self.user, span).map_err(DataError::Key)?;
        let mut bytes = vec![0; span.length as usize];
        let mut rest = bytes.as_mut_slice();
        for place in places {
            match place {
                Place::Nowhere { length } => rest = &mut rest[length as usize..],
                Place::Memory { address, length } => {
                    let (now, later) = rest.split_at_mut(length as usize);
                    let read = self.bus.read(WHO, address, now);
                    read.map_err(|_| DataError::Memory)?;
                    rest = later;
                }
            }
        }
        Ok(bytes)
    }

    /// Fills a span.
    pub(crate) fn write(&self, span: Span, bytes: &[u8]) -> Result<(), DataError> {
        let mut rest = bytes;
        for place in walk(self.keys, self.user, span).map_err(DataError::Key)? {
            match place {
                Place::Nowhere { length } => rest = &rest[length as usize..],
                Place::Memory { address, length } => {
                    let (now, later) = rest.split_at(length as usize);
                    let written = self.bus.write(WHO, address, now);
                    written.map_err(|_| DataError::Memory)?;
                    rest = later;
                }
            }
        }
        Ok(())
    }
}

/// The parts of a list that `length` bytes from `skip` on are in: each with its first byte and how many.
fn overlap<T>(
    list: &[T],
    size: impl Fn(&T) -> u64,
    skip: u64,
    length: u64,
) -> impl Iterator<Item = (&T, u64, u64)> {
    let mut begin = 0;
    let end = skip.saturating_add(length);
    list.iter().filter_map(move |part| {
        let first = begin;
        begin += size(part);
        let from = skip.max(first);
        let to = end.min(begin);
        (from < to).then(|| (part, from - first, to - from))
    })
}

fn part(span: &Span, from: u64, length: u64) -> Span {
    Span {
        key: span.key,
        address: span.address.wrapping_add(from),
        length,
    }
}
