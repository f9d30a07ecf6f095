// SPDX-License-Identifier: GPL-2.0

//! The table against a model that keeps one entry for each page.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::pfn::Memory;

/// Begins and ends inside of a unit, with one whole unit in between.
const RANGE: PageRange = PageRange::new(PageIndex::new(500), PageIndex::new(1540));

type TestTable = Table<Vec<Unit<Vec<Slot>>>>;

fn table() -> TestTable {
    let units = (0..units_in(RANGE)).map(|_| Unit::Empty).collect();
    Table::new(RANGE, units)
}

fn slots(pages: u64) -> Vec<Slot> {
    (0..pages).map(|_| Slot::default()).collect()
}

fn fill(table: &mut TestTable, run: &Run, limit: Perm) -> u64 {
    let mut spare = Some(slots(table.part_around(run.start).len()));
    table.fill(run, limit, &mut spare)
}

fn run(start: u64, pfn: u64, pages: u64, perm: Perm) -> Run {
    let (start, pfn) = (PageIndex::new(start), Pfn::new(pfn));
    Run {
        start,
        pfn,
        pages,
        perm,
        order: 0,
        memory: Memory::System,
    }
}

fn huge(unit: u64, pfn: u64, perm: Perm) -> Run {
    let (start, pfn) = (PageIndex::new(unit * UNIT_PAGES), Pfn::new(pfn));
    Run {
        start,
        pfn,
        pages: UNIT_PAGES,
        perm,
        order: UNIT_ORDER,
        memory: Memory::System,
    }
}

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(PageIndex::new(start), PageIndex::new(end))
}

fn at(table: &TestTable, page: u64, access: Access) -> Option<u64> {
    table.translate(PageIndex::new(page), access).map(Pfn::get)
}

#[test]
fn only_what_was_filled_translates_and_only_as_allowed() {
    use Perm::{ReadOnly, ReadWrite};
    let mut table = table();
    assert_eq!(fill(&mut table, &run(502, 50, 3, ReadWrite), ReadWrite), 3);
    assert_eq!(fill(&mut table, &run(505, 90, 1, ReadOnly), ReadWrite), 1);
    assert_eq!(fill(&mut table, &run(506, 70, 1, ReadWrite), ReadOnly), 1);
    let expected = [
        (501, Access::Read, None),
        (502, Access::Read, Some(50)),
        (504, Access::Write, Some(52)),
        (505, Access::Read, Some(90)),
        (505, Access::Write, None),
        (506, Access::Write, None),
        (499, Access::Read, None),
        (1540, Access::Read, None),
    ];
    for (page, access, frame) in expected {
        assert_eq!(at(&table, page, access), frame, "{page} {access:?}");
    }
}

#[test]
fn a_written_page_is_reported_exactly_once() {
    let mut table = table();
    fill(
        &mut table,
        &run(600, 10, 4, Perm::ReadWrite),
        Perm::ReadWrite,
    );
    at(&table, 601, Access::Write).unwrap();
    at(&table, 602, Access::Read).unwrap();
    // Has become read-only meanwhile: still dirty.
    fill(
        &mut table,
        &run(601, 11, 1, Perm::ReadOnly),
        Perm::ReadWrite,
    );
    let mut written = Vec::new();
    assert_eq!(table.zap(pages(601, 603), |pfn| written.push(pfn.get())), 2);
    assert_eq!(table.zap(pages(0, 9999), |pfn| written.push(pfn.get())), 2);
    assert_eq!(written, [11]);
}

#[test]
fn a_huge_entry_is_one_slot_and_goes_as_a_whole() {
    let mut table = table();
    assert_eq!(
        fill(&mut table, &huge(1, 4096, Perm::ReadWrite), Perm::ReadWrite),
        512
    );
    // At the edges it is cut to the table.
    assert_eq!(
        fill(&mut table, &huge(0, 8192, Perm::ReadWrite), Perm::ReadWrite),
        12
    );
    assert_eq!(at(&table, 512, Access::Read), Some(4096));
    assert_eq!(at(&table, 1023, Access::Write), Some(4096 + 511));
    assert_eq!(at(&table, 511, Access::Read), Some(8192 + 511));
    assert_eq!(at(&table, 499, Access::Read), None);
    let mut written = Vec::new();
    assert_eq!(
        table.zap(pages(700, 701), |pfn| written.push(pfn.get())),
        512
    );
    assert_eq!(written, [4096]);
    assert_eq!(at(&table, 512, Access::Read), None);
    assert_eq!(at(&table, 511, Access::Read), Some(8192 + 511));
}

#[test]
fn a_huge_page_of_a_gigabyte_fills_every_unit() {
    let mut table = table();
    let run = Run {
        start: PageIndex::new(0),
        pages: 1 << 18,
        order: 18,
        ..huge(0, 1 << 20, Perm::ReadOnly)
    };
    assert_eq!(fill(&mut table, &run, Perm::ReadWrite), RANGE.len());
    for page in [500, 511, 512, 1023, 1024, 1539] {
        assert_eq!(at(&table, page, Access::Read), Some((1 << 20) + page));
        assert_eq!(at(&table, page, Access::Write), None);
    }
}

