// SPDX-License-Identifier: GPL-2.0

//! The result of a walk as an array with a word for each page, as C's `hmm_pfns`.
//!
//! [`crate::Runs`] hold the same in less room; an array has room for every page from the
//! start, and tells pages that a fault could bring in from those that no device can ever use.

use core::fmt;
use core::iter::FusedIterator;

use crate::addr::{PageIndex, PageRange};
use crate::collect::{one_by_one, Collect, Full, Taken};
use crate::pfn::{Memory, PageState, Perm, Pfn};
use crate::run::Run;

/// A [`PageState`] in one word: 0, or a frame number, shifted, with flags below it.
///
/// A `Slot` keeps the frame and the rights in the same bits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct HmmPfn(u64);

/// A page.
pub(crate) const VALID: u64 = 1 << 0;
/// It may be written.
pub(crate) const WRITABLE: u64 = 1 << 1;
// 1 << 2 is the slots' own.
const UNUSABLE: u64 = 1 << 3;
const DEVICE: u64 = 1 << 4;
/// Five bits: entries of up to 2^31 pages.
const ORDER_SHIFT: u32 = 5;
const ORDER_MASK: u64 = 0x1f;
pub(crate) const PFN_SHIFT: u32 = 12;
/// One frame further.
const NEXT_FRAME: u64 = 1 << PFN_SHIFT;
const FLAGS: u64 = NEXT_FRAME - 1;

impl HmmPfn {
    /// A word for [`PageState::Absent`].
    pub const ABSENT: Self = Self(0);
    /// A word for [`PageState::Unusable`].
    pub const UNUSABLE: Self = Self(UNUSABLE);

    /// A word for the first page of `run`.
    #[inline]
    pub(crate) fn first_of(run: &Run) -> Self {
        let mut word = VALID | (run.pfn.get() << PFN_SHIFT);
        word |= (u64::from(run.order) & ORDER_MASK) << ORDER_SHIFT;
        if run.perm == Perm::ReadWrite {
            word |= WRITABLE;
        }
        if run.memory == Memory::Device {
            word |= DEVICE;
        }
        Self(word)
    }

    /// The same with the frame `pages` further on.
    #[inline]
    pub(crate) fn add(self, pages: u64) -> Self {
        Self(self.0.wrapping_add(pages << PFN_SHIFT))
    }

    /// This one and those of the frames that follow, without end.
    #[inline]
    pub(crate) fn onwards(self) -> impl Iterator<Item = Self> {
        core::iter::successors(Some(self), |word| Some(word.add(1)))
    }

    /// The frame, if it is a page.
    #[inline]
    pub(crate) fn frame(self) -> Option<Pfn> {
        self.is_mapped().then_some(Pfn::new(self.0 >> PFN_SHIFT))
    }

    /// Whether it is a page.
    #[inline]
    pub(crate) fn is_mapped(self) -> bool {
        self.0 & VALID != 0
    }

    /// What a [`crate::xlt::Slot`] keeps of a page, with no more rights than `limit` has; 0 of anything else.
    #[inline]
    pub(crate) fn translation(self, limit: Perm) -> u64 {
        let kept = match limit {
            Perm::ReadWrite => !FLAGS | VALID | WRITABLE,
            Perm::ReadOnly => !FLAGS | VALID,
        };
        self.0 & kept
    }

    /// The state that the word stands for.
    pub fn state(self) -> PageState {
        if self.0 & VALID == 0 {
            return match self.0 & UNUSABLE {
                0 => PageState::Absent,
                _ => PageState::Unusable,
            };
        }
        PageState::Mapped {
            pfn: Pfn::new(self.0 >> PFN_SHIFT),
            perm: Perm::from_writable(self.0 & WRITABLE != 0),
            order: ((self.0 >> ORDER_SHIFT) & ORDER_MASK) as u32,
            memory: match self.0 & DEVICE {
                0 => Memory::System,
                _ => Memory::Device,
            },
        }
    }
}

impl fmt::Debug for HmmPfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state().fmt(f)
    }
}

/// An array with a word for each page from `start` on. Pages outside of it are left out.
///
/// ```
/// use hmm::{Collect, HmmPfn, Memory, PageIndex, PageState, Perm, Pfn, PfnArray, Run};
///
/// let mut pfns = [HmmPfn::ABSENT; 4];
/// let mut found = PfnArray::new(PageIndex::new(8), &mut pfns);
/// // What a walk does:
/// let run = Run {
///     start: PageIndex::new(9),
///     pfn: Pfn::new(700),
///     pages: 2,
///     perm: Perm::ReadOnly,
///     order: 0,
///     memory: Memory::System,
/// };
/// found.mapped(run).unwrap();
/// // What a driver reads:
/// assert_eq!(found.at(PageIndex::new(8)), PageState::Absent);
/// let PageState::Mapped { pfn, perm, .. } = found.at(PageIndex::new(10)) else {
///     panic!("it is mapped");
/// };
/// assert_eq!((pfn, perm), (Pfn::new(701), Perm::ReadOnly));
/// ```
#[derive(Debug)]
pub struct PfnArray<'a> {
    start: PageIndex,
    pfns: &'a mut [HmmPfn],
}

