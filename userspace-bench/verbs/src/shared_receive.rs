// SPDX-License-Identifier: GPL-2.0
//! Shared receive queues: receives that any of several queue pairs may take, and those of extended connections.

use std::{
    mem::{self, offset_of},
    ptr::{self, NonNull},
    sync::Arc,
};

use rdma_mummy_sys as sys;

use super::{
    error::{check, object},
    work::post_receive,
    CompletionQueue, Context, Error, ProtectionDomain, Result, Sge,
};

/// A shared receive queue.
#[derive(Debug)]
pub struct SharedReceiveQueue {
    raw: NonNull<sys::ibv_srq>,
    // Dropped after the queue.
    _domain: Arc<ProtectionDomain>,
    extended: Option<Extended>,
}

/// What a queue for extended connections has in addition.
#[derive(Debug)]
struct Extended {
    domain: ExtendedDomain,
    _completions: Arc<CompletionQueue>,
}

// SAFETY: libibverbs locks its objects itself; any thread may use them.
unsafe impl Send for SharedReceiveQueue {}
// SAFETY: as above.
unsafe impl Sync for SharedReceiveQueue {}

impl SharedReceiveQueue {
    /// One that holds `depth` receives of up to `sges` pieces of memory.
    pub fn new(domain: &Arc<ProtectionDomain>, depth: u32, sges: u32) -> Result<Arc<Self>> {
        let mut attr = sys::ibv_srq_init_attr {
            srq_context: ptr::null_mut(),
            attr: sys::ibv_srq_attr {
                max_wr: depth,
                max_sge: sges,
                srq_limit: 0,
            },
        };
        // SAFETY: the domain is alive and the attributes outlive the call.
        let raw = unsafe { sys::ibv_create_srq(domain.raw(), &mut attr) };
        Ok(Arc::new(Self {
            raw: object("ibv_create_srq", raw)?,
            _domain: domain.clone(),
            extended: None,
        }))
    }

    /// One for extended connections: senders name it, and its receives end in `completions`.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the device has no extended connections.
    pub fn extended(
        domain: &Arc<ProtectionDomain>,
        completions: &Arc<CompletionQueue>,
        depth: u32,
        sges: u32,
    ) -> Result<Arc<Self>> {
        use sys::ibv_srq_init_attr_mask as init;

        const CALL: &str = "ibv_create_srq_ex";
        let context = domain.context();
        let extended = ExtendedDomain::new(context)?;
        // SAFETY: zeroes are valid for integers and null pointers.
        let mut attr: sys::ibv_srq_init_attr_ex = unsafe { mem::zeroed() };
        attr.attr.max_wr = depth;
        attr.attr.max_sge = sges;
        attr.srq_type = sys::ibv_srq_type::IBV_SRQT_XRC;
        attr.pd = domain.raw();
        attr.xrcd = extended.raw.as_ptr();
        attr.cq = completions.raw();
        attr.comp_mask = (init::IBV_SRQ_INIT_ATTR_TYPE
            | init::IBV_SRQ_INIT_ATTR_PD
            | init::IBV_SRQ_INIT_ATTR_XRCD
            | init::IBV_SRQ_INIT_ATTR_CQ)
            .0;
        let create = create_extended(context).ok_or(Error::Call {
            call: CALL,
            errno: libc::EOPNOTSUPP,
        })?;
        // SAFETY: the attributes name live objects and outlive the call.
        let raw = unsafe { create(context.raw(), &mut attr) };
        Ok(Arc::new(Self {
            raw: object(CALL, raw)?,
            _domain: domain.clone(),
            extended: Some(Extended {
                domain: extended,
                _completions: completions.clone(),
            }),
        }))
    }

    /// What senders on extended connections call it.
    pub fn number(&self) -> Result<u32> {
        let mut number = 0;
        // SAFETY: the queue is alive and the number outlives the call.
        let r = unsafe { sys::ibv_get_srq_num(self.raw(), &mut number) };
        check("ibv_get_srq_num", r)?;
        Ok(number)
    }

