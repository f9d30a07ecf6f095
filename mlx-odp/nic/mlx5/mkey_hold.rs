// SPDX-License-Identifier: GPL-2.0

//! Whether a key may be changed.
//!
//! A deregistration revokes the key and gives it back to mlx5's pool, from where another region may get it at once.
//! No UMR may follow the revocation. An update therefore takes a reference to the mkey, which the deregistration waits
//! for. If deregistration has begun, the update takes `umem_mutex`, under which mr.c revokes, and skips the UMR if the
//! mkey is revoked: then the device has forgotten all that it led to.

use crate::mlx5;

/// Keeps a key from being revoked.
pub(crate) enum MkeyHold {
    /// Held.
    Held(*mut mlx5::mlx5_ib_mr),
    /// It is about to be revoked, and cannot be for as long as the mutex is held.
    Locked(*mut mlx5::mlx5_ib_mr),
}

impl MkeyHold {
    /// The key of `mr`; `None` if the device does not use it any more, or if `mr` is null.
    ///
    /// # Safety
    ///
    /// `mr` is null, or valid for as long as the value.
    pub(crate) unsafe fn new(mr: *mut mlx5::mlx5_ib_mr) -> Option<Self> {
        if mr.is_null() {
            return None;
        }
        // SAFETY: By the contract.
        unsafe {
            if mlx5::mlx5_odp_shim_hold_mr(mr) {
                return Some(Self::Held(mr));
            }
            mlx5::mlx5_odp_shim_lock(mr).then_some(Self::Locked(mr))
        }
    }

    /// As [`MkeyHold::new`], but only if the key is held: its deregistration has not begun. What holds it may wait for
    /// memory.
    ///
    /// # Safety
    ///
    /// As for [`MkeyHold::new`].
    pub(crate) unsafe fn held(mr: *mut mlx5::mlx5_ib_mr) -> Option<Self> {
        // SAFETY: By the contract.
        let held = unsafe { !mr.is_null() && mlx5::mlx5_odp_shim_hold_mr(mr) };
        held.then_some(Self::Held(mr))
    }

    /// The MR.
    pub(crate) fn mr(&self) -> *mut mlx5::mlx5_ib_mr {
        let (Self::Held(mr) | Self::Locked(mr)) = self;
        *mr
    }
}

impl Drop for MkeyHold {
    fn drop(&mut self) {
        // SAFETY: As `new` has found it.
        unsafe {
            match self {
                Self::Held(mr) => mlx5::mlx5_odp_shim_put_mr(*mr),
                Self::Locked(mr) => mlx5::mlx5_odp_shim_unlock(*mr),
            }
        }
    }
}
