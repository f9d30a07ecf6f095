// SPDX-License-Identifier: GPL-2.0

//! The result of a walk page by page, for callers that want one word for each page.
//!
//! [`crate::run::Runs`] hold the same in less room; a flat array has room for every page from the
//! start, and tells pages that a fault could bring in from those that no device can ever use.

use core::fmt;
use core::iter::FusedIterator;

use crate::addr::{PageIndex, PageRange};
use crate::pfn::{Memory, Perm, Pfn};
use crate::run::{Full, Run};
use crate::walk::{Collect, Taken};

/// What a walk found for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Nothing that the device could use at the moment. A fault might change that, or find out that it
    /// cannot.
    Absent,
    /// Nothing that a device could ever use: no area, no right to read, device registers.
    Unusable,
    /// A page.
    Mapped {
        /// Its frame.
        pfn: Pfn,
        /// What the CPU's entry allows.
        perm: Perm,
        /// log2 of how many pages the CPU's entry maps.
        order: u32,
        /// Whose memory it is.
        memory: Memory,
    },
}

/// A [`PageState`] in one word.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct PageWord(u64);

const VALID: u64 = 1 << 63;
const WRITABLE: u64 = 1 << 62;
const UNUSABLE: u64 = 1 << 61;
const DEVICE: u64 = 1 << 60;
/// Five bits: entries of up to 2^31 pages.
const ORDER_SHIFT: u32 = 55;
const ORDER_MASK: u64 = 0x1f;
const PFN_MASK: u64 = (1 << ORDER_SHIFT) - 1;

impl PageWord {
    /// A word for [`PageState::Absent`].
    pub const ABSENT: Self = Self(0);
    /// A word for [`PageState::Unusable`].
    pub const UNUSABLE: Self = Self(UNUSABLE);

    /// A word for the first page of `run`.
    #[inline]
    fn first_of(run: &Run) -> Self {
        let mut word = VALID | (run.pfn.get() & PFN_MASK);
        word |= (u64::from(run.order) & ORDER_MASK) << ORDER_SHIFT;
        if run.perm == Perm::ReadWrite {
            word |= WRITABLE;
        }
        if run.memory == Memory::Device {
            word |= DEVICE;
        }
        Self(word)
    }

    /// What it stands for.
    pub fn state(self) -> PageState {
        if self.0 & VALID == 0 {
            return match self.0 & UNUSABLE {
                0 => PageState::Absent,
                _ => PageState::Unusable,
            };
        }
        PageState::Mapped {
            pfn: Pfn::new(self.0 & PFN_MASK),
            perm: Perm::from_writable(self.0 & WRITABLE != 0),
            order: ((self.0 >> ORDER_SHIFT) & ORDER_MASK) as u32,
            memory: match self.0 & DEVICE {
                0 => Memory::System,
                _ => Memory::Device,
            },
        }
    }
}

impl fmt::Debug for PageWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state().fmt(f)
    }
}

/// An array with a word for each page from `start` on. What lies outside of it is left out.
#[derive(Debug)]
pub struct Flat<'a> {
    range: PageRange,
    words: &'a mut [PageWord],
}

impl<'a> Flat<'a> {
    /// The pages from `start`, as many as `words` has room for. What `words` holds is forgotten when a
    /// walk begins.
    pub fn new(start: PageIndex, words: &'a mut [PageWord]) -> Self {
        Self {
            range: PageRange::new(start, start.saturating_add(words.len() as u64)),
            words,
        }
    }

    /// The words.
    pub fn words(&self) -> &[PageWord] {
        self.words
    }

    /// What was found for `page`; `Absent` if it is outside.
    pub fn at(&self, page: PageIndex) -> PageState {
        let index = page.get().checked_sub(self.range.start().get());
        index
            .and_then(|index| self.words.get(usize::try_from(index).ok()?))
            .map_or(PageState::Absent, |word| word.state())
    }

