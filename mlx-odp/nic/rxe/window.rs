// SPDX-License-Identifier: GPL-2.0

//! Memory windows: replaces rxe's own object file for them, for windows on any region.
//!
//! A window gives a peer access to a part of a region under its own key. A work request *binds* it to the region;
//! others bind it again or invalidate it. A window of type 1 can be bound again at any time. One of type 2 (2B in
//! the InfiniBand specification, volume 1, 10.6.7.2) can be used only through the queue pair that bound it, and has
//! to be invalidated before it is bound again.
//!
//! rxe's own file compares an access with the region's bounds, not with the window's: if the region is the whole
//! address space, that is no check at all. Nor does it compare the protection domains of region and window. To
//! invalidate an unbound window, it follows a null pointer.
//!
//! # Locking
//!
//! A window's lock, rxe's own (`rxe_mw.lock`), is held to bind, invalidate or read it, with bottom halves off. Nothing
//! sleeps under it, and no other lock is taken except those of the pools.
//!
//! # Regions and queue pairs that are destroyed
//!
//! A bound window holds a reference to its region and, if of type 2, to its queue pair. rxe refuses to deregister a
//! region with windows, but checks before it removes the region from its pool. Destroying a queue pair it lets wait.
//! So both unbind windows while they wait for their references ([`mlx_odp_rxe_unbind_windows`]), and binding checks,
//! under the lock, whether both are still in their pools. In either order: the one that waits finds the window
//! bound, or the one that binds finds that it is too late.
//!
//! A reregistration blocks windows meanwhile, through the region's count of them ([`NoWindows`]).

use core::ptr::null_mut;
use core::sync::atomic::{fence, AtomicI32, Ordering};

use kernel::ffi::{c_int, c_ulong};
use kernel::prelude::*;

use mlx_odp::{errno, not_supported};

use crate::pool::{Pooled, Ref};
use crate::rxe;

const TYPE_1: rxe::ib_mw_type = rxe::ib_mw_type_IB_MW_TYPE_1;
const FREE: rxe::rxe_mw_state = rxe::rxe_mw_state_RXE_MW_STATE_FREE;
const VALID: rxe::rxe_mw_state = rxe::rxe_mw_state_RXE_MW_STATE_VALID;
pub(crate) const ZERO_BASED: c_int = rxe::ib_access_flags_IB_ZERO_BASED as c_int;
const MW_BIND: c_int = rxe::ib_access_flags_IB_ACCESS_MW_BIND as c_int;
const LOCAL_WRITE: c_int = rxe::ib_access_flags_IB_ACCESS_LOCAL_WRITE as c_int;
const REMOTE_CHANGES: c_int = (rxe::ib_access_flags_IB_ACCESS_REMOTE_WRITE
    | rxe::ib_access_flags_IB_ACCESS_REMOTE_ATOMIC) as c_int;

/// The bits of a key that its owner chooses; the others are the index in the pool.
const OWNERS_BITS: u32 = 0xff;

/// The binding that a work request asks for.
type Binding = rxe::rxe_send_wr__bindgen_ty_2__bindgen_ty_5;

/// A range of bytes, of a window or a region.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    pub(crate) addr: u64,
    pub(crate) length: u64,
}

impl Bytes {
    /// Whether `other` lies inside. Computes neither end, which may overflow 64 bits.
    pub(crate) fn contain(self, other: Self) -> bool {
        other
            .addr
            .checked_sub(self.addr)
            .is_some_and(|offset| offset <= self.length && other.length <= self.length - offset)
    }
}

/// The state of a window that changes: what it is bound to, its key and its rights.
///
/// # Invariants
///
/// `mr` and `qp` are null or come with a reference of the window.
#[derive(Clone, Copy)]
pub(crate) struct MwState {
    state: rxe::rxe_mw_state,
    pub(crate) rkey: u32,
    pub(crate) access: c_int,
    pub(crate) bytes: Bytes,
    pub(crate) mr: *mut rxe::rxe_mr,
    qp: *mut rxe::rxe_qp,
}

impl MwState {
    /// Whether the window is bound to something.
    pub(crate) fn is_bound(self) -> bool {
        self.state == VALID && self.bytes.length != 0
    }

    /// The bytes as a peer counts them.
    pub(crate) fn as_seen_by_peer(self) -> Bytes {
        match self.access & ZERO_BASED {
            0 => self.bytes,
            _ => Bytes {
                addr: 0,
                length: self.bytes.length,
            },
        }
    }
}

/// A window, locked.
pub(crate) struct Locked<'a>(&'a Ref<rxe::rxe_mw>);

