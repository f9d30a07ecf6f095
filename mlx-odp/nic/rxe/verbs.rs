// SPDX-License-Identifier: GPL-2.0

//! Registration and data path: the functions that rxe calls for each request on an ODP region.
//!
//! Each is called with a reference to the MR and may sleep, but not for a page that a disk, a file system or a
//! process has to provide: for such a page the request is parked ([`stop`]).

use core::sync::atomic::Ordering;

use kernel::ffi::{c_int, c_uint, c_void};
use kernel::prelude::*;

use hmm::{user_pages, Access, Bytes, Perm};
use mlx_odp::{errno, with_current_mm, Key, Registered, Registration};

use crate::device::device_of;
use crate::mr::{attach, region_in, region_of};
use crate::region::RxeRegion;
use crate::{rxe, stop};

/// `ibv_reg_mr` with `IBV_ACCESS_ON_DEMAND`.
///
/// # Safety
///
/// Called by rxe: `device` is valid, `mr` is new and used by nothing else, `current` is the application.
#[no_mangle]
unsafe extern "C" fn rxe_odp_mr_init_user(
    device: *mut rxe::rxe_dev,
    va: u64,
    length: u64,
    iova: u64,
    access: c_int,
    mr: *mut rxe::rxe_mr,
) -> c_int {
    // SAFETY: `mr` is valid.
    unsafe { rxe::rxe_mr_init(access, mr) };
    // SAFETY: A pure function of its argument.
    let writable = unsafe { rxe::rxe_shim_writable(access) };
    // SAFETY: `device` is valid and in use.
    let ours = unsafe { device_of(&raw mut (*device).ib_dev) };
    errno(with_current_mm(|mm| {
        let registration = Registration {
            // SAFETY: `mr` is valid and used by nothing else, and has its keys.
            lkey: unsafe { (*mr).ibmr.lkey },
            key: Key::new(va, length, iova, user_pages(mm))?,
            limit: Perm::from_writable(writable),
        };
        let region = Registered::new(ours, mm, registration)?;
        // SAFETY: `mr` is new; `device` outlives it.
        unsafe { attach(mr, &raw mut (*device).ib_dev, mm, region)? };
        // SAFETY: `mr` is valid and used by nothing else until this function returns.
        unsafe {
            // Peers can find the region as soon as this has returned, so it has its bounds here, and not only once
            // `RegMr::register` sets those of every region.
            (*mr).ibmr.length = length;
            (*mr).ibmr.iova = iova;
            (*mr).ibmr.type_ = rxe::ib_mr_type_IB_MR_TYPE_USER;
            (*mr).state = rxe::rxe_mr_state_RXE_MR_STATE_VALID;
        }
        Ok(())
    }))
}

/// Called in place of `rxe_mr_copy` by the responder, for a region on demand (`redirect_resp.h`): copies between a packet
/// and the region, for RDMA WRITE and RDMA READ. Scatter-gather lists come from [`crate::copy`].
///
/// # Safety
///
/// `umem` is that of an MR of memory on demand, to which rxe has a reference; `addr` points to `length` bytes of kernel
/// memory.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_copy_on_demand(
    umem: *mut rxe::ib_umem,
    iova: u64,
    addr: *mut c_void,
    length: c_uint,
    direction: rxe::rxe_mr_copy_dir,
) -> c_int {
    // SAFETY: The reference is held for as long as this call lasts.
    let region = unsafe { region_in(umem) };
    // SAFETY: By the contract.
    errno(unsafe { copy(region, iova, addr.cast(), length as usize, direction) })
}

/// The same where rxe calls it, in `rxe_mr_copy`, which has checked the bounds.
///
/// # Safety
///
/// `mr` is valid; `addr` points to `length` bytes of kernel memory.
#[no_mangle]
unsafe extern "C" fn rxe_odp_mr_copy(
    mr: *mut rxe::rxe_mr,
    iova: u64,
    addr: *mut c_void,
    length: c_int,
    direction: rxe::rxe_mr_copy_dir,
) -> c_int {
    let Ok(length) = usize::try_from(length) else {
        return EINVAL.to_errno();
    };
    // SAFETY: `mr` is valid for as long as this call lasts.
    let Some(region) = (unsafe { region_of(mr) }) else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the contract.
    errno(unsafe { copy(region, iova, addr.cast(), length, direction) })
}

