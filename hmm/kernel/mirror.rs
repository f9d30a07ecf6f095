// SPDX-License-Identifier: GPL-2.0

//! A mirror: translations for the part of a process's address space that a device has used.
//!
//! The address space is cut into chunks, as the [`Geometry`] says, and these into PMDs of 2 MiB. A
//! chunk comes into being when the device first faults in it, the slots of a PMD when the first of
//! its pages does, and a huge page needs none; so registering costs the same for 4 KiB and for the
//! whole address space, and memory is spent where the device has been. Each chunk has its own interval notifier
//! and lock: invalidations elsewhere in the mirror do not touch it.
//!
//! An access takes this path: [`Mirror::access`] → the chunk's [`Xlt::translate`] under the shared lock. If
//! that has nothing: [`Mirror::fault`] → [`range_fault`] → the table is filled under the exclusive
//! lock, and the access takes place before that lock is released. So an access makes progress
//! whenever its fault does, even if more invalidations are waiting.
//!
//! An invalidation takes this path: [`crate::interval`] → exclusive lock (no access is under way) →
//! [`Chunk::invalidate`] → [`Xlt::zap`], or [`Xlt::write_protect`] if the pages stay where they
//! are; pages that the device wrote are marked dirty. Empty chunks are freed in the background, and the
//! least recently used ones when all together take too much memory ([`crate::reaper`]).
//!
//! Persistent memory, all of which can be made sure of at once, has [`crate::persistent`].
//!
//! For devices with their own translation tables see [`crate::device_table`].
//!
//! [`Xlt::translate`]: crate::xlt::Xlt::translate
//! [`Xlt::zap`]: crate::xlt::Xlt::zap
//! [`Xlt::write_protect`]: crate::xlt::Xlt::write_protect
//! [`Chunk::invalidate`]: crate::Invalidate::invalidate

use core::ops::ControlFlow;

use kernel::mm::{Mm, MmWithUser};
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::addr::{pieces, pmd_range, ByteRange, PageIndex, PageRange, PAGE_SIZE, PMD_PAGES};
use crate::charge::Charge;
use crate::chunk::{Chunk, Parent};
use crate::chunk_map::{entry_size, ChunkRef};
use crate::fault_around::FaultAround;
use crate::geometry::Geometry;
use crate::interval;
use crate::limits::Limits;
use crate::look_around::LookAround;
use crate::observer::Observer;
use crate::page::{Bytes, MappedPage};
use crate::pfn::{Access, Perm, Permitted};
use crate::pfn_array::HmmPfn;
use crate::pfn_room::PfnRoom;
use crate::pmd_pages::PmdPages;
use crate::policy::{Policy, Refusal};
use crate::populate::Owned;
use crate::process::user_pages;
use crate::range::{first_resident, has_vma, range_fault, LockEscalation, TimeLimit};
use crate::reaper::{Chunks, MirrorChunk};
use crate::room::RoomForFault;
use crate::seq::{until_valid, Sequence, Unread, ValidRange};
use crate::table::{Backing, Software, Table};
use crate::walk::{FaultError, Request, Waiting};

/// A mirror of one range of an address space: the device's page table, kept in the kernel's memory, coherent with
/// the CPU's.
///
/// It keeps the `mm_struct`, not the address space: a process that exits takes its pages along, and accesses
/// fail with [`FaultError::Exited`].
///
/// ```no_run
/// # #![no_std]
/// # use core::sync::atomic::Ordering;
/// # use hmm::{Access, Limits, Mirror, Observer, PageRange, Perm};
/// # use kernel::error::{code::EINVAL, Result};
/// # use kernel::mm::Mm;
/// # use kernel::sync::Arc;
/// # fn count<O: Observer>(mm: &Mm, start: u64, len: usize, observer: Arc<O>) -> Result {
/// let span = PageRange::covering(start, len as u64).ok_or(EINVAL)?;
/// let mirror = Mirror::new(mm, span, Perm::ReadWrite, Limits::default(), observer)?;
/// // The device writes a word to each page. Pages that it lacks are faulted in, which sleeps; the closure must not.
/// mirror.access(start, len, Access::Write, |bytes| {
///     if let Some(word) = bytes.atomic_u64() {
///         word.fetch_add(1, Ordering::Relaxed);
///     }
/// })?;
/// # Ok(())
/// # }
/// # fn main() {}
/// ```
pub struct Mirror<O: Observer, B: Backing = Software> {
    owned: Arc<Owned>,
    span: PageRange,
    geometry: Geometry,
    fault_around: FaultAround,
    chunks: Arc<Chunks<O, B>>,
}

