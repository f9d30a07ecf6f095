// SPDX-License-Identifier: GPL-2.0
//! Ways through keys that lead on to others.

use super::*;
use crate::access::{Access, Use};
use crate::table::Table;
use crate::translate::tests::{context, memory, USER};
use crate::translate::{missing, walk, Place, MAX_INDIRECTION};
use proptest::prelude::*;

const PAGES: u32 = 1;
const LIST: u32 = 2;
const PARTS: u32 = 3;
const VARIANT: u32 = 0x5a;

/// Keys, the first of which gets number 8.
#[derive(Default)]
struct Keys(Vec<MemoryKey>);

impl Keys {
    fn add(&mut self, key: MemoryKey) -> u32 {
        self.0.push(key);
        ((7 + self.0.len() as u32) << 8) | VARIANT
    }

    fn indirect(&mut self, context: Vec<u8>, links: &[(u32, u32, u64)]) -> u32 {
        self.add(MemoryKey::new(context, bytes(links), false))
    }

    fn pages(&mut self, start: u64, length: u64, pages: &[u64]) -> u32 {
        let entries = pages.iter().flat_map(|page| page.to_be_bytes());
        let context = context(PAGES, start, length, 12);
        self.add(MemoryKey::new(context, entries.collect(), true))
    }

    fn table(self) -> Table<MemoryKey> {
        let mut table = Table::new(8, 1000);
        for key in self.0 {
            assert!(table.add(key).is_ok());
        }
        table
    }
}

fn bytes(links: &[(u32, u32, u64)]) -> Vec<u8> {
    let entry = |(length, key, address): &(u32, u32, u64)| {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(key.to_be_bytes());
        bytes.extend(address.to_be_bytes());
        bytes
    };
    links.iter().flat_map(entry).collect()
}

fn span(key: u32, address: u64, length: u64) -> Span {
    Span {
        key,
        address,
        length,
    }
}

#[test]
fn a_list_may_repeat() {
    let mut keys = Keys::default();
    let one = keys.pages(0x10_0000, 0x2000, &[0x7000_0003, 0x5000_0003]);
    let other = keys.pages(0, 0x1000, &[0x3000_0003]);
    let strided = |stride: u32, length: u32| (stride << 16) | length;
    // 3 times 8 bytes of each 64, and 4 of each 16.
    let links = [
        (12, REPEATS, (3 << 32) | 2),
        (strided(64, 8), one, 0x10_0fc0),
        (strided(16, 4), other, 0x20),
    ];
    let key = keys.indirect(context(LIST, 0x9_0000, 36, 0), &links);
    let short = [(12, REPEATS, (9 << 32) | 1), links[1]];
    let short = keys.indirect(context(LIST, 0, 1000, 0), &short);
    let nothing = [(0, REPEATS, (9 << 32) | 1), links[1]];
    let nothing = keys.indirect(context(LIST, 0, 1000, 0), &nothing);
    let tiny = [
        (1, REPEATS, (1_000_000 << 32) | 1),
        (strided(0, 1), other, 0),
    ];
    let tiny = keys.indirect(context(LIST, 0, 1_000_000, 0), &tiny);
    let keys = keys.table();
    let expected = [
        memory(0x7000_0fc5, 3),
        memory(0x3000_0020, 4),
        memory(0x5000_0000, 8),
        memory(0x3000_0030, 4),
        memory(0x5000_0040, 8),
        memory(0x3000_0040, 2),
    ];
    assert_eq!(
        walk(&keys, USER, span(key, 0x9_0005, 29)),
        Ok(expected.to_vec())
    );
    assert_eq!(
        walk(&keys, USER, span(key, 0x9_0014, 4)),
        Ok(vec![memory(0x3000_0030, 4)])
    );
    assert_eq!(walk(&keys, USER, span(short, 0, 9)), Err(KeyError::Absent));
    assert_eq!(
        walk(&keys, USER, span(nothing, 0, 1)),
        Err(KeyError::Absent)
    );
    assert_eq!(
        walk(&keys, USER, span(tiny, 0, 900_000)),
        Err(KeyError::Depth)
    );
}

proptest! {
    #[test]
    fn no_list_that_repeats_is_too_odd(
        length: u32, times: u64, links in prop::collection::vec((0_u32.., 0_u32.., 0_u64..), 0..4),
        from: u64, to: u64,
    ) {
        let mut all = vec![(length, REPEATS, times & !0xffff | links.len() as u64)];
        all.extend(links);
        let key = MemoryKey::new(context(LIST, 0, u64::MAX, 0), bytes(&all), false);
        for head in key.link(0).into_iter().filter(|_| from < to) {
            let _ = repeated(&key, head, from, to, &mut 0);
        }
    }
}

