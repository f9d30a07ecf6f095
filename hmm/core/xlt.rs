// SPDX-License-Identifier: GPL-2.0

//! The translation table of one chunk of address space: what the device may use without a fault.
//!
//! The table follows the CPU's page table. What a PMD entry maps as one huge page is one [`Slot`] here.
//! Otherwise the PMD has a slot for each page, in memory that is allocated with the first page and freed
//! with the last ([`Pages`]). A chunk of huge pages has no memory for single ones.
//!
//! [`Xlt::translate`] is the warm path. It takes `&self`: readers share it under a shared lock. All other
//! functions take `&mut self`, so the exclusive lock is in the signature. Memory comes from [`Room`], as an
//! allocation under a spinlock must not sleep.
//!
//! mlx5 calls its tables of translations XLTs; hence the name.

use core::ops::DerefMut;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{pmd_range, PageIndex, PageRange, PMD_ORDER, PMD_PAGES};
use crate::pfn::{Access, Memory, Perm, Pfn};
use crate::pfn_array::{HmmPfn, PfnSlice, PFN_SHIFT, VALID, WRITABLE};
use crate::run::Run;

/// A translation: 0, or the frame and the rights of an [`HmmPfn`], and whether the device wrote and has used it.
#[derive(Debug, Default)]
pub struct Slot(AtomicU64);

/// The device wrote through this translation. No [`HmmPfn`] has this bit.
const WRITTEN: u64 = 1 << 2;
/// In place of [`VALID`]: the page was taken along by a fault on another one, and the device has not used it yet. No
/// translation of an [`HmmPfn`] has this bit.
const UNUSED: u64 = 1 << 3;
/// There is a translation. While it is used for the first time it may have both.
const PRESENT: u64 = VALID | UNUSED;

impl Slot {
    /// The frame if `access` is allowed; records a write. `None` of what was taken along, until its first use.
    #[inline]
    fn translate(&self, access: Access) -> Option<Pfn> {
        // Relaxed: every caller holds the lock, which orders the slot against fill and zap.
        let value = self.0.load(Ordering::Relaxed);
        if value & VALID == 0 {
            return None;
        }
        if access == Access::Write {
            if value & WRITABLE == 0 {
                return None;
            }
            if value & WRITTEN == 0 {
                self.0.fetch_or(WRITTEN, Ordering::Relaxed);
            }
        }
        Some(Pfn::new(value >> PFN_SHIFT))
    }

    /// Enters the page `found`, unless there is a translation; the device has not asked for it. Returns whether it was
    /// entered.
    fn take_along(&mut self, found: HmmPfn, limit: Perm) -> bool {
        let slot = self.0.get_mut();
        let translation = found.translation(limit);
        let is_new = *slot & PRESENT == 0 && translation & VALID != 0;
        if is_new {
            *slot = translation ^ PRESENT;
        }
        is_new
    }

    /// Makes what was taken along a translation like any other; returns whether it was taken along: of several first uses
    /// at once, one is told so.
    fn first_use(&self) -> bool {
        // Relaxed, as above.
        if self.0.load(Ordering::Relaxed) & UNUSED == 0 {
            return false;
        }
        self.0.fetch_or(VALID, Ordering::Relaxed);
        self.0.fetch_and(!UNUSED, Ordering::Relaxed) & UNUSED != 0
    }

    /// Enters the page `found`, with no more rights than `limit`; returns whether there was no translation before.
    #[inline]
    fn fill(&mut self, found: HmmPfn, limit: Perm) -> bool {
        let slot = self.0.get_mut();
        let old = *slot;
        // The mark of a write stays until the slot is zapped, also if the page is entered again.
        *slot = found.translation(limit) | (old & WRITTEN);
        old & PRESENT == 0
    }

    /// Removes the translation; returns its frame and whether the device wrote there.
    fn zap(&mut self) -> Option<(Pfn, bool)> {
        let old = core::mem::take(self.0.get_mut());
        (old & PRESENT != 0).then_some((Pfn::new(old >> PFN_SHIFT), old & WRITTEN != 0))
    }