    /// The domain of the extended connections that it is for; null if it is for none.
    pub(super) fn extended_domain(&self) -> *mut sys::ibv_xrcd {
        let of = |extended: &Extended| extended.domain.raw.as_ptr();
        self.extended.as_ref().map_or(ptr::null_mut(), of)
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_srq {
        self.raw.as_ptr()
    }

    /// What the kernel calls it.
    pub fn handle(&self) -> u32 {
        // SAFETY: the queue is alive; the library does not change it.
        unsafe { self.raw.as_ref() }.handle
    }

    /// Offers the memory of `sges` to a message that arrives at any of the queue pairs.
    pub fn post_recv(&self, id: u64, sges: &[Sge]) -> Result<()> {
        // SAFETY: the queue is alive, `post_receive` lets the request and its list outlive the call, and what
        // the NIC does with the memory is covered by its keys (see the crate's documentation).
        let r = post_receive(id, sges, |wr, bad| unsafe {
            sys::ibv_post_srq_recv(self.raw(), wr, bad)
        });
        check("ibv_post_srq_recv", r)
    }
}

impl Drop for SharedReceiveQueue {
    fn drop(&mut self) {
        // SAFETY: the queue pairs that use the queue held references to it.
        unsafe { sys::ibv_destroy_srq(self.raw()) };
    }
}

/// The library's call. That of the kept crate makes an ordinary queue of every one that has a protection domain.
fn create_extended(
    context: &Context,
) -> Option<
    unsafe extern "C" fn(
        *mut sys::ibv_context,
        *mut sys::ibv_srq_init_attr_ex,
    ) -> *mut sys::ibv_srq,
> {
    let raw = context.raw();
    // SAFETY: the context is open. The library marks one that lies in a `verbs_context` like this, and says in that
    // how much of it there is.
    unsafe {
        if (*raw).abi_compat as usize != usize::MAX {
            return None;
        }
        let whole = raw
            .byte_sub(offset_of!(sys::verbs_context, context))
            .cast::<sys::verbs_context>();
        // It grows at its beginning.
        let known = size_of::<sys::verbs_context>() - offset_of!(sys::verbs_context, create_srq_ex);
        match (*whole).sz >= known {
            true => (*whole).create_srq_ex,
            false => None,
        }
    }
}

/// What extended connections and their receive queues have in common.
#[derive(Debug)]
struct ExtendedDomain {
    raw: NonNull<sys::ibv_xrcd>,
    // Dropped after the domain.
    _context: Arc<Context>,
}

// SAFETY: libibverbs locks its objects itself; any thread may use them.
unsafe impl Send for ExtendedDomain {}
// SAFETY: as above.
unsafe impl Sync for ExtendedDomain {}

impl ExtendedDomain {
    /// One of this process's own.
    fn new(context: &Arc<Context>) -> Result<Self> {
        use sys::ibv_xrcd_init_attr_mask as init;

        let mut attr = sys::ibv_xrcd_init_attr {
            comp_mask: (init::IBV_XRCD_INIT_ATTR_FD | init::IBV_XRCD_INIT_ATTR_OFLAGS).0,
            fd: -1,
            oflags: libc::O_CREAT,
        };
        // SAFETY: the context is open and the attributes outlive the call.
        let raw = unsafe { sys::ibv_open_xrcd(context.raw(), &mut attr) };
        Ok(Self {
            raw: object("ibv_open_xrcd", raw)?,
            _context: context.clone(),
        })
    }
}

impl Drop for ExtendedDomain {
    fn drop(&mut self) {
        // SAFETY: the receive queue that it was made for is gone, and with it the queue pairs that held that.
        unsafe { sys::ibv_close_xrcd(self.raw.as_ptr()) };
    }
}
