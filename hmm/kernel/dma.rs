// SPDX-License-Identifier: GPL-2.0

//! DMA mappings of a process's pages.

use kernel::bindings;
use kernel::device::{Bound, Device};
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::addr::{PageIndex, PageRange, PAGE_SHIFT, PMD_PAGES};
use crate::compat::dma_data_direction;
use crate::dma_run::{blocks, DmaRun, Links, Route};
use crate::dma_shim as shim;
use crate::pfn::{Memory, Perm, Pfn};
use crate::run::Run;
use crate::runs::Runs;
use crate::seq::{Domain, ValidRange};

/// Why pages cannot be mapped for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaError {
    /// The device reaches some memory only by copies.
    NeedsCopies,
    /// No pages are meant, or pages outside of the range.
    Outside,
    /// A page is in memory on a device that the CPU cannot reach.
    DevicePrivate,
    /// A page is in the memory of a PCI device that there is no way to.
    Unreachable,
    /// The kernel could not map it: a page is mapped already, memory is short, or the IOMMU is full.
    Failed(Error),
}

impl From<DmaError> for Error {
    fn from(error: DmaError) -> Self {
        match error {
            DmaError::Outside => EINVAL,
            DmaError::NeedsCopies | DmaError::DevicePrivate | DmaError::Unreachable => {
                Self::from_errno(-(bindings::EOPNOTSUPP as i32))
            }
            DmaError::Failed(error) => error,
        }
    }
}

/// How a device addresses the pages of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// By addresses of an IOMMU, reserved for all pages at once.
    Range,
    /// By the frames' own addresses. A mapping keeps nothing that would have to be undone.
    Frames,
    /// By an address for each block, as the kernel gives it.
    Each,
}

/// How one device sees a range of pages.
///
/// A driver makes it once, where it may sleep. The pages come and go: a [fault](crate::fault_until_valid)
/// returns a [`ValidRange`]; [`DmaRange::map`] makes a [`Mapping`] of each run, which the driver keeps with the
/// device's translations; when the CPU takes pages away, the device stops using them, and
/// [`Mapping::unmap_part`] unmaps them. Each page is unmapped once, by that or by dropping the mapping.
///
/// The device decides between three ways:
///
/// | [`Addressing`] | where                                | one mapping | what only goes together    |
/// |----------------|--------------------------------------|-------------|----------------------------|
/// | `Range`        | behind an IOMMU                      | a run       | what one entry of the CPU's page table maps |
/// | `Frames`       | no IOMMU                             | a run       | nothing                    |
/// | `Each`         | IOVA allocation failed, or DMA debugging is on (`CONFIG_DMA_API_DEBUG`) | a block | the same as for `Range` |
///
/// `Range` takes addresses for the whole range at once: a page's address is known before it is mapped
/// and never changes, and a run is mostly one call and always one wait for the IOMMU's cache. Long runs of small
/// pages take more calls, so that the IOMMU's entries are never larger than the CPU's: besides the pages asked
/// for, the device loses only what the CPU loses, too.
///
/// # Locks
///
/// Mapping and unmapping do not sleep: they may run under the lock of an
/// [`IntervalNotifier`](crate::IntervalNotifier), and mostly do. An IOMMU's page tables come from `GFP_ATOMIC`,
/// and with `Range` the IOMMU is polled until it has forgotten what was unmapped. With `Each` unmapping is no
/// fence: the IOMMU's cache may keep a translation for some milliseconds more, and the page is safe only because
/// the device has stopped before. Making a `DmaRange` may sleep; dropping it does not.
///
/// # What is refused
///
/// A device that reaches some memory only by copies (swiotlb) is refused when the range is made: the process and
/// the device would each see their own copy. Device-private memory has no address for DMA.
///
/// Memory of other PCI devices is mapped if the kernel knows a [`Route`] to it. The kernel's own function for
/// that is not exported; see `dma_shim.c`.
///
/// Kernel headers: `include/linux/dma-mapping.h`, `include/linux/pci-p2pdma.h`.
pub struct DmaRange<'d> {
    device: &'d Device<Bound>,
    pages: PageRange,
    plan: Plan,
}

enum Plan {
    Range(Iova),
    Frames,
    Each,
}

/// Addresses of an IOMMU for the pages from `first` on.
///
/// # Invariants
///
/// `state` is what `dma_iova_try_alloc` made for the device and nobody has freed; no copies are used.
struct Iova {
    state: bindings::dma_iova_state,
    first: PageIndex,
    entry_sizes: u64,
}

