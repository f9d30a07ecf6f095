// SPDX-License-Identifier: GPL-2.0

//! A migration in progress: the kernel has removed the pages from the page tables and has not yet put them, or their
//! replacements, back.
//!
//! The kernel describes each page of the range by a word, and expects one word for each replacement:
//! the frame, shifted, and flags. A huge page is described by its first word alone.
//!
//! Kernel header: `include/linux/migrate.h`; `mm/migrate_device.c` says what the words mean.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::error::to_result;
use kernel::mm::virt::VmaRef;
use kernel::prelude::*;

use crate::addr::{PageIndex, PageRange, PMD_ORDER, PMD_PAGES};
use crate::device_shim as shim;
use crate::pfn::{Owner, Pfn};

const VALID: usize = shim::MIGRATE_PFN_VALID as usize;
const MIGRATE: usize = shim::MIGRATE_PFN_MIGRATE as usize;
const COMPOUND: usize = shim::MIGRATE_PFN_COMPOUND as usize;
const SHIFT: u32 = shim::MIGRATE_PFN_SHIFT;

/// The words for as many pages as one migration takes on: a huge page.
pub(super) const WORDS: usize = 2 * PMD_PAGES as usize;

/// What becomes of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Huge {
    /// They move as they are, if there is a huge page free at the other end.
    Whole,
    /// They become small pages.
    Split,
}

/// What is migrated.
#[derive(Clone, Copy)]
pub(super) enum What {
    /// Pages of system memory, and addresses that have none yet.
    System,
    /// Pages on the owner's device.
    Device,
}

/// Why pages migrate.
pub(super) enum Reason {
    /// A driver. Huge pages that it wants split are small ones, for all their processes, before they
    /// are taken out of the page tables.
    Wish(Huge),
    /// The CPU, which faulted at this page; the caller has locked it. Huge pages stay whole.
    Fault(NonNull<bindings::page>),
}

/// A migration under way. The pages are locked and the CPU cannot reach them, so that what they hold
/// stays as it is.
///
/// Dropping it ends the migration: pages that [`Migration::commit`] moved are mapped at their new
/// place, all others where they were, and replacements that were not needed are freed.
///
/// # Invariants
///
/// - `src` and `dst` are as long as the range has pages, and are what the kernel was told.
/// - A non-zero word in `dst` owns a locked folio with a reference.
pub(super) struct Migration<'a> {
    // `None` if the range is one of frames.
    args: Option<shim::migrate_vma>,
    area: Option<(&'a VmaRef, PageIndex)>,
    // The flags of words that matter. Addresses without a page, which the kernel always offers, only
    // do on the way to the device.
    wanted: usize,
    src: &'a mut [usize],
    dst: &'a mut [usize],
    committed: bool,
}

/// Pages that move together or not at all.
#[derive(Clone, Copy)]
pub(super) struct Item {
    at: usize,
    order: u32,
    /// The first of them; `None` if there is nothing yet, which counts as zeroes.
    pub(super) source: Option<Pfn>,
}

impl Item {
    pub(super) fn order(&self) -> u32 {
        self.order
    }

    pub(super) fn pages(&self) -> u64 {
        1 << self.order
    }

    pub(super) fn is_huge(&self) -> bool {
        self.order > 0
    }

    /// The first of the pages alone.
    pub(super) fn first_piece(self) -> Self {
        Self { order: 0, ..self }
    }
}