/// Copies between the `length` bytes of `packet` and `region`.
///
/// # Errors
///
/// `EFAULT` whatever the reason: the responder turns any errno into a remote access error.
///
/// # Safety
///
/// `packet` points to `length` bytes of kernel memory. Called by a task of rxe's.
#[inline]
pub(crate) unsafe fn copy(
    region: &RxeRegion,
    iova: u64,
    packet: *mut u8,
    length: usize,
    direction: rxe::rxe_mr_copy_dir,
) -> Result {
    let result = if direction == rxe::rxe_mr_copy_dir_RXE_TO_MR_OBJ {
        region.access(iova, length, Access::Write, move |done, bytes| {
            // SAFETY: The pieces add up to `length`, so this one is inside the packet's bytes.
            bytes.write(unsafe { core::slice::from_raw_parts(packet.add(done), bytes.len()) });
        })
    } else {
        region.access(iova, length, Access::Read, move |done, bytes| {
            // SAFETY: As above; the packet is being built and used by nothing else.
            bytes.read(unsafe {
                core::slice::from_raw_parts_mut(packet.add(done).cast(), bytes.len())
            });
        })
    };
    result.map_err(|error| {
        let writes = direction == rxe::rxe_mr_copy_dir_RXE_TO_MR_OBJ;
        stop::stop(region, error, writes);
        EFAULT
    })
}

/// COMPARE & SWAP and FETCH & ADD, on 8 bytes aligned to 8.
///
/// # Safety
///
/// `mr` is valid; `original` can be written.
#[no_mangle]
unsafe extern "C" fn rxe_odp_atomic_op(
    mr: *mut rxe::rxe_mr,
    iova: u64,
    opcode: c_int,
    compare: u64,
    swap_add: u64,
    original: *mut u64,
) -> rxe::resp_states {
    let operate = |bytes: &Bytes<'_>| {
        let word = bytes.atomic_u64()?;
        // A pinned region may contain the same page, and rxe's atomics there rely on this lock.
        // SAFETY: Locks and unlocks in pairs, nothing in between sleeps.
        unsafe { rxe::rxe_shim_atomic_lock() };
        let before = if opcode as u32 == rxe::IB_OPCODE_RC_COMPARE_SWAP {
            match word.compare_exchange(compare, swap_add, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(before) | Err(before) => before,
            }
        } else {
            word.fetch_add(swap_add, Ordering::SeqCst)
        };
        // SAFETY: Locked above.
        unsafe { rxe::rxe_shim_atomic_unlock() };
        Some(before)
    };
    // SAFETY: By the contract of this function.
    unsafe { on_word(mr, iova, operate, |before| *original = before) }
}

/// ATOMIC WRITE of 8 bytes aligned to 8.
///
/// # Safety
///
/// `mr` is valid.
#[no_mangle]
unsafe extern "C" fn rxe_odp_do_atomic_write(
    mr: *mut rxe::rxe_mr,
    iova: u64,
    value: u64,
) -> rxe::resp_states {
    // Release: a reader that sees this value also sees what was written before it.
    let operate = |bytes: &Bytes<'_>| {
        bytes
            .atomic_u64()
            .map(|w| w.store(value, Ordering::Release))
    };
    // SAFETY: By the contract of this function.
    unsafe { on_word(mr, iova, operate, |()| ()) }
}

/// Runs `operate` on the 8 bytes at `iova` and passes its result to `done`.
///
/// Checks the range before the alignment, as rxe does for pinned regions.
///
/// # Safety
///
/// `mr` is valid.
unsafe fn on_word<T>(
    mr: *mut rxe::rxe_mr,
    iova: u64,
    operate: impl Fn(&Bytes<'_>) -> Option<T>,
    done: impl FnOnce(T),
) -> rxe::resp_states {
    const WORD: usize = size_of::<u64>();
    // SAFETY: `mr` is valid for as long as this call lasts.
    let region = match unsafe { region_of(mr) } {
        // SAFETY: As above.
        Some(region) if unsafe { (*mr).state } == rxe::rxe_mr_state_RXE_MR_STATE_VALID => region,
        _ => return rxe::resp_states_RESPST_ERR_RKEY_VIOLATION,
    };
    if iova % WORD as u64 != 0 {
        // A word that is not the region's is refused as such, aligned or not.
        return match region.contains(iova, WORD as u64) {
            true => rxe::resp_states_RESPST_ERR_MISALIGNED_ATOMIC,
            false => rxe::resp_states_RESPST_ERR_RKEY_VIOLATION,
        };
    }
    let mut result = None;
    match region.access(iova, WORD, Access::Write, |_, bytes| {
        result = operate(&bytes)
    }) {
        Ok(()) => match result {
            Some(value) => {
                done(value);
                rxe::resp_states_RESPST_NONE
            }
            None => rxe::resp_states_RESPST_ERR_MISALIGNED_ATOMIC,
        },
        Err(error) => match stop::stop_atomic(region, error) {
            // The requester is told to try again.
            true => rxe::resp_states_RESPST_ERR_RNR,
            false => rxe::resp_states_RESPST_ERR_RKEY_VIOLATION,
        },
    }
}
