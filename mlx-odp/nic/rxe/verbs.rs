// SPDX-License-Identifier: GPL-2.0

//! Registration and data path: what rxe calls for each request on an ODP region.
//!
//! Each function is called with a reference to the MR held and may sleep, but waits for nobody: a page that
//! somebody has to be waited for is a fault that the queue pair is parked for ([`parked`]).

use core::sync::atomic::Ordering;

use kernel::ffi::{c_int, c_uint, c_void};
use kernel::prelude::*;

use hmm::{Access, Bytes};
use mlx_odp::region::{AccessError, Region, Registration};

use crate::device::device_of;
use crate::errno::errno;
use crate::mr::{attach, region_of};
use crate::pool::in_pool;
use crate::registration::with_current_mm;
use crate::{parked, rxe};

/// `ibv_reg_mr` with `IBV_ACCESS_ON_DEMAND`.
///
/// # Safety
///
/// Called by rxe: `device` is valid, `mr` is new and nobody else's, `current` is the application.
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
            // SAFETY: `mr` is valid and nobody else's, and has been given its keys.
            lkey: unsafe { (*mr).ibmr.lkey },
            va,
            length,
            iova,
            writable,
        };
        let region = Region::register(ours, mm, registration)?;
        // SAFETY: `mr` is new; `device` outlives it.
        unsafe { attach(mr, &raw mut (*device).ib_dev, mm, va, length, region)? };
        // SAFETY: `mr` is valid and nobody else's until this function returns.
        unsafe {
            (*mr).ibmr.length = length;
            (*mr).ibmr.iova = iova;
            (*mr).ibmr.type_ = rxe::ib_mr_type_IB_MR_TYPE_USER;
            (*mr).state = rxe::rxe_mr_state_RXE_MR_STATE_VALID;
        }
        Ok(())
    }))
}

/// Copies between a packet and the region: SEND, RECV, RDMA WRITE, RDMA READ.
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
    let packet = addr.cast::<u8>();
    let result = if direction == rxe::rxe_mr_copy_dir_RXE_TO_MR_OBJ {
        region.access(iova, length, Access::Write, move |done, bytes| {
            // SAFETY: The pieces add up to `length`, so this one is inside the packet's bytes.
            bytes.write(unsafe { core::slice::from_raw_parts(packet.add(done), bytes.len()) });
        })
    } else {
        region.access(iova, length, Access::Read, move |done, bytes| {
            // SAFETY: As above; the packet is being made and nobody else's.
            bytes.read(unsafe {
                core::slice::from_raw_parts_mut(packet.add(done).cast(), bytes.len())
            });
        })
    };
    // Whatever the reason: on this side of the wire a local protection error, which rxe makes of
    // EFAULT and of nothing else; on the other side a remote access error, which it makes of all.
    errno(result.map_err(|error| {
        let writes = direction == rxe::rxe_mr_copy_dir_RXE_TO_MR_OBJ;
        parked::stop(region, error, writes);
        EFAULT
    }))
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
        // Pinned regions may hold the same page, and rxe's atomics on those rely on this lock.
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
    // Release: what was written before it is visible to whoever sees it.
    let operate = |bytes: &Bytes<'_>| {
        bytes
            .atomic_u64()
            .map(|w| w.store(value, Ordering::Release))
    };
    // SAFETY: By the contract of this function.
    unsafe { on_word(mr, iova, operate, |()| ()) }
}

/// Runs `operate` on the 8 bytes at `iova` and hands its result to `done`.
///
/// Out of range comes before misaligned, as rxe has it for pinned regions.
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
    if !region.contains(iova, WORD as u64) {
        return rxe::resp_states_RESPST_ERR_RKEY_VIOLATION;
    }
    if iova % WORD as u64 != 0 {
        return rxe::resp_states_RESPST_ERR_MISALIGNED_ATOMIC;
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
        Err(error) => match parked::stop_atomic(region, error) {
            // The requester is told to come back.
            true => rxe::resp_states_RESPST_ERR_RNR,
            false => rxe::resp_states_RESPST_ERR_RKEY_VIOLATION,
        },
    }
}

/// FLUSH to persistent memory: writes the CPU's caches back.
///
/// A flush of the whole region means the pages that the NIC has used and still has; it faults
/// nothing in. rxe passes the length cut to 32 bits, so a range that looks like the whole region
/// after that is taken for it, and for a whole region of a multiple of 4 GiB rxe does not call.
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
    // SAFETY: `mr` is valid for as long as this call lasts.
    let Some(region) = (unsafe { region_of(mr) }) else {
        return EINVAL.to_errno();
    };
    // SAFETY: As above.
    let (first, whole) = unsafe { ((*mr).ibmr.iova, (*mr).ibmr.length) };
    let result = if iova == first && length == whole as c_uint {
        region.access_present(iova, whole, write_back)
    } else {
        // SAFETY: The reference to `mr` is held for as long as this call lasts.
        let registered = || unsafe { in_pool(mr) };
        flush_range(region, iova, u64::from(length), registered)
    };
    errno(result.map_err(|error| {
        parked::stop(region, error, true);
        EFAULT
    }))
}

/// Flushes step by step, as long as the region is `registered`: nobody should have to wait for a
/// flush of gigabytes of swapped-out memory in order to deregister it.
fn flush_range(
    region: &Region,
    iova: u64,
    length: u64,
    registered: impl Fn() -> bool,
) -> Result<(), AccessError> {
    const STEP: u64 = 2 << 20;
    let mut done = 0;
    while done < length && registered() {
        let step = STEP.min(length - done);
        region.access(iova + done, step as usize, Access::Read, |_, bytes| {
            write_back(bytes)
        })?;
        done += step;
    }
    Ok(())
}

fn write_back(bytes: Bytes<'_>) {
    // SAFETY: The bytes are mapped; writing caches back changes nothing.
    unsafe { rxe::arch_wb_cache_pmem(bytes.as_ptr().cast(), bytes.len()) };
}
