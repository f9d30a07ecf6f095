// SPDX-License-Identifier: GPL-2.0

//! Regions: memory registered with `IBV_ACCESS_ON_DEMAND`.
//!
//! A request of the NIC arrives as iova and length. [`Key::translate`] turns that into a virtual address, the
//! mirror that into pages. A missing page is faulted in on the spot if that need not sleep (as a rule, for memory
//! without a file). Otherwise the access fails with [`AccessError::MustWait`], and the NIC raises a fault
//! ([`Region::raise`]).

use core::ops::ControlFlow;

use hmm::{
    pieces, user_pages, Access, Bytes, FaultError, Limits, MappedPage, Mirror, Observer, Owned,
    PageIndex, PageRange, Perm, Piece, Refusal, Waiting,
};

use kernel::mm::Mm;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::advice::Advice;
use crate::announced::Announced;
use crate::device::{Device, Registered};
pub use crate::fault::{AccessError, Wanted};
use crate::key::{BadKey, Key, KeyKind};
use crate::observer::{Counting, Identity};
use crate::stats::Stats;
use crate::ticket::{Extent, Resume, Ticket};

impl From<AccessError> for Error {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::OutOfRange => EINVAL,
            AccessError::Fault(fault) => fault.into(),
            AccessError::MustWait(_) => EAGAIN,
            AccessError::Abandoned => EIO,
        }
    }
}

/// The arguments of a registration.
#[derive(Clone, Copy, Debug)]
pub struct Registration {
    /// The lkey of the region.
    pub lkey: u32,
    /// The address of the first byte.
    pub va: u64,
    /// In bytes. [`crate::key::IMPLICIT_LENGTH`] with `va` 0 is the whole address space.
    pub length: u64,
    /// The address by which requests name the first byte.
    pub iova: u64,
    /// Whether the NIC may write.
    pub writable: bool,
}

/// The limits of a region's mirror, from the module's parameters.
fn limits() -> Limits {
    let parameters = crate::parameters();
    let memory = parameters.region_memory().map(Limits::new);
    memory
        .unwrap_or_default()
        // The parameters were checked when the module was loaded, so there is a geometry.
        .with_geometry(parameters.geometry().unwrap_or_default())
}

/// Registered memory of one process.
pub struct Region {
    writable: bool,
    counting: Arc<Counting>,
    key: Key,
    mirror: Mirror<Counting>,
    announced: Announced,
}

impl Region {
    /// Registers memory of `mm`, that of the current process, with `device`. Touches no page; costs the same for any
    /// length. Pages will be faulted in with the credentials of the current task.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a key that makes no sense, `EFAULT` for addresses outside user space, `ENOMEM`; those of
    /// [`Mirror::new`].
    pub fn register(
        device: &Arc<Device>,
        mm: &Mm,
        registration: Registration,
    ) -> Result<Registered> {
        let Registration {
            va,
            length,
            iova,
            writable,
            ..
        } = registration;
        let key = Key::new(va, length, iova, user_pages(mm)).map_err(|bad| match bad {
            BadKey::Meaningless | BadKey::Wraps => EINVAL,
            BadKey::NotUser => EFAULT,
        })?;
        let identity = Identity {
            registration,
            kind: key.kind(),
            pid: kernel::current!().group_leader().pid(),
        };
        let counting = Counting::new(device, identity)?;
        let observer = counting.clone();
        let limit = Perm::from_writable(writable);
        let mirror = Mirror::new(mm, key.span(), limit, limits(), observer)?;
        Registered::new(Self {
            writable,
            counting,
            key,
            mirror,
            announced: Announced::default(),
        })
    }

    /// Its number, counters and tracepoints.
    pub(crate) fn counting(&self) -> &Arc<Counting> {
        &self.counting
    }

    /// Its number, which is never reused.
    pub(crate) fn number(&self) -> u64 {
        self.counting.number()
    }

    /// Its device.
    pub(crate) fn device(&self) -> &Arc<Device> {
        self.counting.device()
    }

    /// The address space and credentials that its pages are faulted in with.
    pub(crate) fn owned(&self) -> &Arc<Owned> {
        self.mirror.owned()
    }

    /// Whether it covers a part or all of the address space.
    pub fn kind(&self) -> KeyKind {
        self.key.kind()
    }

