// SPDX-License-Identifier: GPL-2.0

//! Where a walk puts what it finds: [`crate::runs`], [`crate::pfn_array`] or [`crate::pmd_pages`].

use core::iter::FusedIterator;

use crate::addr::{PageIndex, PageRange};
use crate::pfn::Pfn;
use crate::run::Run;

/// No room for more: the caller uses the result and walks on from where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Where a walk puts what it finds, in ascending order.
pub trait Collect {
    /// Adds pages that the device can use. Without room for them, the walk ends before them.
    ///
    /// # Errors
    ///
    /// [`Full`].
    fn mapped(&mut self, run: Run) -> Result<(), Full>;

    /// Adds the pages of one entry, and those of the entries that follow it: each maps `1 << first.order` pages
    /// with the rights of `first`; `following` yields their frames.
    ///
    /// The same as a call of [`Collect::mapped`] for each entry; an implementation can be faster.
    fn entries(&mut self, first: Run, following: impl FusedIterator<Item = Pfn>) -> Taken {
        one_by_one(self, first, following)
    }

    /// Reports pages that no device can ever use.
    fn unusable(&mut self, pages: PageRange) {
        let _ = pages;
    }

    /// The CPU's fault handler has been called: not all pages were resident.
    fn handler_called(&mut self) {}

    /// Removes everything: the walk is repeated.
    fn clear(&mut self);
}

/// [`Collect::entries`] by calls of [`Collect::mapped`].
pub(crate) fn one_by_one<C: Collect + ?Sized>(
    collect: &mut C,
    first: Run,
    mut following: impl FusedIterator<Item = Pfn>,
) -> Taken {
    let mut taken = 0;
    let mut run = first;
    while collect.mapped(run).is_ok() {
        taken += 1;
        match following.next() {
            Some(pfn) => run = run.next_entry(pfn),
            None => return Taken { taken, full: false },
        }
    }
    Taken { taken, full: true }
}

/// The first page that the device can use, and no more: a walk ends there.
#[derive(Clone, Copy, Debug, Default)]
pub struct First(Option<PageIndex>);

impl First {
    /// The page. That of an entry which begins before the walk is the entry's first.
    pub fn page(&self) -> Option<PageIndex> {
        self.0
    }
}

impl Collect for First {
    fn mapped(&mut self, run: Run) -> Result<(), Full> {
        match self.0 {
            Some(_) => Err(Full),
            None => {
                self.0 = Some(run.start);
                Ok(())
            }
        }
    }

    fn clear(&mut self) {
        self.0 = None;
    }
}

/// How many entries there was room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many entries were taken, from the first one on.
    pub taken: u64,
    /// Whether there is no room for the next one.
    pub full: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_page_is_all_that_is_taken() {
        let run = Run {
            start: PageIndex::new(7),
            pfn: Pfn::new(100),
            pages: 1,
            ..Run::NONE
        };
        let mut first = First::default();
        assert_eq!(first.page(), None);
        // Those that follow are contiguous, and one run for others.
        let following = (101..200).map(Pfn::new);
        let taken = Taken {
            taken: 1,
            full: true,
        };
        assert_eq!(first.entries(run, following.fuse()), taken);
        assert_eq!(first.page(), Some(PageIndex::new(7)));
        assert_eq!(first.mapped(run), Err(Full));
        first.clear();
        assert_eq!(first.page(), None);
    }
}
