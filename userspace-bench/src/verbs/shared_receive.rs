// SPDX-License-Identifier: GPL-2.0
//! Shared receive queues: receives that any of several queue pairs may take.

use std::{
    ptr::{self, NonNull},
    sync::Arc,
};

use rdma_mummy_sys as sys;

use super::{
    error::{check, object},
    work::post_receive,
    ProtectionDomain, Result, Sge,
};

/// A shared receive queue.
#[derive(Debug)]
pub struct SharedReceiveQueue {
    raw: NonNull<sys::ibv_srq>,
    // Dropped after the queue.
    _domain: Arc<ProtectionDomain>,
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
        }))
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_srq {
        self.raw.as_ptr()
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