impl<'a> Migration<'a> {
    /// Takes `range`, which is part of `area`, out of the page tables. `words` has two words for each
    /// of its pages.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the area has no pages that could migrate: huge pages of hugetlbfs, devices.
    pub(super) fn of_area(
        words: &'a mut [usize],
        area: &'a VmaRef,
        range: PageRange,
        what: What,
        owner: Owner,
        reason: Reason,
    ) -> Result<Self> {
        words.fill(0);
        let (src, dst) = halves(words, range.len() as usize)?;
        let (flags, wanted) = match what {
            What::System => (
                shim::migrate_vma_direction_MIGRATE_VMA_SELECT_SYSTEM,
                MIGRATE,
            ),
            What::Device => (
                shim::migrate_vma_direction_MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
                MIGRATE | VALID,
            ),
        };
        let (fault_page, whole) = match reason {
            Reason::Wish(huge) => (core::ptr::null_mut(), huge == Huge::Whole),
            Reason::Fault(page) => (page.as_ptr(), true),
        };
        let compound = match whole {
            true => shim::migrate_vma_direction_MIGRATE_VMA_SELECT_COMPOUND,
            false => 0,
        };
        let mut args = shim::migrate_vma {
            vma: area.as_ptr(),
            start: range.start().addr() as usize,
            end: range.end().addr() as usize,
            flags: (flags | compound) as usize,
            pgmap_owner: owner.identity() as *mut _,
            fault_page,
            src: src.as_mut_ptr(),
            dst: dst.as_mut_ptr(),
            ..Default::default()
        };
        // SAFETY: `area` is borrowed, so the mmap lock is held; there are words for every page.
        to_result(unsafe { shim::migrate_vma_setup(&mut args) })?;
        // INVARIANT: As just told; `dst` is all zero.
        Ok(Self {
            args: Some(args),
            area: Some((area, range.start())),
            wanted,
            src,
            dst,
            committed: false,
        })
    }

    /// Takes the `pages` device frames from `first` on out of all page tables, those that are used.
    ///
    /// # Safety
    ///
    /// They are frames of a pool that stays until the result is gone.
    pub(super) unsafe fn of_frames(words: &'a mut [usize], first: Pfn, pages: u64) -> Result<Self> {
        words.fill(0);
        let (src, dst) = halves(words, pages as usize)?;
        // SAFETY: By the contract they have a `struct page` each; `src` has a word for each.
        let result = unsafe {
            shim::migrate_device_range(src.as_mut_ptr(), first.get() as usize, pages as usize)
        };
        to_result(result)?;
        // INVARIANT: As just told; `dst` is all zero.
        Ok(Self {
            args: None,
            area: None,
            wanted: MIGRATE | VALID,
            src,
            dst,
            committed: false,
        })
    }

    /// The first thing that can migrate, from the item after `last` on.
    pub(super) fn next(&self, last: Option<Item>) -> Option<Item> {
        let from = last.map_or(0, |last| last.at + last.pages() as usize);
        let rest = self.src.get(from..)?;
        let wanted = |word: &usize| word & self.wanted == self.wanted;
        let at = from + rest.iter().position(wanted)?;
        let word = self.src[at];
        let order = if word & COMPOUND != 0 { PMD_ORDER } else { 0 };
        // Only folios of a PMD's size and single pages get here; nothing else would fit.
        (at + (1 << order) <= self.src.len()).then_some(Item {
            at,
            order,
            source: (word & VALID != 0).then_some(Pfn::new((word >> SHIFT) as u64)),
        })
    }

    /// The area and the address that `item` is at, if it has one.
    pub(super) fn place_of(&self, item: &Item) -> Option<(&VmaRef, PageIndex)> {
        self.area
            .map(|(area, start)| (area, start.saturating_add(item.at as u64)))
    }

    /// Offers a replacement for an item, which must have the same size.
    ///
    /// The first small page in place of a huge one is an offer that the kernel has to refuse, as it does
    /// while a fault has a reference: it would split the page for one of its processes, and map the
    /// small one where the others have the huge one.
    pub(super) fn replace(&mut self, item: &Item, by: NewFolio) {
        assert!(item.order == by.order);
        // INVARIANT: The word takes the folio over.
        self.dst[item.at] = by.into_word();
    }

    /// Moves what has a replacement; returns how many pages moved.
    pub(super) fn commit(mut self) -> u64 {
        self.committed = true;
        let (src, dst) = (self.src.as_mut_ptr(), self.dst.as_mut_ptr());
        match &mut self.args {
            Some(args) => {
                (args.src, args.dst) = (src, dst);
                // SAFETY: Set up by `of_area` with these words; the mmap lock is still held.
                unsafe { shim::migrate_vma_pages(args) }
            }
            // SAFETY: Set up by `of_frames` with these words.
            None => unsafe { shim::migrate_device_pages(src, dst, self.src.len()) },
        }
        let moved = |(src, dst): (&usize, &usize)| match (src & MIGRATE, dst & VALID) {
            (0, _) | (_, 0) => 0,
            _ if dst & COMPOUND != 0 => PMD_PAGES,
            _ => 1,
        };
        self.src.iter().zip(self.dst.iter()).map(moved).sum()
    }
}

