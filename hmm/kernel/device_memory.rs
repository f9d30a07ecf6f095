// SPDX-License-Identifier: GPL-2.0

//! Memory on a device, as pages that the kernel knows and the CPU cannot reach.

use core::marker::PhantomData;
use core::ptr::NonNull;

use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::mm::virt::{self, VmaRef};
use kernel::mm::MmWithUser;
use kernel::page::Page;
use kernel::prelude::*;
use kernel::sync::{Mutex, SpinLock};
use kernel::time::{delay::fsleep, Delta};
use kernel::types::Opaque;

use crate::addr::{pmd_range, PageIndex, PageRange, PAGE_SHIFT, PMD_ORDER, PMD_PAGES};
use crate::device_shim as shim;
use crate::frames::{Frames, PmdBitmap};
use crate::lock_class::LockClass;
use crate::page::MappedPage;
use crate::pfn::{Owner, Pfn};
use crate::process::killed;

mod migration;
pub use migration::Huge;
use migration::{Item, Migration, NewFolio, Reason, What, WORDS};

/// Neighbouring pages of a device's memory, numbered from the first one of its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first page.
    pub first: u64,
    /// How many there are: one, or a huge page's.
    pub pages: u64,
}

/// A driver's operations on its device's memory.
///
/// All of them are called for pages that nobody else uses at that time. `freed` must not sleep.
///
/// `to_device` and `to_system` may sleep. The pages are locked and, except for evictions, the mmap lock is held:
/// neither may take that lock or fault. `to_system` also runs in a page fault of the CPU. A page is 4 KiB.
pub trait DeviceMemory: Send + Sync + 'static {
    /// Copies pages to the device, or fills the device's with zeroes if there are none to copy.
    ///
    /// If it fails the pages stay where they are.
    fn to_device(&self, from: Option<&SystemPages<'_>>, to: Extent) -> Result;

    /// Copies as many pages from the device.
    ///
    /// If it fails, the pages stay on the device. A CPU that waits for them gets `SIGBUS`; if the
    /// pool itself goes away, they are lost and read as zeroes.
    fn to_system(&self, from: Extent, to: &SystemPages<'_>) -> Result;

    /// The pages are not used any more. Called under spinlocks: must not sleep.
    ///
    /// Pages for which `to_device` failed are freed, too.
    fn freed(&self, pages: Extent);
}

/// Neighbouring pages of system memory under migration: nobody else reads or writes them.
pub struct SystemPages<'a> {
    first: Pfn,
    pages: u64,
    _life: PhantomData<&'a ()>,
}

impl SystemPages<'_> {
    /// The first page's frame, for a device that does the copying itself.
    pub fn pfn(&self) -> Pfn {
        self.first
    }

    /// How many there are.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Maps one of them for the CPU.
    ///
    /// # Panics
    ///
    /// If there are not that many.
    pub fn page(&self, index: u64) -> MappedPage<'_> {
        assert!(index < self.pages);
        // SAFETY: One of the pages, which the migration that made `self` keeps locked.
        unsafe { MappedPage::map(self.first.add(index)) }
    }

    /// Copies one of them into a page of the kernel's.
    ///
    /// # Panics
    ///
    /// If there are not that many; so does [`Self::copy_from`].
    pub fn copy_to(&self, index: u64, to: &mut Page) {
        // SAFETY: Both are whole pages, and nobody else uses either: `self` is being migrated, `to` is
        // borrowed exclusively.
        unsafe { shim::hmm_shim_copy_page(to.as_ptr(), self.raw(index)) };
    }

    /// Copies a page of the kernel's into one of them.
    pub fn copy_from(&self, index: u64, from: &Page) {
        // SAFETY: Both are whole pages. Nobody else uses the one that is written, and a writer of
        // `from` promises that nobody reads it meanwhile.
        unsafe { shim::hmm_shim_copy_page(self.raw(index), from.as_ptr()) };
    }

    fn raw(&self, index: u64) -> *mut bindings::page {
        assert!(index < self.pages);
        let pfn = self.first.add(index).get() as usize;
        // SAFETY: Arithmetic on the frame number only.
        unsafe { crate::shim::hmm_shim_pfn_to_page(pfn) }
    }

    fn clear(&self) {
        for index in 0..self.pages {
            let page = self.page(index);
            // SAFETY: The whole of a page that nobody else uses.
            unsafe { page.bytes(0, PAGE).as_ptr().write_bytes(0, PAGE) };
        }
    }
}

