// SPDX-License-Identifier: GPL-2.0
//! Ways through direct keys.

use super::*;
use proptest::prelude::*;

const PHYSICAL: u32 = 0;
const PAGES: u32 = 1;

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
