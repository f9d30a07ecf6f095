// SPDX-License-Identifier: GPL-2.0

//! The walk over random synthetic address spaces, against a model that goes page by page.

use core::iter::FusedIterator;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;
use std::{format, vec};

use proptest::prelude::*;

use super::*;
use crate::collect::Full;
use crate::pfn::PageState;
use crate::pfn_array::{HmmPfn, PfnArray};
use crate::policy::Requests;
use crate::runs::{Runs, MAX_RUNS};

/// Pages of the synthetic address space.
const PAGES: u64 = 64;
/// log2 of how many pages a huge entry maps here.
const HUGE_ORDER: u32 = 3;

/// What the page table holds; everything not in `entries` is absent.
#[derive(Clone, Debug, Default)]
struct Synthetic {
    vmas: Vec<Vma>,
    /// By first page: the entry, and its order.
    entries: BTreeMap<u64, (Entry, u32)>,
    /// Pages that the fault handler fails on.
    poisoned: Vec<u64>,
    /// Faults so far: page and access.
    faults: Vec<(u64, Access)>,
    /// How many pages each call was for.
    bursts: Vec<u64>,
    /// Pages at which the fault handler has to wait, once, and lets go of the address space.
    waits_at: BTreeSet<u64>,
    /// An invalidation hits after this many faults.
    collide_after: Option<usize>,
}

impl Synthetic {
    fn covering(&self, page: u64) -> Option<(u64, Entry, u32)> {
        let (&start, &(entry, order)) = self.entries.range(..=page).next_back()?;
        (page < start + (1 << order)).then_some((start, entry, order))
    }

    /// Maps an entry of ordinary memory.
    fn map(&mut self, start: u64, pfn: u64, perm: Perm, order: u32) {
        let entry = mapped(Pfn::new(pfn), perm);
        self.entries.insert(start, (entry, order));
    }

    /// The entries after `found`, as long as they are as large and end before `until` or there.
    fn after(&self, found: &Found, until: PageIndex) -> impl Iterator<Item = Entry> + '_ {
        let order = found.order;
        let starts = (found.range().end().get()..until.get()).step_by(1 << order);
        let starts = starts.take_while(move |start| start + (1 << order) <= until.get());
        starts.map_while(move |start| match self.covering(start) {
            Some((first, entry, size)) => (first == start && size == order).then_some(entry),
            None => (order == 0).then_some(Entry::Absent),
        })
    }

    fn vma(&self, page: u64) -> Option<Vma> {
        self.vmas
            .iter()
            .copied()
            .find(|vma| vma.range.contains(PageIndex::new(page)))
    }
}

impl AddressSpace for Synthetic {
    fn vma_from(&mut self, page: PageIndex) -> Option<Vma> {
        self.vmas.iter().copied().find(|vma| vma.range.end() > page)
    }

    fn entry(&mut self, page: PageIndex, _until: PageIndex) -> Found {
        match self.covering(page.get()) {
            Some((_, entry, order)) => Found::around(page, order, entry),
            None => Found::around(page, 0, Entry::Absent),
        }
    }

    fn alike(&self, found: &Found, until: PageIndex) -> impl FusedIterator<Item = Pfn> {
        let like = |entry| match (entry, found.entry) {
            (
                Entry::Mapped { pfn, perm, memory },
                Entry::Mapped {
                    perm: p, memory: m, ..
                },
            ) => ((perm, memory) == (p, m)).then_some(pfn),
            _ => None,
        };
        self.after(found, until).map_while(like).fuse()
    }

    fn absent_after(&self, found: &Found, until: PageIndex) -> u64 {
        let absent = |entry: &Entry| *entry == Entry::Absent;
        self.after(found, until).take_while(absent).count() as u64
    }

    fn fault(&mut self, pages: PageRange, access: Access) -> Result<Handled, FaultError> {
        self.bursts.push(pages.len());
        for page in pages.start().get()..pages.end().get() {
            if self.fault_page(page, access)? == Handled::LockDropped {
                return Ok(Handled::LockDropped);
            }
        }
        Ok(Handled::LockHeld)
    }