impl<'a> Locked<'a> {
    /// Locks `window`.
    pub(crate) fn new(window: &'a Ref<rxe::rxe_mw>) -> Self {
        // SAFETY: The window is valid; unlocked when dropped.
        unsafe { rxe::rxe_shim_lock_window(window.as_ptr()) };
        Self(window)
    }

    /// Its state.
    pub(crate) fn state(&self) -> MwState {
        let mw = self.0.as_ptr();
        // SAFETY: The window is valid; these fields change only under its lock, which is held.
        unsafe {
            MwState {
                state: (*mw).state,
                rkey: (*mw).rkey,
                access: (*mw).access,
                bytes: Bytes {
                    addr: (*mw).addr,
                    length: (*mw).length,
                },
                mr: (*mw).mr,
                qp: (*mw).qp,
            }
        }
    }

    fn type_1(&self) -> bool {
        // SAFETY: The window is valid; its type never changes.
        unsafe { (*self.0.as_ptr()).ibmw.type_ == TYPE_1 }
    }

    fn domain(&self) -> *mut rxe::ib_pd {
        // SAFETY: The window is valid; its domain never changes.
        unsafe { (*self.0.as_ptr()).ibmw.pd }
    }

    /// Whether peers may use it through `qp`, under the key `rkey`.
    ///
    /// # Safety
    ///
    /// `qp` is valid.
    pub(crate) unsafe fn usable_by(&self, qp: *mut rxe::rxe_qp, rkey: u32) -> bool {
        let state = self.state();
        // SAFETY: By the contract; its domain does not change.
        let domain = unsafe { (*qp).ibqp.pd };
        self.domain() == domain && state.rkey == rkey && (self.type_1() || state.qp == qp)
    }

    /// Whether a queue pair of `domain` may bind it, apart from checks of the region (volume 1, C10-72,
    /// o10-36.2.2, o10-37.2.30 and o10-37.2.40).
    fn may_be_bound(&self, domain: *mut rxe::ib_pd, binding: &Binding) -> bool {
        let ready = if self.type_1() {
            binding.access as c_int & ZERO_BASED == 0
        } else {
            self.state().state == FREE && binding.length != 0
        };
        ready && self.domain() == domain
    }

    /// Binds it, replacing any earlier binding.
    ///
    /// # Errors
    ///
    /// `EINVAL`, with nothing changed, if region or queue pair is being destroyed or the region is being changed.
    fn bind(
        &mut self,
        binding: &Binding,
        region: Option<Ref<rxe::rxe_mr>>,
        qp: Ref<rxe::rxe_qp>,
    ) -> Result {
        if !qp.in_pool() {
            return Err(EINVAL);
        }
        if let Some(region) = &region {
            count_in(region)?;
            // Check again: the region may have been changed before it counted this window.
            if !(region.in_pool() && permits(region, self.domain(), binding)) {
                count_of(region).fetch_sub(1, Ordering::Relaxed);
                return Err(EINVAL);
            }
        }
        let qp = match self.type_1() {
            true => null_mut(),
            false => qp.into_raw(),
        };
        // INVARIANT: The references are the window's from here on.
        self.replace(MwState {
            state: VALID,
            rkey: self.state().rkey & !OWNERS_BITS | binding.rkey & OWNERS_BITS,
            access: binding.access as c_int,
            bytes: Bytes {
                addr: binding.addr,
                length: binding.length,
            },
            mr: region.map_or(null_mut(), Ref::into_raw),
            qp,
        });
        Ok(())
    }

    /// Ends the binding, if there is one.
    fn unbind(&mut self) {
        self.replace(MwState {
            state: if self.type_1() { VALID } else { FREE },
            rkey: self.state().rkey,
            access: 0,
            bytes: Bytes { addr: 0, length: 0 },
            mr: null_mut(),
            qp: null_mut(),
        });
    }