impl<'a> PfnArray<'a> {
    /// The pages from `start`, as many as `pfns` has room for. A walk overwrites what `pfns` holds.
    #[inline]
    pub fn new(start: PageIndex, pfns: &'a mut [HmmPfn]) -> Self {
        Self { start, pfns }
    }

    /// The pages of the array.
    #[inline]
    pub fn range(&self) -> PageRange {
        PageRange::new(
            self.start,
            self.start.saturating_add(self.pfns.len() as u64),
        )
    }

    /// The pfns.
    #[inline]
    pub fn pfns(&self) -> &[HmmPfn] {
        self.pfns
    }

    /// What was found for `page`; `Absent` if it is outside.
    pub fn at(&self, page: PageIndex) -> PageState {
        self.as_slice().at(page)
    }

    /// The pages and what was found for them.
    #[inline]
    pub fn as_slice(&self) -> PfnSlice<'_> {
        self.first(self.pfns.len())
    }

    /// The first `count` pages, and what was found for them.
    #[inline]
    pub(crate) fn first(&self, count: usize) -> PfnSlice<'_> {
        PfnSlice {
            start: self.start,
            pfns: self.pfns.get(..count).unwrap_or_default(),
        }
    }

    /// The index of the pfn of `page`, or the one that is nearest: 0, or how many there are.
    #[inline]
    pub(crate) fn index_of(&self, page: PageIndex) -> usize {
        let index = page.get().saturating_sub(self.start.get());
        index.min(self.pfns.len() as u64) as usize
    }

    /// The pages with the indices from `from` up to and without `to` are absent.
    pub(crate) fn set_absent(&mut self, from: usize, to: usize) {
        let pfns = self.pfns.get_mut(from..to).unwrap_or_default();
        pfns.fill(HmmPfn::ABSENT);
    }

    /// The whole entry that maps the first page, if one does.
    #[inline]
    pub(crate) fn entry_at_start(&self) -> Option<Run> {
        let word = self.pfns.first()?;
        let PageState::Mapped {
            pfn,
            perm,
            order,
            memory,
        } = word.state()
        else {
            return None;
        };
        let start = PageIndex::new(self.start.get() >> order << order);
        Some(Run {
            start,
            pfn: Pfn::new(pfn.get() - (self.start.get() - start.get())),
            pages: 1 << order,
            perm,
            order,
            memory,
        })
    }

    /// The first page is one of those of `run`.
    #[inline]
    pub(crate) fn set_start(&mut self, run: &Run) {
        let skipped = self.start.get() - run.start.get();
        if let Some(word) = self.pfns.first_mut() {
            *word = HmmPfn::first_of(run).add(skipped);
        }
    }

    /// The pfns of the pages of `pages`, and the first of these pages that there is a word for.
    #[inline]
    fn pfns_of(&mut self, pages: PageRange) -> (PageIndex, &mut [HmmPfn]) {
        let part = pages.intersection(&self.range());
        let from = (part.start().get() - self.start.get()) as usize;
        let pfns = self.pfns.get_mut(from..from + part.len() as usize);
        (part.start(), pfns.unwrap_or_default())
    }
}

/// What was found for some neighbouring pages.
#[derive(Clone, Copy, Debug)]
pub struct PfnSlice<'a> {
    start: PageIndex,
    pfns: &'a [HmmPfn],
}

impl<'a> PfnSlice<'a> {
    /// The pages.
    #[inline]
    pub fn range(&self) -> PageRange {
        PageRange::new(
            self.start,
            self.start.saturating_add(self.pfns.len() as u64),
        )
    }

    /// What was found, one pfn a page.
    #[inline]
    pub fn pfns(&self) -> &'a [HmmPfn] {
        self.pfns
    }

    /// What was found for `page`; `Absent` if it is outside.
    pub fn at(&self, page: PageIndex) -> PageState {
        let index = page.get().checked_sub(self.start.get());
        index
            .and_then(|index| self.pfns.get(usize::try_from(index).ok()?))
            .map_or(PageState::Absent, |word| word.state())
    }

    /// The end of the pages that are mapped without a gap from `page` on.
    #[inline]
    pub fn reached_from(&self, page: PageIndex) -> PageIndex {
        let rest = PageRange::new(page, self.range().end());
        let mapped = self
            .pfns_at(rest)
            .iter()
            .take_while(|word| word.is_mapped());
        page.saturating_add(mapped.count() as u64)
    }

    /// The pfns of the pages of `pages`, if there are pfns for all of them.
    #[inline]
    pub(crate) fn pfns_at(&self, pages: PageRange) -> &'a [HmmPfn] {
        let from = pages.start().get().wrapping_sub(self.start.get()) as usize;
        let pfns = self.pfns.get(from..from.wrapping_add(pages.len() as usize));
        pfns.unwrap_or_default()
    }
}

