// SPDX-License-Identifier: GPL-2.0

//! A mirror: the part of a process's address space that a device uses, as far as it has used it.
//!
//! The address space is cut into chunks of [`CHUNK_PAGES`] pages. A chunk comes into being when the
//! device first faults in it; so registering costs the same for 4 KiB and for the whole address
//! space, and memory is spent where the device has been. Each chunk has its own interval notifier:
//! it is the domain that faults and invalidations collide in, and what happens elsewhere in the
//! mirror does not touch it.
//!
//! One access goes: [`Mirror::access`] → the chunk's [`Table::translate`] under the shared lock. If
//! that has nothing: [`Mirror::fault`] → [`range_fault`] → the table is filled under the exclusive
//! lock, and the access takes place before that lock is released. So an access makes progress
//! whenever its fault does, however many invalidations queue up behind it.
//!
//! One invalidation goes: [`Chunk::invalidate`] → exclusive lock (no access is under way) → sequence
//! closed → [`Table::zap`], pages that the device wrote are marked dirty.

use core::ops::ControlFlow;

use kernel::mm::{Mm, MmWithUser};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel::time::{Delta, Instant, Monotonic};

use crate::addr::{page_offset, PageIndex, PageRange, PAGE_SIZE};
use crate::chunk_map::ChunkMap;
use crate::event::Event;
use crate::interval::{Closed, IntervalNotifier, Invalidate, OpenSeq};
use crate::page::{mark_dirty, Bytes, MappedPage};
use crate::pfn::{Access, Perm, Pfn};
use crate::policy::{Policy, Refusal};
use crate::range::range_fault;
use crate::run::Runs;
use crate::rwlock::{RwLock, WriteGuard};
use crate::seq::{until_valid, Deadline, Domain, ValidRange};
use crate::shim;
use crate::table::{Slot, Table};
use crate::tables::LockedMm;
use crate::walk::{walk, FaultError};

/// log2 of [`CHUNK_PAGES`]: a chunk is what one PMD entry maps, 2 MiB.
const CHUNK_ORDER: u32 = 9;
/// Pages in a chunk.
pub const CHUNK_PAGES: u64 = 1 << CHUNK_ORDER;

/// How long a fault may lose against invalidations before it fails.
const FAULT_DEADLINE: Delta = Delta::from_millis(10_000);

/// What the mirror tells its owner, for counters. Called from faults and invalidations, with the
/// chunk's lock held: must not sleep.
pub trait Observer: Send + Sync + 'static {
    /// A fault has been served and added `pages` translations.
    fn faulted(&self, pages: u64);
    /// A fault has to be tried again, as an invalidation came in between.
    fn collided(&self);
    /// A fault has failed.
    fn failed(&self);
    /// The CPU has taken the range away; `pages` translations went.
    fn invalidated(&self, event: Event, pages: u64);
    /// A chunk has come into being.
    fn chunk_added(&self);
}

/// A mirror of the pages in `span` of one address space.
#[pin_data]
pub struct Mirror<O: Observer> {
    mm: ARef<Mm>,
    span: PageRange,
    limit: Perm,
    observer: Arc<O>,
    #[pin]
    chunks: ChunkMap<Watched<O>>,
}

/// The translations of one chunk.
#[pin_data]
pub struct Chunk<O: Observer> {
    #[pin]
    table: RwLock<Table<KVec<Slot>>>,
    observer: Arc<O>,
}

impl<O: Observer> Chunk<O> {
    fn new(range: PageRange, observer: Arc<O>) -> impl PinInit<Self, Error> {
        let slots = fresh_slots(range.len());
        try_pin_init!(Self {
            table <- RwLock::new(Table::new(range.start(), slots?)),
            observer,
        })
    }
}

fn fresh_slots(pages: u64) -> Result<KVec<Slot>> {
    let mut slots = KVec::with_capacity(pages as usize, GFP_KERNEL)?;
    for _ in 0..pages {
        slots.push(Slot::default(), GFP_KERNEL)?;
    }
    Ok(slots)
}

impl<O: Observer> Invalidate for Chunk<O> {
    fn invalidate(&self, range: PageRange, event: Event, seq: OpenSeq<'_>) -> Closed {
        // Waits for accesses under way; later ones find nothing and fault.
        let mut table = self.table.write();
        let closed = seq.close(&mut table);
        let pages = zap(&mut table, range);
        self.observer.invalidated(event, pages);
        closed
    }

    fn retire(&self) {
        let mut table = self.table.write();
        let range = table.range();
        zap(&mut table, range);
    }
}

/// Removes the translations of `range` and marks what the device wrote as dirty; returns how many
/// there were.
fn zap(table: &mut WriteGuard<'_, Table<KVec<Slot>>>, range: PageRange) -> u64 {
    table.zap(range, |pfn| {
        // SAFETY: The frame was found in the process's page table; an invalidation that lets go of
        // it has to come through the chunk's lock first, which is held.
        unsafe { mark_dirty(pfn) }
    })
}

