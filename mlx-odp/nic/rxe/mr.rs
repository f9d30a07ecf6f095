// SPDX-License-Identifier: GPL-2.0

//! The region of a `struct rxe_mr`, which is attached as its `umem`; and how an lkey leads to it.
//!
//! rxe and the RDMA core read a few fields of `struct ib_umem` (is it ODP, is it writable), so [`OdpUmem`] begins
//! with a real one; the region follows. It is not a `struct ib_umem_odp`: only a driver calls the core's functions
//! on those and on the pages of an ODP umem, and this driver does not. rxe releases it through
//! `ib_umem_release`, which a compiler flag renames to [`mlx_odp_rxe_umem_release`] in `rxe_mr.c`.

use core::ptr::NonNull;

use kernel::ffi::c_int;
use kernel::prelude::*;

use hmm::Access;
use mlx_odp::Registered;

use crate::pool::Ref;
use crate::region::RxeRegion;
use crate::rxe;

/// The `umem` of an ODP region.
///
/// # Invariants
///
/// `umem.is_odp` is set in every `OdpUmem`, and in no other `umem` that an `rxe_mr` can have here.
#[repr(C)]
struct OdpUmem {
    umem: rxe::ib_umem,
    region: RxeRegion,
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
    region: Registered,
) -> Result {
    let bytes = region.key().bytes();
    let mut umem = rxe::ib_umem {
        ibdev: device,
        // Compared only: no reference is held.
        owning_mm: mm.as_raw().cast(),
        ..Default::default()
    };
    umem.address = bytes.start() as usize;
    umem.length = bytes.len() as usize;
    umem.set_writable(region.limit().allows(Access::Write).into());
    umem.set_is_odp(1);
    let region = RxeRegion::new(region);
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
pub(crate) unsafe fn region_of<'a>(mr: *const rxe::rxe_mr) -> Option<&'a RxeRegion> {
    // SAFETY: `mr` is valid.
    let umem = NonNull::new(unsafe { (*mr).umem })?;
    // SAFETY: `mr` owns its `umem`, which is not written after `attach`.
    if unsafe { umem.as_ref() }.is_odp() == 0 {
        return None;
    }
    // SAFETY: As just seen; `mr` is referenced.
    Some(unsafe { region_in(umem.as_ptr()) })
}

/// The region with this umem.
///
/// # Safety
///
/// `umem` is that of an MR of memory on demand (`is_odp`), and the caller's reference to the MR lasts for `'a`.
#[inline]
pub(crate) unsafe fn region_in<'a>(umem: *const rxe::ib_umem) -> &'a RxeRegion {
    // SAFETY: `is_odp` says that it is an `OdpUmem`; it lives as long as the MR.
    unsafe { &(*umem.cast::<OdpUmem>()).region }
}

/// The MR of `pd` with this lkey that permits `access`, with a reference.
///
/// # Safety
///
/// `pd` is valid.
#[inline]
pub(crate) unsafe fn find_local(
    pd: *mut rxe::rxe_pd,
    access: c_int,
    lkey: u32,
) -> Option<Ref<rxe::rxe_mr>> {
    let local = rxe::rxe_mr_lookup_type_RXE_LOOKUP_LOCAL;
    // SAFETY: By the contract. Returns null, or an MR with a reference for us.
    unsafe { Ref::from_raw(rxe::lookup_mr(pd, access, lkey, local)) }
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
