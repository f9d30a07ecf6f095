// SPDX-License-Identifier: GPL-2.0
//! The way through memory keys: from what a work request or a packet names to where it is in the guest's memory. A
//! key is direct, with a table of pages, or leads on to others.

use crate::indirect::{self, Onward};
use crate::layout::mkc;
use crate::mkey::MemoryKey;
use crate::profile::NULL_MKEY;
use crate::table::Table;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    LocalRead,
    LocalWrite,
    RemoteRead,
    RemoteWrite,
    RemoteAtomic,
}

/// The protection domains whose keys somebody may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    One(u32),
    /// A driver's own queue pair changes keys of all domains.
    Every,
}

/// Who accesses, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) pair: u32,
    pub(crate) domain: Domain,
    pub(crate) access: Access,
}

/// Bytes, by a key and an address under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) key: u32,
    pub(crate) address: u64,
    pub(crate) length: u64,
}

/// Why a key does not lead to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyError {
    /// There is none of that number.
    NoKey,
    /// Its lowest byte is another one.
    Variant,
    /// It is free: it waits for a request that gives it a meaning.
    Free,
    /// It belongs to another protection domain, or to another queue pair.
    Domain,
    /// It does not allow this.
    Rights,
    /// Something lies before its beginning or past its end.
    Bounds,
    /// There is no page, or one for other accesses.
    Absent,
    /// The same, but it can be asked for.
    Fault(Missing),
    /// Its translation is of a kind that is not walked, or of pages that there are not.
    Kind,
    /// Keys lead to keys that lead to keys, more often than is allowed.
    Depth,
}

/// An entry of a key's translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The key, without its variant.
    pub(crate) key: u32,
    pub(crate) index: u64,
}

/// What is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The first entry that would have to be there, and the part of another key that leads to it, if one does.
    pub(crate) slot: Slot,
    pub(crate) via: Option<Slot>,
    /// By the last key on the way.
    pub(crate) span: Span,
}

/// Where bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In memory.
    Memory { address: u64, length: u64 },
    /// Nowhere: they read as zeroes, and what is written is lost.
    Nowhere { length: u64 },
}

/// How a key translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Translation {
    /// Not at all: addresses are those of memory.
    Physical,
    /// By a table of pages of so many bits.
    Pages(u32),
    /// By a list of parts of other keys.
    List,
    /// By a table of parts of other keys, each of so many bits.
    Parts(u32),
}

const PHYSICAL: u32 = 0;
const PAGES: u32 = 1;
const LIST: u32 = 2;
const PARTS: u32 = 3;

/// How many keys may lead on to others, one after the other, and how often one may do so on the way of one span.
pub(crate) const MAX_INDIRECTION: u32 = 4;
const MOST_PARTS: usize = 1 << 16;

/// Every queue pair may use the key.
const ANY_PAIR: u32 = 0xff_ffff;

/// Pages' sizes, as powers of two.
const LOG_PAGE: std::ops::RangeInclusive<u32> = 12..=62;

