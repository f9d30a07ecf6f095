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

use hmm::{Access, Bytes, PageIndex, PageRange, Waiting};
use mlx_odp::{errno, AccessError, Wanted};

use crate::mr::region_of;
use crate::pool::in_pool;
use crate::region::RxeRegion;
use crate::{parked, rxe, stop};

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
    // Neither the region's end nor the queue pair's must wait for gigabytes.
    // SAFETY: The reference to `mr` is held for as long as this call lasts.
    let goes_on = || unsafe { in_pool(mr) } && !parked::is_ending();
    let result = match whole {
        true => flush_all(region, iova, length, goes_on),
        false => flush_range(region, iova, length, goes_on),
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

/// Flushes the whole region, which is `length` bytes from `iova`, step by step as long as it `goes_on`: what the
/// process maps of it.
///
/// # Errors
///
/// [`AccessError::Abandoned`] if it does not go on to the end: what was not written back is not acknowledged. Otherwise as
/// [`hmm::Mirror::write_back`], also if the process is gone.
fn flush_all(
    region: &RxeRegion,
    iova: u64,
    length: u64,
    goes_on: impl Fn() -> bool,
) -> Result<(), AccessError> {
    let pages = region.translate(iova, length)?.pages();
    let (mut reached, mut broken_off) = (pages.start(), false);
    let step = |page: PageIndex| {
        reached = page;
        broken_off = !goes_on();
        match broken_off {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    match region.mirror().write_back(pages, Waiting::Forbidden, step) {
        Ok(()) if broken_off => Err(AccessError::Abandoned),
        Ok(()) => Ok(()),
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

/// Flushes `length` bytes from `iova`, step by step as long as it `goes_on`.
///
/// # Errors
///
/// As [`flush_all`].
fn flush_range(
    region: &RxeRegion,
    iova: u64,
    length: u64,
    goes_on: impl Fn() -> bool,
) -> Result<(), AccessError> {
    const STEP: u64 = 2 << 20;
    let mut done = 0;
    while done < length {
        if !goes_on() {
            return Err(AccessError::Abandoned);
        }
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
