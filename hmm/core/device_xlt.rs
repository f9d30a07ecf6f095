// SPDX-License-Identifier: GPL-2.0

//! The translations of a chunk that a device has a copy of, with their DMA mappings.
//!
//! The [`Xlt`] says what the device has. A page comes in by [`DeviceXlt::enter`]: into the table, mapped for DMA, given
//! to the device. It goes by [`DeviceXlt::revoke`], in the opposite order: the device forgets it and says so
//! (`fence.rs`), it is unmapped, marked dirty, and taken out of the table. So a page in the table is mapped, and a
//! page that the device has is in the table.
//!
//! `schedules.rs` explores this under many thread schedules, with a device that works while all of it goes on.

use core::ops::DerefMut;

use crate::addr::{PageIndex, PageRange, PMD_ORDER};
use crate::fence::{DeviceChunk, Entries, Lookup, Translation, Zap, Zapped};
use crate::pfn::{Access, Perm, Pfn};
use crate::pmd_pages::PmdPages;
use crate::run::Run;
use crate::walk::FaultError;
use crate::xlt::{Filled, NoRoom, Pages, Room, Slot, Xlt};

/// Maps and unmaps the pages of a chunk for a device. Under the chunk's lock.
///
/// The entries that map a run say what goes together: a run of order 0 may be unmapped page by page, a huge one only as
/// a whole.
pub trait Dma {
    /// Maps all of `run`, or nothing.
    ///
    /// # Errors
    ///
    /// What the fault fails with.
    fn map(&mut self, run: &Run) -> Result<(), FaultError>;

    /// The device's address of `page`, which is mapped to `pfn`.
    fn addr(&self, page: PageIndex, pfn: Pfn) -> u64;

    /// Unmaps `run`, whose pages are among those of `zapped`.
    fn unmap(&mut self, run: &Run, zapped: &Zapped<'_>);

    /// The device may have written the pages of `run`, and does not use them any more: marks them dirty.
    fn written(&mut self, run: &Run);

    /// Keeps the frames of `run` from being freed: nobody knows whether the device uses them.
    fn hold(&mut self, run: &Run);

    /// Ends [`Dma::hold`].
    fn release(&mut self, run: &Run);
}

/// Whether the device takes translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It does.
    InUse,
    /// The second fence was needed, and confirmed: the device has nothing and gets nothing.
    CutOff,
    /// No fence was confirmed: the frames of the table are held. The device may be using them.
    Held,
}

/// A table of translations that a device has a copy of; `M` maps its pages. For the others see [`Xlt`].
#[derive(Debug)]
pub struct DeviceXlt<H, P, M> {
    xlt: Xlt<H, P>,
    dma: M,
    state: State,
}