const PAGE: usize = kernel::page::PAGE_SIZE;

// SAFETY: It is a static's.
static FRAMES: LockClass = unsafe { LockClass::new(c"hmm::device_memory::frames") };
// SAFETY: It is a static's.
static EVICTION: LockClass = unsafe { LockClass::new(c"hmm::device_memory::words") };

/// A device's own memory, whose pages have a `struct page` each (`MEMORY_DEVICE_PRIVATE`).
///
/// [`Pool::migrate_to_device`] moves the contents of a process's pages to the device and leaves entries in the
/// page table that only the device can use; an access of the CPU brings the page back by a page fault. Huge pages
/// move whole if they can.
///
/// The steps for a page: it is removed from all page tables, of which interval notifiers are told (also the
/// driver's own: a device's translations end before the page moves); a free page is taken at the other end;
/// [`DeviceMemory::to_device`] or [`DeviceMemory::to_system`] copies; the page tables get the new page. If a step
/// fails, the page is put back.
///
/// A driver uses migrated pages like any others: a [fault](crate::fault_until_valid) or a snapshot with the owner
/// [`Pool::owner`] reports pages of the pool as [`Memory::Device`](crate::Memory::Device), and [`Pool::page_of`]
/// returns the number of a page in the device's memory.
///
/// Dropping the pool brings everything back to system memory first. This sleeps, without a limit, and cannot be
/// killed: a huge page that a process has on the device needs a huge page of system memory, as it cannot be split
/// without knowing the process. If there is none, the wait ends when the processes exit.
///
/// Kernel headers: `include/linux/memremap.h`, `include/linux/migrate.h`.
///
/// # Invariants
///
/// While the value can be used, `pagemap` describes the frames of `region`, and its `ops` are those of
/// `M`. A frame is in use in `frames` if, and only if, there is a folio with references around it.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub struct Pool<M: DeviceMemory> {
    // First, so that the callbacks find the pool from the pointer that they are given.
    #[pin]
    pagemap: Opaque<bindings::dev_pagemap>,
    #[pin]
    frames: SpinLock<Frames<KVVec<PmdBitmap>>>,
    // For evictions, which have to work when memory is short.
    #[pin]
    words: Mutex<KVec<usize>>,
    region: Region,
    #[pin]
    memory: M,
}

// SAFETY: The kernel's functions for it may be called from any thread; `M` is `Send`.
unsafe impl<M: DeviceMemory> Send for Pool<M> {}
// SAFETY: As above, concurrently too; `M` is `Sync`.
unsafe impl<M: DeviceMemory> Sync for Pool<M> {}