    /// Whether the NIC may write.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        self.counting.stats()
    }

    /// Announces that a message will use the `len` bytes from `iova` in order. All of them are in the region.
    #[inline]
    pub fn announce(&self, iova: u64, len: u64) {
        self.announced.announce(iova, len);
    }

    /// Accesses the `len` bytes from `iova` for the NIC. `use_bytes` is as for [`Mirror::access`], and gets the
    /// number of bytes before the piece. May sleep to fault pages in, but not for a disk, a file system or another
    /// process.
    ///
    /// # Errors
    ///
    /// [`AccessError::OutOfRange`], before anything is touched; [`AccessError::MustWait`] for a page whose fault has
    /// to sleep for one of these; otherwise as the mirror. The pieces before the failed one have been used.
    #[inline]
    pub fn access(
        &self,
        iova: u64,
        len: usize,
        access: Access,
        mut use_bytes: impl FnMut(usize, Bytes<'_>),
    ) -> Result<(), AccessError> {
        let va = self.translate(iova, len as u64)?;
        match Piece::all_of(va, len) {
            // The common case: a packet is no longer than a page.
            Some(piece) => self.access_piece(iova, len, piece, access, &mut use_bytes),
            None => self.access_pieces(iova, va, len, access, &mut use_bytes),
        }
    }

    /// Accesses the `len` bytes from `iova`, which are at `va`, piece by piece.
    #[inline(never)]
    fn access_pieces(
        &self,
        iova: u64,
        va: u64,
        len: usize,
        access: Access,
        use_bytes: &mut impl FnMut(usize, Bytes<'_>),
    ) -> Result<(), AccessError> {
        pieces(va, len).try_for_each(|piece| self.access_piece(iova, len, piece, access, use_bytes))
    }

    /// Accesses `piece` of the `len` bytes from `iova`.
    #[inline]
    fn access_piece(
        &self,
        iova: u64,
        len: usize,
        piece: Piece,
        access: Access,
        use_bytes: &mut impl FnMut(usize, Bytes<'_>),
    ) -> Result<(), AccessError> {
        let use_page = |page: MappedPage<'_>| use_bytes(piece.done(), page.piece(&piece));
        match self.mirror.access_mapped(piece.page(), access, use_page) {
            true => Ok(()),
            false => self.access_missing(iova, len, piece, access, use_bytes),
        }
    }

    /// As [`Region::access_piece`], when no translation allows the access.
    #[cold]
    #[inline(never)]
    fn access_missing(
        &self,
        iova: u64,
        len: usize,
        piece: Piece,
        access: Access,
        use_bytes: &mut impl FnMut(usize, Bytes<'_>),
    ) -> Result<(), AccessError> {
        let at = iova + piece.done() as u64;
        let len = self.announced.wanted(at, (len - piece.done()) as u64);
        let va = self.translate(at, len)?;
        let pages = PageRange::covering(va, len).ok_or(AccessError::OutOfRange)?;
        let use_page = |page: MappedPage<'_>| use_bytes(piece.done(), page.piece(&piece));
        self.mirror
            .access_missing(pages, access, Waiting::Forbidden, use_page)
            .map_err(|error| match error {
                FaultError::WouldWait => AccessError::MustWait(Wanted { pages, access }),
                error => AccessError::Fault(error),
            })
    }

    /// Counts a retry: the page was brought in, but gone again before the NIC repeated the access.
    pub fn counts_retry(&self) {
        self.counting.collided();
    }

    /// Has a worker bring in `wanted` and resume the request afterwards. The NIC has parked, or is about to park, the
    /// request.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn raise(&self, wanted: Wanted, waiter: Arc<dyn Resume>) -> Result<Ticket> {
        Ticket::raise(self.owned(), &self.counting, wanted, Extent::First, waiter)
    }

    /// As [`Region::access`] for reading, but of the present translations only: faults nothing in.
    pub fn access_present(
        &self,
        iova: u64,
        len: u64,
        use_bytes: impl FnMut(Bytes<'_>),
    ) -> Result<(), AccessError> {
        let va = self.translate(iova, len)?;
        self.mirror.access_present(va, len, use_bytes);
        Ok(())
    }

    /// Prefetches `pages`, which come from [`Region::may_prefetch`], until a fault has to sleep or `go_on`, which is
    /// called at least every 2 MiB, returns false. Returns the page that it has reached and why it stopped there;
    /// adds the number of new translations to `added`.
    pub(crate) fn prefetch_at_once(
        &self,
        pages: PageRange,
        advice: Advice,
        go_on: impl Fn() -> bool,
        added: &mut u64,
    ) -> (PageIndex, Result<(), FaultError>) {
        let mut reached = pages.start();
        let step = |end, pages| {
            reached = end;
            *added += pages;
            self.counting.prefetched(pages);
            match go_on() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let result = self
            .mirror
            .prefetch(pages, advice.policy(), Waiting::Forbidden, step);
        (reached, result)
    }

    /// Checks a prefetch and returns its pages.
    ///
    /// # Errors
    ///
    /// [`AccessError::OutOfRange`]; a fault error for a prefetch for writing if the NIC may not write.
    pub fn may_prefetch(
        &self,
        iova: u64,
        len: u64,
        advice: Advice,
    ) -> Result<PageRange, AccessError> {
        if advice == Advice::PrefetchWrite && !self.writable {
            return Err(AccessError::Fault(FaultError::Refused(Refusal::Forbidden)));
        }
        let va = self.translate(iova, len)?;
        PageRange::covering(va, len).ok_or(AccessError::OutOfRange)
    }

    /// Whether the `len` bytes from `iova` are all in the region.
    pub fn contains(&self, iova: u64, len: u64) -> bool {
        self.translate(iova, len).is_ok()
    }

    #[inline]
    fn translate(&self, iova: u64, len: u64) -> Result<u64, AccessError> {
        self.key
            .translate(iova, len)
            .map_err(|_| AccessError::OutOfRange)
    }
}
