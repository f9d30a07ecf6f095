// SPDX-License-Identifier: GPL-2.0

//! The table against a model that keeps one entry for each page.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::collect::Collect;
use crate::pfn_array::PfnArray;

/// Begins and ends inside of a PMD, with one whole PMD in between.
const RANGE: PageRange = PageRange::new(PageIndex::new(500), PageIndex::new(1540));

type TestTable = Xlt<Vec<Slot>, Vec<Pages<Vec<Slot>>>>;

fn table() -> TestTable {
    Xlt::new(RANGE, defaults(pmds_in(RANGE)))
}

fn defaults<T: Default>(count: u64) -> Vec<T> {
    (0..count).map(|_| T::default()).collect()
}

/// As much room as is asked for.
struct Plenty;

impl Room<Vec<Pages<Vec<Slot>>>, Vec<Slot>> for Plenty {
    fn pages(&mut self, pmds: usize) -> Option<Vec<Pages<Vec<Slot>>>> {
        Some(defaults(pmds as u64))
    }

    fn slots(&mut self, pages: u64) -> Option<Vec<Slot>> {
        Some(defaults(pages))
    }
}

fn fill(table: &mut TestTable, run: &Run, limit: Perm) -> u64 {
    let filled = table.fill(run, limit, &mut Plenty);
    assert!(!filled.left_out);
    filled.added
}

/// The same for what was found page by page: none where `found` has `None`, and whether it may be written.
fn fill_single(table: &mut TestTable, start: u64, pfn: u64, found: &[Option<bool>]) -> u64 {
    let mut words = vec![HmmPfn::ABSENT; found.len()];
    let array = array(start, pfn, found, &mut words);
    let filled = table.fill_single(array.as_slice(), Perm::ReadWrite, &mut Plenty);
    assert!(!filled.left_out);
    filled.added
}

fn array<'a>(
    start: u64,
    pfn: u64,
    found: &[Option<bool>],
    words: &'a mut [HmmPfn],
) -> PfnArray<'a> {
    let mut array = PfnArray::new(PageIndex::new(start), words);
    for (index, writable) in (0..).zip(found) {
        if let Some(writable) = writable {
            let perm = Perm::from_writable(*writable);
            array
                .mapped(run(start + index, pfn + index, 1, perm))
                .unwrap();
        }
    }
    array
}

/// How many pages were added, and whether some were left out.
fn fill_without_room(table: &mut TestTable, run: &Run) -> (u64, bool) {
    let filled = table.fill(run, Perm::ReadWrite, &mut NoRoom);
    (filled.added, filled.left_out)
}

/// Zaps; gives how many pages went and the frames that were written.
fn zap(table: &mut TestTable, range: PageRange) -> (u64, Vec<u64>) {
    let mut written = Vec::new();
    let zapped = table.zap(range, &mut Plenty, |pfn, _| written.push(pfn.get()));
    (zapped, written)
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

fn huge(pmd: u64, pfn: u64, perm: Perm) -> Run {
    let (start, pfn) = (PageIndex::new(pmd * PMD_PAGES), Pfn::new(pfn));
    Run {
        start,
        pfn,
        pages: PMD_PAGES,
        perm,
        order: PMD_ORDER,
        memory: Memory::System,
    }
}

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(PageIndex::new(start), PageIndex::new(end))
}