    /// Replaces the state with `new`, and puts the old references.
    fn replace(&mut self, new: MwState) {
        let (mw, old) = (self.0.as_ptr(), self.state());
        // SAFETY: The window is valid and locked; these fields are not read without the lock.
        unsafe {
            (*mw).state = new.state;
            (*mw).rkey = new.rkey;
            (*mw).access = new.access;
            (*mw).addr = new.bytes.addr;
            (*mw).length = new.bytes.length;
            (*mw).mr = new.mr;
            (*mw).qp = new.qp;
        }
        // SAFETY: These were the window's references, which it has just given up.
        let (region, _qp) = unsafe { (Ref::from_raw(old.mr), Ref::from_raw(old.qp)) };
        if let Some(region) = region {
            count_of(&region).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: Locked in `new`.
        unsafe { rxe::rxe_shim_unlock_window(self.0.as_ptr()) };
    }
}

/// Whether `region` contains what `binding` asks for and permits it (volume 1, C10-73 to C10-75). The region has to
/// be in the window's `domain`.
fn permits(region: &Ref<rxe::rxe_mr>, domain: *mut rxe::ib_pd, binding: &Binding) -> bool {
    let mr = region.as_ptr();
    // SAFETY: The region is valid while referenced. A reregistration, or the core for a new region, may write
    // these fields meanwhile: they are words, and each is read once.
    let (pd, rights, addr, length) = unsafe {
        let ibmr = &raw const (*mr).ibmr;
        (
            (&raw const (*ibmr).pd).read_volatile(),
            (&raw const (*mr).access).read_volatile(),
            (&raw const (*ibmr).iova).read_volatile(),
            (&raw const (*ibmr).length).read_volatile(),
        )
    };
    let part = Bytes {
        addr: binding.addr,
        length: binding.length,
    };
    let writes = binding.access as c_int & REMOTE_CHANGES != 0;
    pd == domain
        && rights & (MW_BIND | ZERO_BASED) == MW_BIND
        && (rights & LOCAL_WRITE != 0 || !writes)
        && Bytes { addr, length }.contain(part)
}

/// Counts one more window on `region`.
///
/// # Errors
///
/// `EINVAL` if windows are blocked ([`NoWindows`]).
fn count_in(region: &Ref<rxe::rxe_mr>) -> Result {
    // Sequentially consistent: the destruction of the region reads the count afterwards.
    count_of(region)
        .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |windows| {
            (windows >= 0).then_some(windows + 1)
        })
        .map(drop)
        .map_err(|_| EINVAL)
}

/// The number of windows bound to `region`.
fn count_of(region: &Ref<rxe::rxe_mr>) -> &AtomicI32 {
    // SAFETY: The region is valid while referenced.
    unsafe { windows_of(region.as_ptr()) }
}

/// The number of windows bound to a region, or [`NONE_EVER`]. rxe does not deregister a region if it is above 0.
///
/// # Safety
///
/// `mr` is valid for `'a`.
unsafe fn windows_of<'a>(mr: *mut rxe::rxe_mr) -> &'a AtomicI32 {
    // SAFETY: By the contract; the counter is an `atomic_t`.
    unsafe { AtomicI32::from_ptr(&raw mut (*mr).num_mw.counter) }
}

/// The count of a region that has no windows and must not get any.
const NONE_EVER: i32 = i32::MIN;

/// Blocks windows: the region has none, and gets none until this is dropped.
///
/// # Invariants
///
/// The region's count of windows is [`NONE_EVER`], and only this value may change that.
pub(crate) struct NoWindows<'a>(&'a AtomicI32);

impl NoWindows<'_> {
    /// Blocks windows on `mr`.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it has some.
    ///
    /// # Safety
    ///
    /// `mr` is valid for as long as this is.
    pub(crate) unsafe fn on(mr: *mut rxe::rxe_mr) -> Result<Self> {
        // SAFETY: By the contract.
        let windows = unsafe { windows_of(mr) };
        windows
            .compare_exchange(0, NONE_EVER, Ordering::SeqCst, Ordering::Relaxed)
            .map_err(|_| EBUSY)?;
        // INVARIANT: Just written, and no window is counted on it.
        Ok(Self(windows))
    }

    /// Blocks them for good: the region is about to be deregistered, which cannot be refused any more.
    pub(crate) fn for_good(self) {
        core::mem::forget(self);
    }
}

impl Drop for NoWindows<'_> {
    fn drop(&mut self) {
        // Release: a window that is counted from here on sees the change.
        self.0.store(0, Ordering::Release);
    }
}

/// The device of a queue pair.
///
/// # Safety
///
/// `qp` is valid.
unsafe fn device_of(qp: *mut rxe::rxe_qp) -> *mut rxe::rxe_dev {
    // SAFETY: rxe's devices contain their `ib_dev`.
    unsafe { kernel::container_of!((*qp).ibqp.device, rxe::rxe_dev, ib_dev) }
}

/// The window that `rkey` names, ignoring the owner's bits.
///
/// # Safety
///
/// `qp` is valid.
pub(crate) unsafe fn find(qp: *mut rxe::rxe_qp, rkey: u32) -> Option<Ref<rxe::rxe_mw>> {
    // SAFETY: By the contract; it is the pool of windows, which lives as long as the device.
    unsafe { Ref::find(&raw mut (*device_of(qp)).mw_pool, rkey >> 8) }
}

