// SPDX-License-Identifier: GPL-2.0

//! Where a walk puts what it finds: [`crate::runs`], [`crate::pfn_array`] or [`crate::pmd_pages`].

use core::iter::FusedIterator;

use crate::addr::PageRange;
use crate::pfn::Pfn;
use crate::run::Run;

/// No room for another run: the caller uses what is there and walks on from where it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Where a walk puts what it finds, in ascending order.
pub trait Collect {
    /// Pages that the device can use. If there is no room, the walk ends before them.
    fn mapped(&mut self, run: Run) -> Result<(), Full>;

    /// The pages of one entry, and those of the entries that follow it: each of them maps `1 << first.order`
    /// pages, with the rights of `first`, and `following` yields their frames.
    ///
    /// The same as a call of [`Collect::mapped`] for each entry, for whoever can do it faster.
    fn entries(&mut self, first: Run, following: impl FusedIterator<Item = Pfn>) -> Taken {
        one_by_one(self, first, following)
    }

    /// Pages that no device could ever use.
    fn unusable(&mut self, pages: PageRange) {
        let _ = pages;
    }

    /// Forgets everything: the walk begins anew.
    fn clear(&mut self);
}

/// [`Collect::entries`] for whoever cannot do it faster.
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

/// How many entries there was room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Entries that were taken, from the first one on.
    pub taken: u64,
    /// Whether there is no room for the next one.
    pub full: bool,
}