impl Iova {
    /// Where `page` is, in bytes from the first address.
    fn offset(&self, page: PageIndex) -> usize {
        ((page.get() - self.first.get()) << PAGE_SHIFT) as usize
    }

    /// For the kernel's functions, which change it only where copies are used.
    fn state(&self) -> bindings::dma_iova_state {
        self.state
    }
}

/// Addresses begin at a multiple of so many pages where there are as many, so that a huge page can be
/// one entry of the IOMMU.
const ALIGNMENT: u64 = PMD_PAGES;

impl<'d> DmaRange<'d> {
    /// Makes `device` ready for mappings of `pages`. May sleep.
    ///
    /// # Errors
    ///
    /// [`DmaError::NeedsCopies`]; [`DmaError::Outside`] if there are no pages; `ENOMEM`.
    pub fn new(device: &'d Device<Bound>, pages: PageRange) -> Result<Arc<Self>, DmaError> {
        // SAFETY: A bound device, by its type.
        if unsafe { shim::hmm_shim_dma_needs_copies(raw(device)) } {
            return Err(DmaError::NeedsCopies);
        }
        if pages.is_empty() {
            return Err(DmaError::Outside);
        }
        let range = Self {
            device,
            pages,
            plan: Plan::new(device, pages),
        };
        Arc::new(range, GFP_KERNEL).map_err(|_| DmaError::Failed(ENOMEM))
    }

    /// The pages of the range.
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// How the device addresses them.
    pub fn addressing(&self) -> Addressing {
        match self.plan {
            Plan::Range(_) => Addressing::Range,
            Plan::Frames => Addressing::Frames,
            Plan::Each => Addressing::Each,
        }
    }

    /// The device's address of `page`, which does not depend on where it is mapped to; `None` but for
    /// [`Addressing::Range`].
    pub(crate) fn addr_of(&self, page: PageIndex) -> Option<u64> {
        match &self.plan {
            Plan::Range(iova) => Some(iova.state.addr + iova.offset(page) as u64),
            Plan::Frames | Plan::Each => None,
        }
    }

    /// The frame that the device's IOMMU translates `addr` to, if any. For diagnosis. Does not sleep.
    pub fn translated(&self, addr: u64) -> Option<Pfn> {
        // SAFETY: A bound device, by its type.
        let phys = unsafe { shim::hmm_shim_dma_translated(raw(self.device), addr) };
        (phys != 0).then(|| Pfn::new(phys >> PAGE_SHIFT))
    }

    /// Maps those of the valid pages that are among `pages`, and calls `keep` with each mapping, in ascending
    /// order, and the data that the lock protects. The device may use a mapping from then on. Does not sleep.
    ///
    /// None of the pages may be mapped already; a driver that has mapped some leaves them out of `pages`, or unmaps
    /// them before.
    ///
    /// # Errors
    ///
    /// As [`DmaError`] says, or those of `keep`. Mappings that `keep` has taken by then stay.
    ///
    /// ```no_run
    /// # #![no_std]
    /// # use hmm::{fault_until_valid, Access, DmaError, DmaRange, IntervalNotifier, Invalidate, Mapping, PageRange, Policy};
    /// # use hmm::{Request, Runs, TimeLimit};
    /// # use kernel::mm::MmWithUser;
    /// # use kernel::sync::Arc;
    /// # trait PageTable: Invalidate {
    /// #     fn put(&mut self, mapping: Mapping<'static>) -> Result<(), DmaError>;
    /// # }
    /// # fn fault<T: PageTable>(
    /// #     notifier: &IntervalNotifier<T>,
    /// #     mm: &MmWithUser,
    /// #     range: Arc<DmaRange<'static>>,
    /// #     pages: PageRange,
    /// # ) -> kernel::error::Result {
    /// let request = Request::new(pages, Policy::Fault(Access::Write));
    /// let limit = TimeLimit::default();
    /// let mut valid = fault_until_valid(notifier, mm, &limit, &request, Runs::new())?;
    /// // `valid` holds the notifier's lock: the pages stay until it is dropped, and then `invalidate` is told.
    /// let done = valid.done();
    /// DmaRange::map(&range, &mut valid, done, |table, mapping| table.put(mapping))?;
    /// # Ok(())
    /// # }
    /// # fn main() {}
    /// ```
    pub fn map<D: Domain>(
        this: &Arc<Self>,
        valid: &mut ValidRange<'_, D, Runs>,
        pages: PageRange,
        mut keep: impl FnMut(&mut D::Guard<'_>, Mapping<'d>) -> Result<(), DmaError>,
    ) -> Result<(), DmaError> {
        let (runs, guard) = valid.split();
        for run in runs.as_slice() {
            let Some(run) = part(run, pages) else {
                continue;
            };
            if this.pages.intersection(&run.range()) != run.range() {
                return Err(DmaError::Outside);
            }
            this.map_run(&run, &mut |run| {
                let range = this.clone();
                // INVARIANT: `map_run` has just mapped it, and nobody else knows of it.
                keep(guard, Mapping { range, run })
            })?;
        }
        Ok(())
    }