fn at(table: &TestTable, page: u64, access: Access) -> Option<u64> {
    let page = PageIndex::new(page);
    let again = || {
        table.first_use(page);
        table.translate(page, access)
    };
    table.translate(page, access).or_else(again).map(Pfn::get)
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
fn what_is_entered_can_be_visited_as_runs() {
    use Perm::{ReadOnly, ReadWrite};
    let mut table = table();
    fill(&mut table, &huge(1, 1 << 20, ReadWrite), ReadWrite);
    fill(&mut table, &run(505, 50, 3, ReadWrite), ReadWrite);
    fill(&mut table, &run(508, 53, 1, ReadOnly), ReadWrite);
    fill(&mut table, &run(1536, 9, 2, ReadWrite), ReadWrite);
    fill(&mut table, &run(1538, 90, 1, ReadWrite), ReadWrite);
    let visited = |range| {
        let mut runs = Vec::new();
        table.each_run(range, |run| {
            runs.push((run.start.get(), run.pfn.get(), run.pages, run.order));
        });
        runs
    };
    let all = [
        (505, 50, 3, 0),
        (508, 53, 1, 0),
        (512, 1 << 20, 512, PMD_ORDER),
        (1536, 9, 2, 0),
        (1538, 90, 1, 0),
    ];
    assert_eq!(visited(pages(0, 9999)), all);
    // Of single pages those asked for, a huge entry as a whole.
    let part = [(507, 52, 1, 0), all[1], all[2]];
    assert_eq!(visited(pages(507, 513)), part);
    assert_eq!(visited(pages(509, 512)), []);
    assert_eq!(table.whole(pages(507, 513)), pages(507, 1024));
    assert_eq!(table.whole(pages(700, 1537)), pages(512, 1537));
    assert_eq!(table.whole(pages(509, 512)), pages(509, 512));
    assert!(table.whole(pages(1540, 1600)).is_empty());
    assert!(table.has_any(pages(1023, 1030)) && !table.has_any(pages(1024, 1536)));
    for (page, found) in [
        (507, Some((52, ReadWrite))),
        (600, Some(((1 << 20) + 88, ReadWrite))),
        (509, None),
    ] {
        let known = table.get(PageIndex::new(page));
        assert_eq!(known, found.map(|(pfn, perm)| (Pfn::new(pfn), perm)));
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
    assert_eq!(zap(&mut table, pages(601, 603)), (2, Vec::from([11])));
    assert_eq!(zap(&mut table, pages(0, 9999)), (2, Vec::new()));
}

#[test]
fn write_protection_leaves_pages_readable_and_reports_what_was_written() {
    let mut table = table();
    let mut written = Vec::new();
    let mut protect = |table: &mut TestTable, range| {
        written.clear();
        let pages = table.write_protect(range, |pfn, _| written.push(pfn.get()));
        (pages, written.clone())
    };
    fill(
        &mut table,
        &run(600, 10, 4, Perm::ReadWrite),
        Perm::ReadWrite,
    );
    fill(
        &mut table,
        &run(604, 20, 1, Perm::ReadOnly),
        Perm::ReadWrite,
    );
    fill(&mut table, &huge(2, 4096, Perm::ReadWrite), Perm::ReadWrite);
    for page in [601, 1030] {
        at(&table, page, Access::Write).unwrap();
    }
    assert_eq!(protect(&mut table, pages(601, 605)), (3, Vec::from([11])));
    assert_eq!(
        protect(&mut table, pages(1024, 1025)),
        (512, Vec::from([4096]))
    );
    assert_eq!(protect(&mut table, pages(0, 9999)), (1, Vec::new()));
    for (page, frame) in [(600, 10), (601, 11), (604, 20), (1030, 4102)] {
        assert_eq!(at(&table, page, Access::Read), Some(frame));
        assert_eq!(at(&table, page, Access::Write), None);
    }
    // Written again, and reported again.
    fill(
        &mut table,
        &run(601, 11, 1, Perm::ReadWrite),
        Perm::ReadWrite,
    );
    at(&table, 601, Access::Write).unwrap();
    assert_eq!(zap(&mut table, pages(0, 9999)).1, [11]);
}

#[test]
fn a_huge_entry_is_one_slot() {
    let mut table = table();
    let entry = huge(1, 4096, Perm::ReadWrite);
    assert_eq!(fill_without_room(&mut table, &entry), (512, false));
    // At the edges it is cut to the table.
    let entry = huge(0, 8192, Perm::ReadWrite);
    assert_eq!(fill_without_room(&mut table, &entry), (12, false));
    assert_eq!(at(&table, 512, Access::Read), Some(4096));
    assert_eq!(at(&table, 1023, Access::Write), Some(4096 + 511));
    assert_eq!(at(&table, 511, Access::Read), Some(8192 + 511));
    assert_eq!(at(&table, 499, Access::Read), None);
    // Some of its pages again: they are there.
    let some = Run { pages: 3, ..entry };
    assert_eq!(fill_without_room(&mut table, &some), (0, false));
    assert!(!table.has_pages());
}

#[test]
fn of_a_huge_entry_exactly_the_range_goes() {
    let mut table = table();
    fill(&mut table, &huge(1, 4096, Perm::ReadWrite), Perm::ReadWrite);
    fill(&mut table, &huge(2, 8192, Perm::ReadOnly), Perm::ReadWrite);
    at(&table, 600, Access::Write).unwrap();
    assert_eq!(zap(&mut table, pages(700, 703)), (3, Vec::from([4096])));
    let expected = [
        (699, Some(4096 + 187)),
        (700, None),
        (702, None),
        (703, Some(4096 + 191)),
    ];
    for (page, frame) in expected {
        assert_eq!(at(&table, page, Access::Read), frame, "{page}");
    }
    // It was reported; only what is written from now on is again.
    at(&table, 512, Access::Write).unwrap();
    assert_eq!(zap(&mut table, pages(512, 1024)), (509, Vec::from([4096])));
    // The rights stay, too.
    assert_eq!(zap(&mut table, pages(1000, 1025)).0, 1);
    assert_eq!(at(&table, 1025, Access::Read), Some(8193));
    assert_eq!(at(&table, 1025, Access::Write), None);
    // Pages come back between those that stayed, and a huge entry where single pages are.
    assert_eq!(
        fill(
            &mut table,
            &run(1024, 8192, 1, Perm::ReadOnly),
            Perm::ReadOnly
        ),
        1
    );
    assert_eq!(
        fill(&mut table, &huge(2, 8192, Perm::ReadWrite), Perm::ReadWrite),
        0
    );
    assert_eq!(at(&table, 1535, Access::Write), Some(8192 + 511));
}

#[test]
fn it_is_said_how_much_was_written_at_once() {
    let mut table = table();
    for (start, frame) in [(1, 4096), (2, 8192)] {
        fill(
            &mut table,
            &huge(start, frame, Perm::ReadWrite),
            Perm::ReadWrite,
        );
    }
    let single = [(501, 10, 4), (1536, 20, 1)];
    for (start, frame, count) in single {
        let run = run(start, frame, count, Perm::ReadWrite);
        fill(&mut table, &run, Perm::ReadWrite);
    }
    for page in [501, 503, 600, 1024, 1536] {
        at(&table, page, Access::Write).unwrap();
    }
    let mut written = Vec::new();
    table.write_protect(pages(1024, 1025), |pfn, order| {
        written.push((pfn.get(), order));
    });
    // One page by itself, and all that is left.
    for range in [pages(501, 502), pages(0, 9999)] {
        table.zap(range, &mut Plenty, |pfn, order| {
            written.push((pfn.get(), order));
        });
    }
    let expected = [(8192, 9), (10, 0), (12, 0), (4096, 9), (20, 0)];
    assert_eq!(written, expected);
}

#[test]
fn without_room_a_huge_entry_goes_as_a_whole() {
    let mut table = table();
    fill(&mut table, &huge(1, 4096, Perm::ReadWrite), Perm::ReadWrite);
    assert_eq!(table.zap(pages(700, 701), &mut NoRoom, |_, _| ()), 512);
    assert_eq!(at(&table, 512, Access::Read), None);
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
    assert_eq!(fill_without_room(&mut table, &one), (0, true));
    assert!(!table.has_slots(here));
    assert_eq!(fill(&mut table, &one, Perm::ReadWrite), 2);
    assert!(table.has_slots(here));
    assert_eq!(zap(&mut table, pages(520, 521)).0, 1);
    assert!(table.has_slots(here));
    assert_eq!(zap(&mut table, pages(521, 522)).0, 1);
    assert!(!table.has_slots(here));
}

#[test]
fn words_are_entered_as_the_limit_allows_and_only_where_there_is_a_page() {
    let mut table = table();
    let mut words = [HmmPfn::ABSENT; 600];
    let mut array = PfnArray::new(PageIndex::new(1000), &mut words);
    // Nothing needs no room.
    let nothing = table.fill_single(array.as_slice(), Perm::ReadWrite, &mut NoRoom);
    assert_eq!(nothing, Filled::default());
    array.mapped(run(1000, 70, 2, Perm::ReadWrite)).unwrap();
    array.unusable(pages(1002, 1003));
    // In the next PMD, and beyond the table.
    array.mapped(run(1030, 90, 1, Perm::ReadOnly)).unwrap();
    array.mapped(run(1540, 95, 1, Perm::ReadOnly)).unwrap();
    let without = table.fill_single(array.as_slice(), Perm::ReadWrite, &mut NoRoom);
    assert_eq!((without.added, without.left_out), (0, true));
    let filled = table.fill_single(array.as_slice(), Perm::ReadOnly, &mut Plenty);
    assert_eq!((filled.added, filled.left_out), (3, false));
    for (page, frame) in [(1000, 70), (1001, 71), (1030, 90)] {
        assert_eq!(at(&table, page, Access::Read), Some(frame), "{page}");
        assert_eq!(at(&table, page, Access::Write), None, "{page}");
    }
    for page in [999, 1002, 1003, 1029, 1031, 1540] {
        assert_eq!(at(&table, page, Access::Read), None, "{page}");
    }
    // Again, with more rights: nothing new, but now it may be written.
    let filled = table.fill_single(array.as_slice(), Perm::ReadWrite, &mut NoRoom);
    assert_eq!((filled.added, filled.left_out), (0, false));
    assert_eq!(at(&table, 1001, Access::Write), Some(71));
    assert_eq!(at(&table, 1030, Access::Write), None);
    assert_eq!(zap(&mut table, pages(0, 9999)), (3, Vec::from([71])));
    // A huge entry has these pages already.
    fill(&mut table, &huge(1, 4096, Perm::ReadOnly), Perm::ReadWrite);
    fill(&mut table, &huge(2, 8192, Perm::ReadOnly), Perm::ReadWrite);
    let filled = table.fill_single(array.as_slice(), Perm::ReadWrite, &mut NoRoom);
    assert_eq!(filled, Filled::default());
    assert_eq!(at(&table, 1000, Access::Read), Some(4096 + 488));
}

#[test]
fn what_is_taken_along_says_when_it_is_used() {
    let mut table = table();
    let mut words = [HmmPfn::ABSENT; 4];
    let found = [Some(true), Some(false), None, Some(true)];
    let along = array(1030, 70, &found, &mut words);
    // Not where there are no slots.
    assert_eq!(table.take_along(along.as_slice(), Perm::ReadWrite), 0);
    assert!(table.is_empty());
    fill(
        &mut table,
        &run(1030, 70, 1, Perm::ReadWrite),
        Perm::ReadWrite,
    );
    assert_eq!(table.take_along(along.as_slice(), Perm::ReadWrite), 2);
    assert_eq!(table.take_along(along.as_slice(), Perm::ReadWrite), 0);
    let page = |page: u64| PageIndex::new(1030 + page);
    // What was there stays as it was.
    assert_eq!(at(&table, 1030, Access::Write), Some(70));
    assert!(!table.first_use(page(0)));
    // Once, whatever is allowed.
    assert_eq!(table.translate(page(1), Access::Read), None);
    assert!(table.first_use(page(1)) && !table.first_use(page(1)));
    assert_eq!(table.translate(page(1), Access::Read), Some(Pfn::new(71)));
    assert_eq!(table.translate(page(1), Access::Write), None);
    assert_eq!(at(&table, 1033, Access::Write), Some(73));
    assert!(!table.first_use(page(2)) && !table.first_use(page(9999)));
    // They are translations like others: one run, and gone with an invalidation.
    let mut runs = Vec::new();
    table.each_run(pages(1030, 1034), |run| {
        runs.push((run.start.get(), run.pages));
    });
    assert_eq!(runs, [(1030, 1), (1031, 1), (1033, 1)]);
    assert_eq!(zap(&mut table, pages(1030, 1034)), (3, Vec::from([70, 73])));
    assert!(table.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    TakeAlong {
        start: u64,
        pfn: u64,
        found: Vec<Option<bool>>,
    },
    FillSingle {
        start: u64,
        pfn: u64,
        found: Vec<Option<bool>>,
    },
    Fill {
        start: u64,
        pages: u64,
        pfn: u64,
        writable: bool,
    },
    FillHuge {
        pmd: u64,
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
    Protect {
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
        (
            490u64..1550,
            0u64..9999,
            prop::collection::vec(any::<Option<bool>>(), 1..40)
        )
            .prop_map(|(start, pfn, found)| Step::FillSingle { start, pfn, found }),
        (
            490u64..1550,
            0u64..9999,
            prop::collection::vec(any::<Option<bool>>(), 1..40)
        )
            .prop_map(|(start, pfn, found)| Step::TakeAlong { start, pfn, found }),
        (0u64..4, 0u64..9, any::<bool>()).prop_map(|(pmd, pfn, writable)| Step::FillHuge {
            pmd,
            pfn: pfn << 9,
            writable
        }),
        (490u64..1550, any::<bool>()).prop_map(|(page, write)| Step::Access { page, write }),
        (0u64..1600, prop_oneof![0u64..600, 1u64..3])
            .prop_map(|(start, pages)| Step::Zap { start, pages }),
        (0u64..1600, 0u64..600).prop_map(|(start, pages)| Step::Protect { start, pages }),
    ]
}

/// One page of the model: frame, rights, and the first frame of what is reported as written with it,
/// which is its huge entry's or its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    pfn: u64,
    writable: bool,
    entry: u64,
}

/// The model: pages, and the entries that were written and not reported yet.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, Page>,
    written: Vec<u64>,
}

impl Model {
    fn in_range(&self, range: PageRange) -> Vec<(u64, Page)> {
        let range = range.intersection(&RANGE);
        let pages = self.pages.range(range.start().get()..range.end().get());
        pages.map(|(&page, &entry)| (page, entry)).collect()
    }

    fn report(&mut self, entry: u64, reported: &mut Vec<u64>) {
        if let Some(index) = self.written.iter().position(|&pfn| pfn == entry) {
            reported.push(self.written.remove(index));
        }
    }

    fn zap(&mut self, range: PageRange) -> (u64, Vec<u64>) {
        let hit = self.in_range(range);
        let mut reported = Vec::new();
        for (page, gone) in &hit {
            self.pages.remove(page);
            self.report(gone.entry, &mut reported);
            // What is left of a huge entry is single pages.
            let rest = self.pages.values_mut();
            for left in rest.filter(|left| left.entry == gone.entry) {
                left.entry = left.pfn;
            }
        }
        (hit.len() as u64, reported)
    }

    fn write_protect(&mut self, range: PageRange) -> (u64, Vec<u64>) {
        let entries: Vec<u64> = self
            .in_range(range)
            .iter()
            .map(|(_, page)| page.entry)
            .collect();
        let mut reported = Vec::new();
        let mut protected = 0;
        let pages: Vec<u64> = self.pages.keys().copied().collect();
        for page in pages {
            let Some(hit) = self.pages.get_mut(&page) else {
                continue;
            };
            if hit.writable && entries.contains(&hit.entry) {
                hit.writable = false;
                protected += 1;
                let entry = hit.entry;
                self.report(entry, &mut reported);
            }
        }
        (protected, reported)
    }
}

/// What the CPU does before it changes how a PMD is mapped, or which frame a page has.
fn clear_unit(table: &mut TestTable, model: &mut Model, page: u64) {
    let pmd = pmd_range(PageIndex::new(page));
    zap(table, pmd);
    model.zap(pmd);
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
                    let end = (start + count).min(pmd_range(PageIndex::new(start)).end().get());
                    if !RANGE.contains(PageIndex::new(start)) {
                        continue;
                    }
                    clear_unit(&mut table, &mut model, start);
                    let run = run(start, unique + pfn, end - start, Perm::from_writable(writable));
                    let added = fill(&mut table, &run, Perm::ReadWrite);
                    let before = model.pages.len();
                    for page in start..end.min(RANGE.end().get()) {
                        let pfn = unique + pfn + page - start;
                        model.pages.insert(page, Page { pfn, writable, entry: pfn });
                    }
                    prop_assert_eq!(added, (model.pages.len() - before) as u64);
                }
                Step::FillSingle { start, pfn, found } => {
                    for page in [start, start + found.len() as u64 - 1] {
                        clear_unit(&mut table, &mut model, page);
                    }
                    let added = fill_single(&mut table, start, unique + pfn, &found);
                    let before = model.pages.len();
                    for (page, pfn, writable) in found
                        .iter()
                        .zip(0..)
                        .filter_map(|(found, index)| Some((start + index, unique + pfn + index, (*found)?)))
                    {
                        if RANGE.contains(PageIndex::new(page)) {
                            model.pages.insert(page, Page { pfn, writable, entry: pfn });
                        }
                    }
                    prop_assert_eq!(added, (model.pages.len() - before) as u64);
                }
                Step::TakeAlong { start, pfn, found } => {
                    let asked = pages(start, start + found.len() as u64);
                    if asked.intersection(&table.part_around(PageIndex::new(start))) != asked {
                        continue;
                    }
                    let mut words = vec![HmmPfn::ABSENT; found.len()];
                    let along = array(start, unique + pfn, &found, &mut words);
                    let has_slots = table.has_slots(PageIndex::new(start));
                    let added = table.take_along(along.as_slice(), Perm::ReadWrite);
                    let before = model.pages.len();
                    for (index, writable) in (0..).zip(&found) {
                        if let (true, Some(writable)) = (has_slots, *writable) {
                            let pfn = unique + pfn + index;
                            let page = Page { pfn, writable, entry: pfn };
                            model.pages.entry(start + index).or_insert(page);
                        }
                    }
                    prop_assert_eq!(added, (model.pages.len() - before) as u64);
                }
                Step::FillHuge { pmd, pfn, writable } => {
                    let start = pmd * PMD_PAGES;
                    clear_unit(&mut table, &mut model, start);
                    let run = huge(pmd, unique + pfn, Perm::from_writable(writable));
                    let added = fill(&mut table, &run, Perm::ReadWrite);
                    let before = model.pages.len();
                    let part = run.range().intersection(&RANGE);
                    let entry = unique + pfn;
                    for page in part.start().get()..part.end().get() {
                        let pfn = entry + page - start;
                        model.pages.insert(page, Page { pfn, writable, entry });
                    }
                    prop_assert_eq!(added, (model.pages.len() - before) as u64);
                }
                Step::Access { page, write } => {
                    let access = if write { Access::Write } else { Access::Read };
                    let entry = model.pages.get(&page).copied();
                    let allowed = entry.filter(|entry| entry.writable || !write);
                    prop_assert_eq!(at(&table, page, access), allowed.map(|entry| entry.pfn));
                    if let (Some(entry), true) = (allowed, write) {
                        if !model.written.contains(&entry.entry) {
                            model.written.push(entry.entry);
                        }
                    }
                }
                Step::Zap { start, pages: count } => {
                    let range = pages(start, start + count);
                    let (zapped, mut written) = zap(&mut table, range);
                    let (expected, mut reported) = model.zap(range);
                    prop_assert_eq!(zapped, expected);
                    written.sort_unstable();
                    reported.sort_unstable();
                    prop_assert_eq!(written, reported);
                }
                Step::Protect { start, pages: count } => {
                    let range = pages(start, start + count);
                    let mut written = Vec::new();
                    let protected = table.write_protect(range, |pfn, _| written.push(pfn.get()));
                    let (expected, mut reported) = model.write_protect(range);
                    prop_assert_eq!(protected, expected);
                    written.sort_unstable();
                    reported.sort_unstable();
                    prop_assert_eq!(written, reported);
                }
            }
            prop_assert_eq!(table.is_empty(), model.pages.is_empty());
            prop_assert_eq!(table.memory(), counted_memory(&table));
        }
    }
}

/// The memory of a table, vector by vector.
fn counted_memory(table: &TestTable) -> usize {
    let pmds = table.pages.iter().flatten();
    let slots = pmds.clone().filter_map(|pages| pages.slots.as_ref());
    size_of_val(table.huge.as_slice())
        + pmds.map(size_of_val).sum::<usize>()
        + slots
            .map(|slots| size_of_val(slots.as_slice()))
            .sum::<usize>()
}