impl<M: DeviceMemory> Pool<M> {
    const OPS: &'static bindings::dev_pagemap_ops = &bindings::dev_pagemap_ops {
        folio_free: Some(Self::folio_free_callback),
        migrate_to_ram: Some(Self::migrate_to_ram_callback),
        memory_failure: None,
        // A split folio needs no care: its frames keep their numbers.
        folio_split: None,
    };

    /// Makes `memory` known to the kernel, as `pages` pages, rounded up to whole huge pages; `/proc/iomem` shows
    /// `name`. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINVAL` if there are no pages, or `ERANGE` if no part of the physical address space
    /// is free for them.
    pub fn new<'a>(
        name: &'static CStr,
        pages: u64,
        memory: impl PinInit<M, Error> + 'a,
    ) -> impl PinInit<Self, Error> + 'a {
        let pmds = pages.div_ceil(PMD_PAGES);
        try_pin_init!(Self {
            frames <- SpinLock::new(
                Frames::new(free_pmds(pmds)?),
                FRAMES.name(),
                FRAMES.key(),
            ),
            words <- Mutex::new(
                KVec::from_elem(0, WORDS, GFP_KERNEL)?,
                EVICTION.name(),
                EVICTION.key(),
            ),
            region: Region::request(name, pmds)?,
            memory <- memory,
            // Last: callbacks use the other fields as soon as there are pages.
            pagemap <- Opaque::try_ffi_init(|pagemap| Self::map(pagemap, region)),
        })
    }

    fn map(pagemap: *mut bindings::dev_pagemap, region: &Region) -> Result {
        let owner = pagemap.cast();
        // SAFETY: `pagemap` is pinned memory for one; `OPS` lives forever.
        unsafe {
            shim::hmm_shim_device_pagemap(pagemap, region.start, region.end(), Self::OPS, owner)
        };
        // SAFETY: Just initialised. The other fields of the pool are, too, as `new` has it.
        from_err_ptr(unsafe { bindings::memremap_pages(pagemap, bindings::NUMA_NO_NODE) })?;
        Ok(())
    }

    /// The driver's operations.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The owner of the pages, for the driver's range faults.
    ///
    /// Not for its notifiers: these have to be told when a page of the pool moves, as the device may have
    /// translations for it. They need another owner.
    pub fn owner(&self) -> Owner {
        Owner::new(self.pagemap.get() as usize)
    }

    /// The number of `pfn` in the device's memory, if it is one of this pool's.
    pub fn page_of(&self, pfn: Pfn) -> Option<u64> {
        let page = pfn.get().checked_sub(self.region.first().get())?;
        (page < self.region.pages).then_some(page)
    }

    /// How many pages are in use.
    pub fn used(&self) -> u64 {
        self.frames.lock().used()
    }

    /// Moves the pages in `range` of the process to the device; returns how many pages of 4 KiB moved (512 for a huge
    /// page).
    ///
    /// Pages that cannot move stay: those that are on a device already, are pinned, belong to files,
    /// or find no room. Addresses of anonymous memory that have no page yet get one on the device.
    /// Sleeps; the mmap lock must not be held.
    ///
    /// # Errors
    ///
    /// `EINVAL` if part of the range is not mapped or cannot be read, or is memory that never
    /// migrates; `EINTR` if the caller is killed; `ENOMEM`. What moved before that has moved.
    pub fn migrate_to_device(&self, mm: &MmWithUser, range: PageRange, huge: Huge) -> Result<u64> {
        self.migrate_range(mm, range, What::System, huge)
    }

    /// Moves the pages in `range` of the process that are in this pool back to system memory; returns
    /// how many pages of 4 KiB moved (512 for a huge page). Sleeps; the mmap lock must not be held.
    ///
    /// # Errors
    ///
    /// As [`Self::migrate_to_device`], and the error of the first page that could not be moved.
    pub fn migrate_to_system(&self, mm: &MmWithUser, range: PageRange, huge: Huge) -> Result<u64> {
        self.migrate_range(mm, range, What::Device, huge)
    }

    /// Moves all pages on the device back to system memory, of all processes. Sleeps.
    ///
    /// # Errors
    ///
    /// `EBUSY` if pages are left, as they were busy or there was no memory for them: for a huge page,
    /// no huge page.
    pub fn evict(&self) -> Result {
        self.evict_once(|place, item| self.drain(place, item));
        match self.used() {
            0 => Ok(()),
            _ => Err(EBUSY),
        }
    }

    fn migrate_range(
        &self,
        mm: &MmWithUser,
        range: PageRange,
        what: What,
        huge: Huge,
    ) -> Result<u64> {
        let mut words = KVec::from_elem(0, WORDS, GFP_KERNEL)?;
        let mut moved = 0;
        let mut page = range.start();
        while page < range.end() {
            if killed() {
                return Err(EINTR);
            }
            let lock = mm.mmap_read_lock();
            let area = lock
                .vma_lookup(page.addr() as usize)
                .filter(|area| area.flags() & virt::flags::READ != 0)
                .ok_or(EINVAL)?;
            let end = pmd_range(page)
                .end()
                .min(range.end())
                .min(PageIndex::containing(area.end() as u64));
            let part = PageRange::new(page, end);
            moved += self.migrate_part(&mut words, area, part, what, huge)?;
            page = end;
        }
        Ok(moved)
    }

    /// Moves pages of one PMD.
    fn migrate_part(
        &self,
        words: &mut [usize],
        area: &VmaRef,
        part: PageRange,
        what: What,
        huge: Huge,
    ) -> Result<u64> {
        let reason = Reason::Wish(huge);
        let mut migration = Migration::of_area(words, area, part, what, self.owner(), reason)?;
        let was_whole = migration.next(None).is_some_and(|item| item.is_huge());
        let placed = place(&mut migration, |place, item| match what {
            What::System => self.fill(place, item),
            What::Device => self.drain(place, item),
        });
        let moved = migration.commit();
        match (placed, what) {
            // There may be room for its pages. The kernel would take them in place of the huge page,
            // too, but splits that for this process only, and not for others that it is mapped in.
            (Err(_), _) if was_whole && huge == Huge::Whole => {
                self.migrate_part(words, area, part, what, Huge::Split)
            }
            (Err(error), What::Device) => Err(error),
            // A page that fails stays, which the count says.
            _ => Ok(moved),
        }
    }

    /// A page of the device with the contents of an item.
    fn fill(&self, _place: Option<(&VmaRef, PageIndex)>, item: &Item) -> Result<NewFolio> {
        let folio = self.take(item.order()).ok_or(ENOSPC)?;
        let to = self.extent(folio.pfn(), item.pages()).ok_or(EINVAL)?;
        let source = item.source.map(|first| SystemPages {
            first,
            pages: item.pages(),
            _life: PhantomData,
        });
        self.memory.to_device(source.as_ref(), to)?;
        Ok(folio)
    }

    /// A page of system memory with the contents of an item.
    fn drain(&self, place: Option<(&VmaRef, PageIndex)>, item: &Item) -> Result<NewFolio> {
        let from = item.source.ok_or(EINVAL)?;
        let from = self.extent(from, item.pages()).ok_or(EINVAL)?;
        let folio = NewFolio::system(place, item.order())?;
        self.memory.to_system(from, &pages_of(&folio, item))?;
        Ok(folio)
    }

    fn extent(&self, first: Pfn, pages: u64) -> Option<Extent> {
        let first = self.page_of(first)?;
        Some(Extent { first, pages })
    }

    /// Takes free frames.
    fn take(&self, order: u32) -> Option<NewFolio> {
        let frame = {
            let mut frames = self.frames.lock();
            match order {
                0 => frames.take(),
                PMD_ORDER => frames.take_pmd(),
                _ => None,
            }
        }?;
        let pfn = self.region.first().add(frame);
        // SAFETY: Frames of the pagemap, in range and aligned, that were free; the pagemap stays as
        // long as the pool.
        let folio =
            unsafe { shim::hmm_shim_device_folio(pfn.get() as usize, self.pagemap.get(), order) };
        // SAFETY: The shim gives it back locked and with one reference.
        NonNull::new(folio).map(|folio| unsafe { NewFolio::new(folio, order) })
    }

    /// Tries to move every frame that is in use to system memory.
    fn evict_once(
        &self,
        mut drain: impl FnMut(Option<(&VmaRef, PageIndex)>, &Item) -> Result<NewFolio>,
    ) {
        let mut words = self.words.lock();
        let mut from = 0;
        loop {
            let Some(pmd) = self.frames.lock().used_pmd_from(from) else {
                return;
            };
            let first = self.region.first().add(pmd);
            // SAFETY: A PMD of the pool's own frames.
            let migration = unsafe { Migration::of_frames(&mut words, first, PMD_PAGES) };
            if let Ok(mut migration) = migration {
                // What fails stays, which the caller sees.
                let _ = place(&mut migration, &mut drain);
                migration.commit();
            }
            from = pmd + PMD_PAGES;
        }
    }

    /// Brings the page that the CPU faulted at back.
    fn serve_cpu(&self, fault: &CpuFault<'_>) -> Result {
        let mut single = [0; 2];
        let mut many = KVec::new();
        let words = match fault.order {
            0 => &mut single[..],
            order => {
                many.resize(2 << order, 0, GFP_KERNEL)?;
                &mut many[..]
            }
        };
        let mut migration = Migration::of_area(
            words,
            fault.area,
            fault.range(),
            What::Device,
            self.owner(),
            Reason::Fault(fault.page),
        )?;
        let mut placed = place(&mut migration, |place, item| self.drain(place, item));
        if let (Err(_), Some(huge)) = (placed, migration.next(None).filter(Item::is_huge)) {
            // One page for a huge one: the kernel refuses that, as the fault has a reference to the
            // huge page, but maps it in pieces. The CPU faults again, at one of them, and that one can
            // be split, for all processes.
            placed = place_one(&mut migration, &huge.first_piece(), |place, item| {
                self.drain(place, item)
            });
        }
        // If nothing moved, somebody else was faster or is at it: the CPU tries again.
        migration.commit();
        placed
    }

    /// # Safety
    ///
    /// `folio` is one of a pool of `M`, which stays for `'a`.
    unsafe fn of_folio<'a>(folio: *mut bindings::folio) -> &'a Self {
        // SAFETY: By the contract.
        let pagemap = unsafe { shim::hmm_shim_folio_pagemap(folio) };
        // SAFETY: The pagemap is the first field of a pool, whose other fields are initialised before
        // the pages are there.
        unsafe { &*pagemap.cast::<Self>() }
    }

    /// # Safety
    ///
    /// Called by the kernel when the last reference to a folio of a pool of `M` is gone.
    unsafe extern "C" fn folio_free_callback(folio: *mut bindings::folio) {
        // SAFETY: By the contract; the pool waits for all its folios before it goes.
        let pool = unsafe { Self::of_folio(folio) };
        // SAFETY: As above.
        let pfn = Pfn::new(unsafe { shim::hmm_shim_folio_pfn(folio) } as u64);
        // SAFETY: As above.
        let pages = 1 << unsafe { shim::hmm_shim_folio_order(folio) };
        if let Some(extent) = pool.extent(pfn, pages) {
            pool.memory.freed(extent);
            pool.frames.lock().give(extent.first, extent.pages);
        }
    }

    /// # Safety
    ///
    /// Called by the kernel when the CPU faults at a page of a pool of `M`: the mmap lock is held,
    /// `vmf.page` is locked and referenced.
    unsafe extern "C" fn migrate_to_ram_callback(
        vmf: *mut bindings::vm_fault,
    ) -> bindings::vm_fault_t {
        // SAFETY: By the contract.
        let Some(fault) = (unsafe { CpuFault::new(vmf) }) else {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        };
        // SAFETY: The caller's reference keeps the folio, and that the pool.
        let pool = unsafe { Self::of_folio(fault.folio) };
        match pool.serve_cpu(&fault) {
            Ok(()) => 0,
            Err(error) if error == ENOMEM => bindings::vm_fault_reason_VM_FAULT_OOM,
            Err(_) => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }
}

