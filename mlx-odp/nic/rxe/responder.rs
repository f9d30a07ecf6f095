// SPDX-License-Identifier: GPL-2.0

//! Announces each message to its region: rxe's responder knows the length before it copies the first packet. Also
//! ensures that a repeated request is answered with the state of that request, and not of another one.

use kernel::ffi::c_int;
use kernel::prelude::*;

use crate::mr::region_in;
use crate::responder_wait::follows;
use crate::rxe;
use crate::window_lookup::{reach, Reach};

/// Called in place of `mr_check_range` for a region on demand, where the responder checks the rest of a message, from
/// this packet on, right before it copies the packet (`redirect_resp.h`).
///
/// # Safety
///
/// `umem` is that of an MR of memory on demand, to which rxe has a reference.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_announce(
    umem: *mut rxe::ib_umem,
    iova: u64,
    length: usize,
) -> c_int {
    // SAFETY: The reference is held for as long as this call lasts.
    let region = unsafe { region_in(umem) };
    match region.announce(iova, length as u64) {
        Ok(()) => 0,
        Err(_) => EINVAL.to_errno(),
    }
}

const READ: u32 = rxe::rxe_hdr_mask_RXE_READ_MASK;
const FLUSH: u32 = rxe::rxe_hdr_mask_RXE_FLUSH_MASK;

/// What the responder keeps an answer of.
const KEPT: u32 =
    READ | FLUSH | rxe::rxe_hdr_mask_RXE_ATOMIC_MASK | rxe::rxe_hdr_mask_RXE_ATOMIC_WRITE_MASK;

/// Called where rxe's responder has found that a request was repeated, and is about to look for what it keeps of the
/// READs, atomics and FLUSHes that it has answered. rxe looks for the sequence number only. It would take an entry of
/// another operation for one of this operation: a part of a FLUSH's address, for instance, for the key of a READ, which
/// is not checked again. So such an entry is forgotten, and so is that of a READ that this one does not repeat: no peer
/// sends that.
///
/// # Safety
///
/// Called by rxe's responder of `qp` with its current packet.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_repeated(qp: *mut rxe::rxe_qp, packet: *mut rxe::rxe_pkt_info) {
    // SAFETY: By the contract: what is kept is the responder's own, and there is as much of it.
    unsafe {
        let (kind, psn) = ((*packet).mask & KEPT, (*packet).psn);
        let kept = (*qp).resp.resources;
        if kind == 0 || kept.is_null() {
            return;
        }
        for one in (0..usize::from((*qp).attr.max_dest_rd_atomic)).map(|i| kept.add(i)) {
            if follows((*one).first_psn, psn) || follows(psn, (*one).last_psn) {
                continue;
            }
            if (*one).type_ as u32 == kind && (kind != READ || repeats(qp, packet, one)) {
                // rxe takes the first.
                return;
            }
            // Nothing is kept there.
            (*one).type_ = 0;
        }
    }
}

/// Whether the READ `packet` may be a repetition of the one of which the responder keeps `kept`, from some place of it on.
/// What rxe then compares and does is made right:
///
/// * it lets a repetition go beyond the end of the READ by as much as the one before it began after its start;
/// * it takes a READ for one of no bytes, which needs no region, if the last request of any kind had none;
/// * one of no bytes it keeps without a key, and does not answer if it is repeated with its key;
/// * it keeps the address in the region, and does not answer if the key is that of a window with addresses from 0.
///
/// # Safety
///
/// Called by rxe's responder of `qp` with its current packet, and something that it keeps of a READ.
unsafe fn repeats(
    qp: *mut rxe::rxe_qp,
    packet: *mut rxe::rxe_pkt_info,
    kept: *mut rxe::resp_res,
) -> bool {
    // SAFETY: By the contract. It is a READ that is kept.
    unsafe {
        let key = rxe::rxe_shim_reth_rkey(packet);
        let length = rxe::rxe_shim_reth_len(packet);
        let mut addr = rxe::rxe_shim_reth_va(packet);
        let read = &mut (*kept).__bindgen_anon_1.read;
        if read.rkey == 0 && length == 0 {
            // A FLUSH that was answered is answered again with no bytes, too, and no key is looked at.
            (*packet).mask = (*packet).mask & !READ | FLUSH;
            return true;
        }
        if key != read.rkey {
            return false;
        }
        if rxe::rxe_shim_is_window_key(key) {
            let here = match reach(qp, key, addr, length) {
                Reach::At(here) => here,
                Reach::Outside => return false,
                // rxe looks the window up, and finds that itself.
                Reach::Gone => read.va_org,
            };
            if here != addr && !rxe::rxe_shim_set_reth_va(packet, here) {
                return false;
            }
            addr = here;
        }
        if (*qp).resp.length == 0 {
            // No message is under way, as each has a length.
            (*qp).resp.length = length;
        }
        let Some(begun) = addr.checked_sub(read.va_org) else {
            // Older than the last repetition: rxe drops it.
            return true;
        };
        match u64::from(read.length).checked_sub(begun) {
            Some(left) if u64::from(length) <= left => {
                read.va_org = addr;
                read.length = left as u32;
                true
            }
            _ => false,
        }
    }
}