impl Collect for PfnArray<'_> {
    #[inline]
    fn mapped(&mut self, run: Run) -> Result<(), Full> {
        if run.pages == 1 {
            // The most frequent one.
            let index = run.start.get().wrapping_sub(self.start.get());
            if let Some(word) = self.pfns.get_mut(index as usize) {
                *word = HmmPfn::first_of(&run);
            }
            return Ok(());
        }
        let (first, pfns) = self.pfns_of(run.range());
        let skipped = first.get().saturating_sub(run.start.get());
        let found = HmmPfn::first_of(&run).add(skipped).onwards();
        for (word, found) in pfns.iter_mut().zip(found) {
            *word = found;
        }
        Ok(())
    }

    #[inline]
    fn entries(&mut self, first: Run, mut following: impl FusedIterator<Item = Pfn>) -> Taken {
        let index = first.start.get().wrapping_sub(self.start.get()) as usize;
        let pfns = match first.order {
            0 => self.pfns.get_mut(index..).and_then(<[_]>::split_first_mut),
            _ => None,
        };
        let Some((word, rest)) = pfns else {
            return one_by_one(self, first, following);
        };
        *word = HmmPfn::first_of(&first);
        let flags = word.0 & FLAGS;
        let mut taken = 1;
        // The pfns first: when they are at their end, no frame is taken from `following`.
        for (word, pfn) in rest.iter_mut().zip(&mut following) {
            *word = HmmPfn(flags | (pfn.get() << PFN_SHIFT));
            taken += 1;
        }
        taken += following.count() as u64;
        Taken { taken, full: false }
    }

    fn unusable(&mut self, pages: PageRange) {
        self.pfns_of(pages).1.fill(HmmPfn::UNUSABLE);
    }

    fn clear(&mut self) {
        self.pfns.fill(HmmPfn::ABSENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, pages: u64, order: u32, memory: Memory) -> Run {
        Run {
            start: PageIndex::new(start),
            pfn: Pfn::new(1000 + start),
            pages,
            perm: Perm::ReadWrite,
            order,
            memory,
        }
    }

    #[test]
    fn each_page_gets_what_its_run_says() {
        let mut pfns = [HmmPfn::UNUSABLE; 6];
        let mut array = PfnArray::new(PageIndex::new(10), &mut pfns);
        array.clear();
        // Reaches over both ends.
        array.mapped(run(8, 4, 2, Memory::System)).unwrap();
        array.mapped(run(15, 1, 0, Memory::Device)).unwrap();
        array.unusable(PageRange::new(PageIndex::new(13), PageIndex::new(14)));
        let mapped = |page: u64, order, memory| PageState::Mapped {
            pfn: Pfn::new(1000 + page),
            perm: Perm::ReadWrite,
            order,
            memory,
        };
        let expected = [
            mapped(10, 2, Memory::System),
            mapped(11, 2, Memory::System),
            PageState::Absent,
            PageState::Unusable,
            PageState::Absent,
            mapped(15, 0, Memory::Device),
        ];
        for (page, want) in (10u64..).zip(expected) {
            assert_eq!(array.at(PageIndex::new(page)), want);
        }
        for outside in [9, 16] {
            assert_eq!(array.at(PageIndex::new(outside)), PageState::Absent);
        }
        array.mapped(run(0, 3, 0, Memory::System)).unwrap();
        array.mapped(run(90, 3, 0, Memory::System)).unwrap();
        assert_eq!(array.at(PageIndex::new(11)), expected[1]);
        array.clear();
        assert!(array.pfns().iter().all(|word| *word == HmmPfn::ABSENT));
    }

    #[test]
    fn a_page_of_a_gigantic_entry_fits_in_a_word() {
        let mut pfns = [HmmPfn::ABSENT; 1];
        let mut array = PfnArray::new(PageIndex::new(1 << 18), &mut pfns);
        array
            .mapped(run(1 << 18, 1 << 18, 18, Memory::System))
            .unwrap();
        let PageState::Mapped { order, pfn, .. } = array.at(PageIndex::new(1 << 18)) else {
            panic!("not mapped");
        };
        assert_eq!((order, pfn.get()), (18, 1000 + (1 << 18)));
    }
}
