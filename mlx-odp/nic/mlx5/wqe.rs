// SPDX-License-Identifier: GPL-2.0

//! A copy of a WQE, out of the application's queue.

use core::ptr::NonNull;

use kernel::error::to_result;
use kernel::prelude::*;

use mlx_odp::mlx5::page_fault::{Queue, WqeFault};
use mlx_odp::mlx5::wqe::{receive, send, shared_receive, BadWqe, DataSegments, Transport, MOST};

use crate::mlx5;

/// A reference to a work queue: its destruction waits until this is dropped.
pub(crate) struct WorkQueue(NonNull<mlx5::mlx5_core_rsc_common>);

impl WorkQueue {
    /// That of `fault`; `None` if it is gone.
    ///
    /// # Safety
    ///
    /// `dev` is in use.
    pub(crate) unsafe fn hold(dev: *mut mlx5::mlx5_ib_dev, fault: &WqeFault) -> Option<Self> {
        let shared = fault.queue == Queue::Shared;
        // SAFETY: By the contract. Gives a reference or null.
        let queue = unsafe { mlx5::mlx5_odp_shim_hold_wq(dev, fault.wq_number, shared) };
        NonNull::new(queue).map(Self)
    }

    /// Distinguishes it from a later queue with the same number.
    pub(crate) fn identity(&self) -> usize {
        self.0.as_ptr().addr()
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: Held, and not used after this.
        unsafe { mlx5::mlx5_odp_shim_put_wq(self.0.as_ptr()) };
    }
}

/// The copy of a WQE. Its queue is held until this is dropped: a fault is not resumed for a queue that has gone, and
/// perhaps come again as another one.
pub(crate) struct Wqe {
    _held: WorkQueue,
    bytes: KVec<u8>,
    about: mlx5::mlx5_odp_shim_wqe,
    queue: Queue,
    committed: u32,
    terminator: u32,
}

impl Wqe {
    /// Reads the WQE of `fault` from `queue`, which is its queue.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EOPNOTSUPP` for a queue whose WQEs are not understood; an error of the copy.
    ///
    /// # Safety
    ///
    /// `dev` is in use.
    pub(crate) unsafe fn read(
        dev: *mut mlx5::mlx5_ib_dev,
        queue: WorkQueue,
        fault: &WqeFault,
    ) -> Result<Self> {
        let mut bytes = KVec::from_elem(0, kernel::page::PAGE_SIZE, GFP_KERNEL)?;
        let mut about = mlx5::mlx5_odp_shim_wqe::default();
        // SAFETY: The queue is held, and there is room for so many bytes.
        to_result(unsafe {
            mlx5::mlx5_odp_shim_read_wqe(
                queue.0.as_ptr(),
                fault.queue == Queue::Send,
                fault.wqe_index,
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                &mut about,
            )
        })?;
        bytes.truncate(about.copied);
        Ok(Self {
            _held: queue,
            bytes,
            about,
            queue: fault.queue,
            committed: fault.bytes_committed,
            // SAFETY: By the contract.
            terminator: unsafe { mlx5::mlx5_odp_shim_terminator(dev) },
        })
    }

    /// What the NIC still has to do of it.
    ///
    /// # Errors
    ///
    /// [`BadWqe`].
    pub(crate) fn segments(&self) -> Result<DataSegments<'_>, BadWqe> {
        let transport = match self.about.kind {
            mlx5::mlx5_odp_shim_kind_MLX5_ODP_SHIM_XRC_INITIATOR => Transport::Xrc,
            mlx5::mlx5_odp_shim_kind_MLX5_ODP_SHIM_ADDRESSED => Transport::Addressed,
            _ => Transport::Connected,
        };
        let (bytes, size) = (&self.bytes, self.about.size);
        match self.queue {
            Queue::Send => send(bytes, transport, self.committed),
            Queue::Receive => receive(bytes, size, self.terminator, self.committed),
            Queue::Shared => shared_receive(bytes, size, self.terminator, self.committed),
        }
    }
}

const _: () = assert!(MOST <= kernel::page::PAGE_SIZE);
