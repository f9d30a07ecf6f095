// SPDX-License-Identifier: GPL-2.0

//! What a fault of a mirror finds, all in one PMD: a huge entry, or single pages.
//!
//! Small pages are scattered in memory as a rule. A word for each ([`PfnArray`]) takes a quarter of the room of a
//! run for each ([`crate::Runs`]), and less time.

use core::iter::FusedIterator;

use crate::addr::{PageIndex, PageRange, PMD_ORDER};
use crate::collect::{one_by_one, Collect, Full, Taken};
use crate::pfn::Pfn;
use crate::pfn_array::{HmmPfn, PfnArray, PfnSlice};
use crate::run::Run;

/// A huge entry, or single pages, as far as there is room for them; never both, as the CPU maps a PMD in one
/// way or the other.
///
/// Small: a fault moves it several times.
///
/// # Invariants
///
/// What was found since the last [`Collect::clear`] is in the first `filled` of `pfns`, with
/// [`HmmPfn::ABSENT`] for pages that were passed over; of a huge entry, the pfn of its first page here is in
/// the first one, and `filled` is 0. The others may hold anything, and are not shown.
#[derive(Debug)]
pub struct PmdPages<'a> {
    pfns: PfnArray<'a>,
    filled: u32,
    kind: Kind,
    handler_called: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing was found yet.
    Nothing,
    Single,
    Huge,
}

impl<'a> PmdPages<'a> {
    /// Nothing yet, and room for as many single pages of `pages` as `pfns` has room for. What `pfns` holds does
    /// not matter.
    #[inline]
    pub fn new(pages: PageRange, pfns: &'a mut [HmmPfn]) -> Self {
        let count = pfns.len().min(pages.len() as usize);
        let pfns = pfns.get_mut(..count).unwrap_or_default();
        Self {
            pfns: PfnArray::new(pages.start(), pfns),
            // INVARIANT: Nothing was found.
            filled: 0,
            kind: Kind::Nothing,
            handler_called: false,
        }
    }

    /// Whether all that was found was resident. Also after [`Collect::clear`]: what the fault handler has brought in is
    /// not called so when it is found again.
    #[inline]
    pub fn was_resident(&self) -> bool {
        !self.handler_called
    }

    /// The entry, of a PMD at least, if that is what was found.
    #[inline]
    pub fn huge(&self) -> Option<Run> {
        match self.kind {
            Kind::Huge => self.pfns.entry_at_start(),
            _ => None,
        }
    }

    /// The single pages, up to the last one found; none if there is a huge entry.
    #[inline]
    pub fn single(&self) -> PfnSlice<'_> {
        self.pfns.first(self.filled as usize)
    }

    /// The frame of the first page that there is room for, if it was found as a single one.
    #[inline]
    pub fn first(&self) -> Option<Pfn> {
        self.single().pfns().first()?.frame()
    }

    /// The first page that there is room for.
    #[inline]
    pub fn start(&self) -> PageIndex {
        self.pfns.range().start()
    }

    /// What was found, in ascending order: the huge entry, or single pages, with those of neighbouring frames and the
    /// same rights together.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let single = self.single();
        let mut page = single.range().start();
        let singles = core::iter::from_fn(move || {
            let mut run = None::<Run>;
            while page < single.range().end() {
                let found = single.at(page);
                match (&mut run, Run::single(page, found)) {
                    (Some(run), Some(next)) if run.continued_by(&next) => run.pages += 1,
                    (Some(_), _) => break,
                    (None, next) => run = next,
                }
                page = page.saturating_add(1);
            }
            run
        });
        self.huge().into_iter().chain(singles)
    }

    /// The end of the pages that were found without a gap from `page` on.
    #[inline]
    pub fn reached_from(&self, page: PageIndex) -> PageIndex {
        match self.huge() {
            Some(run) => run.range().end().max(page),
            None => self.single().reached_from(page),
        }
    }

    /// Takes `run` if it is a huge entry for all pages that there is room for.
    fn take_huge(&mut self, run: &Run) -> bool {
        let pages = self.pfns.range();
        let whole = run.order >= PMD_ORDER && run.pages >> run.order > 0;
        let covers = run.range().intersection(&pages) == pages;
        let taken = self.kind == Kind::Nothing && whole && covers;
        if taken {
            // INVARIANT: As said; a huge entry comes first, so `filled` is 0.
            self.pfns.set_start(run);
            self.kind = Kind::Huge;
        }
        taken
    }

    /// Prepares for pages from `page` on: those that were passed over before it are absent.
    #[inline]
    fn pass_over(&mut self, page: PageIndex) {
        let from = self.filled as usize;
        let to = self.pfns.index_of(page);
        if from < to {
            self.pfns.set_absent(from, to);
        }
        self.kind = Kind::Single;
    }

    /// The pfns of the pages before `end` have been written.
    #[inline]
    fn written_before(&mut self, end: PageIndex) {
        // INVARIANT: Written by the caller or by `pass_over`, which it called before. A table's PMD has 512.
        self.filled = self.filled.max(self.pfns.index_of(end) as u32);
    }
}