/// Room for the largest block that is looked at around a page: on the stack.
pub(crate) const LARGEST_BLOCK: usize = 1 << LookAround::ORDER;

/// So many pages are few beside those of a block: a fault on them looks around.
const FEW: u64 = LARGEST_BLOCK as u64 / 4;

/// The result of a fault, in room borrowed for `'w`.
type Found<'d, 'w, O, B> = ValidRange<'d, MirrorChunk<O, B>, PmdPages<'w>>;

/// What the lock of a chunk protects.
pub(crate) type MirrorData<O, B> = Chunk<Arc<Chunks<O, B>>, <B as Backing>::Table>;

impl<O: Observer> Mirror<O> {
    /// A chunk fits into 256 bytes, a size that slab has; lock debugging makes it larger.
    const CHUNK_FITS: () = assert!(
        cfg!(CONFIG_DEBUG_LOCK_ALLOC) || entry_size::<MirrorChunk<O, Software>>() <= 256,
        "a chunk of a mirror takes more than 256 bytes"
    );

    /// A mirror of `span` in `mm`, cut to [`user_pages`]. Faults use the credentials of the current task. `limit`
    /// is the most that the device may do. The cost does not depend on the size of `span`. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINTR` if a signal is pending; `ESRCH` if the process is gone.
    pub fn new(
        mm: &Mm,
        span: PageRange,
        limit: Perm,
        limits: Limits,
        observer: Arc<O>,
    ) -> Result<Self> {
        let () = Self::CHUNK_FITS;
        Self::with_backing(mm, span, limit, limits, observer, Software)
    }