    /// Removes the right to write. If there was one, now or when the device wrote, returns the frame and whether
    /// the device wrote.
    fn write_protect(&mut self) -> Option<(Pfn, bool)> {
        let slot = self.0.get_mut();
        let old = *slot;
        *slot = old & !(WRITABLE | WRITTEN);
        let affected = old & (WRITABLE | WRITTEN) != 0;
        affected.then_some((Pfn::new(old >> PFN_SHIFT), old & WRITTEN != 0))
    }

    /// The frame and the rights.
    #[inline]
    fn get(&self) -> Option<(Pfn, Perm)> {
        let value = self.0.load(Ordering::Relaxed);
        let perm = Perm::from_writable(value & WRITABLE != 0);
        (value & PRESENT != 0).then_some((Pfn::new(value >> PFN_SHIFT), perm))
    }
}

/// The single pages of one PMD. `B` holds one slot for each page of it.
#[derive(Debug)]
pub struct Pages<B> {
    /// The slots, if any of them has a translation.
    slots: Option<B>,
    /// How many have one.
    used: u64,
}

impl<B> Default for Pages<B> {
    fn default() -> Self {
        Self {
            slots: None,
            used: 0,
        }
    }
}

/// Allocates memory for translations, filled with defaults.
pub trait Room<P, B> {
    /// Room for the [`Pages`] of `pmds` PMDs.
    fn pages(&mut self, pmds: usize) -> Option<P>;

    /// Room for `pages` [`Slot`]s.
    fn slots(&mut self, pages: u64) -> Option<B>;
}

/// Allocates nothing.
pub struct NoRoom;

impl<P, B> Room<P, B> for NoRoom {
    fn pages(&mut self, _pmds: usize) -> Option<P> {
        None
    }

    fn slots(&mut self, _pages: u64) -> Option<B> {
        None
    }
}

/// The translations of the pages in a range.
///
/// `H` holds a slot for each PMD, for huge entries; `P`, once it is needed, the [`Pages`] of each PMD; `B`
/// the slots of one: kernel boxes in the module, `Vec`s in tests.
#[derive(Debug)]
pub struct Xlt<H, P> {
    range: PageRange,
    huge: H,
    pages: Option<P>,
    /// How many pages have a translation. No table has 2^32 of them.
    used: u32,
    /// How many slots for single pages there are.
    slots: u32,
}

/// The result of [`Xlt::fill`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// How many pages had no translation before.
    pub added: u64,
    /// Whether pages were left out for lack of room.
    pub left_out: bool,
}

/// How many PMDs it takes to cover `range`.
#[inline]
pub fn pmds_in(range: PageRange) -> u64 {
    match range.is_empty() {
        true => 0,
        false => {
            (pmd_number(PageIndex::new(range.end().get() - 1)) - pmd_number(range.start())) + 1
        }
    }
}

#[inline]
fn pmd_number(page: PageIndex) -> u64 {
    page.get() >> PMD_ORDER
}