impl<H, P, B, M> DeviceXlt<H, P, M>
where
    H: DerefMut<Target = [Slot]>,
    P: DerefMut<Target = [Pages<B>]>,
    B: DerefMut<Target = [Slot]>,
    M: Dma,
{
    /// With the empty table `xlt`, whose pages `dma` maps.
    pub fn new(xlt: Xlt<H, P>, dma: M) -> Self {
        Self {
            xlt,
            dma,
            state: State::InUse,
        }
    }

    /// The table.
    pub fn xlt(&self) -> &Xlt<H, P> {
        &self.xlt
    }

    /// What maps the pages.
    pub fn dma(&self) -> &M {
        &self.dma
    }

    /// Whether the device may use `page` for `access`.
    pub fn allows(&self, page: PageIndex, access: Access) -> bool {
        let translation = self.xlt.get(page);
        translation.is_some_and(|(_, perm)| perm.allows(access))
    }

    /// Whether an invalidation of `range` has to ask the device.
    pub fn uses(&self, range: PageRange) -> bool {
        self.state == State::InUse && self.xlt.has_any(range)
    }

    /// Gives `device` the pages of `found` that it does not have yet, with no more rights than `limit`.
    ///
    /// # Errors
    ///
    /// [`FaultError::Device`] if it takes no translations any more; those of [`Dma::map`] if no page was entered, and
    /// of [`DeviceChunk::enter`], in which case none of them is.
    pub fn enter(
        &mut self,
        device: &mut impl DeviceChunk,
        found: &PmdPages<'_>,
        limit: Perm,
        room: &mut impl Room<P, B>,
    ) -> Result<Filled, FaultError> {
        if self.state != State::InUse {
            return Err(FaultError::Device);
        }
        let mut filled = Filled::default();
        let mut changed = None;
        let part = self.xlt.part_around(found.start());
        for run in found.runs() {
            let Some(run) = self.as_it_will_be(&run, part, limit) else {
                continue;
            };
            if self.replaces(&run) {
                self.revoke(device, run.range());
                if self.state != State::InUse {
                    return Err(FaultError::Device);
                }
            }
            match self.map_missing(&run, room, &mut filled, &mut changed) {
                Ok(()) => {}
                Err(error) if filled.added == 0 => return Err(error),
                // The device faults on the rest when it gets there.
                Err(_) => break,
            }
            if filled.left_out {
                break;
            }
        }
        if let Some(changed) = changed {
            let table = Table(&self.xlt, &self.dma);
            if let Err(error) = device.enter(&Entries::entered(&table, changed)) {
                self.revoke(device, changed);
                return Err(error);
            }
        }
        Ok(filled)
    }

    /// `run` clipped to `part`, a PMD's, with the order and rights that the table will store.
    fn as_it_will_be(&self, run: &Run, part: PageRange, limit: Perm) -> Option<Run> {
        let run = run.part(part)?;
        let huge = run.order >= PMD_ORDER && run.range() == part && !self.xlt.has_slots(run.start);
        let writable = run.perm.allows(Access::Write) && limit.allows(Access::Write);
        Some(Run {
            order: if huge { PMD_ORDER } else { 0 },
            perm: Perm::from_writable(writable),
            ..run
        })
    }

    /// Whether a page of `run` has another translation, or one with fewer rights.
    fn replaces(&self, run: &Run) -> bool {
        (0..run.pages).any(|index| {
            let known = self.xlt.get(run.start.saturating_add(index));
            known.is_some_and(|(pfn, perm)| {
                pfn != run.pfn.add(index) || (perm != run.perm && run.perm == Perm::ReadWrite)
            })
        })
    }

    /// Enters those pages of `run` into the table that it has not got, and maps them.
    fn map_missing(
        &mut self,
        run: &Run,
        room: &mut impl Room<P, B>,
        filled: &mut Filled,
        changed: &mut Option<PageRange>,
    ) -> Result<(), FaultError> {
        let mut rest = run.range();
        while let Some(missing) = self.next_missing(rest) {
            rest = PageRange::new(missing.end(), rest.end());
            let Some(missing) = run.part(missing) else {
                break;
            };
            let done = self.xlt.fill(&missing, Perm::ReadWrite, room);
            if done.left_out {
                filled.left_out = true;
                break;
            }
            if let Err(error) = self.dma.map(&missing) {
                // The device has not seen them.
                self.xlt.zap(missing.range(), &mut NoRoom, |_, _| ());
                return Err(error);
            }
            filled.added += done.added;
            let start = changed.map_or(missing.start, |changed: PageRange| changed.start());
            *changed = Some(PageRange::new(start, missing.range().end()));
        }
        Ok(())
    }

    /// The first pages of `pages` in a row that have no translation.
    fn next_missing(&self, pages: PageRange) -> Option<PageRange> {
        let is_missing = |page: &u64| self.xlt.get(PageIndex::new(*page)).is_none();
        let (start, end) = (pages.start().get(), pages.end().get());
        let first = (start..end).find(is_missing)?;
        let beyond = (first..end).find(|page| !is_missing(page)).unwrap_or(end);
        Some(PageRange::new(
            PageIndex::new(first),
            PageIndex::new(beyond),
        ))
    }

    /// Takes the pages of `range` from `device`, and unmaps them; of huge entries all pages. Returns how many there
    /// were.
    ///
    /// If the device does not confirm, it loses all pages; if it does not confirm that either, they stay mapped, and
    /// their frames are held.
    pub fn revoke(&mut self, device: &mut impl DeviceChunk, range: PageRange) -> u64 {
        let gone = self.xlt.whole(range);
        if !self.uses(gone) {
            return 0;
        }
        let brand = ();
        let zap = Zap::new(&brand, gone);
        let table = Table(&self.xlt, &self.dma);
        match device.zap(zap, &Entries::without(&table, gone)) {
            Ok(zapped) => self.forget(zapped),
            Err(_) => self.cut_off(device),
        }
    }

    /// The second fence.
    fn cut_off(&mut self, device: &mut impl DeviceChunk) -> u64 {
        let brand = ();
        let zap = Zap::new(&brand, self.xlt.range());
        match device.cut_off(zap) {
            Ok(zapped) => {
                let gone = self.forget(zapped);
                self.state = State::CutOff;
                gone
            }
            Err(_) => {
                if self.state != State::Held {
                    let Self { xlt, dma, .. } = self;
                    xlt.each_run(xlt.range(), |run| dma.hold(run));
                }
                self.state = State::Held;
                0
            }
        }
    }

    /// Unmaps the pages that the device has forgotten; returns how many there were.
    fn forget(&mut self, zapped: Zapped<'_>) -> u64 {
        let (pages, held) = (zapped.pages(), self.state == State::Held);
        let dma = &mut self.dma;
        self.xlt.each_run(pages, |run| {
            dma.unmap(run, &zapped);
            if run.perm == Perm::ReadWrite {
                dma.written(run);
            }
            if held {
                dma.release(run);
            }
        });
        self.xlt.zap(pages, &mut NoRoom, |_, _| ())
    }

    /// Takes all pages from `device`, at the end. Returns the number of pages removed and whether the device confirmed. If
    /// it did not, neither `self` nor its mappings may be freed.
    pub fn close(&mut self, device: &mut impl DeviceChunk) -> (u64, bool) {
        let gone = match self.state {
            State::Held => self.cut_off(device),
            State::InUse | State::CutOff => self.revoke(device, self.xlt.range()),
        };
        (gone, self.state != State::Held)
    }
}

/// What a device is told of the table.
struct Table<'t, H, P, M>(&'t Xlt<H, P>, &'t M);

impl<H, P, B, M> Lookup for Table<'_, H, P, M>
where
    H: DerefMut<Target = [Slot]>,
    P: DerefMut<Target = [Pages<B>]>,
    B: DerefMut<Target = [Slot]>,
    M: Dma,
{
    fn translation(&self, page: PageIndex) -> Option<Translation> {
        let (pfn, perm) = self.0.get(page)?;
        let addr = self.1.addr(page, pfn);
        Some(Translation { addr, perm })
    }
}

#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
