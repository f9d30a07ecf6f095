// SPDX-License-Identifier: GPL-2.0
//! Memory windows: a part of a region under a key of its own.

use std::{
    ptr::{self, NonNull},
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc,
    },
};

use rdma_mummy_sys as sys;

use super::{
    error::{check, object},
    Access, ProtectionDomain, QueuePair, Region, Remote, Result,
};

/// The two kinds of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowType {
    /// Bound again and again; the library chooses the key.
    One,
    /// Usable through the queue pair that bound it, until it is invalidated; the application chooses a
    /// part of the key.
    Two,
}

/// What a window is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The region. There has to be one also where nothing of it is shown: soft-RoCE's provider looks at it
    /// (rdma-core 65), though the specification lets it be left out.
    pub region: &'a Region,
    /// The first address, as the region counts them.
    pub addr: u64,
    /// How many bytes; none ends the binding of a window of type 1.
    pub len: u64,
    /// What peers may do.
    pub access: Access,
}

impl Binding<'_> {
    fn raw(&self) -> sys::ibv_mw_bind_info {
        sys::ibv_mw_bind_info {
            mr: self.region.raw(),
            addr: self.addr,
            length: self.len,
            mw_access_flags: self.access.bits(),
        }
    }
}

/// A memory window. Deallocated when dropped.
#[derive(Debug)]
pub struct Window {
    raw: NonNull<sys::ibv_mw>,
    kind: WindowType,
    /// Its key: what the library keeps is the one before for type 2.
    rkey: AtomicU32,
    // Dropped after the window.
    _domain: Arc<ProtectionDomain>,
}

// SAFETY: libibverbs locks its objects itself; any thread may use them.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Makes one that is not bound to anything.
    pub fn new(domain: &Arc<ProtectionDomain>, kind: WindowType) -> Result<Self> {
        let raw_kind = match kind {
            WindowType::One => sys::ibv_mw_type::IBV_MW_TYPE_1,
            WindowType::Two => sys::ibv_mw_type::IBV_MW_TYPE_2,
        };
        // SAFETY: the domain is alive.
        let raw = object("ibv_alloc_mw", unsafe {
            sys::ibv_alloc_mw(domain.raw(), raw_kind)
        })?;
        Ok(Self {
            raw,
            kind,
            // SAFETY: the window is alive.
            rkey: AtomicU32::new(unsafe { raw.as_ref() }.rkey),
            _domain: domain.clone(),
        })
    }

    /// Its key, that of the last binding that was posted.
    pub fn rkey(&self) -> u32 {
        self.rkey.load(Ordering::Relaxed)
    }

    /// The place `addr`, for a peer.
    pub fn remote(&self, addr: u64) -> Remote {
        Remote {
            addr,
            rkey: self.rkey(),
        }
    }

    /// Asks `qp` to bind it; the completion carries `id`.
    pub fn post_bind(&self, qp: &QueuePair, id: u64, binding: Binding<'_>) -> Result<()> {
        match self.kind {
            WindowType::One => self.bind_1(qp, id, binding),
            WindowType::Two => self.bind_2(qp, id, binding),
        }
    }

    fn bind_1(&self, qp: &QueuePair, id: u64, binding: Binding<'_>) -> Result<()> {
        let mut bind = sys::ibv_mw_bind {
            wr_id: id,
            send_flags: sys::ibv_send_flags::IBV_SEND_SIGNALED.0,
            bind_info: binding.raw(),
        };
        // SAFETY: queue pair, window and region are alive, and the request outlives the call.
        let r = unsafe { sys::ibv_bind_mw(qp.raw(), self.raw.as_ptr(), &mut bind) };
        check("ibv_bind_mw", r)?;
        // SAFETY: the window is alive; the library has changed its key.
        let rkey = unsafe { (*self.raw.as_ptr()).rkey };
        self.rkey.store(rkey, Ordering::Relaxed);
        Ok(())
    }

    fn bind_2(&self, qp: &QueuePair, id: u64, binding: Binding<'_>) -> Result<()> {
        let old = self.rkey();
        let new = old & !0xff | old.wrapping_add(1) & 0xff;
        let bind = sys::bind_mw_t {
            mw: self.raw.as_ptr(),
            rkey: new,
            bind_info: binding.raw(),
        };
        // The provider takes the present key from here; to the application it is the next.
        // SAFETY: the window is alive and nobody else looks at its key.
        unsafe { (*self.raw.as_ptr()).rkey = old };
        qp.post_bind(id, bind)?;
        self.rkey.store(new, Ordering::Relaxed);
        Ok(())
    }

    /// Deallocates it, and says what came of it.
    pub fn deallocate(self) -> Result<()> {
        let raw = self.raw.as_ptr();
        // SAFETY: the domain lives until the end of this function, and nothing is dropped twice.
        let _domain = unsafe { ptr::read(&self._domain) };
        std::mem::forget(self);
        // SAFETY: nothing else refers to the window.
        check("ibv_dealloc_mw", unsafe { sys::ibv_dealloc_mw(raw) })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: nothing else refers to the window.
        unsafe { sys::ibv_dealloc_mw(self.raw.as_ptr()) };
    }
}