    /// Maps `run`, all of which is in the range. Cuts it where the way to it changes, and into what one mapping covers,
    /// and calls `keep` with each piece.
    pub(crate) fn map_run(
        &self,
        run: &Run,
        keep: &mut impl FnMut(DmaRun) -> Result<(), DmaError>,
    ) -> Result<(), DmaError> {
        if run.memory == Memory::Device {
            return Err(DmaError::DevicePrivate);
        }
        let mut rest = *run;
        while rest.pages > 0 {
            let (pages, way) = self.way(&rest)?;
            let same_way = PageRange::new(rest.start, rest.start.saturating_add(pages));
            // All blocks together where the plan has no need for single ones.
            let together = match (&self.plan, way) {
                (Plan::Each, Way::Mapped(_)) => run.order,
                _ => WHOLE,
            };
            for piece in blocks(same_way, together) {
                let Some(piece) = part(&rest, piece) else {
                    continue;
                };
                keep(self.map_piece(&piece, way)?)?;
            }
            rest = Run {
                start: same_way.end(),
                pfn: rest.pfn.add(pages),
                pages: rest.pages - pages,
                ..rest
            };
        }
        Ok(())
    }

    /// How the device reaches the first page of `run`, and how many pages share that route.
    fn way(&self, run: &Run) -> Result<(u64, Way), DmaError> {
        let first = peer(run.pfn);
        // The next sections that are somebody else's.
        let section = u64::from(shim::HMM_SHIM_DMA_SECTION_PAGES);
        let mut pages = run.pages.min(section - run.pfn.get() % section);
        while pages < run.pages && peer(run.pfn.add(pages)) == first {
            pages = run.pages.min(pages + section);
        }
        if first.is_null() {
            return Ok((pages, Way::Mapped(Route::Memory)));
        }
        let (device, pfn) = (raw(self.device), run.pfn.get() as usize);
        let mut addr = 0;
        // SAFETY: A bound device, and a frame that has a `struct page`, as `peer` found; it stays the
        // process's as the run is valid.
        let route = unsafe { shim::hmm_shim_dma_route(device, pfn, &mut addr) };
        match route {
            shim::hmm_shim_dma_route_HMM_SHIM_DMA_BUS => Ok((pages, Way::Bus { addr })),
            shim::hmm_shim_dma_route_HMM_SHIM_DMA_HOST_BRIDGE => {
                Ok((pages, Way::Mapped(Route::HostBridge)))
            }
            _ => Err(DmaError::Unreachable),
        }
    }

    /// Maps pages that one mapping covers.
    fn map_piece(&self, run: &Run, way: Way) -> Result<DmaRun, DmaError> {
        let mapped = |addr, order, route| DmaRun {
            start: run.start,
            pfn: run.pfn,
            pages: run.pages,
            addr,
            perm: run.perm,
            order,
            route,
        };
        let route = match way {
            Way::Bus { addr } => return Ok(mapped(addr, 0, Route::Bus)),
            Way::Mapped(route) => route,
        };
        match &self.plan {
            Plan::Range(iova) => Ok(mapped(self.link(iova, run, route)?, run.order, route)),
            Plan::Frames => Ok(mapped(self.map_phys(run, route)?, 0, route)),
            Plan::Each => Ok(mapped(self.map_phys(run, route)?, run.order, route)),
        }
    }

