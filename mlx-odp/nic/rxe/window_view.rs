// SPDX-License-Identifier: GPL-2.0

//! The responder's view of a memory window: a copy of its own, with a reference to the region.
//!
//! rxe's responder reads a window without its lock, field by field: the region, to which it then takes a reference,
//! the rights, the first address. The window could be invalidated, and its region freed, in between. So a lookup
//! makes a [`View`] under the lock, and compiler flags redirect the two calls by which `rxe_resp.c` gets and puts a
//! window to this file.

use core::ptr::{null_mut, NonNull};

use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;

use crate::pool::Ref;
use crate::rxe;
use crate::window;

/// A snapshot of a window.
///
/// # Invariants
///
/// Its element has no pool, unlike that of any window. `mr` is null or comes with a reference of the view.
pub(crate) struct View(KBox<rxe::rxe_mw>);

impl View {
    /// An empty view.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // INVARIANT: All zeroes.
        Ok(Self(KBox::new(rxe::rxe_mw::default(), GFP_KERNEL)?))
    }

    /// Fills it with a binding to `region`: the key `rkey`, the first byte `addr` and the rights `access`.
    pub(crate) fn show(&mut self, rkey: u32, addr: u64, access: c_int, region: Ref<rxe::rxe_mr>) {
        let mw = &mut self.0;
        mw.state = rxe::rxe_mw_state_RXE_MW_STATE_VALID;
        mw.rkey = rkey;
        mw.addr = addr;
        mw.access = access;
        // INVARIANT: The reference is the view's now.
        mw.mr = region.into_raw();
    }

    /// Gives it to the responder, which returns it through `mlx_odp_rxe_put`.
    pub(crate) fn into_raw(self) -> *mut rxe::rxe_mw {
        let mut this = core::mem::ManuallyDrop::new(self);
        &raw mut *this.0
    }

    /// Takes it back.
    ///
    /// # Safety
    ///
    /// `mw` comes from [`View::into_raw`] and is not used afterwards.
    unsafe fn from_raw(mw: *mut rxe::rxe_mw) -> Self {
        // SAFETY: By the contract.
        Self(unsafe { KBox::from_raw(mw) })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: The view's own reference, by the invariant.
        drop(unsafe { Ref::from_raw(self.0.mr) });
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
        .and_then(|window| window::view(&window, |_| true))
        .map_or(null_mut(), |view| view.into_raw().cast())
}

/// Replaces `__rxe_put` in `rxe_resp.c`: puts a view, or any other object.
///
/// # Safety
///
/// `elem` is that of a view, or of an object to which the caller has a reference.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_put(elem: *mut rxe::rxe_pool_elem) -> c_int {
    // SAFETY: By the contract; an element's pool never changes.
    match NonNull::new(unsafe { (*elem).pool }) {
        // SAFETY: The argument is passed on.
        Some(_) => unsafe { rxe::__rxe_put(elem) },
        None => {
            // SAFETY: Only a view has no pool. It contains its element and comes from `into_raw`.
            drop(unsafe { View::from_raw(kernel::container_of!(elem, rxe::rxe_mw, elem)) });
            1
        }
    }
}
