// SPDX-License-Identifier: GPL-2.0

//! How a region hangs on rxe's `struct rxe_mr`: as its `umem`.
//!
//! rxe and the RDMA core look at a few fields of `struct ib_umem` (is it ODP, may it be written), so
//! ours begins with a real one; the rest is the region. It is not a `struct ib_umem_odp`: the core's
//! functions on those, and those on an ODP umem's pages, are never called for it, as only a driver
//! would, and here that is us. rxe gives it back through `ib_umem_release`,
//! which for `rxe_mr.c` a compiler flag renames to [`mlx_odp_rxe_umem_release`].

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
/// `umem.is_odp` is set, in every `OdpUmem` and, of the `umem`s that an `rxe_mr` of ours can have,
/// in no other.
#[repr(C)]
struct OdpUmem {
    umem: rxe::ib_umem,
    region: Registered,
}

/// Makes `region` the memory of `mr`.
///
/// # Errors
///
/// `ENOMEM`.
///
/// # Safety
///
/// `mr` is being made: valid, without a `umem`, and used by nobody else.
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
        // Told apart from others, and nothing else: no reference is held.
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

/// The region of `mr`, if it is an ODP region.
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

/// Takes the place of `ib_umem_release` when rxe lets go of an MR's memory, ODP or not.
///
/// # Safety
///
/// `umem` is null or the `umem` of an MR that nobody uses any more.
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
