// SPDX-License-Identifier: GPL-2.0

//! The translations of one chunk of address space: what the device may use without asking.
//!
//! A chunk is cut into units of [`UNIT_PAGES`] pages. A unit that the CPU maps by one huge entry is
//! one [`Slot`] here too; otherwise it has a slot for each page, in memory that comes with the first
//! page and goes with the last.
//!
//! [`Table::translate`] is the warm path. It takes `&self`, so that many readers share it under a
//! shared lock; filling and zapping take `&mut self`, so the exclusive lock is in the signature.

use core::ops::DerefMut;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{PageIndex, PageRange};
use crate::pfn::{Access, Perm, Pfn};
use crate::run::Run;

/// log2 of [`UNIT_PAGES`]: a unit is what one PMD entry maps, 2 MiB.
pub const UNIT_ORDER: u32 = 9;
/// Pages in a unit.
pub const UNIT_PAGES: u64 = 1 << UNIT_ORDER;

/// A translation: 0, or a frame number, shifted, with flags below it.
#[derive(Debug, Default)]
pub struct Slot(AtomicU64);

const VALID: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
/// The device has written through this translation.
const WRITTEN: u64 = 1 << 2;
const PFN_SHIFT: u32 = 12;

impl Slot {
    /// The frame if `access` is allowed; for a write, remembers that it happened.
    #[inline]
    fn translate(&self, access: Access) -> Option<Pfn> {
        // Relaxed: the lock that every caller holds orders the slot against fill and zap.
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

    /// Enters a translation; returns whether there was none.
    fn fill(&mut self, pfn: Pfn, perm: Perm) -> bool {
        let slot = self.0.get_mut();
        let old = *slot;
        let flags = match perm {
            Perm::ReadWrite => VALID | WRITABLE,
            Perm::ReadOnly => VALID,
        };
        // A page that was written stays so until it is zapped, also if it is entered again.
        *slot = (pfn.get() << PFN_SHIFT) | flags | (old & WRITTEN);
        old & VALID == 0
    }

    /// Removes the translation; returns its frame and whether the device wrote there.
    fn zap(&mut self) -> Option<(Pfn, bool)> {
        let old = core::mem::take(self.0.get_mut());
        (old & VALID != 0).then_some((Pfn::new(old >> PFN_SHIFT), old & WRITTEN != 0))
    }
}

/// The translations of one unit. `B` holds one slot for each page of it.
#[derive(Debug, Default)]
pub enum Unit<B> {
    /// None.
    #[default]
    Empty,
    /// One huge entry; the frame is that of the unit's first page.
    Huge(Slot),
    /// Single pages, `used` of them valid.
    Pages {
        /// The slots.
        slots: B,
        /// How many are valid.
        used: u64,
    },
}

/// The translations of the pages in a range.
///
/// `U` holds the units, `B` the slots of a unit: kernel vectors in the module, `Vec`s in tests.
#[derive(Debug)]
pub struct Table<U> {
    range: PageRange,
    units: U,
}

/// How many units it takes to cover `range`.
pub fn units_in(range: PageRange) -> u64 {
    match range.is_empty() {
        true => 0,
        false => {
            (unit_number(PageIndex::new(range.end().get() - 1)) - unit_number(range.start())) + 1
        }
    }
}

fn unit_number(page: PageIndex) -> u64 {
    page.get() >> UNIT_ORDER
}

/// The pages of the unit that `page` is in.
pub fn unit_around(page: PageIndex) -> PageRange {
    let start = PageIndex::new(unit_number(page) << UNIT_ORDER);
    PageRange::new(start, start.saturating_add(UNIT_PAGES))
}

impl<B, U> Table<U>
where
    B: DerefMut<Target = [Slot]>,
    U: DerefMut<Target = [Unit<B>]>,
{
    /// A table of the pages in `range`, with as many empty units as [`units_in`] says.
    pub fn new(range: PageRange, units: U) -> Self {
        Self { range, units }
    }

    /// The pages that the table can hold.
    #[inline]
    pub fn range(&self) -> PageRange {
        self.range
    }

    #[inline]
    fn unit_index(&self, page: PageIndex) -> Option<usize> {
        if !self.range.contains(page) {
            return None;
        }
        usize::try_from(unit_number(page) - unit_number(self.range.start())).ok()
    }

    fn unit_mut(&mut self, page: PageIndex) -> Option<&mut Unit<B>> {
        let index = self.unit_index(page)?;
        self.units.get_mut(index)
    }

    /// The pages of this table in the unit that `page` is in.
    pub fn part_around(&self, page: PageIndex) -> PageRange {
        unit_around(page).intersection(&self.range)
    }

    /// Whether single pages of the unit that `page` is in can be entered without new slots.
    pub fn has_slots(&self, page: PageIndex) -> bool {
        let unit = self
            .unit_index(page)
            .and_then(|index| self.units.get(index));
        matches!(unit, Some(Unit::Pages { .. }))
    }

    /// The frame of `page` if `access` may go there now; for a write, remembers that it happened.
    #[inline]
    pub fn translate(&self, page: PageIndex, access: Access) -> Option<Pfn> {
        let unit = unit_around(page).start().get();
        match self.units.get(self.unit_index(page)?)? {
            Unit::Empty => None,
            Unit::Huge(slot) => Some(slot.translate(access)?.add(page.get() - unit)),
            Unit::Pages { slots, .. } => {
                let first = unit.max(self.range.start().get());
                slots
                    .get(usize::try_from(page.get() - first).ok()?)?
                    .translate(access)
            }
        }
    }

    /// Enters the pages of `run` that the table covers; returns how many were not there before.
    ///
    /// `limit` is the most that the device is allowed, whatever the CPU's entry allows. A unit that
    /// needs slots and has none takes those in `spare`: fresh ones, one for each of its pages in
    /// [`Table::part_around`]. Without them its pages are left out.
    pub fn fill(&mut self, run: &Run, limit: Perm, spare: &mut Option<B>) -> u64 {
        let perm = match (run.perm, limit) {
            (Perm::ReadWrite, Perm::ReadWrite) => Perm::ReadWrite,
            _ => Perm::ReadOnly,
        };
        let covered = run.range().intersection(&self.range);
        let mut added = 0;
        let mut page = covered.start();
        while page < covered.end() {
            let part = self.part_around(page);
            if let Some(unit) = self.unit_mut(page) {
                added += if run.order >= UNIT_ORDER {
                    fill_huge(unit, part, run, perm)
                } else {
                    fill_pages(unit, part, run, perm, spare)
                };
            }
            page = part.end();
        }
        added
    }

    /// Removes the translations of `range`; returns how many pages there were.
    ///
    /// `written` is called for each entry that the device wrote through, once, with the frame of
    /// its first page: an entry is a page or a whole huge one. A huge entry goes as a whole, also if
    /// only part of it is in `range`.
    pub fn zap(&mut self, range: PageRange, mut written: impl FnMut(Pfn)) -> u64 {
        let range = range.intersection(&self.range);
        let mut zapped = 0;
        let mut page = range.start();
        while page < range.end() {
            let part = self.part_around(page);
            if let Some(unit) = self.unit_mut(page) {
                zapped += zap_unit(unit, part, part.intersection(&range), &mut written);
            }
            page = part.end();
        }
        zapped
    }
}

fn fill_huge<B>(unit: &mut Unit<B>, part: PageRange, run: &Run, perm: Perm) -> u64 {
    // Entries are aligned to their size, so the run covers the unit from its very first page.
    let start = unit_around(part.start()).start();
    let pfn = run.pfn.add(start.get() - run.start.get());
    if let Unit::Huge(slot) = unit {
        return if slot.fill(pfn, perm) { part.len() } else { 0 };
    }
    // It has no pages: making a huge entry of single ones invalidates them.
    debug_assert!(matches!(unit, Unit::Empty));
    let mut slot = Slot::default();
    slot.fill(pfn, perm);
    *unit = Unit::Huge(slot);
    part.len()
}

fn fill_pages<B: DerefMut<Target = [Slot]>>(
    unit: &mut Unit<B>,
    part: PageRange,
    run: &Run,
    perm: Perm,
    spare: &mut Option<B>,
) -> u64 {
    // It is not huge: splitting a huge entry invalidates it.
    debug_assert!(!matches!(unit, Unit::Huge(_)));
    if !matches!(unit, Unit::Pages { .. }) {
        let Some(slots) = spare.take_if(|slots| slots.len() as u64 == part.len()) else {
            return 0;
        };
        *unit = Unit::Pages { slots, used: 0 };
    }
    let Unit::Pages { slots, used } = unit else {
        return 0;
    };
    let covered = run.range().intersection(&part);
    let mut added = 0;
    for page in covered.start().get()..covered.end().get() {
        let pfn = run.pfn.add(page - run.start.get());
        if let Some(slot) = slots.get_mut((page - part.start().get()) as usize) {
            added += u64::from(slot.fill(pfn, perm));
        }
    }
    *used += added;
    added
}

fn zap_unit<B: DerefMut<Target = [Slot]>>(
    unit: &mut Unit<B>,
    part: PageRange,
    gone: PageRange,
    written: &mut impl FnMut(Pfn),
) -> u64 {
    let mut zapped = 0;
    match unit {
        Unit::Empty => return 0,
        Unit::Huge(slot) => {
            if let Some((pfn, was_written)) = slot.zap() {
                zapped = part.len();
                if was_written {
                    written(pfn);
                }
            }
            *unit = Unit::Empty;
        }
        Unit::Pages { slots, used } => {
            for page in gone.start().get()..gone.end().get() {
                let slot = slots.get_mut((page - part.start().get()) as usize);
                if let Some((pfn, was_written)) = slot.and_then(Slot::zap) {
                    zapped += 1;
                    if was_written {
                        written(pfn);
                    }
                }
            }
            *used -= zapped;
            if *used == 0 {
                *unit = Unit::Empty;
            }
        }
    }
    zapped
}

#[cfg(test)]
mod tests;
