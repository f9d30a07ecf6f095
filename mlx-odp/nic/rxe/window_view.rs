// SPDX-License-Identifier: GPL-2.0

//! What rxe's responder gets to see of a memory window: a copy of its own, with a reference to the region.
//!
//! The responder takes what it needs out of the window without the window's lock, one word after the other:
//! the region, of which it then takes a reference, the rights, the first address. Were it the window itself, it
//! could be invalidated and its region freed between one and the next. So a lookup makes a [`View`] under the
//! lock, and compiler flags lead the two calls by which `rxe_resp.c` gets and gives back a window here.

use core::ptr::{null_mut, NonNull};

use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;

use crate::pool::Ref;
use crate::rxe;
use crate::window;

/// A window as it was at one moment.
///
/// # Invariants
///
/// Its element has no pool, as that of no window has. `mr` is null or comes with a reference of the view's.
pub(crate) struct View(KBox<rxe::rxe_mw>);

impl View {
    /// One of no window yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // INVARIANT: All zeroes.
        Ok(Self(KBox::new(rxe::rxe_mw::default(), GFP_KERNEL)?))
    }

    /// Makes it one of a binding under `rkey` of the bytes from `addr`, with the rights `access`, to `region`.
    pub(crate) fn show(&mut self, rkey: u32, addr: u64, access: c_int, region: Ref<rxe::rxe_mr>) {
        let mw = &mut self.0;
        mw.state = rxe::rxe_mw_state_RXE_MW_STATE_VALID;
        mw.rkey = rkey;
        mw.addr = addr;
        mw.access = access;
        // INVARIANT: The reference is the view's now.
        mw.mr = region.into_raw();
    }

    /// Gives it to the responder, which gives it back by `mlx_odp_rxe_put`.
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

/// Takes the place of `rxe_pool_get_index` in `rxe_resp.c`, which looks there for the window or the region of
/// a READ whose answer takes several packets.
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

/// Takes the place of `__rxe_put` in `rxe_resp.c`: gives back a view, or any other object.
///
/// # Safety
///
/// `elem` is that of an object with a reference of the caller's, or of a view.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_put(elem: *mut rxe::rxe_pool_elem) -> c_int {
    // SAFETY: By the contract; an element's pool never changes.
    match NonNull::new(unsafe { (*elem).pool }) {
        // SAFETY: The argument is passed on.
        Some(_) => unsafe { rxe::__rxe_put(elem) },
        None => {
            // SAFETY: Only views have no pool. They contain their elements and come from `into_raw`.
            drop(unsafe { View::from_raw(kernel::container_of!(elem, rxe::rxe_mw, elem)) });
            1
        }
    }
}