impl<H, P, B> Xlt<H, P>
where
    H: DerefMut<Target = [Slot]>,
    P: DerefMut<Target = [Pages<B>]>,
    B: DerefMut<Target = [Slot]>,
{
    /// A table of the pages in `range`; `huge` has as many slots as [`pmds_in`] says.
    pub fn new(range: PageRange, huge: H) -> Self {
        Self {
            range,
            huge,
            pages: None,
            used: 0,
            slots: 0,
        }
    }

    /// Whether there is no translation.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// How many bytes the translations take, those of `self` not among them.
    pub fn memory(&self) -> usize {
        let pmds = self.pages.as_ref().map_or(0, |pages| pages.len());
        let slots = self.huge.len() + self.slots as usize;
        pmds * size_of::<Pages<B>>() + slots * size_of::<Slot>()
    }

    /// The pages that the table can hold.
    #[inline]
    pub fn range(&self) -> PageRange {
        self.range
    }

    #[inline]
    fn pmd_index(&self, page: PageIndex) -> Option<usize> {
        if !self.range.contains(page) {
            return None;
        }
        let first = pmd_number(self.range.start());
        usize::try_from(pmd_number(page).wrapping_sub(first)).ok()
    }

    /// The index of `page` among the slots of `pmd`, which it is in.
    #[inline]
    fn slot_index(&self, pmd: usize, page: PageIndex) -> usize {
        let index = match pmd {
            // The range may begin inside of it, and so do the slots.
            0 => page.get().wrapping_sub(self.range.start().get()),
            _ => page.get() % PMD_PAGES,
        };
        index as usize
    }

    #[inline]
    fn pages_of(&self, pmd: usize) -> Option<&B> {
        self.pages.as_ref()?.get(pmd)?.slots.as_ref()
    }

    /// The pages of this table in the PMD of `page`.
    pub fn part_around(&self, page: PageIndex) -> PageRange {
        pmd_range(page).intersection(&self.range)
    }

    /// Whether there is room for the [`Pages`] of the PMDs.
    pub fn has_pages(&self) -> bool {
        self.pages.is_some()
    }

    /// Whether single pages of the PMD of `page` can be entered without new slots.
    pub fn has_slots(&self, page: PageIndex) -> bool {
        let pmd = self.pmd_index(page);
        pmd.is_some_and(|pmd| self.pages_of(pmd).is_some())
    }

    /// The frame of `page` if its translation allows `access`; records a write. `None` also if the page was taken along
    /// ([`Xlt::take_along`]), until its [first use](Xlt::first_use).
    #[inline]
    pub fn translate(&self, page: PageIndex, access: Access) -> Option<Pfn> {
        let pmd = self.pmd_index(page)?;
        let start = pmd_range(page).start().get();
        if let Some(pfn) = self.huge.get(pmd)?.translate(access) {
            return Some(pfn.add(page.get() - start));
        }
        let slots = self.pages_of(pmd)?;
        slots.get(self.slot_index(pmd, page))?.translate(access)
    }

    /// Makes a page that was taken along, for which [`Xlt::translate`] has said `None`, one like any other. Returns whether
    /// it was taken along: of several first uses at once, one is told so.
    pub fn first_use(&self, page: PageIndex) -> bool {
        let slots = self.pmd_index(page).and_then(|pmd| {
            let slots = self.pages_of(pmd)?;
            slots.get(self.slot_index(pmd, page))
        });
        slots.is_some_and(Slot::first_use)
    }

    /// The frame of `page` and the device's rights, if there is a translation. Records nothing.
    pub fn get(&self, page: PageIndex) -> Option<(Pfn, Perm)> {
        let pmd = self.pmd_index(page)?;
        let start = pmd_range(page).start().get();
        if let Some((first, perm)) = self.huge.get(pmd)?.get() {
            return Some((first.add(page.get() - start), perm));
        }
        self.pages_of(pmd)?.get(self.slot_index(pmd, page))?.get()
    }

    /// Whether any page of `range` has a translation.
    pub fn has_any(&self, range: PageRange) -> bool {
        let mut any = false;
        if !self.is_empty() {
            self.each_run(range, |_| any = true);
        }
        any
    }

    /// The pages of `range` in the table, and all pages of huge entries that are partly among them.
    pub fn whole(&self, range: PageRange) -> PageRange {
        let range = range.intersection(&self.range);
        if range.is_empty() {
            return range;
        }
        let entry = |page| {
            let huge = self.pmd_index(page).is_some_and(|pmd| self.has_huge(pmd));
            match huge {
                true => self.part_around(page),
                false => range,
            }
        };
        let (first, last) = (range.start(), PageIndex::new(range.end().get() - 1));
        let (start, end) = (entry(first).start(), entry(last).end());
        PageRange::new(start.min(first), end.max(range.end()))
    }

    /// Calls `visit` with the translations of `range`, in ascending order: huge entries one by one, and all of each
    /// that is partly in it; single pages of neighbouring frames with the same rights together.
    pub fn each_run(&self, range: PageRange, mut visit: impl FnMut(&Run)) {
        let range = range.intersection(&self.range);
        let run = |start, pages, order, (pfn, perm)| Run {
            start,
            pfn,
            pages,
            perm,
            order,
            memory: Memory::System,
        };
        let mut page = range.start();
        while page < range.end() {
            let part = self.part_around(page);
            let hit = part.intersection(&range);
            let Some(pmd) = self.pmd_index(page) else {
                break;
            };
            if self.has_huge(pmd) {
                if let Some(found) = self.get(part.start()) {
                    visit(&run(part.start(), part.len(), PMD_ORDER, found));
                }
            } else if let Some(slots) = self.pages_of(pmd) {
                let mut last = None::<Run>;
                let from = self.slot_index(pmd, hit.start());
                let slots = slots.get(from..from + hit.len() as usize);
                for (page, slot) in (hit.start().get()..).zip(slots.unwrap_or_default()) {
                    let next = slot
                        .get()
                        .map(|found| run(PageIndex::new(page), 1, 0, found));
                    match (&mut last, next) {
                        (Some(last), Some(next)) if last.continued_by(&next) => last.pages += 1,
                        (_, next) => {
                            last.iter().for_each(&mut visit);
                            last = next;
                        }
                    }
                }
                last.iter().for_each(&mut visit);
            }
            page = part.end();
        }
    }

    /// Enters the pages of `run` that the table covers.
    ///
    /// `limit` bounds the device's rights, whatever the CPU's entry allows. Pages without `room` are left out.
    pub fn fill(&mut self, run: &Run, limit: Perm, room: &mut impl Room<P, B>) -> Filled {
        let mut left_out = false;
        let added = self.each_pmd(run.range(), |table, pmd, part, hit| {
            if run.order >= PMD_ORDER && hit == part && table.pages_of(pmd).is_none() {
                return table.fill_huge(pmd, part, run, limit);
            }
            let added = table.fill_pages(pmd, part, run, limit, room);
            left_out |= added.is_none();
            added.unwrap_or(0)
        });
        self.used += added as u32;
        Filled { added, left_out }
    }

    /// Enters the pages of `found`, which are single ones; as [`Xlt::fill`].
    pub fn fill_single(
        &mut self,
        found: PfnSlice<'_>,
        limit: Perm,
        room: &mut impl Room<P, B>,
    ) -> Filled {
        let pages = found.range();
        let mut left_out = false;
        // Most lie in one PMD that has slots.
        let added = self.fill_slots(pages, found.pfns().iter().copied(), limit);
        let added = added.unwrap_or_else(|| {
            self.each_pmd(pages, |table, pmd, part, hit| {
                let pfns = found.pfns_at(hit).iter().copied();
                if !pfns.clone().any(HmmPfn::is_mapped) || table.has_huge(pmd) {
                    return 0;
                }
                let made = table.make_slots(pmd, part, room);
                let added = made.and_then(|()| table.fill_slots(hit, pfns, limit));
                left_out |= added.is_none();
                added.unwrap_or(0)
            })
        });
        self.used += added as u32;
        Filled { added, left_out }
    }

    /// Enters what `found` has for `pages`; returns how many were not there before. `None` if the pages do not
    /// lie in one PMD that has slots.
    #[inline]
    fn fill_slots(
        &mut self,
        pages: PageRange,
        found: impl Iterator<Item = HmmPfn>,
        limit: Perm,
    ) -> Option<u64> {
        let pmd = self.pmd_index(pages.start())?;
        let from = self.slot_index(pmd, pages.start());
        let Pages { slots, used } = self.pages.as_mut()?.get_mut(pmd)?;
        let slots = slots.as_mut()?.get_mut(from..from + pages.len() as usize)?;
        let mut added = 0;
        for (slot, found) in slots.iter_mut().zip(found) {
            if found.is_mapped() {
                added += u64::from(slot.fill(found, limit));
            }
        }
        *used += added;
        Some(added)
    }

    /// Enters those of `found`, single pages in one PMD, that have no translation, if there are slots for them; returns
    /// how many.
    pub fn take_along(&mut self, found: PfnSlice<'_>, limit: Perm) -> u64 {
        let added = self.take_along_in_slots(found, limit).unwrap_or(0);
        self.used += added as u32;
        added
    }

    fn take_along_in_slots(&mut self, found: PfnSlice<'_>, limit: Perm) -> Option<u64> {
        let pages = found.range();
        let pmd = self.pmd_index(pages.start())?;
        let from = self.slot_index(pmd, pages.start());
        let Pages { slots, used } = self.pages.as_mut()?.get_mut(pmd)?;
        let slots = slots.as_mut()?.get_mut(from..from + pages.len() as usize)?;
        let pairs = slots.iter_mut().zip(found.pfns());
        let taken = pairs.filter_map(|(slot, found)| slot.take_along(*found, limit).then_some(()));
        let added = taken.count() as u64;
        *used += added;
        Some(added)
    }

    /// Whether `pmd` has a translation for all of it.
    fn has_huge(&self, pmd: usize) -> bool {
        self.huge.get(pmd).is_some_and(|slot| slot.get().is_some())
    }

    fn fill_huge(&mut self, pmd: usize, part: PageRange, run: &Run, limit: Perm) -> u64 {
        let Some(slot) = self.huge.get_mut(pmd) else {
            return 0;
        };
        // A huge slot holds the frame of the PMD's very first page, which may be outside of the
        // table; entries are aligned to their size, so there is such a frame.
        let start = pmd_range(part.start()).start().get();
        let pfn = Pfn::new(run.pfn.get() + start - run.start.get());
        match slot.fill(HmmPfn::first_of(&Run { pfn, ..*run }), limit) {
            true => part.len(),
            false => 0,
        }
    }

    /// How many single pages were not there before; `None` if there is no room for them.
    fn fill_pages(
        &mut self,
        pmd: usize,
        part: PageRange,
        run: &Run,
        limit: Perm,
        room: &mut impl Room<P, B>,
    ) -> Option<u64> {
        // Splitting a huge entry invalidates it, so it has no translation any more; if only some of
        // its pages are entered anew, it covers them already.
        if self.has_huge(pmd) {
            return Some(0);
        }
        self.make_slots(pmd, part, room)?;
        let covered = run.range().intersection(&part);
        let skipped = covered.start().get() - run.start.get();
        let first = HmmPfn::first_of(run).add(skipped);
        self.fill_slots(covered, first.onwards(), limit)
    }

    /// Makes slots for the single pages of `pmd`, if it has none. `None` if there is no room for them.
    fn make_slots(
        &mut self,
        pmd: usize,
        part: PageRange,
        room: &mut impl Room<P, B>,
    ) -> Option<()> {
        if self.pages.is_none() {
            self.pages = Some(room.pages(self.huge.len())?);
        }
        let pages = self.pages.as_mut()?.get_mut(pmd)?;
        if pages.slots.is_none() {
            pages.slots = Some(room.slots(part.len())?);
            self.slots += part.len() as u32;
        }
        Some(())
    }

    /// Removes the translations of `range`; returns how many pages there were.
    ///
    /// `written` is called for each entry that the device wrote through, once, with the frame of
    /// its first page and log2 of how many pages it has: an entry is a page or a whole huge one. Of a huge entry that
    /// is only partly in `range` the rest stays, as single pages, if there is `room` for them; otherwise it goes as a
    /// whole, and the device will fault the rest in again.
    pub fn zap(
        &mut self,
        range: PageRange,
        room: &mut impl Room<P, B>,
        mut written: impl FnMut(Pfn, u32),
    ) -> u64 {
        // The CPU takes most pages one by one.
        if range.len() == 1 && self.zap_one(range.start(), &mut written).is_some() {
            return 1;
        }
        let zapped = self.each_pmd(range, |table, pmd, part, gone| {
            table.zap_huge(pmd, part, gone, room, &mut written)
                + table.zap_pages(pmd, part, gone, &mut written)
        });
        self.used -= zapped as u32;
        zapped
    }

    /// Removes the translation of `page`, if it is that of a single page and not the last one of its PMD.
    #[inline]
    fn zap_one(&mut self, page: PageIndex, written: &mut impl FnMut(Pfn, u32)) -> Option<()> {
        let pmd = self.pmd_index(page)?;
        let index = self.slot_index(pmd, page);
        let Pages { slots, used } = self.pages.as_mut()?.get_mut(pmd)?;
        let left = used.checked_sub(1).filter(|left| *left > 0)?;
        let (pfn, was_written) = slots.as_mut()?.get_mut(index)?.zap()?;
        *used = left;
        self.used = self.used.wrapping_sub(1);
        if was_written {
            written(pfn, 0);
        }
        Some(())
    }

    fn zap_huge(
        &mut self,
        pmd: usize,
        part: PageRange,
        gone: PageRange,
        room: &mut impl Room<P, B>,
        written: &mut impl FnMut(Pfn, u32),
    ) -> u64 {
        let Some(slot) = self.huge.get_mut(pmd) else {
            return 0;
        };
        let Some((first, perm)) = slot.get() else {
            return 0;
        };
        if let Some((pfn, true)) = slot.zap() {
            written(pfn, PMD_ORDER);
        }
        if gone == part {
            return part.len();
        }
        // It was marked dirty as a whole: the pages that stay are clean.
        let rest = Run {
            start: pmd_range(part.start()).start(),
            pfn: first,
            pages: PMD_PAGES,
            perm,
            order: 0,
            memory: Memory::System,
        };
        let kept = self.fill_pages(pmd, part, &rest, perm, room).unwrap_or(0);
        let mut clean = |_, _| ();
        let zapped = self.zap_pages(pmd, part, gone, &mut clean);
        part.len() - (kept - zapped)
    }

    fn zap_pages(
        &mut self,
        pmd: usize,
        part: PageRange,
        gone: PageRange,
        written: &mut impl FnMut(Pfn, u32),
    ) -> u64 {
        let pages = self.pages.as_mut().and_then(|pages| pages.get_mut(pmd));
        let Some(Pages {
            slots: Some(slots),
            used,
        }) = pages
        else {
            return 0;
        };
        let mut zapped = 0;
        for slot in slots_of(slots, part, gone) {
            if let Some((pfn, was_written)) = slot.zap() {
                zapped += 1;
                if was_written {
                    written(pfn, 0);
                }
            }
        }
        *used -= zapped;
        if *used == 0 {
            if let Some(pages) = pages {
                pages.slots = None;
                self.slots -= part.len() as u32;
            }
        }
        zapped
    }

    /// Removes the right to write from the translations of `range`, and from all of a huge entry that is only
    /// partly in it; returns how many pages had it.
    ///
    /// `written` is called as by [`Xlt::zap`]: the pages are clean from then on.
    pub fn write_protect(&mut self, range: PageRange, mut written: impl FnMut(Pfn, u32)) -> u64 {
        let mut protect = |slot: &mut Slot, pages: u64, order: u32| match slot.write_protect() {
            Some((pfn, was_written)) => {
                if was_written {
                    written(pfn, order);
                }
                pages
            }
            None => 0,
        };
        self.each_pmd(range, |table, pmd, part, hit| {
            let mut protected = 0;
            if let Some(slot) = table.huge.get_mut(pmd) {
                protected += protect(slot, part.len(), PMD_ORDER);
            }
            let pages = table.pages.as_mut().and_then(|pages| pages.get_mut(pmd));
            if let Some(slots) = pages.and_then(|pages| pages.slots.as_mut()) {
                for slot in slots_of(slots, part, hit) {
                    protected += protect(slot, 1, 0);
                }
            }
            protected
        })
    }

    /// Calls `visit` for each PMD that `range` touches, with the pages of the table in it and those
    /// of `range`; returns the sum.
    fn each_pmd(
        &mut self,
        range: PageRange,
        mut visit: impl FnMut(&mut Self, usize, PageRange, PageRange) -> u64,
    ) -> u64 {
        let range = range.intersection(&self.range);
        let mut sum = 0;
        let mut page = range.start();
        while page < range.end() {
            let part = self.part_around(page);
            if let Some(pmd) = self.pmd_index(page) {
                sum += visit(self, pmd, part, part.intersection(&range));
            }
            page = part.end();
        }
        sum
    }
}

/// The slots for the pages of `some` among those for the pages of `part`.
#[inline]
fn slots_of(slots: &mut [Slot], part: PageRange, some: PageRange) -> &mut [Slot] {
    let from = (some.start().get() - part.start().get()) as usize;
    let slots = slots.get_mut(from..from + some.len() as usize);
    slots.unwrap_or_default()
}

#[cfg(test)]
mod tests;