#[pinned_drop]
impl<M: DeviceMemory> PinnedDrop for Pool<M> {
    fn drop(self: Pin<&mut Self>) {
        // Nobody can take pages any more. Those that are left come back, or their processes end.
        let this = self.into_ref();
        while this.used() > 0 {
            this.evict_once(|place, item| {
                this.drain(place, item).or_else(|error| match error {
                    ENOMEM => Err(ENOMEM),
                    // The device has lost it, and will not find it again.
                    _ => zeroes(place, item),
                })
            });
            if this.used() > 0 {
                fsleep(Delta::from_millis(1));
            }
        }
        // SAFETY: Mapped by `map`; waits for the last references to the folios.
        unsafe { bindings::memunmap_pages(this.pagemap.get()) };
    }
}

fn zeroes(place: Option<(&VmaRef, PageIndex)>, item: &Item) -> Result<NewFolio> {
    let folio = NewFolio::system(place, item.order())?;
    pages_of(&folio, item).clear();
    Ok(folio)
}

/// The pages of a new folio for `item`.
fn pages_of<'a>(folio: &'a NewFolio, item: &Item) -> SystemPages<'a> {
    SystemPages {
        first: folio.pfn(),
        pages: item.pages(),
        _life: PhantomData,
    }
}

/// Gives everything in `migration` a replacement made by `make`.
///
/// # Errors
///
/// The first that `make` returned. What it did not fail for has a replacement nevertheless.
fn place(
    migration: &mut Migration<'_>,
    mut make: impl FnMut(Option<(&VmaRef, PageIndex)>, &Item) -> Result<NewFolio>,
) -> Result {
    let mut result = Ok(());
    let mut last = None;
    while let Some(item) = migration.next(last) {
        last = Some(item);
        result = result.and(place_one(migration, &item, &mut make));
    }
    result
}