    /// Accesses the `len` bytes from virtual address `va`: `use_bytes` gets them in ascending order, in pieces
    /// that lie in one page each.
    ///
    /// `use_bytes` runs under the chunk's lock, so that the CPU cannot take the page away; it must not sleep.
    /// Pages without a translation that allows `access` are faulted in, which sleeps.
    ///
    /// # Errors
    ///
    /// [`FaultError::Refused`] if a page cannot be had; [`FaultError::Exited`] if the process is gone;
    /// [`FaultError::NoMemory`], [`FaultError::TimedOut`], [`FaultError::Interrupted`]. Pieces before the one that
    /// failed have been used.
    pub fn access(
        &self,
        va: u64,
        len: usize,
        access: Access,
        mut use_bytes: impl FnMut(Bytes<'_>),
    ) -> Result<(), FaultError> {
        let wanted =
            PageRange::covering(va, len as u64).ok_or(FaultError::Refused(Refusal::NoPage))?;
        for piece in pieces(va, len) {
            let mut use_page = |page: MappedPage<'_>| use_bytes(page.piece(&piece));
            if !self.access_mapped(piece.page(), access, &mut use_page) {
                let rest = PageRange::new(piece.page(), wanted.end());
                let permitted = self.owned.permit(access)?;
                self.access_missing(rest, permitted, Waiting::Allowed, use_page)?;
            }
        }
        Ok(())
    }

    /// Accesses `page` if there is a translation that allows it, and returns whether there is: the warm path.
    /// `use_page` is as for [`Mirror::access`]. Does not sleep.
    // Always: a call would take a tenth of what the function does.
    #[inline(always)]
    pub fn access_mapped(
        &self,
        page: PageIndex,
        access: Access,
        use_page: impl FnOnce(MappedPage<'_>),
    ) -> bool {
        // Chunks are cut to the span: a page outside of it is in none, whatever number this is.
        let Some(chunk) = self.chunks.map().read(self.chunk_number(page)) else {
            return false;
        };
        chunk.use_page(page, access, use_page)
    }

    /// Calls `look` with `page` if there is a translation, whatever it allows, and returns whether there is. The device does
    /// not use the page: nothing is counted, and nothing marked. `look` is as `use_bytes` for [`Mirror::access`]. Does not
    /// sleep.
    pub fn look_at(&self, page: PageIndex, look: impl FnOnce(MappedPage<'_>)) -> bool {
        let chunk = self.chunks.map().read(self.chunk_number(page));
        chunk.is_some_and(|chunk| chunk.look_at(page, look))
    }

    /// Faults in the pages of `wanted`, as far as the PMD goes, for an access that [`Owned::permit`] has permitted, and
    /// accesses the first one. `use_page` is as for [`Mirror::access`]. Sleeps before it calls that, but waits for
    /// nobody if `waiting` forbids it.
    ///
    /// # Errors
    ///
    /// Those of [`Mirror::access`]; [`FaultError::WouldWait`].
    #[cold]
    pub fn access_missing(
        &self,
        wanted: PageRange,
        permitted: Permitted,
        waiting: Waiting,
        use_page: impl FnOnce(MappedPage<'_>),
    ) -> Result<(), FaultError> {
        self.serve(wanted, permitted, waiting, |chunk| {
            chunk.use_page(wanted.start(), permitted.access(), use_page)
        })
    }

    /// Accesses those pages of `bytes` that have translations. Nothing is faulted in. `use_bytes` is as for
    /// [`Mirror::access`].
    pub fn access_present(&self, bytes: ByteRange, mut use_bytes: impl FnMut(Bytes<'_>)) {
        let wanted = bytes.pages().intersection(&self.span);
        let mut from = self.chunk_number(wanted.start());
        while let Some((number, chunk)) = self.chunks.map().get_next(from) {
            let part = chunk.range().intersection(&wanted);
            if part.is_empty() {
                break;
            }
            for page in part.start().get()..part.end().get() {
                chunk
                    .read()
                    .use_page(PageIndex::new(page), Access::Read, |page| {
                        use_bytes(page.bytes(0, PAGE_SIZE as usize));
                    });
            }
            from = number + 1;
        }
    }
}

impl<O: Observer, B: Backing> Mirror<O, B> {
    /// [`Mirror::new`] with tables of `backing`.
    ///
    /// # Errors
    ///
    /// Those of [`Mirror::new`].
    pub(crate) fn with_backing(
        mm: &Mm,
        span: PageRange,
        limit: Perm,
        limits: Limits,
        observer: Arc<O>,
        backing: B,
    ) -> Result<Self> {
        let owned = Arc::new(Owned::by_current(mm, limit), GFP_KERNEL_ACCOUNT)?;
        interval::prepare(&*owned.user()?)?;
        Ok(Self {
            owned,
            span: span.intersection(&user_pages(mm)),
            geometry: limits.geometry(),
            fault_around: FaultAround::new(limits.geometry().fault_around()),
            chunks: Chunks::new(observer, backing, limits)?,
        })
    }

    fn observer(&self) -> &O {
        self.chunks.observer()
    }

    /// The pages that it covers.
    pub(crate) fn span(&self) -> PageRange {
        self.span
    }

    /// The address space, and what the device may do there; for [`Owned::populate`], too, which holds nothing of the
    /// mirror while it waits.
    pub fn owned(&self) -> &Arc<Owned> {
        &self.owned
    }

    /// [`Mirror::fault_in`], which the observer is told of. `use_first` uses the first page of `wanted`, under the
    /// chunk's lock, if its translation allows `access`, and returns whether it does.
    #[inline]
    pub(crate) fn serve(
        &self,
        wanted: PageRange,
        permitted: Permitted,
        waiting: Waiting,
        use_first: impl FnOnce(&MirrorData<O, B>) -> bool,
    ) -> Result<(), FaultError> {
        let observer = self.observer();
        let mut fault = Some(observer.fault_begins(wanted.start(), permitted.access()));
        let result = self.fault_in(wanted, permitted, waiting, |chunk, added, around| {
            // The fault asked for this page with this access, which is permitted: it is there.
            if !use_first(chunk) {
                return Err(FaultError::Refused(Refusal::NoPage));
            }
            if let Some(fault) = fault.take() {
                observer.fault_served(fault, added, around);
            }
            Ok(())
        });
        if let (Err(error), Some(fault)) = (result, fault.take()) {
            observer.fault_failed(fault, error);
        }
        result
    }

    /// Calls `look` on the chunk of `page` under its lock; `None` if there is none.
    pub(crate) fn look<R>(
        &self,
        page: PageIndex,
        look: impl FnOnce(&MirrorData<O, B>) -> R,
    ) -> Option<R> {
        // Chunks are cut to the span: a page outside of it is in none, whatever number this is.
        let chunk = self.chunks.map().get(self.chunk_number(page))?;
        Some(chunk.look(look))
    }

    /// Faults in the first page of `wanted`, and with it those that follow in the same PMD, if they can be had.
    /// Calls `served` under the chunk's lock with the chunk, the number of pages added, and how many of these were not
    /// wanted. Then it may look around.
    fn fault_in(
        &self,
        wanted: PageRange,
        permitted: Permitted,
        waiting: Waiting,
        served: impl FnOnce(&MirrorData<O, B>, u64, u64) -> Result<(), FaultError>,
    ) -> Result<(), FaultError> {
        let page = wanted.start();
        let one = PageRange::new(page, page.saturating_add(1));
        let chunk = self.get_chunk(page, one, waiting)?;
        let mut request = self.request(wanted, permitted);
        let (mut room, mut room_for_one) = (PfnRoom::new(), [HmmPfn::ABSENT]);
        let pfns = room.of(request.pages().len() as usize);
        let found = pfns.and_then(|pfns| self.fault(&chunk, &request, waiting, pfns));
        let (valid, added) = match found {
            // The error may be a later page's, or there is no memory for so many. The first one is still served, and
            // the device faults on the others when it gets there.
            Err(error) if Self::may_be_of_others(error, &request) => {
                request = Request::new(one, request.wants);
                self.fault(&chunk, &request, waiting, &mut room_for_one)?
            }
            found => found?,
        };
        let reached = valid.result().reached_from(valid.done().end());
        self.fault_around
            .record(request.wanted, request.around, reached);
        let around = added.saturating_sub(request.wanted.len());
        served(valid.guard(), added, around)?;
        // One on many pages has these, and one in order has looked at what follows.
        if request.around == 0 && request.wanted.len() <= FEW {
            let largest = self.geometry.fault_around();
            if let Some(order) = valid.guard().block_around(valid.result(), largest) {
                self.look_around(valid.release(), request.wanted, order);
            }
        }
        Ok(())
    }

    /// Enters the resident pages of the block of `1 << order` around the first one of `wanted`, for which a fault has been
    /// served in `seq`: tried once, without allocating anything or waiting for anybody.
    #[cold]
    #[inline(never)]
    fn look_around(&self, seq: Sequence<'_, MirrorChunk<O, B>>, wanted: PageRange, order: u32) {
        let start = PageIndex::new(wanted.start().get() >> order << order);
        let block = PageRange::new(start, start.saturating_add(1 << order));
        let block = block.intersection(&self.pmd(wanted.start()));
        self.observer().looks_around(|| {
            let mut pfns = [HmmPfn::ABSENT; LARGEST_BLOCK];
            let pages = PmdPages::new(block, &mut pfns);
            let Ok(mut valid) = self.find_resident(seq, block, pages) else {
                return 0;
            };
            let (found, chunk) = valid.split();
            let taken = chunk.take_along(found, self.owned.limit());
            // What comes next is in order.
            let reached = found.reached_from(wanted.end());
            self.fault_around.record(wanted, 0, reached);
            taken
        });
    }

    /// Finds the resident pages of `block`, if no invalidation has come since `seq` began.
    fn find_resident<'d, 'w>(
        &self,
        seq: Sequence<'d, MirrorChunk<O, B>>,
        block: PageRange,
        pages: PmdPages<'w>,
    ) -> Result<Found<'d, 'w, O, B>, FaultError> {
        let mm = self.owned.user()?;
        let request = Request::new(block, Policy::Snapshot);
        let mut found = Unread::new(pages);
        let waiting = Waiting::Forbidden;
        let done = range_fault(&mm, &seq, &mut None, &request, waiting, &mut found)?;
        let valid = seq.faulted(found, done).validate();
        valid.map_err(|_| FaultError::Collided)
    }

    /// Calls `see` with what the CPU's page table maps of `block`, in one PMD and at most [`LARGEST_BLOCK`] pages: under the
    /// chunk's lock, so that the CPU cannot take it away; `see` must not sleep. The table stays as it is. Sleeps before
    /// that, but waits for nobody if `waiting` forbids it.
    ///
    /// # Errors
    ///
    /// [`FaultError::Exited`], [`FaultError::NoMemory`], [`FaultError::TimedOut`], [`FaultError::Interrupted`],
    /// [`FaultError::WouldWait`].
    pub(crate) fn see_resident(
        &self,
        block: PageRange,
        waiting: Waiting,
        see: impl FnOnce(&PmdPages<'_>),
    ) -> Result<(), FaultError> {
        let chunk = match self.get_chunk(block.start(), block, waiting) {
            // Nothing is mapped there.
            Err(FaultError::Refused(_)) => return Ok(()),
            chunk => chunk?,
        };
        let mm = self.owned.user()?;
        let mut pfns = [HmmPfn::ABSENT; LARGEST_BLOCK];
        let request = Request::new(block, Policy::Snapshot);
        let found = until_valid(
            &*chunk,
            &TimeLimit::from(waiting),
            LockEscalation(&mm, waiting),
            PmdPages::new(block, &mut pfns),
            |seq, write_lock, found| range_fault(&mm, seq, write_lock, &request, waiting, found),
            || (),
        );
        let result = Self::not_blocked(found, waiting).map(|valid| see(valid.result()));
        // If it was made for this.
        self.note_if_empty(&chunk);
        result
    }

    /// A fault that lost against invalidations for too long must not block the caller any longer, if it must not wait.
    fn not_blocked<R>(result: Result<R, FaultError>, waiting: Waiting) -> Result<R, FaultError> {
        match (result, waiting) {
            (Err(FaultError::TimedOut), Waiting::Forbidden) => Err(FaultError::WouldWait),
            (result, _) => result,
        }
    }

    /// Whether a page other than the first may have caused the failure. Fault-around pages are never faulted in, so they
    /// can only fail for memory.
    fn may_be_of_others(error: FaultError, request: &Request) -> bool {
        match error {
            FaultError::Refused(_) | FaultError::WouldWait => request.wanted.len() > 1,
            FaultError::NoMemory => request.pages().len() > 1,
            _ => false,
        }
    }

    /// The request of a fault: the pages of `wanted` that are in the PMD of the first one, and how many to look at
    /// around them.
    fn request(&self, wanted: PageRange, permitted: Permitted) -> Request {
        let pmd = self.pmd(wanted.start());
        let wanted = wanted.intersection(&pmd);
        let left = PageRange::new(wanted.end(), pmd.end());
        Request {
            around: self.fault_around.window(wanted).min(left.len()),
            ..Request::new(wanted, Policy::Fault(permitted.access()))
        }
    }

    /// Adds translations for the pages of `range`: faults them in for an access that [`Owned::permit`] has
    /// `permitted`; `None` adds those that are resident.
    ///
    /// Calls `step` after each step, of one PMD at most, with the page that it has come to and the number of pages
    /// that it added; `step` returns whether to go on. Sleeps, but waits for nobody if `waiting` forbids it.
    ///
    /// # Errors
    ///
    /// As [`Mirror::access_missing`], with nothing done if the range is not all in the mirror. Otherwise the PMDs
    /// before the one that failed are in the mirror.
    pub fn prefetch(
        &self,
        range: PageRange,
        permitted: Option<Permitted>,
        waiting: Waiting,
        mut step: impl FnMut(PageIndex, u64) -> ControlFlow<()>,
    ) -> Result<(), FaultError> {
        if !range.is_empty() && range.intersection(&self.span) != range {
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        let policy = permitted.map_or(Policy::Snapshot, |permitted| {
            Policy::Fault(permitted.access())
        });
        let mut room = PfnRoom::new();
        let pfns = room.up_to(PMD_PAGES.min(range.len()) as usize);
        let mut page = range.start();
        while page < range.end() {
            let end = page.saturating_add(pfns.len() as u64).min(range.end());
            let wanted = PageRange::new(page, end).intersection(&self.pmd(page));
            let (end, added) = if policy == Policy::Snapshot
                && first_resident(&*self.owned.user()?, wanted, waiting)?.is_none()
            {
                (wanted.end(), 0)
            } else {
                let request = Request::new(wanted, policy);
                let chunk = self.get_chunk(page, wanted, waiting)?;
                let (valid, added) = self.fault(&chunk, &request, waiting, &mut *pfns)?;
                let end = valid.done().end();
                (end, added)
            };
            page = end;
            if step(page, added).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Serves `request`, whose pages lie in one PMD of `chunk`, and fills the table. `pfns` is room for
    /// the pages found.
    ///
    /// Returns the result, which holds the chunk's lock, and how many pages were added.
    fn fault<'d, 'w>(
        &self,
        chunk: &'d MirrorChunk<O, B>,
        request: &Request,
        waiting: Waiting,
        pfns: &'w mut [HmmPfn],
    ) -> Result<(Found<'d, 'w, O, B>, u64), FaultError> {
        let mm = self.owned.user()?;
        let mut pages = PmdPages::new(request.pages(), pfns);
        let mut room = RoomForFault::default();
        let mut added = 0;
        loop {
            let found = self.find(&mm, chunk, request, waiting, pages, &mut room);
            let mut valid = found.inspect_err(|_| self.note_if_empty(chunk))?;
            let (found, chunk) = valid.split();
            let filled = chunk.fill(found, self.owned.limit(), &mut room);
            let filled = filled.inspect_err(|_| {
                if chunk.is_empty() {
                    self.chunks.emptied();
                }
            })?;
            added += filled.added;
            if !filled.left_out {
                if chunk.is_empty() {
                    self.chunks.emptied();
                }
                return Ok((valid, added));
            }
            room.rely_on_nothing();
            pages = valid.give_up();
        }
    }

    /// Schedules the reaper if the failed fault left the chunk empty.
    #[cold]
    fn note_if_empty(&self, chunk: &MirrorChunk<O, B>) {
        if chunk.look(Chunk::is_empty) {
            self.chunks.emptied();
        }
    }

    /// Finds the pages of `request`, and makes `room` for them.
    fn find<'d, 'w>(
        &self,
        mm: &MmWithUser,
        chunk: &'d MirrorChunk<O, B>,
        request: &Request,
        waiting: Waiting,
        pages: PmdPages<'w>,
        room: &mut RoomForFault,
    ) -> Result<Found<'d, 'w, O, B>, FaultError> {
        let found = until_valid(
            chunk,
            &TimeLimit::from(waiting),
            LockEscalation(mm, waiting),
            pages,
            |seq, write_lock, found| {
                // What the CPU's fault handler allocates for the page table is charged as well.
                let _charge = Charge::to(mm);
                let _user = self.owned.credentials().take_on();
                let done = range_fault(mm, seq, write_lock, request, waiting, found)?;
                if room.needed(found.smallest_order()) {
                    let page = request.wanted.start();
                    let missing = chunk.look(|chunk| room.missing(chunk.table().xlt(), page));
                    room.make(missing).map_err(|_| FaultError::NoMemory)?;
                }
                Ok(done)
            },
            || self.observer().collided(),
        );
        Self::not_blocked(found, waiting)
    }

    /// The mirrored pages of the PMD of `page`.
    fn pmd(&self, page: PageIndex) -> PageRange {
        pmd_range(page).intersection(&self.span)
    }

    /// Chunks are numbered from the first one of the span, so that a small region's map is small.
    fn chunk_number(&self, page: PageIndex) -> usize {
        self.geometry.chunk_number(self.span.start(), page)
    }

    /// The chunk that `page` is in, with a reference for a fault. Makes one if there is none and `wanted`
    /// has an area: a peer must not make the kernel spend memory on addresses where nothing is mapped.
    fn get_chunk(
        &self,
        page: PageIndex,
        wanted: PageRange,
        waiting: Waiting,
    ) -> Result<ChunkRef<'_, MirrorChunk<O, B>>, FaultError> {
        if !self.span.contains(page) {
            // That the process is gone is said first.
            self.owned.user()?;
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        self.chunks.make_room();
        match self.chunks.map().get(self.chunk_number(page)) {
            Some(chunk) => Ok(chunk),
            None => self.add_chunk(page, wanted, waiting),
        }
    }

    #[cold]
    fn add_chunk(
        &self,
        page: PageIndex,
        wanted: PageRange,
        waiting: Waiting,
    ) -> Result<ChunkRef<'_, MirrorChunk<O, B>>, FaultError> {
        let mm = self.owned.user()?;
        if !has_vma(&mm, wanted, waiting)? {
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        let range = self.geometry.chunk_around(page).intersection(&self.span);
        let _charge = Charge::to(&mm);
        self.chunks
            .get_or_insert(self.chunk_number(page), &mm, range)
    }
}

impl<O: Observer, B: Backing> Drop for Mirror<O, B> {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no access is under way, and those alone look at chunks or take references.
        unsafe { self.chunks.close() };
    }
}
