// SPDX-License-Identifier: GPL-2.0
//! Keys that lead on to other keys: by a list whose entries each have a length (KLM), or by a table whose entries all
//! have the same (KSM).

use crate::access::{KeyError, Missing, Slot, Span};
use crate::layout::mkc;
use crate::mkey::{Link, MemoryKey, NULL_MKEY};

/// Entries of a list at most.
pub(crate) const LOG_LONGEST: u32 = 16;

/// What the first entry of a list that repeats has in place of a key.
const REPEATS: u32 = 0x400;

/// The first number of a key: after the null key, and after what is none.
pub(crate) const FIRST_KEY: u32 = (REPEATS >> 8) + 1;
const _: () = assert!(FIRST_KEY > NULL_MKEY >> 8);

/// How many entries of lists may be looked at on the way of one span.
const MOST_LOOKS: u32 = 1 << 20;

/// Looks at one more entry.
fn look(looks: &mut u32) -> Result<(), KeyError> {
    *looks += 1;
    match *looks > MOST_LOOKS {
        true => Err(KeyError::Depth),
        false => Ok(()),
    }
}

/// Where a part of a span goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onward {
    /// By an entry of a table.
    To(Span, Option<Slot>),
    /// Nowhere yet.
    Missing(Missing),
}

/// What an entry leads to: `length` bytes, `offset` after its own address.
fn beyond(link: Link, offset: u64, length: u64) -> Result<Span, KeyError> {
    let address = link.address.checked_add(offset);
    Ok(Span {
        key: link.key,
        address: address.ok_or(KeyError::Bounds)?,
        length,
    })
}

/// Where the parts of `span` go on, by a list. It begins at the key's first address.
pub(crate) fn list(key: &MemoryKey, span: Span, looks: &mut u32) -> Result<Vec<Onward>, KeyError> {
    let start = mkc::START_ADDR.get(key.context());
    let from = span.address.checked_sub(start).ok_or(KeyError::Bounds)?;
    let to = from.checked_add(span.length).ok_or(KeyError::Bounds)?;
    if let Some(head) = key.link(0).filter(|head| head.key == REPEATS) {
        return repeated(key, head, from, to, looks);
    }
    let (mut begin, mut onward) = (0_u64, Vec::new());
    for index in 0..1 << LOG_LONGEST {
        if begin >= to {
            break;
        }
        look(looks)?;
        let link = key.link(index).ok_or(KeyError::Absent)?;
        let end = begin + u64::from(link.length);
        let (first, last) = (from.max(begin), to.min(end));
        if first < last {
            onward.push(Onward::To(beyond(link, first - begin, last - first)?, None));
        }
        begin = end;
    }
    match begin >= to {
        true => Ok(onward),
        false => Err(KeyError::Absent),
    }
}

/// The same for the bytes from `from` to `to` of a list that repeats. Its `head` has the bytes of one repetition, their
/// number and that of the entries after it; each of these has its bytes in each, and how far one is from the next.
fn repeated(
    key: &MemoryKey,
    head: Link,
    from: u64,
    to: u64,
    looks: &mut u32,
) -> Result<Vec<Onward>, KeyError> {
    let bytes = u64::from(head.length);
    let (times, entries) = (head.address >> 32, head.address & 0xffff);
    if bytes == 0 || to > times * bytes {
        return Err(KeyError::Absent);
    }
    let mut onward = Vec::new();
    for time in from / bytes..to.div_ceil(bytes) {
        let (mut begin, close) = (time * bytes, (time + 1) * bytes);
        for index in 1..=entries {
            look(looks)?;
            let link = key.link(index).ok_or(KeyError::Absent)?;
            let (stride, length) = (link.length >> 16, link.length & 0xffff);
            let end = (begin + u64::from(length)).min(close);
            let (first, last) = (from.max(begin), to.min(end));
            if first < last {
                let offset = time * u64::from(stride) + (first - begin);
                onward.push(Onward::To(beyond(link, offset, last - first)?, None));
            }
            begin = end;
        }
        if begin < to.min(close) {
            return Err(KeyError::Absent);
        }
    }
    Ok(onward)
}

/// Where the parts of `span` go on, by a table. Its first part is the one that the key begins in. An entry with the
/// null key is not there yet, if the key's translation comes on demand.
pub(crate) fn parts(key: &MemoryKey, span: Span, log_part: u32) -> Result<Vec<Onward>, KeyError> {
    let part = 1_u64 << log_part;
    let table = mkc::START_ADDR.get(key.context()) >> log_part;
    let (mut done, mut onward) = (0, Vec::new());
    while done < span.length {
        let address = span.address + done;
        let offset = address % part;
        let length = (span.length - done).min(part - offset);
        let index = (address >> log_part).checked_sub(table);
        let index = index.ok_or(KeyError::Absent)?;
        let link = key.link(index).ok_or(KeyError::Absent)?;
        let slot = Slot {
            key: span.key >> 8,
            index,
        };
        onward.push(match link.key == NULL_MKEY && key.is_on_demand() {
            true => Onward::Missing(Missing {
                slot,
                via: None,
                span: Span {
                    key: span.key,
                    address,
                    length,
                },
            }),
            false => Onward::To(beyond(link, offset, length)?, Some(slot)),
        });
        done += length;
    }
    Ok(onward)
}

#[cfg(test)]
mod tests;