impl Collect for PmdPages<'_> {
    #[inline]
    fn mapped(&mut self, run: Run) -> Result<(), Full> {
        if self.kind == Kind::Huge {
            return Err(Full);
        }
        if run.order >= PMD_ORDER && self.take_huge(&run) {
            return Ok(());
        }
        self.pass_over(run.start);
        let result = self.pfns.mapped(run);
        self.written_before(run.range().end());
        result
    }

    #[inline]
    fn entries(&mut self, first: Run, following: impl FusedIterator<Item = Pfn>) -> Taken {
        if first.order >= PMD_ORDER || self.kind == Kind::Huge {
            return one_by_one(self, first, following);
        }
        self.pass_over(first.start);
        let done = self.pfns.entries(first, following);
        self.written_before(first.start.saturating_add(done.taken << first.order));
        done
    }

    #[inline]
    fn handler_called(&mut self) {
        self.handler_called = true;
    }

    #[inline]
    fn clear(&mut self) {
        // INVARIANT: Nothing is shown any more.
        (self.filled, self.kind) = (0, Kind::Nothing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PMD_PAGES;
    use crate::pfn::{Memory, PageState, Perm};

    fn entry(start: u64, order: u32) -> Run {
        Run {
            start: PageIndex::new(start),
            pfn: Pfn::new((1 << 20) + start),
            pages: 1 << order,
            perm: Perm::ReadWrite,
            order,
            memory: Memory::System,
        }
    }

    fn pages(start: u64, end: u64) -> PageRange {
        PageRange::new(PageIndex::new(start), PageIndex::new(end))
    }

    #[test]
    fn a_huge_entry_is_kept_whole_however_few_pages_are_asked_for() {
        for (order, start) in [(PMD_ORDER, 2 * PMD_PAGES), (18, 0)] {
            let mut pfns = [HmmPfn::ABSENT; 3];
            let mut found = PmdPages::new(pages(1100, 1103), &mut pfns);
            assert_eq!(found.huge(), None);
            let huge = entry(start, order);
            found.mapped(huge).unwrap();
            assert_eq!(found.huge(), Some(huge));
            let end = huge.range().end();
            assert_eq!(found.reached_from(PageIndex::new(1103)), end);
            // There is no room for anything else.
            assert_eq!(found.mapped(entry(1102, 0)), Err(Full));
            assert_eq!(found.mapped(huge), Err(Full));
            assert_eq!(found.huge(), Some(huge));
            found.clear();
            assert_eq!(found.huge(), None);
            found.mapped(entry(1101, 0)).unwrap();
            assert_eq!(found.huge(), None);
            assert!(!pfns[0].is_mapped() && pfns[1].is_mapped());
        }
    }

    #[test]
    fn entries_taken_together_are_as_those_taken_one_by_one() {
        let single = |first: u64, count: u64| {
            let following = (1..count).map(|index| Pfn::new(77 * index));
            (entry(first, 0), following.collect::<std::vec::Vec<_>>())
        };
        let two_huge = (entry(1024, PMD_ORDER), std::vec![Pfn::new(1 << 21)]);
        let one_huge = (entry(1024, PMD_ORDER), std::vec![]);
        let cases = [
            (std::vec![single(1100, 1)], 1),
            (std::vec![single(1095, 20)], 20),
            (std::vec![single(1101, 2), single(1104, 9)], 11),
            (std::vec![one_huge.clone()], 1),
            (std::vec![two_huge], 1),
            (std::vec![one_huge.clone(), single(1100, 2)], 1),
            (std::vec![single(1100, 2), one_huge], 3),
        ];
        for (given, expected) in cases {
            let (mut together, mut singly) = ([HmmPfn::ABSENT; 8], [HmmPfn::ABSENT; 8]);
            let mut all = PmdPages::new(pages(1100, 1108), &mut together);
            let mut each = PmdPages::new(pages(1100, 1108), &mut singly);
            let mut taken = 0;
            for (first, following) in given {
                let done = all.entries(first, following.clone().into_iter());
                let other = one_by_one(&mut each, first, following.into_iter());
                assert_eq!(done, other);
                taken += done.taken;
            }
            assert_eq!(taken, expected);
            assert_eq!(all.huge(), each.huge());
            assert_eq!(together, singly);
        }
    }

    #[test]
    fn a_part_of_a_huge_entry_is_single_pages() {
        let mut pfns = [HmmPfn::ABSENT; 8];
        let mut found = PmdPages::new(pages(1024, 1032), &mut pfns);
        let part = Run {
            pages: 5,
            ..entry(1024, PMD_ORDER)
        };
        found.mapped(part).unwrap();
        assert_eq!(found.huge(), None);
        assert_eq!(
            found.single().reached_from(PageIndex::new(1024)).get(),
            1029
        );
        assert_eq!(found.reached_from(PageIndex::new(1030)).get(), 1030);
    }

    #[test]
    fn what_the_room_held_before_is_not_shown() {
        let stale = HmmPfn::first_of(&entry(7, 0));
        for found_pages in [&[][..], &[1101], &[1100, 1103, 1104], &[1107]] {
            let mut room = [stale; 8];
            let mut found = PmdPages::new(pages(1100, 1108), &mut room);
            for round in 0..2 {
                found.clear();
                assert_eq!(found.huge(), None);
                for page in found_pages {
                    // Once one by one, once together.
                    match round {
                        0 => found.mapped(entry(*page, 0)).unwrap(),
                        _ => {
                            assert_eq!(found.entries(entry(*page, 0), core::iter::empty()).taken, 1)
                        }
                    }
                }
                for page in 1100..1108 {
                    let mapped = matches!(
                        found.single().at(PageIndex::new(page)),
                        PageState::Mapped { pfn, .. } if pfn.get() == (1 << 20) + page
                    );
                    assert_eq!(mapped, found_pages.contains(&page), "{page}");
                    let state = found.single().at(PageIndex::new(page));
                    assert!(mapped || state == PageState::Absent, "{page}");
                }
            }
        }
    }

    #[test]
    fn what_was_found_comes_in_runs() {
        let mut pfns = [HmmPfn::ABSENT; 8];
        let mut found = PmdPages::new(pages(1100, 1108), &mut pfns);
        assert_eq!(found.runs().count(), 0);
        let readonly = Run {
            perm: Perm::ReadOnly,
            ..entry(1104, 0)
        };
        let elsewhere = Run {
            pfn: Pfn::new(7),
            ..entry(1106, 0)
        };
        for run in [
            entry(1101, 0),
            entry(1102, 0),
            readonly,
            entry(1105, 0),
            elsewhere,
        ] {
            found.mapped(run).unwrap();
        }
        let two = Run {
            pages: 2,
            ..entry(1101, 0)
        };
        let runs: std::vec::Vec<_> = found.runs().collect();
        assert_eq!(runs, [two, readonly, entry(1105, 0), elsewhere]);
        found.clear();
        found.mapped(entry(1024, PMD_ORDER)).unwrap();
        let runs: std::vec::Vec<_> = found.runs().collect();
        assert_eq!(runs, [entry(1024, PMD_ORDER)]);
    }

    #[test]
    fn a_gap_ends_what_was_reached() {
        let mut pfns = [HmmPfn::ABSENT; 8];
        let mut found = PmdPages::new(pages(1100, 1106), &mut pfns);
        for page in [1100, 1101, 1103, 1104, 1105, 1106] {
            found.mapped(entry(page, 0)).unwrap();
        }
        for (from, end) in [(1100, 1102), (1102, 1102), (1103, 1106), (1106, 1106)] {
            assert_eq!(found.reached_from(PageIndex::new(from)).get(), end);
        }
        // More pfns than pages: they are not used.
        assert_eq!(pfns[6..], [HmmPfn::ABSENT; 2]);
    }
}
