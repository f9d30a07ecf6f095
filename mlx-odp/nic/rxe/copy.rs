// SPDX-License-Identifier: GPL-2.0

//! Copies between packets and the scatter-gather list of a work request, in place of rxe's `copy_data`.
//!
//! rxe's `copy_data` uses signed lengths, so it fails at 2 GiB, which a message may have and a receive may offer. It also
//! returns one error for both a bad key and a short list. Here lengths are unsigned ([`mlx_odp::rxe::sge`]), and each of
//! the two has its own status, that of the InfiniBand specification (volume 1, 11.6.2).
//!
//! A copy that fails leaves the place in the list as it was, so it can be repeated once a page is present.

use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;

use mlx_odp::rxe::sge::SgeCursor;

use crate::mr::{find_local, region_of};
use crate::{rxe, verbs};

/// Why a copy fails.
#[derive(Clone, Copy)]
enum Failed {
    /// The list is too short.
    TooShort,
    /// The memory cannot be had, or the key does not give it.
    Memory,
}

/// Replaces `copy_data` in `rxe_req.c`, and is called in place of it for responses: a packet is copied from or to the
/// memory of a send request.
///
/// # Safety
///
/// `dma` is that of a checked request in the send queue of a queue pair of `pd`, whose task runs here; `addr` points to
/// `length` bytes of kernel memory.
#[no_mangle]
pub(crate) unsafe extern "C" fn mlx_odp_rxe_copy(
    pd: *mut rxe::rxe_pd,
    access: c_int,
    dma: *mut rxe::rxe_dma_info,
    addr: *mut c_void,
    length: c_int,
    direction: rxe::rxe_mr_copy_dir,
) -> c_int {
    // SAFETY: By the contract.
    match unsafe { copy(pd, access, dma, addr, length as u32, direction) } {
        Ok(()) => 0,
        // The requester turns this errno, and no other, into a local protection error.
        Err(Failed::Memory) => EFAULT.to_errno(),
        Err(Failed::TooShort) => EINVAL.to_errno(),
    }
}

/// Replaces `copy_data` in `rxe_resp.c`: a packet is copied to the memory of a receive. If that fails, the status for the
/// receive is noted in its unused field, for [`crate::receive`].
///
/// # Safety
///
/// As for [`mlx_odp_rxe_copy`], with the responder's copy of a receive.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_copy_received(
    pd: *mut rxe::rxe_pd,
    access: c_int,
    dma: *mut rxe::rxe_dma_info,
    addr: *mut c_void,
    length: c_int,
    direction: rxe::rxe_mr_copy_dir,
) -> c_int {
    // SAFETY: By the contract.
    let Err(failed) = (unsafe { copy(pd, access, dma, addr, length as u32, direction) }) else {
        return 0;
    };
    // The responder turns the first errno, and no other, into an invalid request.
    let (errno, status) = match failed {
        Failed::TooShort => (ENOSPC, rxe::ib_wc_status_IB_WC_LOC_LEN_ERR),
        Failed::Memory => (EFAULT, rxe::ib_wc_status_IB_WC_LOC_PROT_ERR),
    };
    // SAFETY: By the contract.
    unsafe { (*dma).reserved = status };
    errno.to_errno()
}

/// # Safety
///
/// As for [`mlx_odp_rxe_copy`].
#[inline]
unsafe fn copy(
    pd: *mut rxe::rxe_pd,
    access: c_int,
    dma: *mut rxe::rxe_dma_info,
    addr: *mut c_void,
    length: u32,
    direction: rxe::rxe_mr_copy_dir,
) -> Result<(), Failed> {
    if length == 0 {
        return Ok(());
    }
    // SAFETY: By the contract, the request is the kernel's own copy, and was checked: its elements are there.
    unsafe {
        let elements = (&raw const (*dma).__bindgen_anon_1).cast::<rxe::rxe_sge>();
        let left = (*dma).resid.checked_sub(length).ok_or(Failed::TooShort)?;
        let mut cursor = SgeCursor {
            element: (*dma).cur_sge,
            offset: (*dma).sge_offset,
        };
        let mut done = 0;
        while done < length {
            let length_of = |i: u32| (*elements.add(i as usize)).length;
            let piece = cursor.next((*dma).num_sge, length_of, length - done);
            let piece = piece.ok_or(Failed::TooShort)?;
            let element = elements.add(cursor.element as usize);
            let region = find_local(pd, access, (*element).lkey).ok_or(Failed::Memory)?;
            let iova = (*element).addr.wrapping_add(u64::from(cursor.offset));
            let at = addr.byte_add(done as usize);
            copy_piece(region.as_ptr(), iova, at, piece, direction)?;
            cursor.offset += piece;
            done += piece;
        }
        (*dma).cur_sge = cursor.element;
        (*dma).sge_offset = cursor.offset;
        (*dma).resid = left;
    }
    Ok(())
}

/// # Safety
///
/// There is a reference to `mr`; `addr` points to `length` bytes of kernel memory.
#[inline]
unsafe fn copy_piece(
    mr: *mut rxe::rxe_mr,
    iova: u64,
    addr: *mut c_void,
    length: u32,
    direction: rxe::rxe_mr_copy_dir,
) -> Result<(), Failed> {
    // SAFETY: By the contract.
    let done = unsafe {
        match region_of(mr) {
            Some(on_demand) => {
                verbs::copy(on_demand, iova, addr.cast(), length as usize, direction).is_ok()
            }
            None => rxe::rxe_mr_copy(mr, iova, addr, length, direction) == 0,
        }
    };
    done.then_some(()).ok_or(Failed::Memory)
}
