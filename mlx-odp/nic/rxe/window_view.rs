// SPDX-License-Identifier: GPL-2.0

//! The responder's view of a memory window: a copy of its own, with a reference to the region.
//!
//! rxe's responder reads a window without its lock, field by field: the region, to which it then takes a reference,
//! the rights, the first address. The window could be invalidated, and its region freed, in between. So a lookup
//! ([`crate::window_lookup`]) makes a [`View`] under the lock, and the responder puts that in place of the window.

use kernel::ffi::c_int;
use kernel::prelude::*;

use crate::pool::Ref;
use crate::rxe;

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

    /// Gives it to the responder, which returns it through `mlx_odp_rxe_put_view`.
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

/// Called in place of `__rxe_put` by the responder, for an object without a pool (`redirect_resp.h`): only a view has
/// none.
///
/// # Safety
///
/// `elem` is that of a view, which is not used afterwards.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_put_view(elem: *mut rxe::rxe_pool_elem) {
    // SAFETY: By the contract. A view contains its element and comes from `into_raw`.
    drop(unsafe { View::from_raw(kernel::container_of!(elem, rxe::rxe_mw, elem)) });
}
