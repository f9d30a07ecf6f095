// SPDX-License-Identifier: GPL-2.0

//! Memory windows: takes the place of rxe's own object for them, for windows on any region.
//!
//! A window gives a peer access to a part of a region under a key of its own. It is *bound* to the region
//! by a work request, and bound again or invalidated by others. One of type 1 can be bound again and again;
//! one of type 2 (2B, as the InfiniBand specification calls it, volume 1, 10.6.7.2) is usable through the
//! queue pair that bound it only, and has to be invalidated in between.
//!
//! rxe's own does not compare an access with the window's bounds, only with the region's: with the whole
//! address space as region, that is no check at all. Nor does it compare the region's protection domain
//! with the window's, and invalidating a window that is not bound follows a null pointer.
//!
//! # Locking
//!
//! A window's lock, rxe's own (`rxe_mw.lock`), is held for a binding, an invalidation or a look at it, with
//! bottom halves off; under it nothing sleeps and no other lock is taken but the pools'.
//!
//! # Regions and queue pairs that go
//!
//! A bound window holds a reference to its region and, type 2, to its queue pair. rxe refuses to deregister a
//! region with windows, but looks before it takes the region out of its pool; a queue pair's destruction it
//! just lets wait. So both let go of windows while they wait for their references ([`mlx_odp_rxe_unbind_windows`]), and a
//! binding looks, under the lock, whether they are still in their pools. Whichever comes first: either the
//! one who waits finds the window bound, or the one who binds finds that it is too late.
//!
//! A reregistration keeps windows away meanwhile, by the region's count of them ([`NoWindows`]).

use core::ptr::null_mut;
use core::sync::atomic::{fence, AtomicI32, Ordering};

use kernel::ffi::{c_int, c_ulong};
use kernel::prelude::*;

use crate::errno::{errno, not_supported};
use crate::pool::{Pooled, Ref};
use crate::rxe;
use crate::window_view::View;

const TYPE_1: rxe::ib_mw_type = rxe::ib_mw_type_IB_MW_TYPE_1;
const FREE: rxe::rxe_mw_state = rxe::rxe_mw_state_RXE_MW_STATE_FREE;
const VALID: rxe::rxe_mw_state = rxe::rxe_mw_state_RXE_MW_STATE_VALID;
const ZERO_BASED: c_int = rxe::ib_access_flags_IB_ZERO_BASED as c_int;
const MW_BIND: c_int = rxe::ib_access_flags_IB_ACCESS_MW_BIND as c_int;
const LOCAL_WRITE: c_int = rxe::ib_access_flags_IB_ACCESS_LOCAL_WRITE as c_int;
const REMOTE_CHANGES: c_int = (rxe::ib_access_flags_IB_ACCESS_REMOTE_WRITE
    | rxe::ib_access_flags_IB_ACCESS_REMOTE_ATOMIC) as c_int;
const FLUSH: c_int = (rxe::ib_access_flags_IB_ACCESS_FLUSH_GLOBAL
    | rxe::ib_access_flags_IB_ACCESS_FLUSH_PERSISTENT) as c_int;

/// The bits of a key that are the owner's to choose; the others are the index in the pool.
const OWNERS_BITS: u32 = 0xff;

/// What a work request asks a window to be bound to.
type Binding = rxe::rxe_send_wr__bindgen_ty_2__bindgen_ty_5;

/// The bytes from `addr` that the window, or the region, has.
#[derive(Clone, Copy)]
struct Bytes {
    addr: u64,
    length: u64,
}

impl Bytes {
    /// Whether `other` lies inside. Neither end is computed: it may be past 64 bits.
    fn contain(self, other: Self) -> bool {
        other
            .addr
            .checked_sub(self.addr)
            .is_some_and(|offset| offset <= self.length && other.length <= self.length - offset)
    }
}

/// What a window is bound to, under which key, and with what rights; all of it that ever changes.
///
/// # Invariants
///
/// `mr` and `qp` are null or come with a reference of the window's.
#[derive(Clone, Copy)]
struct Bond {
    state: rxe::rxe_mw_state,
    rkey: u32,
    access: c_int,
    bytes: Bytes,
    mr: *mut rxe::rxe_mr,
    qp: *mut rxe::rxe_qp,
}

impl Bond {
    /// Whether it is one to something.
    fn tied(self) -> bool {
        self.state == VALID && self.bytes.length != 0
    }
}

/// A window, locked.
pub(crate) struct Locked<'a>(&'a Ref<rxe::rxe_mw>);

impl<'a> Locked<'a> {
    fn new(window: &'a Ref<rxe::rxe_mw>) -> Self {
        // SAFETY: The window is valid; unlocked when dropped.
        unsafe { rxe::rxe_shim_lock_window(window.as_ptr()) };
        Self(window)
    }

