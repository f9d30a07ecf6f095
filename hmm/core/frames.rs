// SPDX-License-Identifier: GPL-2.0

//! The free pages of a device's memory.
//!
//! The memory is cut into PMDs, of [`PMD_PAGES`] pages each. Single pages are taken from a PMD that is partly in use while
//! there is one, so that whole PMDs stay free.

use core::ops::DerefMut;

use crate::addr::PMD_PAGES;

const WORDS: usize = PMD_PAGES as usize / u64::BITS as usize;

/// The pages of one PMD: a bit is set while its page is in use.
#[derive(Clone, Debug, Default)]
pub struct PmdBitmap {
    words: [u64; WORDS],
    used: u32,
}

impl PmdBitmap {
    fn is_full(&self) -> bool {
        self.used == PMD_PAGES as u32
    }

    fn take_one(&mut self) -> Option<u64> {
        let word = self.words.iter().position(|word| *word != u64::MAX)?;
        let bit = self.words[word].trailing_ones();
        self.words[word] |= 1 << bit;
        self.used += 1;
        Some(word as u64 * u64::from(u64::BITS) + u64::from(bit))
    }

    /// Whether `page` was in use.
    fn give_one(&mut self, page: u64) -> bool {
        let (word, bit) = (page / u64::from(u64::BITS), page % u64::from(u64::BITS));
        let Some(word) = self.words.get_mut(word as usize) else {
            return false;
        };
        let was_used = *word & (1 << bit) != 0;
        *word &= !(1 << bit);
        self.used -= u32::from(was_used);
        was_used
    }

    fn fill(&mut self) {
        (self.words, self.used) = ([u64::MAX; WORDS], PMD_PAGES as u32);
    }
}

/// The pages of a device's memory, numbered from 0.
///
/// `S` holds the PMDs: a vector of the kernel's or of the standard library.
#[derive(Debug)]
pub struct Frames<S> {
    pmds: S,
    used: u64,
    /// No PMD before this one has a free page.
    first_open: usize,
}

impl<S: DerefMut<Target = [PmdBitmap]>> Frames<S> {
    /// The pages of `pmds`, which are new: all free.
    pub fn new(pmds: S) -> Self {
        Self {
            pmds,
            used: 0,
            first_open: 0,
        }
    }

    /// How many pages are in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Takes one page.
    pub fn take(&mut self) -> Option<u64> {
        let open = self.pmds.get(self.first_open..)?;
        let begun = open.iter().position(|pmd| pmd.used > 0 && !pmd.is_full());
        let index = begun.or_else(|| open.iter().position(|pmd| pmd.used == 0));
        let index = self.first_open + index?;
        let page = self.pmds.get_mut(index)?.take_one()?;
        self.used += 1;
        while self
            .pmds
            .get(self.first_open)
            .is_some_and(PmdBitmap::is_full)
        {
            self.first_open += 1;
        }
        Some(index as u64 * PMD_PAGES + page)
    }

    /// Takes a whole PMD; returns its first page.
    pub fn take_pmd(&mut self) -> Option<u64> {
        let index = self.pmds.iter().position(|pmd| pmd.used == 0)?;
        self.pmds.get_mut(index)?.fill();
        self.used += PMD_PAGES;
        Some(index as u64 * PMD_PAGES)
    }

    /// Frees `pages` pages from `first` on, however they were taken. Pages that are free already, or do not exist,
    /// are ignored.
    pub fn give(&mut self, first: u64, pages: u64) {
        for page in first..first.saturating_add(pages) {
            let index = (page / PMD_PAGES) as usize;
            let Some(pmd) = self.pmds.get_mut(index) else {
                return;
            };
            if pmd.give_one(page % PMD_PAGES) {
                self.used -= 1;
                self.first_open = self.first_open.min(index);
            }
        }
    }

    /// The first page of the first PMD from `page`'s on that has pages in use.
    pub fn used_pmd_from(&self, page: u64) -> Option<u64> {
        let from = (page / PMD_PAGES) as usize;
        let pmds = self.pmds.get(from..)?;
        let index = pmds.iter().position(|pmd| pmd.used > 0)?;
        Some((from + index) as u64 * PMD_PAGES)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn frames(pmds: usize) -> Frames<Vec<PmdBitmap>> {
        Frames::new(vec![PmdBitmap::default(); pmds])
    }

    #[test]
    fn every_page_is_taken_once() {
        let mut frames = frames(2);
        let pages: BTreeSet<u64> = core::iter::from_fn(|| frames.take()).collect();
        assert_eq!(pages.len() as u64, 2 * PMD_PAGES);
        assert_eq!(pages.last(), Some(&(2 * PMD_PAGES - 1)));
        assert_eq!(frames.take_pmd(), None);
        frames.give(7, 1);
        assert_eq!((frames.take(), frames.take()), (Some(7), None));
    }

    #[test]
    fn single_pages_leave_pmds_whole() {
        let mut frames = frames(3);
        let first = frames.take().unwrap();
        let pmd = frames.take_pmd().unwrap();
        let second = frames.take().unwrap();
        assert_eq!(first / PMD_PAGES, second / PMD_PAGES);
        assert_ne!(first / PMD_PAGES, pmd / PMD_PAGES);
        assert!(frames.take_pmd().is_some());
        assert_eq!(frames.take_pmd(), None);
        assert!(frames.take().is_some());
    }

    #[test]
    fn a_pmd_comes_back_in_pieces() {
        let mut frames = frames(1);
        let pmd = frames.take_pmd().unwrap();
        for page in 0..PMD_PAGES {
            assert_eq!(frames.take_pmd(), None);
            frames.give(pmd + page, 1);
            // Twice makes no difference.
            frames.give(pmd + page, 1);
        }
        assert_eq!(frames.used(), 0);
        assert_eq!(frames.take_pmd(), Some(pmd));
    }

    #[test]
    fn used_pmds_are_found() {
        let mut frames = frames(3);
        assert_eq!(frames.used_pmd_from(0), None);
        let pmds: Vec<_> = core::iter::from_fn(|| frames.take_pmd()).collect();
        frames.give(pmds[0], PMD_PAGES);
        frames.give(pmds[1], PMD_PAGES - 1);
        assert_eq!(frames.used_pmd_from(0), Some(pmds[1]));
        assert_eq!(frames.used_pmd_from(pmds[2] + 5), Some(pmds[2]));
        assert_eq!(frames.used_pmd_from(3 * PMD_PAGES), None);
    }

    #[test]
    fn what_does_not_exist_is_not_given_back() {
        let mut frames = frames(1);
        frames.take().unwrap();
        frames.give(PMD_PAGES, 5);
        frames.give(u64::MAX, 5);
        assert_eq!(frames.used(), 1);
    }
}