    fn collided(&self) -> bool {
        self.collide_after
            .is_some_and(|after| self.faults.len() >= after)
    }
}

impl Synthetic {
    fn fault_page(&mut self, page: u64, access: Access) -> Result<Handled, FaultError> {
        self.faults.push((page, access));
        if self.poisoned.contains(&page) {
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        if self.waits_at.remove(&page) {
            return Ok(Handled::LockDropped);
        }
        if let Some((start, Entry::Mapped { pfn, .. }, order)) = self.covering(page) {
            // A write to a page that is mapped for reading: the rights grow.
            self.map(start, pfn.get(), Perm::ReadWrite, order);
        } else {
            if let Some((start, _, _)) = self.covering(page) {
                self.entries.remove(&start);
            }
            let perm = Perm::from_writable(access == Access::Write);
            self.map(page, 5000 + page * 2, perm, 0);
        }
        Ok(Handled::LockHeld)
    }
}

fn mapped(pfn: Pfn, perm: Perm) -> Entry {
    Entry::Mapped {
        pfn,
        perm,
        memory: Memory::System,
    }
}

/// What the walk must find, page by page, on the address space as it was before.
fn model(
    space: &Synthetic,
    range: PageRange,
    wants: &impl Wants,
) -> Result<Vec<Expected>, FaultError> {
    let pages = range.start().get()..range.end().get();
    pages
        .map(|page| expected(space, page, wants.at(PageIndex::new(page)).0))
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Mapped,
    Absent,
    Unusable,
}

fn expected(space: &Synthetic, page: u64, policy: Policy) -> Result<Expected, FaultError> {
    let refused = |why| Err(FaultError::Refused(why));
    let usable = space
        .vma(page)
        .filter(|vma| vma.rights.readable && !vma.rights.special);
    let entry = space.covering(page);
    let entry = entry.map_or(Entry::Absent, |(_, entry, _)| entry);
    let (access, vma) = match (policy, usable) {
        (Policy::Snapshot, None) => return Ok(Expected::Unusable),
        (Policy::Snapshot, Some(_)) => {
            return Ok(match entry {
                Entry::Mapped { .. } => Expected::Mapped,
                Entry::Special { .. } => Expected::Unusable,
                _ => Expected::Absent,
            })
        }
        (Policy::Fault(_), None) => return refused(Refusal::NoPage),
        (Policy::Fault(access), Some(vma)) => (access, vma),
    };
    match entry {
        Entry::Mapped { perm, .. } if perm.allows(access) => return Ok(Expected::Mapped),
        Entry::Special { perm } if perm.allows(access) => return refused(Refusal::NoPage),
        Entry::Bad => return refused(Refusal::NoPage),
        _ => {}
    }
    if access == Access::Write && !vma.rights.writable {
        return refused(Refusal::Forbidden);
    }
    if space.poisoned.contains(&page) {
        return refused(Refusal::NoPage);
    }
    Ok(Expected::Mapped)
}

/// Walks to the end of `range`, in as many walks as the room for runs makes necessary; gives the
/// pages with their frames and rights.
fn walk_all(
    space: &mut Synthetic,
    range: PageRange,
    wants: &impl Wants,
) -> Result<Vec<(u64, u64, Perm)>, FaultError> {
    let mut pages = Vec::new();
    let mut from = range.start();
    while from < range.end() {
        let mut runs = Runs::new();
        let rest = PageRange::new(from, range.end());
        let done = walk(space, rest, wants, &mut runs)?;
        assert_eq!(done.start(), from);
        assert!(
            done.end() > from && done.end() <= range.end(),
            "no progress: {done:?}"
        );
        for run in runs.as_slice() {
            let part = run.range().intersection(&done);
            assert!(!part.is_empty(), "a run outside: {run:?}");
            for page in part.start().get()..part.end().get() {
                let pfn = run.pfn.get() + page - run.start.get();
                pages.push((page, pfn, run.perm));
            }
        }
        from = done.end();
    }
    Ok(pages)
}

/// Where each of `runs` begins, and how many pages it has.
fn extents(runs: &Runs) -> Vec<(u64, u64)> {
    let runs = runs.as_slice().iter();
    runs.map(|run| (run.start.get(), run.pages)).collect()
}

/// Takes every entry by itself.
struct OneByOne<C>(C);

impl<C: Collect> Collect for OneByOne<C> {
    fn mapped(&mut self, run: Run) -> Result<(), Full> {
        self.0.mapped(run)
    }

