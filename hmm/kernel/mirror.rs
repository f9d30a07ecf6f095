// SPDX-License-Identifier: GPL-2.0

//! A mirror: the part of a process's address space that a device uses, as far as it has used it.
//!
//! The address space is cut into chunks of [`CHUNK_PAGES`] pages, and these into units of 2 MiB. A
//! chunk comes into being when the device first faults in it, the slots of a unit when the first of
//! its pages does, and a huge page needs none; so registering costs the same for 4 KiB and for the
//! whole address space, and memory is spent where the device has been. Each chunk has its own
//! interval notifier and lock, so what happens elsewhere in the mirror does not touch it.
//!
//! One access goes: [`Mirror::access`] → the chunk's [`Table::translate`] under the shared lock. If
//! that has nothing: [`Mirror::fault`] → [`range_fault`] → the table is filled under the exclusive
//! lock, and the access takes place before that lock is released. So an access makes progress
//! whenever its fault does, however many invalidations queue up behind it.
//!
//! One invalidation goes: [`crate::interval`] → exclusive lock (no access is under way) →
//! [`Chunk::invalidate`] → [`Table::zap`], or [`Table::write_protect`] if the pages stay where they
//! are; pages that the device wrote are marked dirty.

use core::ops::ControlFlow;

use kernel::alloc::flags::__GFP_NOWARN;
use kernel::alloc::Flags;
use kernel::mm::{Mm, MmWithUser};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

use crate::addr::{page_offset, PageIndex, PageRange, PAGE_SIZE};
use crate::ahead::Ahead;
use crate::charge::Charge;
use crate::chunk_map::ChunkMap;
use crate::event::{Event, Leaves};
use crate::interval::{IntervalNotifier, Invalidate};
use crate::page::{mark_dirty, Bytes, MappedPage};
use crate::pfn::{Access, Owner, Perm, Pfn};
use crate::policy::{Policy, Refusal};
use crate::range::{range_fault, HoldStill, TimeLimit};
use crate::run::Runs;
use crate::seq::{until_valid, ValidRange};
use crate::shim;
use crate::table::{unit_around, units_in, Pages, Room, Slot, Table, UNIT_ORDER};
use crate::tables::{Batch, LockedMm};
use crate::walk::{walk, AddressSpace, FaultError, Request};

/// log2 of [`CHUNK_PAGES`]: 128 MiB. Larger, and accesses wait for more invalidations that do not
/// concern them; smaller, and a region that is used throughout needs more notifiers: with 64 MiB, a
/// mirror of 1 GiB of huge pages takes 8.8 KiB, with 128 MiB 6.7 KiB.
const CHUNK_ORDER: u32 = 15;
/// Pages in a chunk.
pub const CHUNK_PAGES: u64 = 1 << CHUNK_ORDER;

/// What the mirror tells its owner, for counters and traces. Called from faults and invalidations, some
/// of them under a spinlock: must not sleep.
///
/// The warm path of an access, which finds its translation, tells nothing.
pub trait Observer: Send + Sync + 'static {
    /// A fault under way. Each that has begun ends as served or as failed, once.
    type Fault;

    /// The device needs `page` for `access` and has no translation for that.
    fn fault_begins(&self, page: PageIndex, access: Access) -> Self::Fault;
    /// The fault has been served. It added the translations of `pages` pages, `extra` of them not asked
    /// for: the rest of a huge page, or resident pages behind.
    fn fault_served(&self, fault: Self::Fault, pages: u64, extra: u64);
    /// The fault has failed, and with it the access, as the page could not be had.
    fn fault_failed(&self, fault: Self::Fault, error: FaultError);
    /// A fault or a prefetch has to be tried again, as an invalidation came in between.
    fn collided(&self);
    /// The CPU has taken the range away; `pages` translations went. Those that only became read-only
    /// do not count.
    fn invalidated(&self, range: PageRange, event: Event, pages: u64);
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
    ahead: Ahead,
    #[pin]
    chunks: ChunkMap<WatchedChunk<O>>,
}

/// The translations of one chunk.
struct Chunk<O: Observer> {
    table: Translations,
    observer: Arc<O>,
}

/// A chunk, registered for its range: what the mirror is made of, and the domain of its faults.
type WatchedChunk<O> = IntervalNotifier<Chunk<O>>;

type Found<'d, O> = ValidRange<'d, WatchedChunk<O>, Runs>;

type Slots = KVec<Slot>;
type Units = KVec<Pages<Slots>>;
type Translations = Table<Slots, Units>;

impl<O: Observer> Chunk<O> {
    fn new(range: PageRange, observer: Arc<O>) -> Result<Self> {
        let huge = defaults(units_in(range), GFP_KERNEL_ACCOUNT)?;
        Ok(Self {
            table: Table::new(range, huge),
            observer,
        })
    }

