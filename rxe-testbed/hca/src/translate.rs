// SPDX-License-Identifier: GPL-2.0
//! The way through memory keys: from what a work request or a packet names to where it is in the guest's memory. A
//! key is direct, with a table of pages, or leads on to others.

use crate::access::{Access, Domain, KeyError, Missing, Slot, Span, Use};
use crate::indirect::{self, Onward};
use crate::layout::mkc;
use crate::mkey::{MemoryKey, Translation, NULL_MKEY, READABLE, WRITABLE};
use crate::table::Table;

/// Where bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In memory.
    Memory { address: u64, length: u64 },
    /// Nowhere: they read as zeroes, and what is written is lost.
    Nowhere { length: u64 },
}

/// How many keys may lead on to others, one after the other, and how often one may do so on the way of one span.
pub(crate) const MAX_INDIRECTION: u32 = 4;
const MOST_PARTS: usize = 1 << 16;

/// Every queue pair may use the key.
pub(crate) const ANY_PAIR: u32 = 0xff_ffff;

/// The key of `span`, if it is in use and belongs to who names it.
pub(crate) fn owned(
    keys: &Table<MemoryKey>,
    user: Use,
    span: Span,
) -> Result<&MemoryKey, KeyError> {
    let key = keys.get(span.key >> 8).map_err(|_| KeyError::NoKey)?;
    let context = key.context();
    if mkc::MKEY_7_0.get32(context) != span.key & 0xff {
        return Err(KeyError::Variant);
    }
    if mkc::FREE.is_set(context) {
        return Err(KeyError::Free);
    }
    let pair = mkc::QPN.get32(context);
    let own = Domain::One(mkc::PD.get32(context));
    let foreign = user.domain != Domain::Every && user.domain != own;
    match foreign || (pair != ANY_PAIR && pair != user.pair) {
        true => Err(KeyError::Domain),
        false => Ok(key),
    }
}

/// Checks all that can be said without a look at the table: there may be such an access to the whole of `span`.
pub(crate) fn check(
    keys: &Table<MemoryKey>,
    user: Use,
    span: Span,
) -> Result<&MemoryKey, KeyError> {
    let key = owned(keys, user, span)?;
    let context = key.context();
    let right = match user.access {
        Access::LocalRead => mkc::LR,
        Access::LocalWrite => mkc::LW,
        Access::RemoteRead => mkc::RR,
        Access::RemoteWrite => mkc::RW,
        Access::RemoteAtomic => mkc::A,
    };
    if !right.is_set(context) {
        return Err(KeyError::Rights);
    }
    let end = span.address.checked_add(span.length);
    let inside = match mkc::LENGTH64.is_set(context) {
        true => end.is_some(),
        false => {
            let start = mkc::START_ADDR.get(context);
            let last = start.saturating_add(mkc::LEN.get(context));
            span.address >= start && end.is_some_and(|end| end <= last)
        }
    };
    match inside {
        true => Ok(key),
        false => Err(KeyError::Bounds),
    }
}

/// Where all of `span` is, in order. No span is longer than what a packet carries or a request consists of.
pub(crate) fn walk(keys: &Table<MemoryKey>, user: Use, span: Span) -> Result<Vec<Place>, KeyError> {
    let mut walk = Walk::new(keys, false);
    walk.go(user, span, 0)?;
    Ok(walk.places)
}

/// All of `span` that is not there yet, up to the first place where something else is wrong.
pub(crate) fn missing(keys: &Table<MemoryKey>, user: Use, span: Span) -> Vec<Missing> {
    let mut walk = Walk::new(keys, true);
    // What else is wrong is found again when what is missing is there.
    let _ = walk.go(user, span, 0);
    walk.missing
}

/// A walk: what it has found so far.
struct Walk<'a> {
    keys: &'a Table<MemoryKey>,
    places: Vec<Place>,
    missing: Vec<Missing>,
    /// Whether it goes on after what is missing.
    all: bool,
    parts: usize,
    /// Entries of lists that it has looked at.
    looks: u32,
    /// The part that it is in.
    via: Option<Slot>,
}

