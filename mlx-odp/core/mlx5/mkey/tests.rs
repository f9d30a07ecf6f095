// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

/// A device's keys. A region is known by its key.
#[derive(Default)]
struct Table(BTreeMap<u32, Entry>);

#[derive(Clone, Debug)]
enum Entry {
    NotOnDemand,
    Region,
    Indirect(u64, Vec<Klm>),
}

impl Keys for Table {
    type Region = u32;
    type List = Vec<Klm>;
    type Error = u32;

    fn find(&self, key: u32) -> Result<Found<u32, Vec<Klm>>, u32> {
        Ok(match self.0.get(&key).ok_or(key)? {
            Entry::NotOnDemand => Found::NotOnDemand,
            Entry::Region => Found::Region(key),
            Entry::Indirect(start, klms) => Found::Indirect {
                start: *start,
                klms: klms.clone(),
            },
        })
    }
}

fn klm(key: u32, va: u64, bcount: u32) -> Klm {
    Klm { bcount, key, va }
}

type Visited = Vec<(u32, u64, u64)>;

fn visited(table: &Table, depth: usize, named: Named) -> (Visited, Result<(), WalkError<u32>>) {
    let mut seen = Vec::new();
    let mut budget = Budget::default();
    let result = walk(table, depth, named, &mut budget, |key, va, len| {
        seen.extend(key.map(|key| (key, va, len)));
        ControlFlow::Continue(())
    });
    (seen, result)
}

fn named(key: u32, va: u64, len: u64) -> Named {
    Named { key, va, len }
}

#[test]
fn a_klm_is_decoded() {
    let bytes = [0, 0, 0x10, 0, 1, 2, 3, 4, 0, 0, 0x7f, 0xff, 0, 0, 0x20, 0];
    assert_eq!(
        Klm::decode(bytes),
        klm(0x0102_0304, 0x7fff_0000_2000, 0x1000)
    );
}

#[test]
fn a_window_is_its_region_and_a_list_is_its_pieces() {
    let table = Table(BTreeMap::from([
        (1, Entry::Region),
        (2, Entry::NotOnDemand),
        (3, Entry::Indirect(0x1000, vec![klm(1, 0x9000, 0x1000)])),
        (
            4,
            Entry::Indirect(
                0,
                vec![klm(1, 0x5000, 16), klm(2, 0, 8), klm(3, 0x1004, 100)],
            ),
        ),
    ]));
    let of = |named| visited(&table, 4, named);
    assert_eq!(of(named(1, 7, 9)), (vec![(1, 7, 9)], Ok(())));
    assert_eq!(of(named(2, 7, 9)), (vec![], Ok(())));
    assert_eq!(of(named(3, 0x1010, 4)), (vec![(1, 0x9010, 4)], Ok(())));
    // Its end, and in front of its start.
    let whole = of(named(3, 0x1000, 0x1001));
    assert_eq!(
        whole,
        (vec![(1, 0x9000, 0x1000)], Err(WalkError::OutOfRange))
    );
    assert_eq!(of(named(3, 0xfff, 1)), (vec![], Err(WalkError::OutOfRange)));
    assert_eq!(
        of(named(4, 8, 40)),
        (vec![(1, 0x5008, 8), (1, 0x9004, 24)], Ok(()))
    );
    assert_eq!(of(named(5, 0, 1)), (vec![], Err(WalkError::Key(5))));
}