/// `ibv_alloc_mw`.
///
/// # Safety
///
/// Called by the RDMA core with a new window of a device of rxe's, whose type and domain are set.
#[no_mangle]
unsafe extern "C" fn rxe_alloc_mw(ibmw: *mut rxe::ib_mw, _udata: *mut rxe::ib_udata) -> c_int {
    // SAFETY: rxe's windows contain their `ib_mw`, its domains and devices their `ib_pd` and `ib_device`.
    unsafe {
        let mw = kernel::container_of!(ibmw, rxe::rxe_mw, ibmw);
        let pd = kernel::container_of!((*ibmw).pd, rxe::rxe_pd, ibpd);
        let device = kernel::container_of!((*ibmw).device, rxe::rxe_dev, ib_dev);
        let Some(pd) = Ref::get(pd) else {
            return EINVAL.to_errno();
        };
        let elem = rxe::rxe_mw::elem(mw);
        let error = rxe::__rxe_add_to_pool(&raw mut (*device).mw_pool, elem, true);
        if error != 0 {
            return error;
        }
        let key = (*elem).index << 8 | u32::from(rxe::rxe_get_next_key(u32::MAX));
        (*mw).rkey = key;
        (*ibmw).rkey = key;
        (*mw).state = if (*ibmw).type_ == TYPE_1 { VALID } else { FREE };
        rxe::rxe_shim_init_window_lock(mw);
        // The window's own; `rxe_mw_cleanup` gives it back.
        pd.into_raw();
        rxe::__rxe_finalize(elem);
    }
    0
}

/// `ibv_dealloc_mw`.
///
/// # Safety
///
/// Called by the RDMA core with a window of ours, which it frees afterwards.
#[no_mangle]
unsafe extern "C" fn rxe_dealloc_mw(ibmw: *mut rxe::ib_mw) -> c_int {
    // SAFETY: rxe's windows contain their `ib_mw`.
    unsafe {
        let mw = kernel::container_of!(ibmw, rxe::rxe_mw, ibmw);
        rxe::__rxe_cleanup(rxe::rxe_mw::elem(mw), true);
        // A concurrent lookup in the pool may be about to read its reference count.
        rxe::synchronize_rcu_expedited();
    }
    0
}

/// Releases what a window holds, once the last reference to it is gone.
///
/// # Safety
///
/// Called by rxe's pool with the element of a window of ours.
#[no_mangle]
unsafe extern "C" fn rxe_mw_cleanup(elem: *mut rxe::rxe_pool_elem) {
    // SAFETY: Windows contain their elements.
    let mw = unsafe { kernel::container_of!(elem, rxe::rxe_mw, elem) };
    // SAFETY: It was removed from its pool, and all references that were taken there have been put: it may be accessed
    // without its lock, and the references in it are its own.
    unsafe {
        if let Some(region) = Ref::from_raw((*mw).mr) {
            count_of(&region).fetch_sub(1, Ordering::Relaxed);
        }
        drop(Ref::from_raw((*mw).qp));
        let pd = kernel::container_of!((*mw).ibmw.pd, rxe::rxe_pd, ibpd);
        drop(Ref::from_raw(pd));
        (*mw).mr = null_mut();
        (*mw).qp = null_mut();
        (*mw).state = rxe::rxe_mw_state_RXE_MW_STATE_INVALID;
    }
}

/// Binds a window, for `ibv_bind_mw` and for the work request.
///
/// # Safety
///
/// Called by rxe's requester with its queue pair and a request of it.
#[no_mangle]
unsafe extern "C" fn rxe_bind_mw(qp: *mut rxe::rxe_qp, wqe: *mut rxe::rxe_send_wqe) -> c_int {
    // SAFETY: The request is valid, and in memory of the kernel's.
    let binding = unsafe { (*wqe).wr.wr.mw };
    // SAFETY: By the contract.
    errno(unsafe { bind(qp, &binding) })
}