    fn map_phys(&self, run: &Run, route: Route) -> Result<u64, DmaError> {
        let (device, size) = (raw(self.device), (run.pages << PAGE_SHIFT) as usize);
        let (phys, direction) = (run.pfn.get() << PAGE_SHIFT, direction(run.perm));
        // SAFETY: A bound device; the frames are the process's, as the run is valid.
        let addr =
            unsafe { bindings::dma_map_phys(device, phys, size, direction, attributes(route)) };
        // SAFETY: A bound device, by its type.
        match unsafe { shim::hmm_shim_dma_failed(device, addr) } {
            false => Ok(addr),
            true => Err(DmaError::Failed(EIO)),
        }
    }

    /// Links the run to its pages' addresses; returns the first one.
    fn link(&self, iova: &Iova, run: &Run, route: Route) -> Result<u64, DmaError> {
        let offset = iova.offset(run.start);
        let addr = iova.state.addr + offset as u64;
        let mut linked = 0;
        let result = (|| {
            for (first, pages) in Links::new(addr, run.pages, run.order, iova.entry_sizes) {
                let at = offset + (first << PAGE_SHIFT) as usize;
                self.link_part(iova, at, run.pfn.add(first), pages, run.perm, route)?;
                linked += pages;
            }
            let size = (run.pages << PAGE_SHIFT) as usize;
            // SAFETY: A bound device and its own addresses; all of these have just been linked.
            let error = unsafe {
                bindings::dma_iova_sync(raw(self.device), &mut iova.state(), offset, size)
            };
            to_result(error)
        })();
        if result.is_err() && linked > 0 {
            self.unlink(iova, run.start, linked, run.perm, route);
        }
        result.map_err(DmaError::Failed)?;
        Ok(addr)
    }

    fn link_part(
        &self,
        iova: &Iova,
        offset: usize,
        pfn: Pfn,
        pages: u64,
        perm: Perm,
        route: Route,
    ) -> Result {
        // SAFETY: A bound device and its own addresses, as many as the range has pages; the frames are
        // the process's, as the run is valid.
        to_result(unsafe {
            bindings::dma_iova_link(
                raw(self.device),
                &mut iova.state(),
                pfn.get() << PAGE_SHIFT,
                offset,
                (pages << PAGE_SHIFT) as usize,
                direction(perm),
                attributes(route),
            )
        })
    }

    fn unlink(&self, iova: &Iova, start: PageIndex, pages: u64, perm: Perm, route: Route) {
        // SAFETY: A bound device and its own addresses, which are linked and by the callers' promise
        // unlinked by nobody else. No entry reaches beyond them: what goes together is unlinked
        // together, and `Links` has made no larger ones.
        unsafe {
            bindings::dma_iova_unlink(
                raw(self.device),
                &mut iova.state(),
                iova.offset(start),
                (pages << PAGE_SHIFT) as usize,
                direction(perm),
                attributes(route),
            )
        };
    }

    /// Unmaps `run`, which is mapped and not part of any [`Mapping`] any more.
    pub(crate) fn unmap(&self, run: &DmaRun) {
        match &self.plan {
            _ if run.route == Route::Bus => {}
            Plan::Range(iova) => self.unlink(iova, run.start, run.pages, run.perm, run.route),
            Plan::Frames => {}
            // SAFETY: A bound device, and what `map_phys` has mapped: one block is one mapping.
            Plan::Each => unsafe {
                bindings::dma_unmap_phys(
                    raw(self.device),
                    run.addr,
                    (run.pages << PAGE_SHIFT) as usize,
                    direction(run.perm),
                    attributes(run.route),
                )
            },
        }
    }
}

impl Drop for DmaRange<'_> {
    fn drop(&mut self) {
        if let Plan::Range(iova) = &self.plan {
            // SAFETY: A bound device and its own addresses. Nothing is linked to them: mappings keep
            // the range.
            unsafe { bindings::dma_iova_free(raw(self.device), &mut iova.state()) };
        }
    }
}