impl<O: Observer> Domain for Watched<O> {
    type Guard<'d> = WriteGuard<'d, Table<KVec<Slot>>>;

    fn read_begin(&self) -> u64 {
        IntervalNotifier::read_begin(self)
    }

    fn lock(&self) -> Self::Guard<'_> {
        self.table.write()
    }

    fn must_retry(&self, _guard: &Self::Guard<'_>, seq: u64) -> bool {
        IntervalNotifier::must_retry(self, seq)
    }

    fn may_have_collided(&self, seq: u64) -> bool {
        IntervalNotifier::may_have_collided(self, seq)
    }
}

/// A chunk, registered for its range: what the mirror is made of, and a domain.
type Watched<O> = IntervalNotifier<Chunk<O>>;

struct After(Instant<Monotonic>);

impl Deadline for After {
    fn passed(&self) -> bool {
        self.0.elapsed() >= FAULT_DEADLINE
    }
}

impl<O: Observer> Mirror<O> {
    /// A mirror of `span` in `mm`, cut to what user space may map. `limit` is the most that the
    /// device may do. Allocates no more for a large span than for a small one.
    pub fn new<'a>(
        mm: &'a Mm,
        span: PageRange,
        limit: Perm,
        observer: Arc<O>,
    ) -> impl PinInit<Self> + 'a
    where
        O: 'a,
    {
        let user = user_pages(mm);
        pin_init!(Self {
            mm: mm.into(),
            span: span.intersection(&user),
            limit,
            observer,
            chunks <- ChunkMap::new(),
        })
    }

    /// Lets the device access the `len` bytes from virtual address `va`: `use_bytes` gets them in
    /// ascending order, in pieces that lie in one page each.
    ///
    /// While `use_bytes` runs, the CPU cannot take the piece away; it must not sleep. Pages that
    /// are not mirrored yet are faulted in for `access`; this sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`range_fault`], if a page cannot be had; [`FaultError::Exited`] if the process is
    /// gone, [`FaultError::NoMemory`], [`FaultError::TimedOut`]. Pieces before the one that failed
    /// have been used.
    pub fn access(
        &self,
        va: u64,
        len: usize,
        access: Access,
        mut use_bytes: impl FnMut(Bytes<'_>),
    ) -> Result<(), FaultError> {
        let wanted =
            PageRange::covering(va, len as u64).ok_or(FaultError::Refused(Refusal::NoPage))?;
        let mut at = va;
        let mut left = len;
        while left > 0 {
            let offset = page_offset(at);
            let piece = left.min(PAGE_SIZE as usize - offset);
            let page = PageIndex::containing(at);
            let ahead = PageRange::new(page, wanted.end());
            self.access_page(page, ahead, access, |page| {
                use_bytes(page.bytes(offset, piece))
            })?;
            // Wraps only after the last byte of the address space, when nothing is left.
            at = at.wrapping_add(piece as u64);
            left -= piece;
        }
        Ok(())
    }

    /// Accesses `page`; if it has to be faulted in, the rest of `ahead` comes with it, as far as
    /// the chunk goes.
    fn access_page(
        &self,
        page: PageIndex,
        ahead: PageRange,
        access: Access,
        use_page: impl FnOnce(&MappedPage<'_>),
    ) -> Result<(), FaultError> {
        let chunk = self.chunk(page)?;
        {
            let table = chunk.table.read();
            if let Some(pfn) = table.translate(page, access) {
                use_page(&mapped(&table, pfn));
                return Ok(());
            }
        }
        let wanted = ahead.intersection(&chunk.range());
        let (valid, added) = self.fault(chunk, wanted, Policy::Fault(access))?;
        self.observer.faulted(added);
        let table = valid.guard();
        // The fault asked for this page with this access, so it is there unless the device's own
        // limit forbids it.
        let pfn = table
            .translate(page, access)
            .ok_or(FaultError::Refused(Refusal::Forbidden))?;
        use_page(&mapped(table, pfn));
        Ok(())
    }

    /// Brings the pages of `range` into the mirror, as far as `policy` asks for it.
    ///
    /// `step` is told after each step, of one chunk at most, how many pages it added, and says
    /// whether to go on. Sleeps.
    ///
    /// # Errors
    ///
    /// As [`Mirror::access`]. Pages before the one that failed are in the mirror.
    pub fn prefetch(
        &self,
        range: PageRange,
        policy: Policy,
        mut step: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), FaultError> {
        let mut page = range.start();
        while page < range.end() {
            let wanted = PageRange::new(page, range.end()).intersection(&chunk_around(page));
            let (end, added) = if policy == Policy::Snapshot && !self.any_resident(wanted)? {
                (wanted.end(), 0)
            } else {
                let (valid, added) = self.fault(self.chunk(page)?, wanted, policy)?;
                (valid.done().end(), added)
            };
            page = end;
            if step(added).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Uses what the mirror holds of the `len` bytes from `va`, without faulting anything in.
    pub fn access_present(&self, va: u64, len: u64, mut use_bytes: impl FnMut(Bytes<'_>)) {
        let Some(wanted) = PageRange::covering(va, len) else {
            return;
        };
        let wanted = wanted.intersection(&self.span);
        let mut page = wanted.start();
        while page < wanted.end() {
            let next = chunk_around(page).end().min(wanted.end());
            if let Some(chunk) = self.chunks.get(chunk_number(page)) {
                for page in page.get()..next.get() {
                    let table = chunk.table.read();
                    if let Some(pfn) = table.translate(PageIndex::new(page), Access::Read) {
                        use_bytes(mapped(&table, pfn).bytes(0, PAGE_SIZE as usize));
                    }
                }
            }
            page = next;
        }
    }

    /// Faults in `wanted`, which lies in `chunk`, and fills the table.
    ///
    /// The result holds the chunk's lock. Also returned: how many pages were added.
    fn fault<'d>(
        &self,
        chunk: &'d Watched<O>,
        wanted: PageRange,
        policy: Policy,
    ) -> Result<(ValidRange<'d, Watched<O>>, u64), FaultError> {
        let mm = self.mm_user()?;
        let deadline = After(Instant::now());
        let result = until_valid(
            chunk,
            &deadline,
            |side| range_fault(&mm, side, wanted, policy),
            || self.observer.collided(),
        );
        let mut valid = result.inspect_err(|_| self.observer.failed())?;
        let (runs, table) = valid.split();
        let added = runs.iter().map(|run| table.fill(run, self.limit)).sum();
        Ok((valid, added))
    }

    /// The chunk that holds `page`, made if there is none.
    fn chunk(&self, page: PageIndex) -> Result<&Watched<O>, FaultError> {
        match self.chunks.get(chunk_number(page)) {
            Some(chunk) => Ok(chunk),
            None => self.add_chunk(page),
        }
    }

    #[cold]
    fn add_chunk(&self, page: PageIndex) -> Result<&Watched<O>, FaultError> {
        let mm = self.mm_user()?;
        // A peer must not make us spend memory on addresses where there is nothing.
        if !self.span.contains(page) || !has_vma(&mm, page) {
            self.observer.failed();
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        let range = chunk_around(page).intersection(&self.span);
        let chunk = Chunk::new(range, self.observer.clone());
        let chunk = KBox::pin_init(IntervalNotifier::new(&mm, range, chunk), GFP_KERNEL)
            .map_err(|_| FaultError::NoMemory)?;
        let chunk = self
            .chunks
            .get_or_insert(chunk_number(page), chunk)
            .map_err(|_| FaultError::NoMemory)?;
        self.observer.chunk_added();
        Ok(chunk)
    }

    /// Whether any page of `range` is in memory, as a hint: whether a chunk is worth its memory.
    fn any_resident(&self, range: PageRange) -> Result<bool, FaultError> {
        let mm = self.mm_user()?;
        let mmap_lock = mm.mmap_read_lock();
        let mut runs = Runs::new();
        let mut space = LockedMm::new(&mm, &mmap_lock, || false);
        walk(
            &mut space,
            range.intersection(&self.span),
            Policy::Snapshot,
            &mut runs,
        )?;
        Ok(!runs.as_slice().is_empty())
    }

    /// Keeps the address space from being torn down. The last user may be this one, and a teardown
    /// here could be long: it is left to a worker.
    fn mm_user(&self) -> Result<ARef<kernel::mm::MmWithUserAsync>, FaultError> {
        let mm = self.mm.mmget_not_zero().ok_or(FaultError::Exited)?;
        Ok(MmWithUser::into_mmput_async(mm))
    }

    /// The pages that are mirrored.
    pub fn span(&self) -> PageRange {
        self.span
    }
}

fn has_vma(mm: &MmWithUser, page: PageIndex) -> bool {
    mm.mmap_read_lock()
        .vma_lookup(page.addr() as usize)
        .is_some()
}

fn chunk_number(page: PageIndex) -> usize {
    (page.get() >> CHUNK_ORDER) as usize
}

/// The pages of the chunk that `page` is in.
fn chunk_around(page: PageIndex) -> PageRange {
    let start = PageIndex::new(page.get() & !(CHUNK_PAGES - 1));
    PageRange::new(start, start.saturating_add(CHUNK_PAGES))
}

/// The pages that user space of `mm` may map.
pub fn user_pages(mm: &Mm) -> PageRange {
    // SAFETY: `mm` is alive; its task size never changes after exec.
    let size = unsafe { shim::hmm_shim_task_size(mm.as_raw()) };
    PageRange::new(PageIndex::new(0), PageIndex::containing(size as u64))
}

/// The page behind a translation of `_table`, usable while the table's lock is held.
#[inline]
fn mapped<'a>(_table: &'a Table<KVec<Slot>>, pfn: Pfn) -> MappedPage<'a> {
    // SAFETY: The table holds only frames that the process's page table held, which have a `struct
    // page`, and an invalidation waits for the lock whose guard `_table` was borrowed from.
    unsafe { MappedPage::map(pfn) }
}