    /// Removes the translations of `range` and marks what the device wrote as dirty; returns how
    /// many there were.
    fn zap(&mut self, range: PageRange) -> u64 {
        self.table.zap(range, &mut AtOnce, written)
    }
}

/// The device wrote frame `pfn`, and its translation has gone or become read-only.
fn written(pfn: Pfn) {
    // SAFETY: The frame was found in the process's page table; an invalidation that lets go of it has
    // to come through the chunk's lock first. Translations change only while that is held.
    unsafe { mark_dirty(pfn) }
}

/// So many default values.
fn defaults<T: Default>(count: u64, flags: Flags) -> Result<KVec<T>> {
    let mut values = KVec::with_capacity(count as usize, flags)?;
    for _ in 0..count {
        values.push(T::default(), flags)?;
    }
    Ok(values)
}

/// Room for the translations of a fault, made before the lock is taken and charged to the process.
#[derive(Default)]
struct Spare {
    units: Option<Units>,
    slots: Option<Slots>,
    /// Whether room that the chunk has now may be gone when it is needed.
    rely_on_nothing: bool,
}

impl Spare {
    /// Makes the room that `chunk` has not got for pages in the unit that `page` is in.
    fn prepare<O: Observer>(&mut self, chunk: &WatchedChunk<O>, page: PageIndex) -> Result {
        let (units, slots, part) = {
            let chunk = chunk.read();
            let table = &chunk.table;
            let (units, slots) = (table.has_pages(), table.has_slots(page));
            (
                units,
                slots && !self.rely_on_nothing,
                table.part_around(page),
            )
        };
        if !units && self.units.is_none() {
            self.units = Some(defaults(units_in(chunk.range()), GFP_KERNEL_ACCOUNT)?);
        }
        if !slots && self.slots.is_none() {
            self.slots = Some(defaults(part.len(), GFP_KERNEL_ACCOUNT)?);
        }
        Ok(())
    }
}

impl Room<Units, Slots> for Spare {
    fn pages(&mut self, units: usize) -> Option<Units> {
        self.units.take_if(|spare| spare.len() == units)
    }

    fn slots(&mut self, pages: u64) -> Option<Slots> {
        self.slots.take_if(|spare| spare.len() as u64 == pages)
    }
}

/// Room that is there at once or not at all: for the rest of a huge page, under the lock.
struct AtOnce;

impl Room<Units, Slots> for AtOnce {
    fn pages(&mut self, units: usize) -> Option<Units> {
        defaults(units as u64, GFP_NOWAIT | __GFP_NOWARN).ok()
    }

    fn slots(&mut self, pages: u64) -> Option<Slots> {
        defaults(pages, GFP_NOWAIT | __GFP_NOWARN).ok()
    }
}

impl<O: Observer> Invalidate for Chunk<O> {
    fn invalidate(&mut self, range: PageRange, event: Event) {
        let pages = match event.leaves() {
            Leaves::Nothing => self.zap(range),
            Leaves::ReadOnly => {
                self.table.write_protect(range, written);
                0
            }
        };
        self.observer.invalidated(range, event, pages);
    }

