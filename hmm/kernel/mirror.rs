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
//! whenever its fault does, however many invalidations queue up behind it.
//!
//! An invalidation takes this path: [`crate::interval`] → exclusive lock (no access is under way) →
//! [`Chunk::invalidate`] → [`Xlt::zap`], or [`Xlt::write_protect`] if the pages stay where they
//! are; pages that the device wrote are marked dirty. Empty chunks are freed in the background, and the
//! least recently used ones when all together take too much memory ([`crate::reaper`]).
//!
//! [`Xlt::translate`]: crate::xlt::Xlt::translate
//! [`Xlt::zap`]: crate::xlt::Xlt::zap
//! [`Xlt::write_protect`]: crate::xlt::Xlt::write_protect
//! [`Chunk::invalidate`]: crate::Invalidate::invalidate

use core::ops::ControlFlow;

use kernel::alloc::flags::__GFP_NOWARN;
use kernel::mm::{Mm, MmWithUser};
use kernel::prelude::*;
use kernel::sync::{rcu, Arc};

use crate::addr::{pieces, pmd_range, PageIndex, PageRange, PAGE_SIZE, PMD_PAGES};
use crate::charge::Charge;
use crate::chunk::{Chunk, Parent, RoomForFault};
use crate::chunk_map::ChunkRef;
use crate::fault_around::FaultAround;
use crate::geometry::Geometry;
use crate::interval::{self, IntervalNotifier};
use crate::limits::Limits;
use crate::observer::Observer;
use crate::page::{Bytes, MappedPage};
use crate::pfn::{Access, Owner, Perm};
use crate::pfn_array::HmmPfn;
use crate::pmd_pages::PmdPages;
use crate::policy::{Policy, Refusal};
use crate::populate::Owned;
use crate::process::user_pages;
use crate::range::{any_resident, has_vma, range_fault, LockEscalation, TimeLimit};
use crate::reaper::{Chunks, MirrorChunk};
use crate::seq::{until_valid, ValidRange};
use crate::walk::{FaultError, Request, Waiting};
use crate::zeroed::zeroed;

/// A mirror of one range of an address space: the device's page table, kept in the kernel's memory, coherent with
/// the CPU's.
///
/// It keeps the `mm_struct`, not the address space: a process that exits takes its pages along, and accesses
/// fail with [`FaultError::Exited`].
pub struct Mirror<O: Observer> {
    owned: Arc<Owned>,
    span: PageRange,
    limit: Perm,
    geometry: Geometry,
    fault_around: FaultAround,
    chunks: Arc<Chunks<O>>,
}

/// The result of a fault, in room borrowed for `'w`.
type Found<'d, 'w, O> = ValidRange<'d, MirrorChunk<O>, PmdPages<'w>>;

/// For so many pages the room is on the stack: 512 bytes.
const FEW: usize = 64;