/// # Errors
///
/// `EINVAL` for keys that do not exist and for a binding that is not permitted; `EOPNOTSUPP` for unknown rights.
///
/// # Safety
///
/// `qp` is valid.
unsafe fn bind(qp: *mut rxe::rxe_qp, binding: &Binding) -> Result {
    // SAFETY: `qp` is valid.
    let window = unsafe { find(qp, binding.mw_rkey) }.ok_or(EINVAL)?;
    let region = match binding.length {
        0 => None,
        // SAFETY: `qp` is valid, the pool that of regions.
        _ => Some(unsafe { find_region(qp, binding.mr_lkey) }.ok_or(EINVAL)?),
    };
    if binding.access & !rxe::RXE_ACCESS_SUPPORTED_MW != 0 {
        return Err(not_supported());
    }
    // SAFETY: `qp` is valid, and its domain does not change.
    let (owner, domain) = unsafe { (Ref::get(qp).ok_or(EINVAL)?, (*qp).ibqp.pd) };
    let mut locked = Locked::new(&window);
    let allowed = locked.state().rkey == binding.mw_rkey
        && locked.may_be_bound(domain, binding)
        && region
            .as_ref()
            .is_none_or(|region| permits(region, domain, binding));
    if !allowed {
        return Err(EINVAL);
    }
    locked.bind(binding, region, owner)
}

/// The region with this `lkey`, in any domain.
///
/// # Safety
///
/// `qp` is valid.
unsafe fn find_region(qp: *mut rxe::rxe_qp, lkey: u32) -> Option<Ref<rxe::rxe_mr>> {
    // SAFETY: By the contract; it is the pool of regions, which lives as long as the device.
    let region: Ref<rxe::rxe_mr> =
        unsafe { Ref::find(&raw mut (*device_of(qp)).mr_pool, lkey >> 8)? };
    // SAFETY: Valid while referenced.
    let same = unsafe { (*region.as_ptr()).lkey } == lkey;
    same.then_some(region)
}

/// Invalidates a window of type 2, for `IBV_WR_LOCAL_INV` and for `IBV_WR_SEND_WITH_INV` of the peer.
///
/// An unbound window stays as it is.
///
/// # Safety
///
/// Called by rxe's requester or responder with its queue pair.
#[no_mangle]
unsafe extern "C" fn rxe_invalidate_mw(qp: *mut rxe::rxe_qp, rkey: u32) -> c_int {
    // SAFETY: By the contract.
    errno(unsafe { invalidate(qp, rkey) })
}

/// # Errors
///
/// `EINVAL` for a key that does not exist, for a window of type 1, and for one of another queue pair.
///
/// # Safety
///
/// `qp` is valid.
unsafe fn invalidate(qp: *mut rxe::rxe_qp, rkey: u32) -> Result {
    // SAFETY: `qp` is valid.
    let window = unsafe { find(qp, rkey) }.ok_or(EINVAL)?;
    let mut locked = Locked::new(&window);
    let state = locked.state();
    // SAFETY: `qp` is valid, and its domain does not change.
    let own = locked.domain() == unsafe { (*qp).ibqp.pd };
    if !own || state.rkey != rkey || locked.type_1() || state.is_bound() && state.qp != qp {
        return Err(EINVAL);
    }
    locked.unbind();
    Ok(())
}

/// Unbinds all windows from the region or the queue pair with `elem`, which is being destroyed: it was removed from
/// its pool and waits for its references.
///
/// # Safety
///
/// Called by `mlx_odp_rxe_wait_unused` with a valid element; may sleep.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_unbind_windows(elem: *mut rxe::rxe_pool_elem) {
    // SAFETY: An element knows its pool, and a pool its type and its device, which outlives both.
    let (kind, device) = unsafe { ((*(*elem).pool).type_, (*(*elem).pool).rxe) };
    if kind == rxe::rxe_elem_type_RXE_TYPE_MR {
        // A binding counts its window before it checks whether the region is in its pool: it finds that it is not,
        // or its window is found here.
        fence(Ordering::SeqCst);
        // SAFETY: Regions contain their elements, and this one is valid.
        let windows = unsafe { windows_of(kernel::container_of!(elem, rxe::rxe_mr, elem)) };
        if windows.load(Ordering::Relaxed) <= 0 {
            return;
        }
    }
    let mut index: c_ulong = 0;
    // SAFETY: `device` is valid; a window comes with a reference for us.
    let mut next = || unsafe { Ref::from_raw(rxe::rxe_shim_next_window(device, &raw mut index)) };
    while let Some(window) = next() {
        let mut locked = Locked::new(&window);
        let MwState { mr, qp, .. } = locked.state();
        // SAFETY: Valid while the window has its references.
        let hit = unsafe {
            !mr.is_null() && rxe::rxe_mr::elem(mr) == elem
                || !qp.is_null() && rxe::rxe_qp::elem(qp) == elem
        };
        if hit {
            locked.unbind();
        }
    }
}