    /// The words of the pages of `pages`, and the first of these pages that there is a word for.
    #[inline]
    fn words_of(&mut self, pages: PageRange) -> (PageIndex, &mut [PageWord]) {
        let part = pages.intersection(&self.range);
        let from = (part.start().get() - self.range.start().get()) as usize;
        let words = self.words.get_mut(from..from + part.len() as usize);
        (part.start(), words.unwrap_or_default())
    }
}

impl Collect for Flat<'_> {
    #[inline]
    fn mapped(&mut self, run: Run) -> Result<(), Full> {
        if run.pages == 1 {
            // The most frequent one.
            let index = run.start.get().wrapping_sub(self.range.start().get());
            if let Some(word) = self.words.get_mut(index as usize) {
                *word = PageWord::first_of(&run);
            }
            return Ok(());
        }
        let (first, words) = self.words_of(run.range());
        let skipped = first.get().saturating_sub(run.start.get());
        let mut word = PageWord::first_of(&Run {
            pfn: run.pfn.add(skipped),
            ..run
        });
        // The frame number is in the low bits.
        for slot in words {
            *slot = word;
            word.0 += 1;
        }
        Ok(())
    }

    #[inline]
    fn entries(&mut self, first: Run, mut behind: impl FusedIterator<Item = Pfn>) -> Taken {
        let _ = self.mapped(first);
        let mut taken = 1;
        let mut run = first;
        if run.order == 0 && self.range.contains(run.range().end()) {
            let flags = PageWord::first_of(&run).0 & !PFN_MASK;
            let rest = PageRange::new(run.range().end(), self.range.end());
            // The words first: when they are at their end, no frame is taken from `behind`.
            for (word, pfn) in self.words_of(rest).1.iter_mut().zip(&mut behind) {
                *word = PageWord(flags | (pfn.get() & PFN_MASK));
                taken += 1;
            }
            run.start = run.start.saturating_add(taken - 1);
        }
        for pfn in behind {
            run = run.next_entry(pfn);
            let _ = self.mapped(run);
            taken += 1;
        }
        Taken { taken, full: false }
    }

    fn unusable(&mut self, pages: PageRange) {
        self.words_of(pages).1.fill(PageWord::UNUSABLE);
    }

    fn clear(&mut self) {
        self.words.fill(PageWord::ABSENT);
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
        let mut words = [PageWord::UNUSABLE; 6];
        let mut flat = Flat::new(PageIndex::new(10), &mut words);
        flat.clear();
        // Reaches over both ends.
        flat.mapped(run(8, 4, 2, Memory::System)).unwrap();
        flat.mapped(run(15, 1, 0, Memory::Device)).unwrap();
        flat.unusable(PageRange::new(PageIndex::new(13), PageIndex::new(14)));
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
            assert_eq!(flat.at(PageIndex::new(page)), want);
        }
        for outside in [9, 16] {
            assert_eq!(flat.at(PageIndex::new(outside)), PageState::Absent);
        }
        flat.mapped(run(0, 3, 0, Memory::System)).unwrap();
        flat.mapped(run(90, 3, 0, Memory::System)).unwrap();
        assert_eq!(flat.at(PageIndex::new(11)), expected[1]);
        flat.clear();
        assert!(flat.words().iter().all(|word| *word == PageWord::ABSENT));
    }

    #[test]
    fn a_page_of_a_gigantic_entry_fits_in_a_word() {
        let mut words = [PageWord::ABSENT; 1];
        let mut flat = Flat::new(PageIndex::new(1 << 18), &mut words);
        flat.mapped(run(1 << 18, 1 << 18, 18, Memory::System))
            .unwrap();
        let PageState::Mapped { order, pfn, .. } = flat.at(PageIndex::new(1 << 18)) else {
            panic!("not mapped");
        };
        assert_eq!((order, pfn.get()), (18, 1000 + (1 << 18)));
    }
}