impl Drop for Migration<'_> {
    fn drop(&mut self) {
        if !self.committed {
            // The kernel would map them, though nothing has moved.
            for word in self.dst.iter_mut() {
                drop(NewFolio::from_word(core::mem::take(word)));
            }
        }
        let (src, dst) = (self.src.as_mut_ptr(), self.dst.as_mut_ptr());
        match &mut self.args {
            Some(args) => {
                (args.src, args.dst) = (src, dst);
                // SAFETY: Set up by `of_area` with these words; the mmap lock is still held. A word
                // without a replacement puts its page back.
                unsafe { shim::migrate_vma_finalize(args) }
            }
            // SAFETY: Set up by `of_frames` with these words.
            None => unsafe { shim::migrate_device_finalize(src, dst, self.src.len()) },
        }
    }
}

fn halves(words: &mut [usize], pages: usize) -> Result<(&mut [usize], &mut [usize])> {
    let (src, dst) = words.split_at_mut_checked(words.len() / 2).ok_or(EINVAL)?;
    let src = src.get_mut(..pages).ok_or(EINVAL)?;
    let dst = dst.get_mut(..pages).ok_or(EINVAL)?;
    Ok((src, dst))
}

/// A folio that is to replace another in a migration. Dropping it frees it.
///
/// # Invariants
///
/// `folio` has `1 << order` pages, is locked by us and has a reference that is ours.
pub(super) struct NewFolio {
    folio: NonNull<bindings::folio>,
    order: u32,
}

impl NewFolio {
    /// Takes over a folio that was just made.
    ///
    /// # Safety
    ///
    /// It has `1 << order` pages, is locked by the caller and has a reference of the caller's, both
    /// of which the caller gives away.
    pub(super) unsafe fn new(folio: NonNull<bindings::folio>, order: u32) -> Self {
        // INVARIANT: By the contract.
        Self { folio, order }
    }

    /// A folio of system memory, for the place that it is going to be mapped at if that is known.
    pub(super) fn system(place: Option<(&VmaRef, PageIndex)>, order: u32) -> Result<Self> {
        let (area, address) = match place {
            Some((area, page)) => (area.as_ptr(), page.addr() as usize),
            None => (core::ptr::null_mut(), 0),
        };
        // SAFETY: `area` is null, or borrowed and so an area under the mmap lock.
        let folio = unsafe { shim::hmm_shim_system_folio(area, address, order) };
        let folio = NonNull::new(folio).ok_or(ENOMEM)?;
        // SAFETY: The shim returns it locked and with one reference.
        Ok(unsafe { Self::new(folio, order) })
    }

    /// The first of its pages.
    pub(super) fn pfn(&self) -> Pfn {
        // SAFETY: A live folio, by the type invariant.
        Pfn::new(unsafe { shim::hmm_shim_folio_pfn(self.folio.as_ptr()) } as u64)
    }

    fn into_word(self) -> usize {
        let compound = if self.order > 0 { COMPOUND } else { 0 };
        let word = (self.pfn().get() as usize) << SHIFT | VALID | compound;
        core::mem::forget(self);
        word
    }

    /// What [`Self::into_word`] made a word of.
    fn from_word(word: usize) -> Option<Self> {
        if word & VALID == 0 {
            return None;
        }
        let order = if word & COMPOUND != 0 { PMD_ORDER } else { 0 };
        // SAFETY: Arithmetic on the frame number only.
        let page = unsafe { crate::shim::hmm_shim_pfn_to_page(word >> SHIFT) };
        // SAFETY: The word owns the folio that the page is the first one of.
        let folio = unsafe { shim::hmm_shim_page_folio(page) };
        // INVARIANT: The word's folio is locked and referenced, and now ours.
        NonNull::new(folio).map(|folio| Self { folio, order })
    }
}

impl Drop for NewFolio {
    fn drop(&mut self) {
        // SAFETY: Locked by us and referenced, by the type invariant.
        unsafe { bindings::folio_unlock(self.folio.as_ptr()) };
        // SAFETY: The reference is ours.
        unsafe { shim::hmm_shim_folio_put(self.folio.as_ptr()) };
    }
}