#[test]
fn slots_come_with_the_first_page_and_go_with_the_last() {
    let mut table = table();
    let here = PageIndex::new(520);
    let one = run(520, 7, 2, Perm::ReadWrite);
    assert_eq!(
        table.fill(&one, Perm::ReadWrite, &mut None),
        0,
        "no slots, no entry"
    );
    assert!(!table.has_slots(here));
    let mut wrong = Some(slots(3));
    assert_eq!(table.fill(&one, Perm::ReadWrite, &mut wrong), 0);
    assert!(wrong.is_some(), "slots of another size are not taken");
    assert_eq!(fill(&mut table, &one, Perm::ReadWrite), 2);
    assert!(table.has_slots(here));
    assert_eq!(table.zap(pages(520, 521), |_| ()), 1);
    assert!(table.has_slots(here));
    assert_eq!(table.zap(pages(521, 522), |_| ()), 1);
    assert!(!table.has_slots(here));
}

#[derive(Clone, Debug)]
enum Step {
    Fill {
        start: u64,
        pages: u64,
        pfn: u64,
        writable: bool,
    },
    FillHuge {
        unit: u64,
        pfn: u64,
        writable: bool,
    },
    Access {
        page: u64,
        write: bool,
    },
    Zap {
        start: u64,
        pages: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (490u64..1550, 1u64..40, 0u64..9999, any::<bool>()).prop_map(
            |(start, pages, pfn, writable)| Step::Fill {
                start,
                pages,
                pfn,
                writable
            }
        ),
        (0u64..4, 0u64..9, any::<bool>()).prop_map(|(unit, pfn, writable)| Step::FillHuge {
            unit,
            pfn: pfn << 9,
            writable
        }),
        (490u64..1550, any::<bool>()).prop_map(|(page, write)| Step::Access { page, write }),
        (0u64..1600, 0u64..600).prop_map(|(start, pages)| Step::Zap { start, pages }),
    ]
}

/// One page of the model: frame, rights, and the first page of the huge entry it belongs to.
#[derive(Clone, Copy)]
struct Page {
    pfn: u64,
    writable: bool,
    huge: Option<u64>,
}

/// The model: pages, and the entries (by first frame) that were written and not reported yet.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, Page>,
    written: Vec<u64>,
}

impl Model {
    fn zap(&mut self, range: PageRange) -> (u64, Vec<u64>) {
        let hit: Vec<(u64, Page)> = self
            .pages
            .iter()
            .filter(|(&page, _)| range.intersection(&RANGE).contains(PageIndex::new(page)))
            .map(|(&page, &entry)| (page, entry))
            .collect();
        let before = self.pages.len();
        let mut reported = Vec::new();
        for (page, entry) in hit {
            match entry.huge {
                None => {
                    self.pages.remove(&page);
                }
                Some(unit) => self.pages.retain(|_, entry| entry.huge != Some(unit)),
            }
            let first = entry
                .huge
                .map_or(entry.pfn, |unit| entry.pfn - (page - unit));
            if let Some(index) = self.written.iter().position(|&pfn| pfn == first) {
                reported.push(self.written.remove(index));
            }
        }
        ((before - self.pages.len()) as u64, reported)
    }
}

/// What the CPU does before it changes how a unit is mapped, or which frame a page has.
fn clear_unit(table: &mut TestTable, model: &mut Model, page: u64) {
    let unit = unit_around(PageIndex::new(page));
    table.zap(unit, |_| ());
    model.zap(unit);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn agrees_with_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let mut table = table();
        let mut model = Model::default();
        // Frames are never used twice, so that a written one is known by its number.
        let mut unique = 1u64 << 30;
        for step in steps {
            unique += 1 << 20;
            match step {
                Step::Fill { start, pages: count, pfn, writable } => {
                    let end = (start + count).min(unit_around(PageIndex::new(start)).end().get());
                    if !RANGE.contains(PageIndex::new(start)) {
                        continue;
                    }
                    clear_unit(&mut table, &mut model, start);
                    let run = run(start, unique + pfn, end - start, Perm::from_writable(writable));
                    let added = fill(&mut table, &run, Perm::ReadWrite);
                    let before = model.pages.len();
                    for page in start..end.min(RANGE.end().get()) {
                        let pfn = unique + pfn + page - start;
                        model.pages.insert(page, Page { pfn, writable, huge: None });
                    }
                    prop_assert_eq!(added, (model.pages.len() - before) as u64);
                }
                Step::FillHuge { unit, pfn, writable } => {
                    let start = unit * UNIT_PAGES;
                    clear_unit(&mut table, &mut model, start);
                    let run = huge(unit, unique + pfn, Perm::from_writable(writable));
                    let added = fill(&mut table, &run, Perm::ReadWrite);
                    let before = model.pages.len();
                    let part = run.range().intersection(&RANGE);
                    for page in part.start().get()..part.end().get() {
                        let pfn = unique + pfn + page - start;
                        model.pages.insert(page, Page { pfn, writable, huge: Some(start) });
                    }
                    prop_assert_eq!(added, (model.pages.len() - before) as u64);
                }
                Step::Access { page, write } => {
                    let access = if write { Access::Write } else { Access::Read };
                    let entry = model.pages.get(&page).copied();
                    let allowed = entry.filter(|entry| entry.writable || !write);
                    prop_assert_eq!(at(&table, page, access), allowed.map(|entry| entry.pfn));
                    if let (Some(entry), true) = (allowed, write) {
                        let first = entry.huge.map_or(entry.pfn, |unit| entry.pfn - (page - unit));
                        if !model.written.contains(&first) {
                            model.written.push(first);
                        }
                    }
                }
                Step::Zap { start, pages: count } => {
                    let range = pages(start, start + count);
                    let mut written = Vec::new();
                    let zapped = table.zap(range, |pfn| written.push(pfn.get()));
                    let (expected, mut reported) = model.zap(range);
                    prop_assert_eq!(zapped, expected);
                    written.sort_unstable();
                    reported.sort_unstable();
                    prop_assert_eq!(written, reported);
                }
            }
        }
    }
}