    fn unusable(&mut self, pages: PageRange) {
        self.0.unusable(pages);
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Entries taken together must be what they are when they are taken one by one.
fn same_one_by_one(space: &Synthetic, range: PageRange, wants: &impl Wants, room: usize) {
    let mut runs = Runs::in_room(vec![Run::NONE; room]);
    let mut single = OneByOne(runs.clone());
    let done = walk(&mut space.clone(), range, wants, &mut runs);
    let singly = walk(&mut space.clone(), range, wants, &mut single);
    assert_eq!(done, singly);
    assert_eq!(runs.as_slice(), single.0.as_slice());
    // An array that neither begins nor ends with the range.
    let start = range.start().saturating_add(3);
    let (mut words, mut single) = (vec![HmmPfn::ABSENT; 20], vec![HmmPfn::ABSENT; 20]);
    let _ = walk(
        &mut space.clone(),
        range,
        wants,
        &mut PfnArray::new(start, &mut words),
    );
    let mut single_flat = OneByOne(PfnArray::new(start, &mut single));
    let _ = walk(&mut space.clone(), range, wants, &mut single_flat);
    assert_eq!(words, single);
}

fn rights() -> impl Strategy<Value = VmaRights> {
    prop_oneof![
        6 => Just((true, true, false)),
        3 => Just((true, false, false)),
        1 => Just((false, false, false)),
        1 => Just((true, true, true)),
    ]
    .prop_map(|(readable, writable, special)| VmaRights {
        readable,
        writable,
        special,
    })
}

fn entry() -> impl Strategy<Value = (Entry, bool)> {
    // Few frames, so that neighbours often continue each other.
    let mapped = (0u64..4, any::<bool>(), any::<bool>()).prop_map(|(pfn, writable, huge)| {
        let pfn = Pfn::new(pfn << HUGE_ORDER);
        (mapped(pfn, Perm::from_writable(writable)), huge)
    });
    let special = any::<bool>().prop_map(|writable| Entry::Special {
        perm: Perm::from_writable(writable),
    });
    prop_oneof![
        8 => mapped,
        1 => Just((Entry::Elsewhere, false)),
        1 => Just((Entry::Migrating, false)),
        1 => Just((Entry::Inaccessible, false)),
        1 => prop_oneof![special, Just(Entry::Bad)].prop_map(|entry| (entry, false)),
    ]
}

prop_compose! {
    fn space()(
        cuts in prop::collection::btree_set(0..=PAGES, 0..12),
        rights in prop::collection::vec(prop::option::weighted(0.8, rights()), 13),
        entries in prop::collection::vec((0..PAGES, entry()), 0..40),
        poisoned in prop::collection::vec(0..PAGES, 0..3),
        waits_at in prop::collection::btree_set(0..PAGES, 0..4),
    ) -> Synthetic {
        let mut space = Synthetic { poisoned, waits_at, ..Default::default() };
        let cuts: Vec<u64> = cuts.into_iter().collect();
        for (pair, rights) in cuts.windows(2).zip(rights) {
            if let Some(rights) = rights {
                let range = PageRange::new(PageIndex::new(pair[0]), PageIndex::new(pair[1]));
                space.vmas.push(Vma { range, rights });
            }
        }
        for (page, (entry, huge)) in entries {
            let order = if huge { HUGE_ORDER } else { 0 };
            let start = page >> order << order;
            // As in a kernel, an entry lies in one area and overlaps no other.
            let pages = start..start + (1 << order);
            let vma = space.vma(start);
            let fits = pages.clone().all(|page| {
                space.covering(page).is_none() && vma.is_some() && space.vma(page) == vma
            });
            // An entry is writable only where its area is.
            let writable = vma.is_some_and(|vma| vma.rights.writable);
            let entry = match entry {
                Entry::Mapped { pfn, perm, .. } => {
                    let perm = if writable { perm } else { Perm::ReadOnly };
                    mapped(Pfn::new((pfn.get() << 10) + start), perm)
                }
                Entry::Special { .. } if !writable => Entry::Special { perm: Perm::ReadOnly },
                entry => entry,
            };
            if fits {
                space.entries.insert(start, (entry, order));
            }
        }
        // A fault on any page of a huge entry is a fault on all of it.
        let mut poisoned = std::mem::take(&mut space.poisoned);
        poisoned.retain(|&page| !matches!(space.covering(page), Some((_, _, order)) if order > 0));
        space.poisoned = poisoned;
        space
    }
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Snapshot),
        Just(Policy::Fault(Access::Read)),
        Just(Policy::Fault(Access::Write)),
    ]
}

prop_compose! {
    fn range()(start in 0..PAGES, len in 0..PAGES) -> PageRange {
        PageRange::new(PageIndex::new(start), PageIndex::new(start + len))
    }
}

/// The walk of `range` must find what the model says, as runs and as an array.
fn agrees(space: &Synthetic, range: PageRange, wants: &impl Wants) -> Result<(), TestCaseError> {
    let expected = model(space, range, wants);
    let mut walked = space.clone();
    let found = walk_all(&mut walked, range, wants);
    let mut words = vec![HmmPfn::ABSENT; range.len() as usize];
    let mut array = PfnArray::new(range.start(), &mut words);
    let done = walk(&mut space.clone(), range, wants, &mut array);
    let (expected, found) = match (expected, found) {
        (Ok(expected), Ok(found)) => (expected, found),
        (expected, found) => {
            let expected = expected.map(|_| ());
            prop_assert_eq!(done.map(|_| ()), expected);
            prop_assert_eq!(found.map(|_| ()), expected);
            return Ok(());
        }
    };
    prop_assert_eq!(done, Ok(range));
    let mut found = found.into_iter();
    for (page, expected) in (range.start().get()..).zip(expected) {
        let state = array.at(PageIndex::new(page));
        let (pfn, perm) = match (expected, state) {
            (Expected::Absent, PageState::Absent) => continue,
            (Expected::Unusable, PageState::Unusable) => continue,
            (Expected::Mapped, PageState::Mapped { pfn, perm, .. }) => (pfn, perm),
            (expected, found) => {
                return Err(TestCaseError::fail(format!("{expected:?} is {found:?}")))
            }
        };
        // What is reported is what the page table holds afterwards. Its rights may have grown, if
        // another page of the same entry was wanted for writing.
        let now = walked.entry(PageIndex::new(page), ALL.end());
        let first = Pfn::new(pfn.get() - (page - now.start.get()));
        let holds = |perm| now.entry == mapped(first, perm) || perm == Perm::ReadOnly;
        let same = matches!(now.entry, Entry::Mapped { pfn, .. } if pfn == first);
        prop_assert!(same, "{page}: {:?} is there", now.entry);
        prop_assert!(holds(perm));
        let in_run = found.next();
        let same = |(at, frame, perm)| at == page && frame == pfn.get() && holds(perm);
        prop_assert!(
            in_run.is_some_and(same),
            "{page}: {pfn:?} in the array, {in_run:?} in the runs"
        );
    }
    prop_assert_eq!(found.next(), None);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn agrees_with_the_model(space in space(), policy in policy(), range in range()) {
        agrees(&space, range, &policy)?;
    }

    #[test]
    fn agrees_with_the_model_where_each_page_asks_for_itself(
        space in space(), range in range(), base in policy(), most in policy(),
        pages in prop::collection::vec(policy(), 0..PAGES as usize),
    ) {
        let wants = Requests { first: range.start(), base, most, pages: &pages };
        agrees(&space, range, &wants)?;
    }

    #[test]
    fn entries_taken_together_are_the_same_as_one_by_one(
        space in space(), policy in policy(), range in range(), room in 1usize..6,
    ) {
        same_one_by_one(&space, range, &policy, room);
    }

    #[test]
    fn only_pages_that_ask_for_it_are_faulted(
        space in space(), range in range(),
        pages in prop::collection::vec(policy(), PAGES as usize),
    ) {
        let wants = Requests {
            first: range.start(),
            base: Policy::Snapshot,
            most: Policy::Fault(Access::Write),
            pages: &pages,
        };
        let mut walked = space.clone();
        let _ = walk_all(&mut walked, range, &wants);
        for (page, access) in walked.faults {
            prop_assert_eq!(wants.at(PageIndex::new(page)).0, Policy::Fault(access));
        }
    }
}

const ALL: PageRange = PageRange::new(PageIndex::new(0), PageIndex::new(PAGES));

/// Nothing but one area that may be read and written, and nothing in it.
fn one_area() -> Synthetic {
    let rights = VmaRights {
        readable: true,
        writable: true,
        special: false,
    };
    Synthetic {
        vmas: vec![Vma { range: ALL, rights }],
        ..Default::default()
    }
}

#[test]
fn a_collision_ends_the_walk() {
    let mut space = one_area();
    space.collide_after = Some(3);
    let result = walk(
        &mut space,
        ALL,
        &Policy::Fault(Access::Read),
        &mut Runs::new(),
    );
    assert_eq!(result, Err(FaultError::Collided));
    assert_eq!(space.faults.len(), 3);
}

#[test]
fn a_hole_without_a_table_does_not_interrupt_a_burst() {
    let mut space = one_area();
    let hole = 1 << HUGE_ORDER;
    // A table's worth of pages that are absent, between others that are.
    space.entries.insert(4 * hole, (Entry::Absent, HUGE_ORDER));
    let mut words = vec![HmmPfn::ABSENT; PAGES as usize];
    let mut array = PfnArray::new(ALL.start(), &mut words);
    let read = Policy::Fault(Access::Read);
    assert_eq!(walk(&mut space, ALL, &read, &mut array), Ok(ALL));
    // Twice as many each time, up to the hole; one that may be huge; then more than ever.
    assert_eq!(space.bursts, [1, 2, 4, 8, 16, 1, 1, 31]);
}

#[test]
fn absent_pages_are_faulted_in_order_and_once_each() {
    let mut space = one_area();
    space.map(20, 900, Perm::ReadOnly, 0);
    let write = Policy::Fault(Access::Write);
    assert!(walk(&mut space, ALL, &write, &mut Runs::new()).is_ok());
    // Runs of faulted pages do not continue each other here, so there was no room for all.
    let expected = (0..).map(|page| (page, Access::Write));
    assert!(space.faults.len() > MAX_RUNS);
    assert!(space
        .faults
        .iter()
        .copied()
        .eq(expected.take(space.faults.len())));
}

#[test]
fn neighbours_become_one_run() {
    let mut space = one_area();
    for start in [0, 8, 16] {
        space.map(start, 1000 + start, Perm::ReadWrite, HUGE_ORDER);
    }
    let mut runs = Runs::new();
    // Whole entries, though the range begins and ends inside of one.
    let range = PageRange::new(PageIndex::new(3), PageIndex::new(20));
    let done = walk(&mut space, range, &Policy::Snapshot, &mut runs);
    assert_eq!(done, Ok(range));
    let run = Run {
        start: PageIndex::new(0),
        pfn: Pfn::new(1000),
        pages: 24,
        perm: Perm::ReadWrite,
        order: HUGE_ORDER,
        memory: Memory::System,
    };
    assert_eq!(runs.as_slice(), [run]);
}

#[test]
fn what_is_resident_behind_the_wanted_pages_comes_along_and_is_never_faulted() {
    let mut space = one_area();
    for page in [4, 5, 7, 9] {
        space.map(page, 300 + page, Perm::ReadWrite, 0);
    }
    let mut runs = Runs::new();
    let wanted = PageRange::new(PageIndex::new(3), PageIndex::new(4));
    let request = Request {
        around: 5,
        ..Request::new(wanted, Policy::Fault(Access::Write))
    };
    assert_eq!(serve(&mut space, &request, &mut runs), Ok(wanted));
    assert_eq!(space.faults, [(3, Access::Write)]);
    assert_eq!(extents(&runs), [(3, 1), (4, 2), (7, 1)]);
}

#[test]
fn one_page_of_a_huge_entry_can_be_wanted_for_more() {
    let mut space = one_area();
    space.map(8, 1008, Perm::ReadWrite, HUGE_ORDER);
    let mut pages = [Policy::Fault(Access::Read); 8];
    pages[3] = Policy::Fault(Access::Write);
    let range = PageRange::new(PageIndex::new(8), PageIndex::new(16));
    let wants = Requests {
        first: range.start(),
        base: Policy::Snapshot,
        most: Policy::Fault(Access::Write),
        pages: &pages,
    };
    let mut runs = Runs::new();
    assert_eq!(walk(&mut space, range, &wants, &mut runs), Ok(range));
    assert!(space.faults.is_empty());
    // The pieces come together again.
    assert_eq!(extents(&runs), [(8, 8)]);
}

/// Pages 4 to 14 as they are, but for the last one, which is to be written.
fn all_but_the_last_as_they_are() -> (PageRange, Requests<'static>) {
    const PAGES: [Policy; 11] = {
        let mut pages = [Policy::Snapshot; 11];
        pages[10] = Policy::Fault(Access::Write);
        pages
    };
    let range = PageRange::new(PageIndex::new(4), PageIndex::new(15));
    let wants = Requests {
        first: range.start(),
        base: Policy::Snapshot,
        most: Policy::Fault(Access::Write),
        pages: &PAGES,
    };
    (range, wants)
}

#[test]
fn what_was_reported_before_the_handler_waited_is_not_reported_again() {
    let mut space = one_area();
    space.map(8, 1008, Perm::ReadOnly, HUGE_ORDER);
    space.waits_at.insert(14);
    let (range, wants) = all_but_the_last_as_they_are();
    let mut runs = Runs::new();
    assert_eq!(walk(&mut space, range, &wants, &mut runs), Ok(range));
    let found: Vec<_> = runs
        .as_slice()
        .iter()
        .map(|run| (run.start.get(), run.pages, run.perm))
        .collect();
    let (read, write) = (Perm::ReadOnly, Perm::ReadWrite);
    assert_eq!(found, [(8, 6, read), (14, 1, write)]);
}

#[test]
fn looking_ahead_does_not_report_again_what_was_wanted_in_parts() {
    let mut space = one_area();
    space.map(8, 1008, Perm::ReadWrite, HUGE_ORDER);
    let (range, wants) = all_but_the_last_as_they_are();
    let request = Request {
        around: 3,
        ..Request::new(range, wants)
    };
    let mut runs = Runs::new();
    assert_eq!(serve(&mut space, &request, &mut runs), Ok(range));
    // The pieces come together again.
    assert_eq!(extents(&runs), [(8, 8)]);
}

#[test]
fn an_area_that_changed_while_the_handler_waited_is_looked_at_again() {
    let mut space = one_area();
    space.waits_at.insert(5);
    let read = Policy::Fault(Access::Read);
    assert_eq!(
        walk(&mut space, ALL, &read, &mut Runs::new())
            .unwrap()
            .start(),
        ALL.start()
    );
    let tries = space.faults.iter().filter(|&&(page, _)| page == 5).count();
    assert_eq!(tries, 2);
}
