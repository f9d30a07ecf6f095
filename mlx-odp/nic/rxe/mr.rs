// SPDX-License-Identifier: GPL-2.0

//! The region of a `struct rxe_mr`, which is attached as its `umem`.
//!
//! rxe and the RDMA core read a few fields of `struct ib_umem` (is it ODP, is it writable), so [`OdpUmem`] begins
//! with a real one; the region follows. It is not a `struct ib_umem_odp`: only a driver calls the core's functions
//! on those and on the pages of an ODP umem, and this driver does not. rxe releases it through
//! `ib_umem_release`, which a compiler flag renames to [`mlx_odp_rxe_umem_release`] in `rxe_mr.c`.

use core::ops::Deref;
use core::ptr::NonNull;

use kernel::prelude::*;

use mlx_odp::device::Registered;
use mlx_odp::region::Region;

use crate::rxe;

/// The `umem` of an ODP region.
///
/// # Invariants
///
/// `umem.is_odp` is set in every `OdpUmem`, and in no other `umem` that an `rxe_mr` can have here.
#[repr(C)]
struct OdpUmem {
    umem: rxe::ib_umem,
    region: Registered,
}

/// Attaches `region` to `mr` as its memory.
///
/// # Errors
///
/// `ENOMEM`.
///
/// # Safety
///
/// `mr` is valid and new: without a `umem`, and not used by anyone else.
pub(crate) unsafe fn attach(
    mr: *mut rxe::rxe_mr,
    device: *mut rxe::ib_device,
    mm: &kernel::mm::Mm,
    va: u64,
    length: u64,
    region: Registered,
) -> Result {
    let mut umem = rxe::ib_umem {
        ibdev: device,
        // Compared only: no reference is held.
        owning_mm: mm.as_raw().cast(),
        ..Default::default()
    };
    umem.address = va as usize;
    umem.length = length as usize;
    umem.set_writable(region.writable().into());
    umem.set_is_odp(1);
    // INVARIANT: `is_odp` is set.
    let umem = KBox::new(OdpUmem { umem, region }, GFP_KERNEL_ACCOUNT)?;
    // SAFETY: By the contract, `mr` can be written.
    unsafe { (*mr).umem = KBox::into_raw(umem).cast() };
    Ok(())
}

/// The region of `mr`; `None` if its memory is pinned.
///
/// # Safety
///
/// `mr` is valid, and the caller's reference to it lasts for `'a`.
pub(crate) unsafe fn region_of<'a>(mr: *const rxe::rxe_mr) -> Option<&'a Region> {
    // SAFETY: `mr` is valid.
    let umem = NonNull::new(unsafe { (*mr).umem })?;
    // SAFETY: `mr` owns its `umem`, which is not written after `attach`.
    if unsafe { umem.as_ref() }.is_odp() == 0 {
        return None;
    }
    // SAFETY: `is_odp` says that it is an `OdpUmem`; it lives as long as `mr`.
    Some(unsafe { umem.cast::<OdpUmem>().as_ref() }.region.deref())
}

/// Replaces `ib_umem_release` where rxe releases the memory of an MR, ODP or not.
///
/// # Safety
///
/// `umem` is null, or that of an MR that is not used any more.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_umem_release(umem: *mut rxe::ib_umem) {
    let Some(ours) = NonNull::new(umem) else {
        return;
    };
    // SAFETY: Valid, by the contract.
    if unsafe { ours.as_ref() }.is_odp() != 0 {
        // SAFETY: `is_odp` says that it is an `OdpUmem`, made by `KBox::into_raw` in `attach`; the
        // MR was its only user. Dropping it waits for invalidations under way, and for no fault.
        drop(unsafe { KBox::<OdpUmem>::from_raw(umem.cast()) });
    } else {
        // SAFETY: An ordinary `umem`, which is the RDMA core's to release.
        unsafe { rxe::ib_umem_release(umem) };
    }
}
