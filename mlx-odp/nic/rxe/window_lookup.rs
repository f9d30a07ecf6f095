// SPDX-License-Identifier: GPL-2.0

//! How the responder finds a memory window: it gets a view of it ([`crate::window_view`]), made under the window's lock.

use core::ptr::null_mut;

use kernel::ffi::{c_int, c_void};

use crate::pool::Ref;
use crate::rxe;
use crate::window::{find, Bytes, Locked, ZERO_BASED};
use crate::window_view::View;

const FLUSH: c_int = (rxe::ib_access_flags_IB_ACCESS_FLUSH_GLOBAL
    | rxe::ib_access_flags_IB_ACCESS_FLUSH_PERSISTENT) as c_int;

/// A view of the window, if it is bound to something and that is `permitted`.
fn view(window: &Ref<rxe::rxe_mw>, permitted: impl FnOnce(&Locked<'_>) -> bool) -> Option<View> {
    let mut view = View::new().ok()?;
    let locked = Locked::new(window);
    let state = locked.state();
    if !state.is_bound() || !permitted(&locked) {
        return None;
    }
    // SAFETY: The window has a reference.
    let region = unsafe { Ref::get(state.mr) }?;
    // Always zero-based: then the responder sets its offset anew at each lookup, and keeps nothing of an earlier
    // binding when the window is bound again in the middle of a message.
    let offset = match state.access & ZERO_BASED {
        0 => 0,
        _ => state.bytes.addr,
    };
    view.show(state.rkey, offset, state.access | ZERO_BASED, region);
    Some(view)
}

/// A view of the window, if `qp` may use it for its responder's current request with all rights in `access`;
/// otherwise null.
///
/// # Safety
///
/// Called by rxe's responder with its queue pair, after it has read the address and length of the request.
#[no_mangle]
unsafe extern "C" fn rxe_lookup_mw(
    qp: *mut rxe::rxe_qp,
    access: c_int,
    rkey: u32,
) -> *mut rxe::rxe_mw {
    // SAFETY: `qp` is valid.
    let Some(window) = (unsafe { find(qp, rkey) }) else {
        return null_mut();
    };
    // SAFETY: `qp` is valid, and its responder, whose request this is, runs here.
    let (part, everything) = unsafe {
        let part = Bytes {
            addr: (*qp).resp.va,
            length: u64::from((*qp).resp.resid),
        };
        // A flush of the window's whole region has neither address nor length.
        let everything = access & FLUSH != 0 && rxe::rxe_shim_flushes_region(qp);
        (part, everything)
    };
    let permitted = |locked: &Locked<'_>| {
        // SAFETY: `qp` is valid.
        let usable = unsafe { locked.usable_by(qp, rkey) };
        let state = locked.state();
        usable
            && state.access & access == access
            && (everything || state.as_seen_by_peer().contain(part))
    };
    view(&window, permitted).map_or(null_mut(), View::into_raw)
}

/// What is left of a window for the repetition of a READ through it.
pub(crate) enum Reach {
    /// The bytes are in the window; the first is at this address of its region.
    At(u64),
    /// They are not.
    Outside,
    /// The window is not what it was: another lookup finds none.
    Gone,
}

/// Where the window with this `rkey` has the `length` bytes that a peer calls `addr`.
///
/// # Safety
///
/// Called by rxe's responder with its queue pair.
pub(crate) unsafe fn reach(qp: *mut rxe::rxe_qp, rkey: u32, addr: u64, length: u32) -> Reach {
    // SAFETY: `qp` is valid.
    let Some(window) = (unsafe { find(qp, rkey) }) else {
        return Reach::Gone;
    };
    let locked = Locked::new(&window);
    let state = locked.state();
    let length = u64::from(length);
    if !state.is_bound() || state.rkey != rkey {
        return Reach::Gone;
    }
    // SAFETY: `qp` is valid.
    let usable = unsafe { locked.usable_by(qp, rkey) };
    match usable && state.as_seen_by_peer().contain(Bytes { addr, length }) {
        true => Reach::At(
            state
                .bytes
                .addr
                .wrapping_add(addr - state.as_seen_by_peer().addr),
        ),
        false => Reach::Outside,
    }
}

/// Replaces `rxe_pool_get_index` in `rxe_resp.c`, which looks up the window or the region of a READ whose response
/// takes several packets.
///
/// # Safety
///
/// `pool` is valid.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_find(pool: *mut rxe::rxe_pool, index: u32) -> *mut c_void {
    // SAFETY: By the contract; a pool's type never changes.
    if unsafe { (*pool).type_ } != rxe::rxe_elem_type_RXE_TYPE_MW {
        // SAFETY: The arguments are passed on.
        return unsafe { rxe::rxe_pool_get_index(pool, index) };
    }
    // SAFETY: It is a pool of windows.
    let window = unsafe { Ref::find(pool, index) };
    window
        .and_then(|window| view(&window, |_| true))
        .map_or(null_mut(), |view| view.into_raw().cast())
}
