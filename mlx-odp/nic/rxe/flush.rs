// SPDX-License-Identifier: GPL-2.0

//! FLUSH to persistence: writes the CPU's caches back to persistent memory.
//!
//! A FLUSH to global visibility needs nothing of this: what was copied to memory is visible to all. rxe's responder has a
//! write barrier for both, after this.
//!
//! A FLUSH of a range is an access to it: all of it has to be there, and is faulted in. One of a whole region is about what
//! is there, and leaves the rest as it is. Neither counts as a use of what the NIC's faults have taken along.

use core::ops::ControlFlow;

use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;

use hmm::{Access, Bytes, FaultError, PageIndex, PageRange, Waiting};
use mlx_odp::{errno, AccessError, Wanted};

use crate::mr::region_of;
use crate::pool::in_pool;
use crate::region::RxeRegion;
use crate::{rxe, stop};

/// Called in place of `rxe_flush_pmem_iova` by the responder, for a region on demand (`redirect_resp.h`): with the length in
/// 64 bits, and whether it is a FLUSH of the whole region.
///
/// # Safety
///
/// `mr` is valid.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_flush_on_demand(
    mr: *mut rxe::rxe_mr,
    iova: u64,
    length: u64,
    whole: bool,
) -> c_int {
    // SAFETY: `mr` is valid for as long as this call lasts.
    let Some(region) = (unsafe { region_of(mr) }) else {
        return EINVAL.to_errno();
    };
    // Deregistration must not wait for gigabytes.
    // SAFETY: The reference to `mr` is held for as long as this call lasts.
    let registered = || unsafe { in_pool(mr) };
    let result = match whole {
        true => flush_all(region, iova, length, registered),
        false => flush_range(region, iova, length, registered),
    };
    errno(result.map_err(|error| {
        stop::stop(region, error, true);
        EFAULT
    }))
}

/// The same where rxe would call it, of a range.
///
/// # Safety
///
/// `mr` is valid.
#[no_mangle]
unsafe extern "C" fn rxe_odp_flush_pmem_iova(
    mr: *mut rxe::rxe_mr,
    iova: u64,
    length: c_uint,
) -> c_int {
    // SAFETY: By the contract.
    unsafe { mlx_odp_rxe_flush_on_demand(mr, iova, length.into(), false) }
}

/// Flushes the whole region, which is `length` bytes from `iova`, step by step as long as it is `registered`: what the
/// process maps of it.
fn flush_all(
    region: &RxeRegion,
    iova: u64,
    length: u64,
    registered: impl Fn() -> bool,
) -> Result<(), AccessError> {
    let pages = region.translate(iova, length)?.pages();
    let mut reached = pages.start();
    let step = |page: PageIndex| {
        reached = page;
        match registered() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    match region.mirror().write_back(pages, Waiting::Forbidden, step) {
        // Nothing is mapped any more.
        Ok(()) | Err(FaultError::Exited) => Ok(()),
        Err(error) => {
            // Somebody holds the lock of the address space. That is waited for, and no page: the one that this has come to
            // may not be had at all.
            let wanted = Wanted {
                pages: PageRange::new(reached, reached),
                permitted: region.permit(Access::Read)?,
            };
            Err(AccessError::of_fault(error, wanted))
        }
    }
}

/// Flushes `length` bytes from `iova`, step by step as long as the region is `registered`.
fn flush_range(
    region: &RxeRegion,
    iova: u64,
    length: u64,
    registered: impl Fn() -> bool,
) -> Result<(), AccessError> {
    const STEP: u64 = 2 << 20;
    let mut done = 0;
    while done < length && registered() {
        let step = STEP.min(length - done);
        region.look_at(iova + done, step as usize, write_back)?;
        done += step;
    }
    Ok(())
}

fn write_back(bytes: Bytes<'_>) {
    // SAFETY: The bytes are mapped; writing caches back changes nothing.
    unsafe { rxe::arch_wb_cache_pmem(bytes.as_ptr().cast(), bytes.len()) };
}