/// What an entry of the table says besides the address: that the page may be read and written.
pub(crate) const READABLE: u64 = 1;
pub(crate) const WRITABLE: u64 = 2;

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
        let onward = match translation(key.context())? {
            Translation::Physical => {
                self.places.push(Place::Memory {
                    address: span.address,
                    length: span.length,
                });
                return Ok(());
            }
            Translation::Pages(log_page) => return self.pages(key, user.access, span, log_page),
            Translation::List => indirect::list(key, span)?,
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

/// How a key with that context translates.
pub(crate) fn translation(context: &[u8]) -> Result<Translation, KeyError> {
    let mode = (mkc::ACCESS_MODE_4_2.get32(context) << 2) | mkc::ACCESS_MODE_1_0.get32(context);
    let log_page = mkc::LOG_PAGE_SIZE.get32(context);
    match mode {
        PHYSICAL => Ok(Translation::Physical),
        PAGES if LOG_PAGE.contains(&log_page) => Ok(Translation::Pages(log_page)),
        LIST => Ok(Translation::List),
        PARTS if LOG_PAGE.contains(&log_page) => Ok(Translation::Parts(log_page)),
        _ => Err(KeyError::Kind),
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
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const DOMAIN: u32 = 3;
    pub(crate) const USER: Use = Use {
        pair: 7,
        domain: Domain::One(DOMAIN),
        access: Access::LocalRead,
    };

    /// A key of that kind over `length` bytes from `start` on, which allows everything.
    pub(crate) fn context(kind: u32, start: u64, length: u64, log_page: u32) -> Vec<u8> {
        let mut context = vec![0; mkc::BYTES];
        for right in [mkc::LR, mkc::LW, mkc::RR, mkc::RW, mkc::A] {
            right.set(&mut context, 1_u64);
        }
        mkc::ACCESS_MODE_1_0.set(&mut context, kind);
        mkc::QPN.set(&mut context, ANY_PAIR);
        mkc::MKEY_7_0.set(&mut context, 0x5a_u64);
        mkc::PD.set(&mut context, DOMAIN);
        mkc::START_ADDR.set(&mut context, start);
        mkc::LEN.set(&mut context, length);
        mkc::LOG_PAGE_SIZE.set(&mut context, log_page);
        context
    }

    fn table(context: Vec<u8>, entries: &[u64], page_rights: bool) -> (Table<MemoryKey>, u32) {
        let translation = entries.iter().flat_map(|entry| entry.to_be_bytes());
        let key = MemoryKey::new(context, translation.collect(), page_rights);
        let mut keys = Table::new(8, 9);
        let number = keys.add(key).unwrap_or(0);
        (keys, (number << 8) | 0x5a)
    }

    fn span(key: u32, address: u64, length: u64) -> Span {
        Span {
            key,
            address,
            length,
        }
    }

    pub(crate) fn memory(address: u64, length: u64) -> Place {
        Place::Memory { address, length }
    }

    #[test]
    fn a_key_may_begin_within_a_page() {
        let entries = [0x10_0000, 0x7_0000, 0x30_0000];
        let (keys, key) = table(context(PAGES, 0x1ff0, 0x1100, 12), &entries, false);
        let found = walk(&keys, USER, span(key, 0x1ff8, 0x1010));
        let expected = [
            memory(0x10_0ff8, 8),
            memory(0x7_0000, 0x1000),
            memory(0x30_0000, 8),
        ];
        assert_eq!(found, Ok(expected.to_vec()));
    }

    #[test]
    fn larger_pages_are_walked() {
        let entries = [0x4000_0000, 0x8020_0000];
        let start = 0x7f00_0000_0000;
        let (keys, key) = table(context(PAGES, start, 0x40_0000, 21), &entries, false);
        let found = walk(&keys, USER, span(key, start + 0x1f_fffe, 4));
        let expected = [memory(0x401f_fffe, 2), memory(0x8020_0000, 2)];
        assert_eq!(found, Ok(expected.to_vec()));
    }

    #[test]
    fn what_a_key_does_not_allow_is_refused() {
        let whole = context(PAGES, 0x1000, 0x1000, 12);
        let refused = |change: &dyn Fn(&mut Vec<u8>), user: Use, address: u64, length: u64| {
            let mut context = whole.clone();
            change(&mut context);
            let (keys, key) = table(context, &[0x10_0000], false);
            walk(&keys, user, span(key, address, length)).err()
        };
        let as_it_is = |_: &mut Vec<u8>| {};
        assert_eq!(refused(&as_it_is, USER, 0x1000, 0x1000), None);
        let bounds = Some(KeyError::Bounds);
        assert_eq!(refused(&as_it_is, USER, 0xfff, 1), bounds);
        assert_eq!(refused(&as_it_is, USER, 0x1fff, 2), bounds);
        assert_eq!(refused(&as_it_is, USER, u64::MAX, 2), bounds);
        let stranger = Use {
            domain: Domain::One(4),
            ..USER
        };
        assert_eq!(
            refused(&as_it_is, stranger, 0x1000, 1),
            Some(KeyError::Domain)
        );
        let of_all = Use {
            domain: Domain::Every,
            ..USER
        };
        assert_eq!(refused(&as_it_is, of_all, 0x1000, 1), None);
        let of_pair = |context: &mut Vec<u8>| mkc::QPN.set(context, 7_u64);
        assert_eq!(refused(&of_pair, USER, 0x1000, 1), None);
        let other = Use { pair: 8, ..USER };
        assert_eq!(refused(&of_pair, other, 0x1000, 1), Some(KeyError::Domain));
        let free = |context: &mut Vec<u8>| mkc::FREE.set(context, 1_u64);
        assert_eq!(refused(&free, USER, 0x1000, 1), Some(KeyError::Free));
        let other = |context: &mut Vec<u8>| mkc::ACCESS_MODE_4_2.set(context, 1_u64);
        assert_eq!(refused(&other, USER, 0x1000, 1), Some(KeyError::Kind));
        let small = |context: &mut Vec<u8>| mkc::LOG_PAGE_SIZE.set(context, 11_u64);
        assert_eq!(refused(&small, USER, 0x1000, 1), Some(KeyError::Kind));
        let long = |context: &mut Vec<u8>| mkc::LEN.set(context, 0x2000_u64);
        assert_eq!(refused(&long, USER, 0x1fff, 2), Some(KeyError::Absent));
    }

    #[test]
    fn each_access_has_its_right() {
        let rights = [
            (Access::LocalRead, mkc::LR),
            (Access::LocalWrite, mkc::LW),
            (Access::RemoteRead, mkc::RR),
            (Access::RemoteWrite, mkc::RW),
            (Access::RemoteAtomic, mkc::A),
        ];
        for (access, _) in rights {
            for (_, missing) in rights {
                let mut context = context(PHYSICAL, 0, 0x1000, 0);
                missing.set(&mut context, 0_u64);
                let (keys, key) = table(context, &[], false);
                let found = walk(&keys, Use { access, ..USER }, span(key, 0x10, 8));
                let own = rights
                    .iter()
                    .any(|(a, field)| *a == access && *field == missing);
                let expected = match own {
                    true => Err(KeyError::Rights),
                    false => Ok(vec![memory(0x10, 8)]),
                };
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn pages_may_have_rights() {
        let entries = [0x10_0001, 0x20_0002, 0];
        let whole = context(PAGES, 0, 0x3000, 12);
        let (keys, key) = table(whole, &entries, true);
        let walked = |access, page: u64| {
            let user = Use { access, ..USER };
            walk(&keys, user, span(key, page * 0x1000, 1)).is_ok()
        };
        assert!(walked(Access::RemoteRead, 0) && !walked(Access::RemoteWrite, 0));
        assert!(!walked(Access::LocalRead, 1) && walked(Access::RemoteWrite, 1));
        assert!(!walked(Access::LocalRead, 2) && !walked(Access::LocalWrite, 2));
    }

    #[test]
    fn other_numbers_are_no_keys() {
        let (keys, key) = table(context(PHYSICAL, 0, 0x1000, 0), &[], false);
        let found = walk(&keys, USER, span(key ^ 1, 0, 1));
        assert_eq!(found, Err(KeyError::Variant));
        let found = walk(&keys, USER, span(key + 0x100, 0, 1));
        assert_eq!(found, Err(KeyError::NoKey));
        let nothing = walk(&keys, USER, span(NULL_MKEY, 5, 9));
        assert_eq!(nothing, Ok(vec![Place::Nowhere { length: 9 }]));
        let remote = Use {
            access: Access::RemoteRead,
            ..USER
        };
        let found = walk(&keys, remote, span(NULL_MKEY, 5, 9));
        assert_eq!(found, Err(KeyError::NoKey));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        /// Byte by byte against a table that is looked up in the simplest way; and no context is too odd.
        #[test]
        fn each_byte_is_where_its_page_is(
            start in 0_u64..0x4000, length in 0_u64..0x4000, log_page in 12_u32..15,
            entries in prop::collection::vec(0_u64..0x100, 0..6),
            address in 0_u64..0x9000, count in 1_u64..0x3000, odd: bool, noise: [u8; 64],
        ) {
            let page = 1 << log_page;
            let entries: Vec<u64> = entries.iter().map(|entry| entry * page).collect();
            let mut whole = context(PAGES, start, length, log_page);
            if odd {
                whole.copy_from_slice(&noise);
            }
            let (keys, key) = table(whole, &entries, false);
            let found = walk(&keys, USER, span(key, address, count));
            if !odd {
                let byte = |at: u64| {
                    let inside = at >= start && at < start + length;
                    let index = (at / page).wrapping_sub(start / page) as usize;
                    entries.get(index).filter(|_| inside).map(|entry| entry + at % page)
                };
                let model: Option<Vec<u64>> = [address, address + count / 2, address + count - 1]
                    .into_iter().map(byte).collect();
                let all = (address..address + count).step_by(0x800).all(|at| byte(at).is_some());
                prop_assert_eq!(found.is_ok(), model.is_some() && all);
                if let (Ok(places), Some(model)) = (found, model) {
                    prop_assert_eq!(nth(&places, 0), Some(model[0]));
                    prop_assert_eq!(nth(&places, count / 2), Some(model[1]));
                    prop_assert_eq!(nth(&places, count - 1), Some(model[2]));
                }
            }
        }
    }

    /// The address of a byte.
    fn nth(places: &[Place], mut at: u64) -> Option<u64> {
        for place in places {
            match *place {
                Place::Memory { address, length } if at < length => return Some(address + at),
                Place::Memory { length, .. } | Place::Nowhere { length } => {
                    at = at.checked_sub(length)?
                }
            }
        }
        None
    }
}