impl<'a> Walk<'a> {
    fn new(keys: &'a Table<MemoryKey>, all: bool) -> Self {
        Self {
            keys,
            places: Vec::new(),
            missing: Vec::new(),
            all,
            parts: 0,
            looks: 0,
            via: None,
        }
    }

    fn go(&mut self, user: Use, span: Span, depth: u32) -> Result<(), KeyError> {
        if span.length == 0 {
            return Ok(());
        }
        if span.key == NULL_MKEY && matches!(user.access, Access::LocalRead | Access::LocalWrite) {
            let length = span.length;
            self.places.push(Place::Nowhere { length });
            return Ok(());
        }
        let key = check(self.keys, user, span)?;
        let onward = match key.translation().ok_or(KeyError::Kind)? {
            Translation::Physical => {
                self.places.push(Place::Memory {
                    address: span.address,
                    length: span.length,
                });
                return Ok(());
            }
            Translation::Pages(log_page) => return self.pages(key, user.access, span, log_page),
            Translation::List => indirect::list(key, span, &mut self.looks)?,
            Translation::Parts(log_part) => indirect::parts(key, span, log_part)?,
        };
        self.parts += onward.len();
        if depth == MAX_INDIRECTION || self.parts > MOST_PARTS {
            return Err(KeyError::Depth);
        }
        let inner = Use {
            access: beneath(user.access),
            ..user
        };
        for step in onward {
            match step {
                Onward::To(span, via) => {
                    let outer = self.via;
                    self.via = via.or(outer);
                    self.go(inner, span, depth + 1)?;
                    self.via = outer;
                }
                Onward::Missing(missing) => self.absent(missing)?,
            }
        }
        Ok(())
    }

    /// The table's first page is the one that the key begins in.
    fn pages(
        &mut self,
        key: &MemoryKey,
        access: Access,
        span: Span,
        log_page: u32,
    ) -> Result<(), KeyError> {
        let page = 1_u64 << log_page;
        let first = mkc::START_ADDR.get(key.context()) >> log_page;
        let mut done = 0;
        while done < span.length {
            let address = span.address + done;
            let offset = address % page;
            let length = (span.length - done).min(page - offset);
            let index = (address >> log_page).checked_sub(first);
            let index = index.ok_or(KeyError::Absent)?;
            let entry = key.page(index).ok_or(KeyError::Absent)?;
            match usable(key, access, entry) {
                true => self.places.push(Place::Memory {
                    address: (entry & !(page - 1)) | offset,
                    length,
                }),
                false if key.is_on_demand() => self.absent(Missing {
                    slot: Slot {
                        key: span.key >> 8,
                        index,
                    },
                    via: self.via,
                    span: Span {
                        key: span.key,
                        address,
                        length,
                    },
                })?,
                false => return Err(KeyError::Absent),
            }
            done += length;
        }
        Ok(())
    }

    /// Something is not there yet. What follows what is missing already is one with it.
    fn absent(&mut self, missing: Missing) -> Result<(), KeyError> {
        if !self.all {
            return Err(KeyError::Fault(missing));
        }
        if let Some(last) = self.missing.last_mut() {
            let end = last.span.address.wrapping_add(last.span.length);
            if last.span.key == missing.span.key && end == missing.span.address {
                last.span.length += missing.span.length;
                return Ok(());
            }
        }
        self.missing.push(missing);
        Ok(())
    }
}

/// What an access through an indirect key is for the keys that it leads on to: they have been named by their owner.
fn beneath(access: Access) -> Access {
    match access {
        Access::LocalRead | Access::RemoteRead => Access::LocalRead,
        Access::LocalWrite | Access::RemoteWrite | Access::RemoteAtomic => Access::LocalWrite,
    }
}

/// Whether an entry allows the access. Entries of keys that are made so have rights of their own.
fn usable(key: &MemoryKey, access: Access, entry: u64) -> bool {
    let needed = match access {
        Access::LocalRead | Access::RemoteRead => READABLE,
        Access::LocalWrite | Access::RemoteWrite | Access::RemoteAtomic => WRITABLE,
    };
    !key.has_page_rights() || entry & needed != 0
}

#[cfg(test)]
pub(crate) mod tests;
