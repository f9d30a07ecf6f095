// SPDX-License-Identifier: GPL-2.0

//! The head of a key's `umem`: the fields that mr.c and umr.c read, which are bounds, page size, a mutex and whether the
//! key is still there. So it begins with a real `struct ib_umem_odp`. No function of the RDMA core is called on it.
//!
//! The `umem` of a region's own key also has the region ([`crate::umem`]); that of a key below it is only this head.

use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicPtr, Ordering};

use kernel::ffi::c_int;
use kernel::prelude::*;

use crate::mlx5;

/// The entries of an update: writes the entry with this number to this room.
pub(crate) type Entry<'a> = &'a dyn Fn(u64, &mut [u8]);

/// The key that memory is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOf {
    /// A region. The head is a field of a [`crate::umem::OdpUmem`].
    Region,
    /// A part of a region, below its own key. The head is all there is.
    Part,
}

/// The head of the memory of a key.
///
/// # Invariants
///
/// `is_odp` is set in `umem` once it is initialised, and in no other `umem` that an MR of mlx5's can have here.
#[repr(C)]
pub(crate) struct UmemHead {
    umem: MaybeUninit<mlx5::ib_umem_odp>,
    of: KeyOf,
    /// The entries of the key's update that is under way.
    entry: AtomicPtr<Entry<'static>>,
}

impl UmemHead {
    /// A head that is still to be put in its place.
    pub(crate) fn new(of: KeyOf) -> Self {
        Self {
            umem: MaybeUninit::zeroed(),
            of,
            entry: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Initialises it for the `size` bytes from `addr`; 0 for an implicit region, or for no memory.
    ///
    /// # Safety
    ///
    /// `this` is a new head in its final place, `device` is valid, and the pages of the bytes do not wrap.
    pub(crate) unsafe fn init(
        this: *mut Self,
        device: *mut mlx5::ib_device,
        addr: u64,
        size: u64,
        access: c_int,
    ) -> *mut mlx5::ib_umem_odp {
        let umem = this.cast::<mlx5::ib_umem_odp>();
        // SAFETY: By the contract; the head begins with it.
        // INVARIANT: Sets `is_odp`.
        unsafe {
            mlx5::mlx5_odp_shim_init_head(umem, device, addr as usize, size as usize, access);
        }
        umem
    }

    /// The memory of a key below the one of `root`: `size` bytes from `addr`, or none.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `root` is valid and complete, and the pages of the bytes do not wrap.
    pub(crate) unsafe fn allocate_below(
        root: *mut mlx5::mlx5_ib_mr,
        addr: u64,
        size: u64,
    ) -> Result<*mut mlx5::ib_umem_odp> {
        let head = KBox::into_raw(KBox::new(Self::new(KeyOf::Part), GFP_KERNEL_ACCOUNT)?);
        // SAFETY: By the contract; the head is in its final place.
        Ok(unsafe {
            let device = mlx5::mlx5_odp_shim_device_of(root);
            Self::init(head, device, addr, size, mlx5::mlx5_odp_shim_access(root))
        })
    }

    /// The key that it is of.
    pub(crate) fn of(&self) -> KeyOf {
        self.of
    }

    /// Has [`UmemHead::entry`] find `entry` while `write` runs.
    pub(crate) fn with_entry(&self, entry: Entry<'_>, write: impl FnOnce() -> c_int) -> c_int {
        // Looked at in this thread only, before the call below returns.
        self.entry
            .store((&raw const entry).cast_mut().cast(), Ordering::Relaxed);
        let done = write();
        self.entry.store(core::ptr::null_mut(), Ordering::Relaxed);
        done
    }

    /// The entries of the update that is under way; `None` if there is none.
    ///
    /// # Safety
    ///
    /// Called in the thread that is in [`UmemHead::with_entry`], if one is; the result is not used after its `write`.
    pub(crate) unsafe fn entry(&self) -> Option<Entry<'_>> {
        // SAFETY: Null, or what `with_entry` has set in this thread, and unsets when `write` is over.
        unsafe { self.entry.load(Ordering::Relaxed).as_ref() }.copied()
    }
}

/// The head of the memory of `mr`, as it is in its place; `None` if `mr` has none, or memory of another kind.
///
/// # Safety
///
/// `mr` is valid for `'a`.
pub(crate) unsafe fn head_of<'a>(mr: *mut mlx5::mlx5_ib_mr) -> Option<&'a UmemHead> {
    // SAFETY: By the contract. Gives a `UmemHead`, by its invariant, or null; it lives as long as the MR.
    unsafe { mlx5::mlx5_odp_shim_head(mr).cast::<UmemHead>().as_ref() }
}
