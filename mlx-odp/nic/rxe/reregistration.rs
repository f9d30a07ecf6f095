// SPDX-License-Identifier: GPL-2.0

//! `ibv_rereg_mr`: changes the memory, the protection domain or the access rights of a region.
//!
//! rxe changes domain and rights in place where it can, and the region keeps its keys. Everything else makes a new
//! region with new keys, which the RDMA core puts in place of the old one. If that fails, the old region stays as it
//! was.
//!
//! A region with memory windows cannot be changed, as they refer to a part of it. No window can be bound to it during
//! the change.

use core::ptr::null_mut;

use kernel::error::from_err_ptr;
use kernel::ffi::c_int;
use kernel::prelude::*;

use hmm::Perm;

use mlx_odp::{not_supported, with_current_mm};

use crate::mr::region_of;
use crate::registration::{rxes, RegMr};
use crate::rxe;
use crate::window::NoWindows;

const TRANSLATION: c_int = rxe::ib_mr_rereg_flags_IB_MR_REREG_TRANS as c_int;
const ACCESS: c_int = rxe::ib_mr_rereg_flags_IB_MR_REREG_ACCESS as c_int;
const ON_DEMAND: c_int = rxe::ib_access_flags_IB_ACCESS_ON_DEMAND as c_int;

/// `ibv_rereg_mr`. Returns the new region, or null if the old one was changed in place.
///
/// # Safety
///
/// Called by the RDMA core with a region of rxe's that no other thread can change or deregister, a domain of rxe's,
/// the old or the new one, and known `flags` only; `current` is the application.
pub(crate) unsafe extern "C" fn rereg_user_mr(
    ibmr: *mut rxe::ib_mr,
    flags: c_int,
    va: u64,
    length: u64,
    iova: u64,
    access: c_int,
    pd: *mut rxe::ib_pd,
    udata: *mut rxe::ib_udata,
) -> *mut rxe::ib_mr {
    let asked = RegMr {
        va,
        length,
        iova,
        access,
    };
    // SAFETY: By the contract of this function; rxe's MRs contain their `ib_mr`.
    let result = unsafe {
        let mr = kernel::container_of!(ibmr, rxe::rxe_mr, ibmr);
        reregister(mr, flags, asked, pd, udata)
    };
    result.unwrap_or_else(Error::to_ptr)
}

/// # Errors
///
/// `EBUSY` if a window is bound to the region, `EINVAL` if this needs a new region of another process's memory;
/// those of a registration, or of rxe's own function.
///
/// # Safety
///
/// As for [`rereg_user_mr`].
unsafe fn reregister(
    mr: *mut rxe::rxe_mr,
    flags: c_int,
    asked: RegMr,
    pd: *mut rxe::ib_pd,
    udata: *mut rxe::ib_udata,
) -> Result<*mut rxe::ib_mr> {
    // SAFETY: The region is valid, and stays so: no other thread deregisters it.
    let no_windows = unsafe { NoWindows::on(mr)? };
    // SAFETY: The region is valid, and no other thread changes it.
    let old = unsafe { registered(mr)? };
    let new = RegMr {
        access: if flags & ACCESS != 0 {
            asked.access
        } else {
            old.access
        },
        ..if flags & TRANSLATION != 0 { asked } else { old }
    };
    let same_kind = (new.access ^ old.access) & ON_DEMAND == 0;
    // SAFETY: As above; the other is a pure function of its argument. What pinned pages permit, rxe asks itself.
    let permitted = unsafe {
        let asked = Perm::from_writable(rxe::rxe_shim_writable(new.access));
        region_of(mr).is_none_or(|region| region.limit().allows(asked.most_access()))
    };
    if flags & TRANSLATION != 0 || !same_kind || !permitted {
        if flags & TRANSLATION == 0 {
            // SAFETY: The region is valid, and a region of memory has a `umem`.
            let owner = unsafe { (*(*mr).umem).owning_mm };
            with_current_mm(|mm| (mm.as_raw().cast() == owner).then_some(()).ok_or(EINVAL))?;
        }
        // SAFETY: By the contract.
        return unsafe { replace(no_windows, new, pd, udata) };
    }
    let change = rxes()?.rereg_user_mr.ok_or_else(not_supported)?;
    let access = new.without_hint()?;
    // SAFETY: By the contract; rxe gets its own function's arguments.
    from_err_ptr(unsafe {
        change(
            &raw mut (*mr).ibmr,
            flags,
            new.va,
            new.length,
            new.iova,
            access,
            pd,
            udata,
        )
    })
}

/// Registers `new`, to replace the region that has `no_windows`.
///
/// # Errors
///
/// Those of the registration. Then the old region is unchanged.
///
/// # Safety
///
/// `pd` is a domain of rxe's, `udata` null or the core's; `current` is the application.
unsafe fn replace(
    no_windows: NoWindows<'_>,
    new: RegMr,
    pd: *mut rxe::ib_pd,
    udata: *mut rxe::ib_udata,
) -> Result<*mut rxe::ib_mr> {
    // SAFETY: By the contract.
    let mr = unsafe { new.register(pd, null_mut(), udata)? };
    no_windows.for_good();
    Ok(mr)
}

/// The arguments that `mr` was registered with.
///
/// # Errors
///
/// `EOPNOTSUPP` if it is not memory of an application.
///
/// # Safety
///
/// `mr` is valid, and is not changed meanwhile.
unsafe fn registered(mr: *mut rxe::rxe_mr) -> Result<RegMr> {
    // SAFETY: By the contract; the `umem` belongs to the region.
    unsafe {
        let umem = (*mr).umem.as_ref().ok_or_else(not_supported)?;
        Ok(RegMr {
            va: umem.address as u64,
            length: (*mr).ibmr.length,
            iova: (*mr).ibmr.iova,
            access: (*mr).access,
        })
    }
}