impl Plan {
    fn new(device: &Device<Bound>, pages: PageRange) -> Self {
        let mut state = bindings::dma_iova_state::default();
        let mut first = pages.start();
        if pages.len() >= ALIGNMENT {
            first = PageIndex::new(first.get() / ALIGNMENT * ALIGNMENT);
        }
        let bytes = (pages.end().get() - first.get()).checked_mul(1 << PAGE_SHIFT);
        // The kernel keeps a flag in the highest bit.
        let bytes = bytes.and_then(|bytes| isize::try_from(bytes).ok());
        // SAFETY: A bound device; `state` is written.
        let taken = bytes.is_some_and(|bytes| unsafe {
            bindings::dma_iova_try_alloc(raw(device), &mut state, 0, bytes as usize)
        });
        if taken {
            // SAFETY: A bound device, by its type.
            let entry_sizes = unsafe { shim::hmm_shim_dma_entry_sizes(raw(device)) };
            // INVARIANT: Just made; `attributes` keeps copies out.
            return Plan::Range(Iova {
                state,
                first,
                entry_sizes: entry_sizes as u64,
            });
        }
        // SAFETY: A bound device, by its type.
        match unsafe { bindings::dma_need_unmap(raw(device)) } {
            true => Plan::Each,
            false => Plan::Frames,
        }
    }
}

/// Pages mapped for a device; unmapped when dropped. Neither sleeps.
///
/// The device must have stopped using the pages before: without an IOMMU, nothing else keeps it from them.
///
/// # Invariants
///
/// `run` is mapped by `range`, and is not part of any other mapping.
pub struct Mapping<'d> {
    range: Arc<DmaRange<'d>>,
    run: DmaRun,
}

impl<'d> Mapping<'d> {
    /// The pages and their device addresses.
    pub fn run(&self) -> &DmaRun {
        &self.run
    }

    /// The pages that [`Mapping::unmap_part`] of `pages` unmaps: `pages`, as far as they are in this mapping, and
    /// those that are only unmapped together with them. The device has to stop using all of them.
    pub fn loses(&self, pages: PageRange) -> PageRange {
        let parts = self.run.without(pages);
        let none = PageRange::new(self.run.start, self.run.start);
        parts.map_or(none, |parts| parts.gone.range())
    }

    /// Unmaps what [`Self::loses`] says. Returns what remains before and after.
    pub fn unmap_part(mut self, pages: PageRange) -> (Option<Self>, Option<Self>) {
        let Some(parts) = self.run.without(pages) else {
            return (Some(self), None);
        };
        // INVARIANT: This mapping becomes three, each of its pages being in one of them.
        let rest = |run| Self {
            range: self.range.clone(),
            run,
        };
        let remain = (parts.before.map(rest), parts.after.map(rest));
        self.run = parts.gone;
        drop(self);
        remain
    }

    /// Unmaps it all.
    pub fn unmap(self) {
        drop(self);
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        self.range.unmap(&self.run);
    }
}

/// An order of blocks that no range reaches the end of.
const WHOLE: u32 = u64::BITS - 1;

/// How pages can be reached.
#[derive(Clone, Copy)]
enum Way {
    /// Once they are mapped.
    Mapped(Route),
    /// Without any mapping, the first one at `addr`.
    Bus { addr: u64 },
}

/// The part of `run` in `pages`.
fn part(run: &Run, pages: PageRange) -> Option<Run> {
    let pages = run.range().intersection(&pages);
    (!pages.is_empty()).then(|| Run {
        start: pages.start(),
        pfn: run.pfn.add(pages.start().get() - run.start.get()),
        pages: pages.len(),
        ..*run
    })
}

/// Identifies the PCI device memory that frame `pfn` is in; null if it is in none.
fn peer(pfn: Pfn) -> *const core::ffi::c_void {
    // SAFETY: Frames that a walk finds have a `struct page`, and stay while the run is valid.
    unsafe { shim::hmm_shim_dma_peer(pfn.get() as usize) }
}

/// The kernel crate keeps its own function for this to itself; the type is the C type, transparently.
fn raw(device: &Device<Bound>) -> *mut bindings::device {
    core::ptr::from_ref(device).cast_mut().cast()
}

/// A page that the CPU may only read is none that a device may write.
fn direction(perm: Perm) -> bindings::dma_data_direction {
    match perm {
        Perm::ReadOnly => dma_data_direction::DMA_TO_DEVICE,
        Perm::ReadWrite => dma_data_direction::DMA_BIDIRECTIONAL,
    }
}

/// Copies are never an answer, nor is memory that the CPU's caches have to be flushed for.
fn attributes(route: Route) -> usize {
    let attributes = match route {
        Route::Memory => shim::HMM_SHIM_DMA_ATTR_COHERENT,
        Route::HostBridge | Route::Bus => {
            shim::HMM_SHIM_DMA_ATTR_COHERENT | shim::HMM_SHIM_DMA_ATTR_MMIO
        }
    };
    attributes as usize
}