    fn retire(&mut self) {
        self.zap(self.table.range());
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
            ahead: Ahead::default(),
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
            let rest = PageRange::new(page, wanted.end());
            self.access_page(page, rest, access, |page| {
                use_bytes(page.bytes(offset, piece))
            })?;
            // Wraps only after the last byte of the address space, when nothing is left.
            at = at.wrapping_add(piece as u64);
            left -= piece;
        }
        Ok(())
    }

    /// Accesses `page`; if it has to be faulted in, the rest of the access in `wanted` comes with
    /// it, as far as the unit goes.
    fn access_page(
        &self,
        page: PageIndex,
        wanted: PageRange,
        access: Access,
        use_page: impl FnOnce(&MappedPage<'_>),
    ) -> Result<(), FaultError> {
        let chunk = self.chunk(page);
        if let Some(chunk) = chunk {
            let chunk = chunk.read();
            // No translation allows more than the mirror's limit does.
            if let Some(pfn) = chunk.table.translate(page, access) {
                use_page(&mapped(&chunk.table, pfn));
                return Ok(());
            }
        }
        let fault = self.observer.fault_begins(page, access);
        let wanted = wanted.intersection(&self.unit(page));
        match self.fault_in(chunk, page, wanted, access) {
            Ok((valid, added, pfn)) => {
                let extra = added.saturating_sub(wanted.len());
                self.observer.fault_served(fault, added, extra);
                use_page(&mapped(&valid.guard().table, pfn));
                Ok(())
            }
            Err(error) => {
                self.observer.fault_failed(fault, error);
                Err(error)
            }
        }
    }

    /// Faults `page` in, and with it the rest of `wanted`, which lies in the same unit, if it can be had.
    ///
    /// The result holds the chunk's lock. Also returned: how many pages were added, and the frame of
    /// `page`.
    fn fault_in<'d>(
        &'d self,
        chunk: Option<&'d WatchedChunk<O>>,
        page: PageIndex,
        wanted: PageRange,
        access: Access,
    ) -> Result<(Found<'d, O>, u64, Pfn), FaultError> {
        if !self.limit.allows(access) {
            return Err(FaultError::Refused(Refusal::Forbidden));
        }
        let one = PageRange::new(page, page.saturating_add(1));
        let chunk = match chunk {
            Some(chunk) => chunk,
            None => self.add_chunk(page, one)?,
        };
        let request = Request {
            ahead: self.look_ahead(wanted),
            ..Request::new(wanted, Policy::Fault(access))
        };
        let (valid, added) = match self.fault(chunk, &request) {
            // A later page may be the one: then this one is still served.
            Err(FaultError::Refused(_)) if wanted.len() > 1 => {
                self.fault(chunk, &Request::new(one, Policy::Fault(access)))?
            }
            result => result?,
        };
        self.ahead.record(wanted, reached(&valid));
        // The fault asked for this page with this access, and the limit allows it: it is there.
        let pfn = valid.guard().table.translate(page, access);
        let pfn = pfn.ok_or(FaultError::Refused(Refusal::NoPage))?;
        Ok((valid, added, pfn))
    }

    /// Brings the pages of `range` into the mirror, as far as `policy` asks for it.
    ///
    /// `step` is told after each step, of one unit at most, how many pages it added, and says whether
    /// to go on. Sleeps.
    ///
    /// # Errors
    ///
    /// As [`Mirror::access`], with nothing done if the range is not all in the mirror or the device may
    /// not do what `policy` asks for. Otherwise the units before the one that failed are in the mirror.
    pub fn prefetch(
        &self,
        range: PageRange,
        policy: Policy,
        mut step: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), FaultError> {
        if !range.is_empty() && range.intersection(&self.span) != range {
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        if matches!(policy, Policy::Fault(access) if !self.limit.allows(access)) {
            return Err(FaultError::Refused(Refusal::Forbidden));
        }
        let mut page = range.start();
        while page < range.end() {
            let wanted = PageRange::new(page, range.end()).intersection(&self.unit(page));
            let (end, added) = if policy == Policy::Snapshot && !self.any_resident(wanted)? {
                (wanted.end(), 0)
            } else {
                let request = Request::new(wanted, policy);
                let chunk = match self.chunk(page) {
                    Some(chunk) => chunk,
                    None => self.add_chunk(page, wanted)?,
                };
                let (valid, added) = self.fault(chunk, &request)?;
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
        let mut from = self.chunk_number(wanted.start());
        while let Some((number, chunk)) = self.chunks.next(from) {
            let part = chunk.range().intersection(&wanted);
            if part.is_empty() {
                break;
            }
            for page in part.start().get()..part.end().get() {
                let chunk = chunk.read();
                if let Some(pfn) = chunk.table.translate(PageIndex::new(page), Access::Read) {
                    use_bytes(mapped(&chunk.table, pfn).bytes(0, PAGE_SIZE as usize));
                }
            }
            from = number + 1;
        }
    }

    /// Serves `request`, whose pages lie in one unit of `chunk`, and fills the table.
    ///
    /// The result holds the chunk's lock. Also returned: how many pages were added.
    fn fault<'d>(
        &self,
        chunk: &'d WatchedChunk<O>,
        request: &Request,
    ) -> Result<(Found<'d, O>, u64), FaultError> {
        let mm = self.mm_user()?;
        let mut spare = Spare::default();
        let mut added = 0;
        loop {
            let mut valid = self.find(&mm, chunk, request, &mut spare)?;
            let (runs, chunk) = valid.split();
            let mut left_out = false;
            for run in runs.as_slice() {
                let filled = chunk.table.fill(run, self.limit, &mut spare);
                added += filled.added;
                left_out |= filled.left_out;
            }
            if !left_out {
                return Ok((valid, added));
            }
            // Slots that were there have gone with other pages of the unit.
            spare.rely_on_nothing = true;
        }
    }

    /// Finds the pages of `request`, and makes room for them in `spare`.
    fn find<'d>(
        &self,
        mm: &MmWithUser,
        chunk: &'d WatchedChunk<O>,
        request: &Request,
        spare: &mut Spare,
    ) -> Result<Found<'d, O>, FaultError> {
        until_valid(
            chunk,
            &TimeLimit::default(),
            HoldStill(mm),
            Runs::new(),
            |side, still, found| {
                // What the CPU's fault handler allocates for the page table is charged as well.
                let _charge = Charge::to(mm);
                let done = range_fault(mm, side, still, request, found)?;
                if found.smallest_order() < UNIT_ORDER {
                    let prepared = spare.prepare(chunk, request.wanted.start());
                    prepared.map_err(|_| FaultError::NoMemory)?;
                }
                Ok(done)
            },
            || self.observer.collided(),
        )
    }

    /// The mirrored pages of the unit that `page` is in.
    fn unit(&self, page: PageIndex) -> PageRange {
        unit_around(page).intersection(&self.span)
    }

    /// How many pages behind `wanted` to look at, in the same unit.
    fn look_ahead(&self, wanted: PageRange) -> u64 {
        let left = PageRange::new(wanted.end(), self.unit(wanted.start()).end());
        self.ahead.window(wanted).min(left.len())
    }

    /// Chunks are numbered from the first one of the span, so that a small region's map is small.
    fn chunk_number(&self, page: PageIndex) -> usize {
        let first = self.span.start().get() >> CHUNK_ORDER;
        (page.get() >> CHUNK_ORDER).saturating_sub(first) as usize
    }

    /// The chunk that holds `page`, if there is one.
    fn chunk(&self, page: PageIndex) -> Option<&WatchedChunk<O>> {
        if !self.span.contains(page) {
            return None;
        }
        self.chunks.get(self.chunk_number(page))
    }

    /// Makes the chunk that holds `page`, if there is an area anywhere in `wanted`: a peer must not
    /// make us spend memory on addresses where there is nothing.
    #[cold]
    fn add_chunk(
        &self,
        page: PageIndex,
        wanted: PageRange,
    ) -> Result<&WatchedChunk<O>, FaultError> {
        let mm = self.mm_user()?;
        if !self.span.contains(page) || !has_vma(&mm, wanted) {
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        let range = chunk_around(page).intersection(&self.span);
        let _charge = Charge::to(&mm);
        let chunk = Chunk::new(range, self.observer.clone()).map_err(|_| FaultError::NoMemory)?;
        let chunk = IntervalNotifier::new(&mm, range, Owner::NONE, chunk);
        let chunk = KBox::pin_init(chunk, GFP_KERNEL_ACCOUNT).map_err(|error| match error {
            // Registering gives way to signals.
            error if error == EINTR => FaultError::Interrupted,
            _ => FaultError::NoMemory,
        })?;
        let (chunk, added) = self
            .chunks
            .get_or_insert(self.chunk_number(page), chunk)
            .map_err(|_| FaultError::NoMemory)?;
        if added {
            self.observer.chunk_added();
        }
        Ok(chunk)
    }

    /// Whether any page of `range` is in memory, as a hint: whether a chunk is worth its memory.
    fn any_resident(&self, range: PageRange) -> Result<bool, FaultError> {
        let mm = self.mm_user()?;
        let mut runs = Runs::new();
        let (mut still, mut batch) = (None, Batch::new());
        let mut space = LockedMm::lock(&mm, &mut still, &mut batch, Owner::NONE, || false);
        let range = range.intersection(&self.span);
        walk(&mut space, range, &Policy::Snapshot, &mut runs)?;
        Ok(!runs.as_slice().is_empty())
    }

    /// Keeps the address space from being torn down. The last user may be this one, and a teardown
    /// here could be long: it is left to a worker.
    fn mm_user(&self) -> Result<ARef<kernel::mm::MmWithUserAsync>, FaultError> {
        let mm = self.mm.mmget_not_zero().ok_or(FaultError::Exited)?;
        let mm = MmWithUser::into_mmput_async(mm);
        // Faults must not keep alive, and let grow, what a dead process has left behind.
        // SAFETY: `mm` is alive.
        match unsafe { shim::hmm_shim_mm_has_owner(mm.as_raw()) } {
            true => Ok(mm),
            false => Err(FaultError::Exited),
        }
    }
}

/// The end of the pages that a fault has found without a gap from the first one on.
fn reached<O: Observer>(valid: &Found<'_, O>) -> PageIndex {
    let mut end = valid.done().end();
    for run in valid.result().as_slice() {
        if run.start <= end {
            end = end.max(run.range().end());
        }
    }
    end
}

/// Whether an area covers any of `pages`.
fn has_vma(mm: &MmWithUser, pages: PageRange) -> bool {
    let (mut still, mut batch) = (None, Batch::new());
    let mut space = LockedMm::lock(mm, &mut still, &mut batch, Owner::NONE, || false);
    let next = space.vma_from(pages.start());
    next.is_some_and(|vma| !vma.range.intersection(&pages).is_empty())
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
fn mapped<'a>(_table: &'a Translations, pfn: Pfn) -> MappedPage<'a> {
    // SAFETY: The table holds only frames that the process's page table held, which have a `struct
    // page`, and an invalidation waits for the lock whose guard `_table` was borrowed from.
    unsafe { MappedPage::map(pfn) }
}
