// SPDX-License-Identifier: GPL-2.0

//! `ibv_reg_mr`, before rxe sees it. `ibv_rereg_mr` is in [`reregistration`](crate::reregistration).
//!
//! rxe's own functions do everything that they can. [`device`](crate::device) installs wrappers of them as the
//! operations that the RDMA core calls. rxe's operations are kept in [`RXES`] when rxe sets them.
//!
//! rxe does not know `IBV_ACCESS_HUGETLB`: it is taken away when it has been checked ([`check_huge_pages`]).

use core::sync::atomic::{AtomicPtr, Ordering};

use kernel::error::from_err_ptr;
use kernel::ffi::c_int;
use kernel::prelude::*;

use mlx_odp::{check_huge_pages, not_supported, HUGETLB};

use crate::rxe;

const _: () = assert!(HUGETLB == rxe::ib_access_flags_IB_ACCESS_HUGETLB as c_int);

/// The operations that rxe passed to the RDMA core: one static table for all devices.
static RXES: AtomicPtr<rxe::ib_device_ops> = AtomicPtr::new(core::ptr::null_mut());

/// Replaces `ib_set_device_ops` in `rxe_verbs.c`: keeps the table and passes it on.
///
/// # Safety
///
/// Called by rxe with a device that is being registered and its own operations, which are static.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_set_device_ops(
    device: *mut rxe::ib_device,
    operations: *const rxe::ib_device_ops,
) {
    // Release: pairs with `rxes`. The table itself is never written.
    RXES.store(operations.cast_mut(), Ordering::Release);
    // SAFETY: The arguments are passed on.
    unsafe { rxe::ib_set_device_ops(device, operations) };
}

/// rxe's own operations.
///
/// # Errors
///
/// `EOPNOTSUPP` before the first device: the core calls nothing before that.
pub(crate) fn rxes() -> Result<&'static rxe::ib_device_ops> {
    // SAFETY: Null, or rxe's static table, which is as old as this module and never written.
    unsafe { RXES.load(Ordering::Acquire).as_ref() }.ok_or_else(not_supported)
}

/// The arguments of `ibv_reg_mr`. All values in bytes.
#[derive(Clone, Copy)]
pub(crate) struct RegMr {
    pub(crate) va: u64,
    pub(crate) length: u64,
    pub(crate) iova: u64,
    pub(crate) access: c_int,
}

impl RegMr {
    /// Registers the memory in `pd` through rxe's own function.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the memory was promised to be huge pages and is not; those of rxe.
    ///
    /// # Safety
    ///
    /// `pd` is one of rxe's, `dmah` and `udata` are null or the core's; `current` is the application.
    pub(crate) unsafe fn register(
        self,
        pd: *mut rxe::ib_pd,
        dmah: *mut rxe::ib_dmah,
        udata: *mut rxe::ib_udata,
    ) -> Result<*mut rxe::ib_mr> {
        let register = rxes()?.reg_user_mr.ok_or_else(not_supported)?;
        let access = self.without_hint()?;
        let Self {
            va, length, iova, ..
        } = self;
        // SAFETY: By the contract; rxe gets its own function's arguments.
        let mr = from_err_ptr(unsafe { register(pd, va, length, iova, access, dmah, udata) })?;
        // The bounds of the region. The core sets them for only one of its two interfaces, and not for a region that
        // replaces another; rxe checks accesses to pinned memory against them.
        //
        // SAFETY: The region is valid and not known to the core yet.
        unsafe {
            (*mr).iova = iova;
            (*mr).length = length;
        }
        Ok(mr)
    }

    /// The access flags for rxe, which does not know `IBV_ACCESS_HUGETLB`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the memory was promised to be huge pages and is not.
    pub(crate) fn without_hint(self) -> Result<c_int> {
        check_huge_pages(self.access, self.va, self.length)?;
        Ok(self.access & !HUGETLB)
    }
}

/// `ibv_reg_mr`.
///
/// # Safety
///
/// Called by the RDMA core: `pd` is one of rxe's, `current` is the application.
pub(crate) unsafe extern "C" fn reg_user_mr(
    pd: *mut rxe::ib_pd,
    va: u64,
    length: u64,
    iova: u64,
    access: c_int,
    dmah: *mut rxe::ib_dmah,
    udata: *mut rxe::ib_udata,
) -> *mut rxe::ib_mr {
    let asked = RegMr {
        va,
        length,
        iova,
        access,
    };
    // SAFETY: By the contract of this function.
    unsafe { asked.register(pd, dmah, udata) }.unwrap_or_else(Error::to_ptr)
}