#[test]
fn a_list_that_repeats_may_be_as_long_as_addresses_are() {
    let links = [
        (u32::MAX, REPEATS, (0xffff_ffff << 32) | 1),
        (u32::MAX, 0x500, 0),
    ];
    let key = MemoryKey::new(context(LIST, 0, u64::MAX, 0), bytes(&links), false);
    let from = 0xffff_fffd_0000_0002;
    let found = key
        .link(0)
        .map(|head| repeated(&key, head, from, from + 8, &mut 0));
    assert!(found.is_some_and(|found| found.is_ok()));
}

#[test]
fn a_list_goes_on_where_its_entries_say() {
    let mut keys = Keys::default();
    let one = keys.pages(0x10_0000, 0x2000, &[0x7000_0003, 0x5000_0003]);
    let other = keys.pages(0, 0x1000, &[0x3000_0003]);
    let links = [
        (0x10, other, 0x20),
        (0, one, 0x10_0000),
        (0x20, one, 0x10_0ff0),
        (8, NULL_MKEY, 0),
        (4, other, 0),
    ];
    let key = keys.indirect(context(LIST, 0x9_0001, 0x3c, 0), &links);
    let keys = keys.table();
    let found = walk(&keys, USER, span(key, 0x9_0005, 0x38));
    let expected = [
        memory(0x3000_0024, 0xc),
        memory(0x7000_0ff0, 0x10),
        memory(0x5000_0000, 0x10),
        Place::Nowhere { length: 8 },
        memory(0x3000_0000, 4),
    ];
    assert_eq!(found, Ok(expected.to_vec()));
    let past = walk(&keys, USER, span(key, 0x9_0005, 0x39));
    assert_eq!(past, Err(KeyError::Bounds));
}

#[test]
fn a_list_has_to_be_long_enough() {
    let mut keys = Keys::default();
    let one = keys.pages(0, 0x1000, &[0x7000_0003]);
    let key = keys.indirect(context(LIST, 0, 0x1000, 0), &[(0x10, one, 0)]);
    let keys = keys.table();
    assert!(walk(&keys, USER, span(key, 0, 0x10)).is_ok());
    assert_eq!(walk(&keys, USER, span(key, 0, 0x11)), Err(KeyError::Absent));
}

#[test]
fn parts_have_one_size() {
    let mut keys = Keys::default();
    let one = keys.pages(0, 0x2000, &[0x7000_0003, 0x5000_0003]);
    let links = [(0, one, 0x1000), (0, one, 0)];
    let key = keys.indirect(context(PARTS, 0x1000, 0x2000, 12), &links);
    let keys = keys.table();
    let found = walk(&keys, USER, span(key, 0x1ffe, 4));
    let expected = [memory(0x5000_0ffe, 2), memory(0x7000_0000, 2)];
    assert_eq!(found, Ok(expected.to_vec()));
}

#[test]
fn every_level_says_what_it_allows() {
    let refused = |right: crate::layout::Field, of_inner: bool, access| {
        let mut keys = Keys::default();
        let mut inner = context(PAGES, 0, 0x1000, 12);
        let mut outer = context(LIST, 0, 0x1000, 0);
        let chosen = if of_inner { &mut inner } else { &mut outer };
        right.set(chosen, 0_u64);
        let entries = 0x7000_0003_u64.to_be_bytes().to_vec();
        let inner = keys.add(MemoryKey::new(inner, entries, true));
        let outer = keys.indirect(outer, &[(0x1000, inner, 0)]);
        walk(&keys.table(), Use { access, ..USER }, span(outer, 0, 8)).err()
    };
    let rights = Some(KeyError::Rights);
    for (access, outer, inner) in [
        (Access::LocalRead, mkc::LR, mkc::LR),
        (Access::LocalWrite, mkc::LW, mkc::LW),
        (Access::RemoteRead, mkc::RR, mkc::LR),
        (Access::RemoteWrite, mkc::RW, mkc::LW),
    ] {
        for right in [mkc::LR, mkc::LW, mkc::RR, mkc::RW] {
            let expected = rights.filter(|_| right == outer);
            assert_eq!(refused(right, false, access), expected, "{access:?}");
            let expected = rights.filter(|_| right == inner);
            assert_eq!(refused(right, true, access), expected, "{access:?}");
        }
    }
}

#[test]
fn an_inner_key_is_one_of_the_same_domain_and_variant() {
    for (change, error) in [
        (mkc::PD, KeyError::Domain),
        (mkc::MKEY_7_0, KeyError::Variant),
    ] {
        let mut keys = Keys::default();
        let mut inner = context(PAGES, 0, 0x1000, 12);
        change.set(&mut inner, 9_u64);
        let inner = keys.add(MemoryKey::new(inner, vec![0; 8], false));
        let outer = keys.indirect(context(LIST, 0, 0x1000, 0), &[(0x1000, inner, 0)]);
        let found = walk(&keys.table(), USER, span(outer, 0, 8));
        assert_eq!(found, Err(error));
    }
}

