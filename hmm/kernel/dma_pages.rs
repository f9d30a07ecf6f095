// SPDX-License-Identifier: GPL-2.0

//! The DMA mappings of a chunk, kept beside its table.
//!
//! Most of what unmapping has to know is in the table: which pages, which frames, which rights, and what goes together.
//! Where the device's address of a page follows from the page (an IOMMU's range) or from its frame (no IOMMU), nothing
//! is kept for it. Otherwise ([`Addressing::Each`]) there is a word for each page of the chunk.

use kernel::device::{Bound, Device};
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::addr::{PageIndex, PageRange, PAGE_SHIFT};
use crate::device_shim;
use crate::device_xlt::Dma;
use crate::dma::{Addressing, DmaError, DmaRange};
use crate::dma_run::{DmaRun, Route};
use crate::fence::Zapped;
use crate::page::mark_dirty;
use crate::pfn::{Memory, Pfn};
use crate::policy::Refusal;
use crate::run::Run;
use crate::walk::FaultError;

/// The mappings of the pages of one chunk.
pub(crate) struct DmaPages {
    range: Arc<DmaRange<'static>>,
    /// The device's address of each page, where it has to be kept; else empty.
    addrs: KVVec<u64>,
    /// With [`Addressing::Frames`], by how much the device's address of a frame differs from its own (a bit for
    /// encrypted memory, for instance); `None` until there is one.
    distance: Option<u64>,
}

impl DmaPages {
    /// Makes `device` ready for the pages of `range`. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`DmaRange::new`].
    pub(crate) fn new(device: &'static Device<Bound>, range: PageRange) -> Result<Self, DmaError> {
        let range = DmaRange::new(device, range)?;
        let addrs = match range.addressing() {
            Addressing::Each => {
                KVVec::from_elem(0, range.pages().len() as usize, GFP_KERNEL_ACCOUNT)
            }
            Addressing::Range | Addressing::Frames => Ok(KVVec::new()),
        };
        let addrs = addrs.map_err(|_| DmaError::Failed(ENOMEM))?;
        Ok(Self {
            range,
            addrs,
            distance: None,
        })
    }

    /// How the device addresses the pages.
    pub(crate) fn addressing(&self) -> Addressing {
        self.range.addressing()
    }

    /// How many bytes it takes, those of `self` not among them.
    pub(crate) fn memory(&self) -> usize {
        self.addrs.len() * size_of::<u64>()
    }

    fn index(&self, page: PageIndex) -> usize {
        page.get().wrapping_sub(self.range.pages().start().get()) as usize
    }

    /// Keeps what is needed to find the addresses of `run` again; returns whether that can be done.
    fn keep(&mut self, run: &DmaRun) -> bool {
        match self.addressing() {
            Addressing::Range => self.range.addr_of(run.start) == Some(run.addr),
            Addressing::Frames => {
                let distance = run.addr.wrapping_sub(run.pfn.get() << PAGE_SHIFT);
                *self.distance.get_or_insert(distance) == distance
            }
            Addressing::Each => {
                let first = self.index(run.start);
                let kept = self.addrs.get_mut(first..first + run.pages as usize);
                let addrs = (0..).map(|index| run.addr + (index << PAGE_SHIFT));
                let kept = kept.unwrap_or_default().iter_mut().zip(addrs);
                kept.map(|(kept, addr)| *kept = addr).count() as u64 == run.pages
            }
        }
    }

    /// Unmaps `run`, which [`Dma::map`] has mapped, or a part of it that may go alone.
    fn unmap_run(&self, run: &Run) {
        let mapped = |start: PageIndex, pages| DmaRun {
            start,
            pfn: run.pfn.add(start.get() - run.start.get()),
            pages,
            addr: self.addr(start, run.pfn.add(start.get() - run.start.get())),
            perm: run.perm,
            order: run.order,
            route: Route::Memory,
        };
        match (self.addressing(), run.order) {
            // Each page is a mapping by itself.
            (Addressing::Each, 0) => {
                for page in run.start.get()..run.range().end().get() {
                    self.range.unmap(&mapped(PageIndex::new(page), 1));
                }
            }
            _ => self.range.unmap(&mapped(run.start, run.pages)),
        }
    }
}

impl Dma for DmaPages {
    /// Memory of other devices is refused: the way to it is not in the table.
    fn map(&mut self, run: &Run) -> Result<(), FaultError> {
        if run.memory != Memory::System {
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        let range = self.range.clone();
        let mut mapped = run.start;
        let result = range.map_run(run, &mut |piece: DmaRun| {
            if piece.route != Route::Memory || !self.keep(&piece) {
                range.unmap(&piece);
                return Err(DmaError::Unreachable);
            }
            mapped = piece.range().end();
            Ok(())
        });
        let Err(error) = result else {
            return Ok(());
        };
        // The device has not been told of them.
        if let Some(done) = run.part(PageRange::new(run.start, mapped)) {
            self.unmap_run(&done);
        }
        Err(match error {
            DmaError::Failed(_) => FaultError::NoMemory,
            _ => FaultError::Refused(Refusal::NoPage),
        })
    }

    fn addr(&self, page: PageIndex, pfn: Pfn) -> u64 {
        let frame = || {
            self.distance
                .map(|distance| distance.wrapping_add(pfn.get() << PAGE_SHIFT))
        };
        let kept = || self.addrs.get(self.index(page)).copied();
        // Without any, it has not been mapped, and nobody asks.
        self.range
            .addr_of(page)
            .or_else(frame)
            .or_else(kept)
            .unwrap_or_default()
    }

    fn unmap(&mut self, run: &Run, _zapped: &Zapped<'_>) {
        self.unmap_run(run);
    }

    fn written(&mut self, run: &Run) {
        each_entry(run, |pfn| {
            // SAFETY: The frame was found in the process's page table; an invalidation that lets go of it has
            // to come through the chunk's lock first, which is held, or it has a reference of ours (`hold`).
            unsafe { mark_dirty(pfn) }
        });
    }

    fn hold(&mut self, run: &Run) {
        each_entry(run, |pfn| {
            // SAFETY: As in `written`.
            unsafe { device_shim::hmm_shim_hold_frame(pfn.get() as usize) }
        });
    }

    fn release(&mut self, run: &Run) {
        each_entry(run, |pfn| {
            // SAFETY: By the contract, `hold` took a reference for this entry.
            unsafe { device_shim::hmm_shim_release_frame(pfn.get() as usize) }
        });
    }
}

/// Calls `visit` with the first frame of each entry of `run`. What one entry maps is one folio's.
fn each_entry(run: &Run, visit: impl FnMut(Pfn)) {
    let entries = match run.order {
        0 => run.pages,
        _ => 1,
    };
    (0..entries).map(|index| run.pfn.add(index)).for_each(visit);
}
