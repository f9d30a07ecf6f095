// SPDX-License-Identifier: GPL-2.0
//! Protection domains and memory regions: pinned, on demand, the whole address space.

use std::{
    ops::{BitOr, Range},
    ptr::{self, NonNull},
    sync::Arc,
};

use rdma_mummy_sys as sys;

use super::{
    error::{check, object},
    Context, Remote, Result, Sge,
};
use testkit::memory::Mapping;

/// What a region may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u32);

impl Access {
    /// Local reads only.
    pub const NONE: Self = Self(0);
    /// Local writes (the target of a receive or of a read).
    pub const LOCAL_WRITE: Self = Self(sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0);
    /// Writes by a peer.
    pub const REMOTE_WRITE: Self = Self(sys::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0);
    /// Reads by a peer.
    pub const REMOTE_READ: Self = Self(sys::ibv_access_flags::IBV_ACCESS_REMOTE_READ.0);
    /// Atomics by a peer.
    pub const REMOTE_ATOMIC: Self = Self(sys::ibv_access_flags::IBV_ACCESS_REMOTE_ATOMIC.0);
    /// Memory windows on the region.
    pub const MW_BIND: Self = Self(sys::ibv_access_flags::IBV_ACCESS_MW_BIND.0);
    /// The window's addresses count from 0, instead of being those of the region.
    pub const ZERO_BASED: Self = Self(sys::ibv_access_flags::IBV_ACCESS_ZERO_BASED.0);
    /// Flushes by a peer, as far as other devices see.
    pub const FLUSH_GLOBAL: Self = Self(sys::ibv_access_flags::IBV_ACCESS_FLUSH_GLOBAL.0);
    /// Flushes by a peer, as far as memory that outlives a loss of power.
    pub const FLUSH_PERSISTENT: Self = Self(sys::ibv_access_flags::IBV_ACCESS_FLUSH_PERSISTENT.0);
    /// Pages are faulted in when they are needed, not pinned.
    pub const ON_DEMAND: Self = Self(sys::ibv_access_flags::IBV_ACCESS_ON_DEMAND.0);
    /// The region consists of huge pages.
    pub const HUGETLB: Self = Self(sys::ibv_access_flags::IBV_ACCESS_HUGETLB.0);

    /// Reads, writes and atomics, local and by a peer.
    pub const ALL: Self = Self(
        Self::LOCAL_WRITE.0 | Self::REMOTE_WRITE.0 | Self::REMOTE_READ.0 | Self::REMOTE_ATOMIC.0,
    );

    /// Reads, local and by a peer.
    pub const READ_ONLY: Self = Self::REMOTE_READ;

    /// The flags.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Flags that have no name here, right or wrong.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl BitOr for Access {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What is asked of the driver about pages that will be needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advise {
    /// Fault them in for reading.
    Prefetch,
    /// Fault them in for writing.
    PrefetchWrite,
    /// Take those that are resident; fault nothing in.
    PrefetchNoFault,
}

impl Advise {
    fn raw(self) -> sys::ibv_advise_mr_advice {
        use sys::ib_uverbs_advise_mr_advice as advice;
        match self {
            Self::Prefetch => advice::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH,
            Self::PrefetchWrite => advice::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE,
            Self::PrefetchNoFault => advice::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT,
        }
    }
}

/// Wait until the prefetch is done; the only flag there is.
pub const PREFETCH_FLUSH: u32 = 1;

/// Objects of one protection domain may use each other.
#[derive(Debug)]
pub struct ProtectionDomain {
    raw: NonNull<sys::ibv_pd>,
    context: Arc<Context>,
}

