// SPDX-License-Identifier: GPL-2.0

//! Regions: memory registered with `IBV_ACCESS_ON_DEMAND`.
//!
//! A request of the NIC arrives as iova and length. [`Key::translate`] turns that into a virtual
//! address, the mirror into pages. For a page that is missing the request raises a fault
//! ([`PendingFault`]), which is resolved on the spot ([`Resolver`]): here the NIC waits in its own call.

use core::ops::ControlFlow;

use hmm::addr::{pieces, PageRange, Piece};
use hmm::mirror::{user_pages, Limits, Mirror};
use hmm::page::{Bytes, MappedPage};
use hmm::pfn::{Access, Perm};
use hmm::policy::Refusal;
use hmm::walk::FaultError;

use kernel::mm::Mm;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::advice::Advice;
use crate::announced::Announced;
use crate::device::{Device, Listed};
pub use crate::fault::AccessError;
use crate::fault::{PendingFault, Waiter, Wanted};
use crate::key::{BadKey, Key, KeyKind};
use crate::observer::{Counting, Identity};
use crate::resolve::{Memory, Resolver};
use crate::stats::Stats;

impl From<AccessError> for Error {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::OutOfRange => EINVAL,
            AccessError::Fault(fault) => fault.into(),
            AccessError::Abandoned => EIO,
        }
    }
}

/// What an application registers.
#[derive(Clone, Copy, Debug)]
pub struct Registration {
    /// The key by which the application names the region in its own requests.
    pub lkey: u32,
    /// The first byte.
    pub va: u64,
    /// How many bytes. With `va` 0 and [`crate::key::IMPLICIT_LENGTH`], the whole address space.
    pub length: u64,
    /// As what requests know the first byte.
    pub iova: u64,
    /// Whether the NIC may write.
    pub writable: bool,
}

/// The mirror of a region.
struct Mirrored(Mirror<Counting>);

impl Memory for Mirrored {
    type Page<'p> = MappedPage<'p>;

    fn bring_in(
        &self,
        pages: PageRange,
        access: Access,
        use_page: impl FnOnce(MappedPage<'_>),
    ) -> Result<(), FaultError> {
        self.0.access_missing(pages, access, use_page)
    }
}

/// A request that waits in its own call until its page is there, and uses it at once.
struct InCall<'a, F> {
    use_page: F,
    outcome: &'a mut Result<(), AccessError>,
}

impl<F: FnOnce(MappedPage<'_>)> Waiter for InCall<'_, F> {
    type Page<'p> = MappedPage<'p>;

    fn resume(self, outcome: Result<MappedPage<'_>, AccessError>) {
        *self.outcome = outcome.map(self.use_page);
    }
}

/// What the module's parameters say of each region.
fn limits() -> Limits {
    let parameters = crate::parameters();
    let memory = parameters.region_memory().map(Limits::new);
    memory
        .unwrap_or_default()
        // The parameters were checked when the module was loaded: there is such a shape.
        .with_shape(parameters.shape().unwrap_or_default())
        .with_faults(parameters.fault_workers())
}

/// Registered memory of one process.
pub struct Region {
    writable: bool,
    // Not listed any more when the rest goes.
    _listed: Listed,
    counting: Arc<Counting>,
    resolver: Resolver<Mirrored>,
    announced: Announced,
}

impl Region {
    /// Registers memory of `mm`, which is the current process's, with `device`. Touches no page and costs the same for any length.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a key that makes no sense, `EFAULT` for addresses that are not user space's,
    /// `ENOMEM`.
    pub fn new(device: &Arc<Device>, mm: &Mm, registration: Registration) -> Result<Self> {
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
        Ok(Self {
            writable,
            _listed: Listed::new(device, counting.clone())?,
            counting,
            resolver: Resolver::new(key, Mirrored(mirror)),
            announced: Announced::default(),
        })
    }

    /// Whether it is a part or all of the address space.
    pub fn kind(&self) -> KeyKind {
        self.resolver.key().kind()
    }

    /// Whether the NIC may write.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        self.counting.stats()
    }

    /// A message is going to use the `len` bytes from `iova` one after the other. They are in the region.
    #[inline]
    pub fn announce(&self, iova: u64, len: u64) {
        self.announced.announce(iova, len);
    }

    /// Lets the NIC access the `len` bytes from `iova`; `use_bytes` is as for [`Mirror::access`], and is told how
    /// many bytes come before the piece.
    ///
    /// # Errors
    ///
    /// [`AccessError::OutOfRange`] before anything is touched; otherwise as the mirror.
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
            // As a rule: a packet is no longer than a page.
            Some(piece) => self.access_piece(iova, len, piece, access, &mut use_bytes),
            None => self.access_pieces(iova, va, len, access, &mut use_bytes),
        }
    }

    /// The `len` bytes from `iova`, which are those from `va`, piece by piece.
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

    /// Lets the NIC access `piece` of the `len` bytes from `iova`.
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
        match self.mirror().access_mapped(piece.page(), access, use_page) {
            true => Ok(()),
            false => self.access_missing(iova, len, piece, access, use_bytes),
        }
    }

    /// The same where there is no translation that allows it.
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
        let wanted = Wanted {
            iova: at,
            len: self.announced.wanted(at, (len - piece.done()) as u64),
            access,
        };
        let mut outcome = Ok(());
        let waiter = InCall {
            use_page: |page: MappedPage<'_>| use_bytes(piece.done(), page.piece(&piece)),
            outcome: &mut outcome,
        };
        self.resolver.resolve(PendingFault::new(wanted, waiter));
        outcome
    }

    /// As [`Region::access`] for reading, of what is in the mirror already.
    pub fn access_present(
        &self,
        iova: u64,
        len: u64,
        use_bytes: impl FnMut(Bytes<'_>),
    ) -> Result<(), AccessError> {
        let va = self.translate(iova, len)?;
        self.mirror().access_present(va, len, use_bytes);
        Ok(())
    }

    /// Prefetches the `len` bytes from `iova`, as `advice` says, for as long as `go_on` says so: it
    /// is asked after every 2 MiB at most. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`Region::may_prefetch`]; a fault error for a page that cannot be had, with the
    /// units of 2 MiB before it prefetched.
    pub fn prefetch(
        &self,
        iova: u64,
        len: u64,
        advice: Advice,
        go_on: impl Fn() -> bool,
    ) -> Result<(), AccessError> {
        let range = self.may_prefetch(iova, len, advice)?;
        let mut pages = 0;
        let step = |added| {
            pages += added;
            self.counting.prefetched(added);
            match go_on() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let result = self.mirror().prefetch(range, advice.policy(), step);
        self.counting.prefetch_ends(range, advice, pages, result);
        result.map_err(AccessError::Fault)
    }

    /// Checks a prefetch without doing it; returns the pages meant.
    ///
    /// # Errors
    ///
    /// [`AccessError::OutOfRange`]; a fault error if it is for writing and the NIC may not write.
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
    fn mirror(&self) -> &Mirror<Counting> {
        &self.resolver.memory().0
    }

    #[inline]
    fn translate(&self, iova: u64, len: u64) -> Result<u64, AccessError> {
        self.resolver
            .key()
            .translate(iova, len)
            .map_err(|_| AccessError::OutOfRange)
    }
}