impl<O: Observer> Mirror<O> {
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
        let owned = Arc::new(Owned::by_current(mm, limit), GFP_KERNEL_ACCOUNT)?;
        interval::prepare(&*owned.user()?)?;
        Ok(Self {
            owned,
            span: span.intersection(&user_pages(mm)),
            limit,
            geometry: limits.geometry(),
            fault_around: FaultAround::new(limits.geometry().fault_around()),
            chunks: Chunks::new(observer, limits)?,
        })
    }

    fn observer(&self) -> &O {
        self.chunks.observer()
    }

    /// The address space, for [`Owned::populate`], which holds nothing of the mirror while it waits.
    pub fn owned(&self) -> &Arc<Owned> {
        &self.owned
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
                self.access_missing(rest, access, Waiting::Allowed, use_page)?;
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
        let looking = rcu::read_lock();
        let Some(chunk) = self.chunks.map().peek(self.chunk_number(page), &looking) else {
            return false;
        };
        let chunk = chunk.read();
        chunk.use_page(page, access, use_page)
    }

    /// Faults in the pages of `wanted`, as far as the PMD goes, and accesses the first one. `use_page` is as for
    /// [`Mirror::access`]. Sleeps before it calls that, but waits for nobody if `waiting` forbids it.
    ///
    /// # Errors
    ///
    /// Those of [`Mirror::access`]; [`FaultError::WouldWait`].
    #[cold]
    pub fn access_missing(
        &self,
        wanted: PageRange,
        access: Access,
        waiting: Waiting,
        use_page: impl FnOnce(MappedPage<'_>),
    ) -> Result<(), FaultError> {
        let observer = self.observer();
        let mut fault = Some(observer.fault_begins(wanted.start(), access));
        let result = self.fault_in(wanted, access, waiting, |page, added, around| {
            if let Some(fault) = fault.take() {
                observer.fault_served(fault, added, around);
            }
            use_page(page);
        });
        if let (Err(error), Some(fault)) = (result, fault.take()) {
            observer.fault_failed(fault, error);
        }
        result
    }

    /// Faults in the first page of `wanted`, and with it those that follow in the same PMD, if they can be had.
    /// Calls `use_page` under the chunk's lock with the page, the number of pages added, and how many of these
    /// were not wanted.
    fn fault_in(
        &self,
        wanted: PageRange,
        access: Access,
        waiting: Waiting,
        use_page: impl FnOnce(MappedPage<'_>, u64, u64),
    ) -> Result<(), FaultError> {
        if !self.limit.allows(access) {
            return Err(FaultError::Refused(Refusal::Forbidden));
        }
        let page = wanted.start();
        let one = PageRange::new(page, page.saturating_add(1));
        let chunk = self.get_chunk(page, one, waiting)?;
        let wanted = wanted.intersection(&self.pmd(page));
        let mut request = Request {
            around: self.around(wanted),
            ..Request::new(wanted, Policy::Fault(access))
        };
        let (mut one_pfn, mut few, mut many, mut again);
        let pfns: &mut [HmmPfn] = match request.pages().len() as usize {
            1 => {
                one_pfn = [HmmPfn::ABSENT];
                &mut one_pfn
            }
            ..=FEW => {
                few = [HmmPfn::ABSENT; FEW];
                &mut few
            }
            pages => match room_for(pages) {
                Ok(room) => {
                    many = room;
                    &mut many
                }
                // The device faults on the rest when it gets there.
                Err(_) => {
                    request = Request::new(one, Policy::Fault(access));
                    one_pfn = [HmmPfn::ABSENT];
                    &mut one_pfn
                }
            },
        };
        let wanted = request.wanted;
        let (valid, added) = match self.fault(&chunk, &request, waiting, pfns) {
            // The error may be a later page's: the first one is still served.
            Err(FaultError::Refused(_) | FaultError::WouldWait) if wanted.len() > 1 => {
                again = [HmmPfn::ABSENT];
                let request = Request::new(one, Policy::Fault(access));
                self.fault(&chunk, &request, waiting, &mut again)?
            }
            result => result?,
        };
        let reached = valid.result().reached_from(valid.done().end());
        self.fault_around.record(wanted, request.around, reached);
        let use_page = |page: MappedPage<'_>| {
            use_page(page, added, added.saturating_sub(wanted.len()));
        };
        // The fault asked for this page with this access, and the limit allows it: it is there.
        match valid.guard().use_page(page, access, use_page) {
            true => Ok(()),
            false => Err(FaultError::Refused(Refusal::NoPage)),
        }
    }

    /// Adds translations for the pages of `range`, as `policy` says: those that are resident
    /// ([`Policy::Snapshot`]), or all.
    ///
    /// Calls `step` after each step, of one PMD at most, with the page that it has come to and the number of pages
    /// that it added; `step` returns whether to go on. Sleeps, but waits for nobody if `waiting` forbids it.
    ///
    /// # Errors
    ///
    /// As [`Mirror::access_missing`], with nothing done if the range is not all in the mirror or the device may
    /// not do what `policy` asks for. Otherwise the PMDs before the one that failed are in the mirror.
    pub fn prefetch(
        &self,
        range: PageRange,
        policy: Policy,
        waiting: Waiting,
        mut step: impl FnMut(PageIndex, u64) -> ControlFlow<()>,
    ) -> Result<(), FaultError> {
        if !range.is_empty() && range.intersection(&self.span) != range {
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        if matches!(policy, Policy::Fault(access) if !self.limit.allows(access)) {
            return Err(FaultError::Refused(Refusal::Forbidden));
        }
        let (mut few, mut many);
        let pfns: &mut [HmmPfn] = match room_for(PMD_PAGES.min(range.len()) as usize) {
            Ok(room) => {
                many = room;
                &mut many
            }
            Err(_) => {
                few = [HmmPfn::ABSENT; FEW];
                &mut few
            }
        };
        let mut page = range.start();
        while page < range.end() {
            let end = page.saturating_add(pfns.len() as u64).min(range.end());
            let wanted = PageRange::new(page, end).intersection(&self.pmd(page));
            let (end, added) = if policy == Policy::Snapshot
                && !any_resident(&*self.owned.user()?, wanted, waiting)?
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

    /// Accesses those of the `len` bytes from `va` that have translations. Nothing is faulted in. `use_bytes` is as
    /// for [`Mirror::access`].
    pub fn access_present(&self, va: u64, len: u64, mut use_bytes: impl FnMut(Bytes<'_>)) {
        let Some(wanted) = PageRange::covering(va, len) else {
            return;
        };
        let wanted = wanted.intersection(&self.span);
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

    /// Serves `request`, whose pages lie in one PMD of `chunk`, and fills the table. `pfns` is room for
    /// the pages found.
    ///
    /// Returns the result, which holds the chunk's lock, and how many pages were added.
    fn fault<'d, 'w>(
        &self,
        chunk: &'d MirrorChunk<O>,
        request: &Request,
        waiting: Waiting,
        pfns: &'w mut [HmmPfn],
    ) -> Result<(Found<'d, 'w, O>, u64), FaultError> {
        let mm = self.owned.user()?;
        let mut pages = PmdPages::new(request.pages(), pfns);
        let mut room = RoomForFault::default();
        let mut added = 0;
        loop {
            let found = self.find(&mm, chunk, request, waiting, pages, &mut room);
            let mut valid = found.inspect_err(|_| self.note_if_empty(chunk))?;
            let (found, chunk) = valid.split();
            let filled = chunk.fill(found, self.limit, &mut room);
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

    /// Has an empty chunk reaped: a fault made it for nothing.
    #[cold]
    fn note_if_empty(&self, chunk: &MirrorChunk<O>) {
        if chunk.read().is_empty() {
            self.chunks.emptied();
        }
    }

    /// Finds the pages of `request`, and makes `room` for them.
    fn find<'d, 'w>(
        &self,
        mm: &MmWithUser,
        chunk: &'d MirrorChunk<O>,
        request: &Request,
        waiting: Waiting,
        pages: PmdPages<'w>,
        room: &mut RoomForFault,
    ) -> Result<Found<'d, 'w, O>, FaultError> {
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
                    let prepared = room.prepare(chunk, request.wanted.start());
                    prepared.map_err(|_| FaultError::NoMemory)?;
                }
                Ok(done)
            },
            || self.observer().collided(),
        );
        match (found, waiting) {
            // Those who wait for this fault have waited long enough.
            (Err(FaultError::TimedOut), Waiting::Forbidden) => Err(FaultError::WouldWait),
            (found, _) => found,
        }
    }

    /// The mirrored pages of the PMD of `page`.
    fn pmd(&self, page: PageIndex) -> PageRange {
        pmd_range(page).intersection(&self.span)
    }

    /// How many pages after `wanted` to look at, in the same PMD.
    fn around(&self, wanted: PageRange) -> u64 {
        let left = PageRange::new(wanted.end(), self.pmd(wanted.start()).end());
        self.fault_around.window(wanted).min(left.len())
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
    ) -> Result<ChunkRef<'_, MirrorChunk<O>>, FaultError> {
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
    ) -> Result<ChunkRef<'_, MirrorChunk<O>>, FaultError> {
        let mm = self.owned.user()?;
        if !has_vma(&mm, wanted, waiting)? {
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        let range = self.geometry.chunk_around(page).intersection(&self.span);
        let _charge = Charge::to(&mm);
        let chunk = Chunk::new(range, self.chunks.clone()).map_err(|_| FaultError::NoMemory)?;
        let chunk = IntervalNotifier::new(&mm, range, Owner::NONE, chunk);
        let chunk = self.chunks.get_or_insert(self.chunk_number(page), chunk);
        chunk.map_err(|error| match error {
            // Registering gives way to signals.
            error if error == EINTR => FaultError::Interrupted,
            _ => FaultError::NoMemory,
        })
    }
}

impl<O: Observer> Drop for Mirror<O> {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no access is under way, and those alone look at chunks or take references.
        unsafe { self.chunks.close() };
    }
}

/// Room for the pfns of so many pages.
fn room_for(pages: usize) -> Result<KBox<[HmmPfn]>, FaultError> {
    zeroed(pages, GFP_KERNEL | __GFP_NOWARN).map_err(|_| FaultError::NoMemory)
}