fn place_one(
    migration: &mut Migration<'_>,
    item: &Item,
    make: impl FnOnce(Option<(&VmaRef, PageIndex)>, &Item) -> Result<NewFolio>,
) -> Result {
    let folio = make(migration.place_of(item), item)?;
    migration.replace(item, folio);
    Ok(())
}

fn free_pmds(count: u64) -> Result<KVVec<PmdBitmap>> {
    KVVec::from_elem(PmdBitmap::default(), count as usize, GFP_KERNEL).map_err(Into::into)
}

/// A CPU's fault at a device page.
struct CpuFault<'a> {
    area: &'a VmaRef,
    page: NonNull<bindings::page>,
    folio: *mut bindings::folio,
    address: PageIndex,
    /// log2 of the pages that the entry at which the CPU faulted maps.
    order: u32,
}

impl CpuFault<'_> {
    /// # Safety
    ///
    /// `vmf` is the argument of a `migrate_to_ram` callback under way, and stays so for `'a`.
    unsafe fn new(vmf: *const bindings::vm_fault) -> Option<Self> {
        // SAFETY: By the contract.
        let (vmf, page) = unsafe { (&*vmf, NonNull::new((*vmf).page)?) };
        // SAFETY: The page is referenced by the caller.
        let folio = unsafe { shim::hmm_shim_page_folio(page.as_ptr()) };
        let order = match vmf.pte.is_null() {
            // SAFETY: As above.
            true => unsafe { shim::hmm_shim_folio_order(folio) },
            // A page of a huge one that is mapped in pieces comes alone: the kernel splits it.
            false => 0,
        };
        Some(Self {
            // SAFETY: The mmap lock is held, as device pages are not faulted under an area's own.
            area: unsafe { VmaRef::from_raw(vmf.__bindgen_anon_1.vma) },
            page,
            folio,
            address: PageIndex::containing(vmf.__bindgen_anon_1.address as u64),
            order,
        })
    }

    fn range(&self) -> PageRange {
        let start = PageIndex::new(self.address.get() >> self.order << self.order);
        PageRange::new(start, start.saturating_add(1 << self.order))
    }
}

