// SPDX-License-Identifier: GPL-2.0

//! The walk over random synthetic address spaces, against a model that goes page by page.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::pfn::{Perm, Pfn};

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
    /// An invalidation hits after this many faults.
    collide_after: Option<usize>,
}

impl Synthetic {
    fn covering(&self, page: u64) -> Option<(u64, Entry, u32)> {
        let (&start, &(entry, order)) = self.entries.range(..=page).next_back()?;
        (page < start + (1 << order)).then_some((start, entry, order))
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

    fn entry(&mut self, page: PageIndex) -> Found {
        match self.covering(page.get()) {
            Some((_, entry, order)) => Found::around(page, order, entry),
            None => Found::around(page, 0, Entry::Absent),
        }
    }

    fn fault(&mut self, page: PageIndex, access: Access) -> Result<(), FaultError> {
        let page = page.get();
        self.faults.push((page, access));
        if self.poisoned.contains(&page) {
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        if let Some((start, Entry::Mapped { pfn, .. }, order)) = self.covering(page) {
            // A write to a page that is mapped for reading: the rights grow.
            self.entries.insert(
                start,
                (
                    Entry::Mapped {
                        pfn,
                        perm: Perm::ReadWrite,
                    },
                    order,
                ),
            );
        } else {
            if let Some((start, _, _)) = self.covering(page) {
                self.entries.remove(&start);
            }
            let perm = Perm::from_writable(access == Access::Write);
            self.entries.insert(
                page,
                (
                    Entry::Mapped {
                        pfn: Pfn::new(5000 + page * 2),
                        perm,
                    },
                    0,
                ),
            );
        }
        Ok(())
    }

    fn collided(&self) -> bool {
        self.collide_after
            .is_some_and(|after| self.faults.len() >= after)
    }
}

/// What the walk must find, page by page, on the address space as it was before.
fn model(space: &Synthetic, range: PageRange, policy: Policy) -> Result<Vec<u64>, FaultError> {
    let mut present = Vec::new();
    for page in range.start().get()..range.end().get() {
        let usable = space
            .vma(page)
            .filter(|vma| vma.rights.readable && !vma.rights.special);
        let entry = space
            .covering(page)
            .map_or(Entry::Absent, |(_, entry, _)| entry);
        match policy {
            Policy::Snapshot => {
                if usable.is_some() && matches!(entry, Entry::Mapped { .. }) {
                    present.push(page);
                }
            }
            Policy::Fault(access) => {
                let refused = |why| Err(FaultError::Refused(why));
                let Some(vma) = usable else {
                    return refused(Refusal::NoPage);
                };
                let serves = matches!(entry, Entry::Mapped { perm, .. } if perm.allows(access));
                if !serves {
                    if matches!(entry, Entry::Special | Entry::Bad) {
                        return refused(Refusal::NoPage);
                    }
                    if access == Access::Write && !vma.rights.writable {
                        return refused(Refusal::Forbidden);
                    }
                    if space.poisoned.contains(&page) {
                        return refused(Refusal::NoPage);
                    }
                }
                present.push(page);
            }
        }
    }
    Ok(present)
}

/// Walks to the end of `range`, in as many walks as the room for runs makes necessary.
fn walk_all(
    space: &mut Synthetic,
    range: PageRange,
    policy: Policy,
) -> Result<Vec<(u64, u64, Perm)>, FaultError> {
    let mut pages = Vec::new();
    let mut from = range.start();
    while from < range.end() {
        let mut runs = Runs::new();
        let rest = PageRange::new(from, range.end());
        let done = walk(space, rest, policy, &mut runs)?;
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
    let mapped = (0u64..1000, any::<bool>(), any::<bool>()).prop_map(|(pfn, writable, huge)| {
        let pfn = Pfn::new(pfn << HUGE_ORDER);
        (
            Entry::Mapped {
                pfn,
                perm: Perm::from_writable(writable),
            },
            huge,
        )
    });
    prop_oneof![
        8 => mapped,
        1 => Just((Entry::Elsewhere, false)),
        1 => Just((Entry::Migrating, false)),
        1 => Just((Entry::Inaccessible, false)),
        1 => prop_oneof![Just(Entry::Special), Just(Entry::Bad)].prop_map(|entry| (entry, false)),
    ]
}

prop_compose! {
    fn space()(
        cuts in prop::collection::btree_set(0..=PAGES, 0..12),
        rights in prop::collection::vec(prop::option::weighted(0.8, rights()), 13),
        entries in prop::collection::vec((0..PAGES, entry()), 0..40),
        poisoned in prop::collection::vec(0..PAGES, 0..3),
    ) -> Synthetic {
        let mut space = Synthetic { poisoned, ..Default::default() };
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
                Entry::Mapped { pfn, perm: Perm::ReadWrite } if !writable => {
                    Entry::Mapped { pfn, perm: Perm::ReadOnly }
                }
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn agrees_with_the_model(
        space in space(), policy in policy(), start in 0..PAGES, len in 0..PAGES,
    ) {
        let range = PageRange::new(PageIndex::new(start), PageIndex::new(start + len));
        let expected = model(&space, range, policy);
        let mut walked = space.clone();
        let found = walk_all(&mut walked, range, policy);
        match (expected, found) {
            (Ok(expected), Ok(found)) => {
                let pages: Vec<u64> = found.iter().map(|&(page, _, _)| page).collect();
                prop_assert_eq!(pages, expected);
                for (page, pfn, perm) in found {
                    // What is reported is what the page table holds afterwards.
                    let now = walked.entry(PageIndex::new(page));
                    let first = Pfn::new(pfn - (page - now.start.get()));
                    prop_assert_eq!(now.entry, Entry::Mapped { pfn: first, perm });
                }
            }
            (expected, found) => prop_assert_eq!(expected.map(|_| ()), found.map(|_| ())),
        }
        if policy == Policy::Snapshot {
            prop_assert!(walked.faults.is_empty(), "a snapshot changes nothing");
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
        Policy::Fault(Access::Read),
        &mut Runs::new(),
    );
    assert_eq!(result, Err(FaultError::Collided));
    assert_eq!(space.faults.len(), 3);
}

#[test]
fn neighbours_become_one_run() {
    let mut space = one_area();
    for start in [0, 8, 16] {
        let pfn = Pfn::new(1000 + start);
        space.entries.insert(
            start,
            (
                Entry::Mapped {
                    pfn,
                    perm: Perm::ReadWrite,
                },
                HUGE_ORDER,
            ),
        );
    }
    let mut runs = Runs::new();
    // Whole entries, though the range begins and ends inside of one.
    let range = PageRange::new(PageIndex::new(3), PageIndex::new(20));
    let done = walk(&mut space, range, Policy::Snapshot, &mut runs);
    assert_eq!(done, Ok(range));
    let run = Run {
        start: PageIndex::new(0),
        pfn: Pfn::new(1000),
        pages: 24,
        perm: Perm::ReadWrite,
        order: HUGE_ORDER,
    };
    assert_eq!(runs.as_slice(), [run]);
}

#[test]
fn what_is_resident_behind_the_wanted_pages_comes_along_and_is_never_faulted() {
    let mut space = one_area();
    for page in [4, 5, 7, 9] {
        let (pfn, perm) = (Pfn::new(300 + page), Perm::ReadWrite);
        space.entries.insert(page, (Entry::Mapped { pfn, perm }, 0));
    }
    let mut runs = Runs::new();
    let wanted = PageRange::new(PageIndex::new(3), PageIndex::new(4));
    let request = Request {
        wanted,
        policy: Policy::Fault(Access::Write),
        ahead: 5,
    };
    assert_eq!(serve(&mut space, &request, &mut runs), Ok(wanted));
    assert_eq!(space.faults, [(3, Access::Write)]);
    let found: Vec<(u64, u64)> = runs
        .as_slice()
        .iter()
        .map(|run| (run.start.get(), run.pages))
        .collect();
    assert_eq!(found, [(3, 1), (4, 2), (7, 1)]);
}