    fn bond(&self) -> Bond {
        let mw = self.0.as_ptr();
        // SAFETY: The window is valid; these fields change under its lock only, which we hold.
        unsafe {
            Bond {
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

    /// Whether it may be bound by a queue pair of `domain`, as far as the region does not matter (volume 1,
    /// C10-72, o10-36.2.2, o10-37.2.30 and o10-37.2.40).
    fn may_be_bound(&self, domain: *mut rxe::ib_pd, binding: &Binding) -> bool {
        let ready = if self.type_1() {
            binding.access as c_int & ZERO_BASED == 0
        } else {
            self.bond().state == FREE && binding.length != 0
        };
        ready && self.domain() == domain
    }

    /// Binds it, in place of what it was bound to.
    ///
    /// # Errors
    ///
    /// `EINVAL`, with all as before, if region or queue pair are about to go or the region is being changed.
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
            // Once more, as it may have been changed before it counted this window.
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
        self.replace(Bond {
            state: VALID,
            rkey: self.bond().rkey & !OWNERS_BITS | binding.rkey & OWNERS_BITS,
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

    /// Ends a binding, if there is one.
    fn unbind(&mut self) {
        self.replace(Bond {
            state: if self.type_1() { VALID } else { FREE },
            rkey: self.bond().rkey,
            access: 0,
            bytes: Bytes { addr: 0, length: 0 },
            mr: null_mut(),
            qp: null_mut(),
        });
    }

    /// Puts `new` in place of the bond that there is, and gives back the references of that.
    fn replace(&mut self, new: Bond) {
        let (mw, old) = (self.0.as_ptr(), self.bond());
        // SAFETY: The window is valid and locked; nobody looks at these without the lock.
        unsafe {
            (*mw).state = new.state;
            (*mw).rkey = new.rkey;
            (*mw).access = new.access;
            (*mw).addr = new.bytes.addr;
            (*mw).length = new.bytes.length;
            (*mw).mr = new.mr;
            (*mw).qp = new.qp;
        }
        // SAFETY: They were the window's, which has just given them up.
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

/// Whether `region` has, and permits windows on, what `binding` asks for (volume 1, C10-73 to C10-75). The
/// region's domain has to be the window's, `domain`.
fn permits(region: &Ref<rxe::rxe_mr>, domain: *mut rxe::ib_pd, binding: &Binding) -> bool {
    let mr = region.as_ptr();
    // SAFETY: The region is valid while referenced. A reregistration, or the core for a new
    // region, may write them meanwhile: they are words, and each is read once.
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

/// Counts a window more on `region`, unless it is to have none.
///
/// # Errors
///
/// `EINVAL` if so.
fn count_in(region: &Ref<rxe::rxe_mr>) -> Result {
    // Sequentially consistent: whoever gives the region up looks at the count afterwards.
    count_of(region)
        .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |windows| {
            (windows >= 0).then_some(windows + 1)
        })
        .map(drop)
        .map_err(|_| EINVAL)
}

/// How many windows are bound to `region`.
fn count_of(region: &Ref<rxe::rxe_mr>) -> &AtomicI32 {
    // SAFETY: The region is valid while referenced.
    unsafe { windows_of(region.as_ptr()) }
}

/// How many windows are bound to a region, or [`NONE_EVER`]. rxe does not deregister one with more than 0.
///
/// # Safety
///
/// `mr` is valid for `'a`.
unsafe fn windows_of<'a>(mr: *mut rxe::rxe_mr) -> &'a AtomicI32 {
    // SAFETY: By the contract; the counter is an `atomic_t`.
    unsafe { AtomicI32::from_ptr(&raw mut (*mr).num_mw.counter) }
}

/// The count of a region that has no windows and does not get any.
const NONE_EVER: i32 = i32::MIN;

/// A region has no windows, and gets none until this is dropped.
///
/// # Invariants
///
/// The region's count of windows is [`NONE_EVER`], and only this value may change that.
pub(crate) struct NoWindows<'a>(&'a AtomicI32);

impl NoWindows<'_> {
    /// Keeps windows away from `mr`.
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
        // INVARIANT: Just written, and nobody counts from there.
        Ok(Self(windows))
    }

    /// Keeps them away for good: the region is about to be deregistered, which can't be refused now.
    pub(crate) fn for_good(self) {
        core::mem::forget(self);
    }
}

impl Drop for NoWindows<'_> {
    fn drop(&mut self) {
        // Release: who counts a window from here on sees what was changed.
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

/// The window that `rkey` names, whatever its owner's bits are.
///
/// # Safety
///
/// `qp` is valid.
unsafe fn find(qp: *mut rxe::rxe_qp, rkey: u32) -> Option<Ref<rxe::rxe_mw>> {
    // SAFETY: By the contract; the pool is that of windows and as old as the device.
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
        // Whoever looks for it in the pool at this moment may be about to look at its reference count.
        rxe::synchronize_rcu_expedited();
    }
    0
}

/// The last of a window, once nobody has a reference any more.
///
/// # Safety
///
/// Called by rxe's pool with the element of a window of ours.
#[no_mangle]
unsafe extern "C" fn rxe_mw_cleanup(elem: *mut rxe::rxe_pool_elem) {
    // SAFETY: Windows contain their elements.
    let mw = unsafe { kernel::container_of!(elem, rxe::rxe_mw, elem) };
    // SAFETY: It is in its pool no more, and who found it there before has given it back, within far less time
    // than rxe waits: it may be looked at and changed without its lock, and the references in it are its own.
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
    // SAFETY: The request is valid. The application can write to it at any time: it is read once.
    let binding = unsafe { (&raw const (*wqe).wr.wr.mw).read_volatile() };
    // SAFETY: By the contract.
    errno(unsafe { bind(qp, &binding) })
}

/// # Errors
///
/// `EINVAL` for keys that are none, and for what must not be bound; `EOPNOTSUPP` for unknown rights.
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
    let allowed = locked.bond().rkey == binding.mw_rkey
        && locked.may_be_bound(domain, binding)
        && region
            .as_ref()
            .is_none_or(|region| permits(region, domain, binding));
    if !allowed {
        return Err(EINVAL);
    }
    locked.bind(binding, region, owner)
}

/// The region with this `lkey`, in whatever domain it is.
///
/// # Safety
///
/// `qp` is valid.
unsafe fn find_region(qp: *mut rxe::rxe_qp, lkey: u32) -> Option<Ref<rxe::rxe_mr>> {
    // SAFETY: By the contract; the pool is that of regions and as old as the device.
    let region: Ref<rxe::rxe_mr> =
        unsafe { Ref::find(&raw mut (*device_of(qp)).mr_pool, lkey >> 8)? };
    // SAFETY: Valid while referenced.
    let same = unsafe { (*region.as_ptr()).lkey } == lkey;
    same.then_some(region)
}

/// Invalidates a window of type 2, for `IBV_WR_LOCAL_INV` and for `IBV_WR_SEND_WITH_INV` of the peer.
///
/// One that is not bound stays as it is.
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
/// `EINVAL` for a key that is none, for a window of type 1, and for one of another queue pair.
///
/// # Safety
///
/// `qp` is valid.
unsafe fn invalidate(qp: *mut rxe::rxe_qp, rkey: u32) -> Result {
    // SAFETY: `qp` is valid.
    let window = unsafe { find(qp, rkey) }.ok_or(EINVAL)?;
    let mut locked = Locked::new(&window);
    let bond = locked.bond();
    // SAFETY: `qp` is valid, and its domain does not change.
    let own = locked.domain() == unsafe { (*qp).ibqp.pd };
    if !own || bond.rkey != rkey || locked.type_1() || bond.tied() && bond.qp != qp {
        return Err(EINVAL);
    }
    locked.unbind();
    Ok(())
}

/// A view of the window, if it is bound to something and, as it is bound, `permitted`.
pub(crate) fn view(
    window: &Ref<rxe::rxe_mw>,
    permitted: impl FnOnce(&Locked<'_>) -> bool,
) -> Option<View> {
    let mut view = View::new().ok()?;
    let locked = Locked::new(window);
    let bond = locked.bond();
    if !bond.tied() || !permitted(&locked) {
        return None;
    }
    // SAFETY: The window has a reference.
    let region = unsafe { Ref::get(bond.mr) }?;
    // Always one from 0: then the responder sets its offset anew at every look, and none of what the window was
    // bound to before is left when it is bound again amid a message.
    let offset = match bond.access & ZERO_BASED {
        0 => 0,
        _ => bond.bytes.addr,
    };
    view.show(bond.rkey, offset, bond.access | ZERO_BASED, region);
    Some(view)
}

/// A view of the window, if `qp` may use it for the request that its responder is at, with all of the rights
/// in `access`; otherwise null.
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
    // SAFETY: `qp` is valid, and its responder, whose request this is, is what runs here.
    let (domain, part, everything) = unsafe {
        let part = Bytes {
            addr: (*qp).resp.va,
            length: u64::from((*qp).resp.resid),
        };
        // A flush of the region that the window is on has neither address nor length.
        let everything = access & FLUSH != 0 && rxe::rxe_shim_flushes_region(qp);
        ((*qp).ibqp.pd, part, everything)
    };
    let permitted = |locked: &Locked<'_>| {
        let bond = locked.bond();
        let all = Bytes {
            addr: match bond.access & ZERO_BASED {
                0 => bond.bytes.addr,
                _ => 0,
            },
            length: bond.bytes.length,
        };
        locked.domain() == domain
            && bond.rkey == rkey
            && (locked.type_1() || bond.qp == qp)
            && bond.access & access == access
            && (everything || all.contain(part))
    };
    view(&window, permitted).map_or(null_mut(), View::into_raw)
}

/// Ends the bindings of all windows to the region or the queue pair with `elem`, which is on its way out:
/// already taken out of its pool, and waiting for its references.
///
/// # Safety
///
/// Called by `mlx_odp_rxe_wait_unused` with a valid element; may sleep.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_unbind_windows(elem: *mut rxe::rxe_pool_elem) {
    // SAFETY: Elements know their pool, and pools their type and their device, which is as old as they are.
    let (kind, device) = unsafe { ((*(*elem).pool).type_, (*(*elem).pool).rxe) };
    if kind == rxe::rxe_elem_type_RXE_TYPE_MR {
        // A binding counts itself before it looks whether the region is in its pool: it sees that it is not,
        // or is seen here.
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
        let Bond { mr, qp, .. } = locked.bond();
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