/// A part of the physical address space that belongs to no real memory.
///
/// # Invariants
///
/// It was requested from the kernel and is ours.
struct Region {
    start: usize,
    pages: u64,
    /// What the kernel gave, which it rounds up; it takes back nothing else.
    bytes: u64,
}

impl Region {
    fn request(name: &'static CStr, pmds: u64) -> Result<Self> {
        let pages = pmds.checked_mul(PMD_PAGES).ok_or(EINVAL)?;
        let size = pages.checked_mul(PAGE as u64).filter(|size| *size > 0);
        let size = usize::try_from(size.ok_or(EINVAL)?)?;
        // SAFETY: The name lives forever, and the root of the resources does, too.
        let resource = from_err_ptr(unsafe {
            bindings::request_free_mem_region(
                &raw mut bindings::iomem_resource,
                size,
                name.as_char_ptr(),
            )
        })?;
        // SAFETY: A valid resource, which is ours.
        let (start, end) = unsafe { ((*resource).start, (*resource).end) };
        // INVARIANT: Just requested.
        Ok(Self {
            start: start as usize,
            pages,
            bytes: end - start + 1,
        })
    }

    fn first(&self) -> Pfn {
        Pfn::new((self.start >> PAGE_SHIFT) as u64)
    }

    /// The last byte that there is a page for.
    fn end(&self) -> usize {
        self.start + self.pages as usize * PAGE - 1
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: Ours, by the type invariant.
        unsafe {
            bindings::__release_region(
                &raw mut bindings::iomem_resource,
                self.start as u64,
                self.bytes,
            )
        };
    }
}