#[test]
fn a_walk_ends_when_it_is_told_to() {
    let klms = vec![klm(1, 0, 1), klm(1, 10, 1), klm(99, 0, 1)];
    let table = Table(BTreeMap::from([
        (1, Entry::Region),
        (2, Entry::Indirect(0, klms)),
    ]));
    let mut seen = Vec::new();
    let mut budget = Budget::default();
    let result = walk(&table, 4, named(2, 0, 3), &mut budget, |_, va, _| {
        seen.push(va);
        match va {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    });
    assert_eq!((seen, result), (vec![0, 10], Ok(())));
}

#[test]
fn a_walk_is_no_deeper_than_the_device() {
    let mut table = Table(BTreeMap::from([(0, Entry::Region)]));
    for key in 1..20 {
        let entry = Entry::Indirect(0, vec![klm(key - 1, 0, 64)]);
        table.0.insert(key, entry);
    }
    for depth in 0..12u32 {
        for key in 0..15 {
            let (seen, result) = visited(&table, depth as usize, named(key, 3, 5));
            if key <= depth.min(MOST_DEPTH as u32) {
                assert_eq!((seen, result), (vec![(0, 3, 5)], Ok(())));
            } else {
                assert_eq!((seen, result), (vec![], Err(WalkError::TooDeep)));
            }
        }
    }
}

#[test]
fn loops_and_trees_without_end_end() {
    let itself = Entry::Indirect(0, vec![klm(1, 0, u32::MAX)]);
    let table = Table(BTreeMap::from([(1, itself)]));
    assert_eq!(
        visited(&table, 8, named(1, 0, 1)).1,
        Err(WalkError::TooDeep)
    );

    // Each level has a hundred times the pieces of the one below.
    let mut table = Table(BTreeMap::from([(0, Entry::NotOnDemand)]));
    for key in 1..8 {
        let size = 100u64.pow(key - 1) as u32;
        let klms = (0..100).map(|_| klm(key - 1, 0, size)).collect();
        table.0.insert(key, Entry::Indirect(0, klms));
    }
    let most = 100u64.pow(5);
    assert_eq!(
        visited(&table, 8, named(5, 0, most)).1,
        Err(WalkError::TooMany)
    );
    assert_eq!(visited(&table, 8, named(2, 0, 10_000)).1, Ok(()));

    // Pieces of no bytes.
    let klms = vec![klm(0, 0, 0); 1 << 17];
    table.0.insert(9, Entry::Indirect(0, klms));
    assert_eq!(
        visited(&table, 8, named(9, 0, 1)).1,
        Err(WalkError::TooMany)
    );
}

#[test]
fn all_walks_of_a_fault_have_one_budget() {
    let table = Table(BTreeMap::from([
        (1, Entry::Region),
        (2, Entry::Indirect(0, vec![klm(1, 0, 1)])),
    ]));
    let mut budget = Budget::default();
    let mut again = || {
        walk(&table, 4, named(2, 0, 1), &mut budget, |_, _, _| {
            ControlFlow::Continue(())
        })
    };
    let done = (0..1 << 16).take_while(|_| again().is_ok()).count();
    assert!(done < 1000, "{done} lists");
    assert_eq!(again(), Err(WalkError::TooMany));
}

#[test]
fn memory_that_is_there_is_visited_too() {
    let klms = vec![klm(1, 7, 10), klm(2, 0, 10), klm(99, 0, 1)];
    let table = Table(BTreeMap::from([
        (1, Entry::NotOnDemand),
        (2, Entry::Region),
        (3, Entry::Indirect(0, klms)),
    ]));
    let (mut seen, mut budget) = (Vec::new(), Budget::default());
    let result = walk(&table, 4, named(3, 2, 19), &mut budget, |key, va, len| {
        seen.push((key, va, len));
        match seen.len() {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert_eq!(result, Ok(()));
    assert_eq!(seen, [(None, 9, 8), (Some(2), 0, 10)]);
}

/// Each byte by itself, by recursion: where it is in a region, if it is in one.
fn place(table: &Table, depth: usize, key: u32, va: u64) -> Result<Option<(u32, u64)>, ()> {
    match table.0.get(&key).ok_or(())? {
        Entry::NotOnDemand => Ok(None),
        Entry::Region => Ok(Some((key, va))),
        Entry::Indirect(start, klms) => {
            let mut offset = va.checked_sub(*start).ok_or(())?;
            let depth = depth.checked_sub(1).ok_or(())?;
            for klm in klms {
                if offset < u64::from(klm.bcount) {
                    return place(table, depth, klm.key, klm.va + offset);
                }
                offset -= u64::from(klm.bcount);
            }
            Err(())
        }
    }
}

fn entry() -> impl Strategy<Value = Entry> {
    let klms = prop::collection::vec((0u32..9, 0u64..30, 0u32..20), 0..5);
    let klms = klms.prop_map(|klms| {
        let klms = klms.into_iter();
        klms.map(|(key, va, bcount)| klm(key, va, bcount)).collect()
    });
    prop_oneof![
        1 => Just(Entry::NotOnDemand),
        2 => Just(Entry::Region),
        4 => (0u64..20, klms).prop_map(|(start, klms)| Entry::Indirect(start, klms)),
    ]
}

proptest! {
    #[test]
    fn a_walk_finds_each_byte_where_it_is(
        entries in prop::collection::vec(entry(), 8),
        key in 0u32..9,
        va in 0u64..40,
        len in 1u64..40,
        depth in 0usize..6,
    ) {
        let table = Table((0u32..).zip(entries).collect());
        let (pieces, result) = visited(&table, depth, named(key, va, len));
        let places: Vec<_> = (va..va + len).map(|at| place(&table, depth, key, at)).collect();
        prop_assert_eq!(result.is_ok(), places.iter().all(Result::is_ok), "{:?}", result);
        let seen = pieces.iter().flat_map(|&(key, va, len)| (va..va + len).map(move |va| (key, va)));
        // What was seen before an error is right, and it is all of what is in front of the error.
        let expected = places.into_iter().map_while(Result::ok).flatten();
        prop_assert_eq!(seen.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}