// SAFETY: libibverbs locks its objects itself; any thread may use them.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    /// Makes one.
    pub fn new(context: &Arc<Context>) -> Result<Arc<Self>> {
        // SAFETY: the context is open.
        let raw = object("ibv_alloc_pd", unsafe { sys::ibv_alloc_pd(context.raw()) })?;
        Ok(Arc::new(Self {
            raw,
            context: context.clone(),
        }))
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_pd {
        self.raw.as_ptr()
    }

    /// What the kernel calls it.
    pub fn handle(&self) -> u32 {
        // SAFETY: the domain is alive; the library does not change it.
        unsafe { self.raw.as_ref() }.handle
    }

    /// Frees it, and says what came of it: `None` while it is in use by objects of this program.
    pub fn free(self: Arc<Self>) -> Option<Result<()>> {
        let domain = Arc::into_inner(self)?;
        let raw = domain.raw;
        // SAFETY: nothing is dropped twice, and the context lives until the end of this function.
        let _context = unsafe { ptr::read(&domain.context) };
        std::mem::forget(domain);
        // SAFETY: whatever was made in the domain held a reference to it.
        Some(check("ibv_dealloc_pd", unsafe {
            sys::ibv_dealloc_pd(raw.as_ptr())
        }))
    }

    /// The device.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Registers `range` of `memory` under its own addresses.
    pub fn register(
        self: &Arc<Self>,
        memory: &Mapping,
        range: Range<usize>,
        access: Access,
    ) -> Result<Region> {
        let iova = memory.at(range.start);
        self.register_iova(memory, range, iova, access)
    }

    /// Registers `range` of `memory` under addresses that start at `iova`.
    pub fn register_iova(
        self: &Arc<Self>,
        memory: &Mapping,
        range: Range<usize>,
        iova: u64,
        access: Access,
    ) -> Result<Region> {
        assert!(range.end <= memory.len(), "{range:x?} leaves the mapping");
        let span = Span {
            addr: memory.at(range.start),
            len: range.len(),
            iova,
        };
        // SAFETY: the range is in a mapping, whose memory is only ever copied in and out.
        unsafe { self.register_raw(span, access) }
    }

    /// Registers the whole address space, on demand.
    ///
    /// # Safety
    ///
    /// Whoever gets the key uses it for the memory of [`Mapping`]s and for addresses at which
    /// nothing is mapped, only.
    pub unsafe fn register_implicit(self: &Arc<Self>, access: Access) -> Result<Region> {
        let span = Span {
            addr: 0,
            len: usize::MAX,
            iova: 0,
        };
        // SAFETY: the caller's promise.
        unsafe { self.register_raw(span, access | Access::ON_DEMAND) }
    }

    /// Registers any span, sensible or not.
    ///
    /// # Safety
    ///
    /// What of the span is not the memory of a [`Mapping`] or unmapped is never written through the key.
    pub unsafe fn register_raw(self: &Arc<Self>, span: Span, access: Access) -> Result<Region> {
        let addr = ptr::with_exposed_provenance_mut(span.addr as usize);
        // SAFETY: the domain is alive; for what the NIC does with the memory, see the module
        // documentation of the crate.
        let raw =
            unsafe { sys::ibv_reg_mr_iova2(self.raw(), addr, span.len, span.iova, access.bits()) };
        let raw = object("ibv_reg_mr", raw)?;
        Ok(Region {
            raw,
            domain: self.clone(),
            span,
            gone: false,
        })
    }

    /// Advises the driver about `sges`.
    pub fn advise(&self, advice: Advise, flags: u32, sges: &[Sge]) -> Result<()> {
        let mut list: Vec<_> = sges.iter().map(|s| s.raw()).collect();
        let count = list.len() as u32;
        // SAFETY: the domain is alive and the list has `count` entries.
        let r = unsafe {
            sys::ibv_advise_mr(self.raw(), advice.raw(), flags, list.as_mut_ptr(), count)
        };
        check("ibv_advise_mr", r)
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: whatever was made in the domain held a reference to it.
        unsafe { sys::ibv_dealloc_pd(self.raw()) };
    }
}

/// What a region covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first address in this process.
    pub addr: u64,
    /// How many bytes.
    pub len: usize,
    /// The address under which work requests name the first byte.
    pub iova: u64,
}

/// A memory region. Deregistered when dropped.
#[derive(Debug)]
pub struct Region {
    raw: NonNull<sys::ibv_mr>,
    domain: Arc<ProtectionDomain>,
    span: Span,
    gone: bool,
}

// SAFETY: libibverbs locks its objects itself; any thread may use them.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// The key of local access.
    pub fn lkey(&self) -> u32 {
        // SAFETY: the region is registered; the library does not change its keys.
        unsafe { self.raw.as_ref() }.lkey
    }

    /// The key of a peer's access.
    pub fn rkey(&self) -> u32 {
        // SAFETY: as in `lkey`.
        unsafe { self.raw.as_ref() }.rkey
    }

    /// What the kernel calls it.
    pub fn handle(&self) -> u32 {
        // SAFETY: as in `lkey`.
        unsafe { self.raw.as_ref() }.handle
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_mr {
        self.raw.as_ptr()
    }

    /// Notes that the kernel has changed what it covers, or its domain.
    pub(super) fn reregistered(
        &mut self,
        span: Option<Span>,
        domain: Option<&Arc<ProtectionDomain>>,
    ) {
        if let Some(span) = span {
            self.span = span;
        }
        if let Some(domain) = domain {
            self.domain = domain.clone();
        }
    }

    /// What it covers.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The domain it belongs to.
    pub fn domain(&self) -> &Arc<ProtectionDomain> {
        &self.domain
    }

    /// `len` bytes from `addr` on (an address as the region counts them), for local use.
    pub fn sge(&self, addr: u64, len: usize) -> Sge {
        Sge {
            addr,
            len: len as u32,
            lkey: self.lkey(),
        }
    }

    /// The bytes from `addr` on, for a peer.
    pub fn remote(&self, addr: u64) -> Remote {
        Remote {
            addr,
            rkey: self.rkey(),
        }
    }

    /// Deregisters it, and says what came of it.
    pub fn deregister(mut self) -> Result<()> {
        self.release()
    }

    /// Deregisters it, or gives it back with the reason why not.
    pub fn try_deregister(mut self) -> std::result::Result<(), (Self, super::Error)> {
        match self.release() {
            Ok(()) => Ok(()),
            Err(error) => {
                // It is still there.
                self.gone = false;
                Err((self, error))
            }
        }
    }

    fn release(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.gone, true) {
            return Ok(());
        }
        // SAFETY: the region is registered, and `gone` keeps this from happening twice.
        check("ibv_dereg_mr", unsafe {
            sys::ibv_dereg_mr(self.raw.as_ptr())
        })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        let _ = self.release();
    }
}