#[test]
fn keys_are_nested_so_deep_and_no_deeper() {
    for more in [0, 1] {
        let mut keys = Keys::default();
        let mut last = keys.pages(0, 0x1000, &[0x7000_0003]);
        for _ in 0..MAX_INDIRECTION + more {
            last = keys.indirect(context(LIST, 0, 0x1000, 0), &[(0x1000, last, 0)]);
        }
        let found = walk(&keys.table(), USER, span(last, 1, 2));
        let expected = match more {
            0 => Ok(vec![memory(0x7000_0001, 2)]),
            _ => Err(KeyError::Depth),
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn a_key_that_leads_to_itself_ends() {
    let mut keys = Keys::default();
    let own = (8 << 8) | VARIANT;
    let key = keys.indirect(context(LIST, 0, 0x1000, 0), &[(0x1000, own, 0)]);
    assert_eq!(key, own);
    let found = walk(&keys.table(), USER, span(key, 0, 0x100));
    assert_eq!(found, Err(KeyError::Depth));
}

#[test]
fn what_is_missing_is_named_by_the_last_key() {
    let mut keys = Keys::default();
    let pages = [0x7000_0003, 0, 0, 0x5000_0001];
    let entries = pages.iter().flat_map(|page: &u64| page.to_be_bytes());
    let mut inner = MemoryKey::new(context(PAGES, 0, 0x4000, 12), entries.collect(), true);
    inner.comes_on_demand();
    let inner = keys.add(inner);
    let links = [(0, inner, 0), (0, NULL_MKEY, 0), (0, inner, 0x2000)];
    let mut outer = MemoryKey::new(context(PARTS, 0, 0x6000, 13), bytes(&links), false);
    outer.comes_on_demand();
    let outer = keys.add(outer);
    let keys = keys.table();
    let found = walk(&keys, USER, span(outer, 0xff8, 0x10));
    let absent = Missing {
        slot: Slot { key: 8, index: 1 },
        via: Some(Slot { key: 9, index: 0 }),
        span: span(inner, 0x1000, 8),
    };
    assert_eq!(found, Err(KeyError::Fault(absent)));
    let all = missing(&keys, USER, span(outer, 0x800, 0x5800));
    let slot = |key, index| Slot { key, index };
    let expected = [
        (slot(8, 1), Some(slot(9, 0)), span(inner, 0x1000, 0x1000)),
        (slot(9, 1), None, span(outer, 0x2000, 0x2000)),
        (slot(8, 2), Some(slot(9, 2)), span(inner, 0x2000, 0x1000)),
    ];
    let expected = expected.map(|(slot, via, span)| Missing { slot, via, span });
    assert_eq!(all, expected);
    // The last page may be read, but not written.
    let writes = Use {
        access: Access::LocalWrite,
        ..USER
    };
    let all = missing(&keys, writes, span(outer, 0x5000, 0x10));
    assert_eq!(all[0].slot, slot(8, 3));
    assert!(missing(&keys, USER, span(outer, 0x5000, 0x10)).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Byte by byte against an array; and no list is too odd.
    #[test]
    fn each_byte_is_where_the_list_says(
        links in prop::collection::vec((0_u32..40, 0_u64..64), 1..6), start in 0_u64..1 << 40,
        from in 0_u64..150, length in 1_u64..100, noise in prop::collection::vec(any::<u8>(), 0..100), odd: bool,
    ) {
        let mut keys = Keys::default();
        let inner = keys.pages(0, 0x1000, &[0x7000_0003]);
        let mut model = Vec::new();
        for (length, address) in &links {
            model.extend((0..u64::from(*length)).map(|at| 0x7000_0000 + address + at));
        }
        let links: Vec<_> = links.iter().map(|(length, at)| (*length, inner, *at)).collect();
        let list = if odd { noise } else { bytes(&links) };
        let outer = keys.add(MemoryKey::new(context(LIST, start, 1 << 20, 0), list, false));
        let found = walk(&keys.table(), USER, span(outer, start + from, length));
        if odd {
            return Ok(());
        }
        let expected = model.get(from as usize..(from + length) as usize);
        prop_assert_eq!(found.is_ok(), expected.is_some());
        if let (Ok(places), Some(expected)) = (found, expected) {
            let bytes = places.iter().flat_map(|place| match *place {
                Place::Memory { address, length } => address..address + length,
                Place::Nowhere { .. } => 0..0,
            });
            prop_assert_eq!(bytes.collect::<Vec<_>>(), expected);
        }
    }
}
