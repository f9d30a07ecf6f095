// SPDX-License-Identifier: GPL-2.0

//! The region of a `struct mlx5_ib_mr`, which is attached as its `umem`.
//!
//! mr.c asks for the memory of a registration ([`mlx_odp_mlx5_umem_get`]), makes a key for it, has the key made ready
//! ([`mlx5_ib_init_odp_mr`]), and releases the memory at the end ([`mlx_odp_mlx5_umem_release`]). An [`OdpUmem`] begins
//! with what mr.c and umr.c look at ([`crate::umem_head`]), and the region follows.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::device::{Bound, Device as DmaDevice};
use kernel::ffi::{c_int, c_ulong, c_void};
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce};

use mlx_odp::mlx5::refusals::Refusals;
use mlx_odp::{errno, with_current_mm, Key, Region, Registered, Registration, IMPLICIT_LENGTH};

use hmm::{user_pages, OnDevice, PageRange, Perm};

use crate::device::device_of;
use crate::device_key::DeviceKey;
use crate::entries::{enable, Kind};
use crate::mlx5;
use crate::region_key::RegionKey;
use crate::umem_head::{head_of, KeyOf, UmemHead};

/// The most pages of a region that is one key: 1 TiB. mr.c and umr.c count in `int`. Only where keys cannot lead on to
/// others a region of more than a leaf comes to be one key.
const MOST_PAGES: u64 = 1 << 28;

/// A region of a ConnectX.
pub(crate) type DeviceRegion = Region<OnDevice<DeviceKey>>;

/// A region and the key that the device has for it.
struct Placed {
    region: Registered<OnDevice<DeviceKey>>,
    key: Arc<DeviceKey>,
}

/// The `umem` of an ODP region.
///
/// # Invariants
///
/// The head says that it is of a region's key, and no other head does.
#[repr(C)]
pub(crate) struct OdpUmem {
    head: UmemHead,
    refusals: Refusals,
    /// Once the key is ready.
    placed: SetOnce<Placed>,
}

impl OdpUmem {
    /// The memory of the `size` bytes from `addr`, in its final place; 0 for an implicit region.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `device` is valid, and the pages of the bytes do not wrap.
    pub(crate) unsafe fn allocate(
        device: *mut mlx5::ib_device,
        addr: u64,
        size: u64,
        access: c_int,
    ) -> Result<*mut mlx5::ib_umem_odp> {
        let umem = Self {
            // INVARIANT: It says so.
            head: UmemHead::new(KeyOf::Region),
            refusals: Refusals::default(),
            placed: SetOnce::new(),
        };
        let umem = KBox::into_raw(KBox::new(umem, GFP_KERNEL_ACCOUNT)?);
        // SAFETY: By the contract; it begins with the head, which is a new one in its final place.
        Ok(unsafe { UmemHead::init(umem.cast(), device, addr, size, access) })
    }

    /// The faults on pages that may only be read.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }
}

/// Replaces `ib_umem_odp_get` in mr.c.
///
/// # Safety
///
/// Called by mr.c with a valid device; `current` is the application.
#[no_mangle]
unsafe extern "C" fn mlx_odp_mlx5_umem_get(
    device: *mut mlx5::ib_device,
    addr: c_ulong,
    size: usize,
    access: c_int,
    _ops: *const c_void,
) -> *mut mlx5::ib_umem_odp {
    let pages = PageRange::covering(addr as u64, size as u64);
    if pages.is_none_or(|pages| pages.is_empty() || pages.len() > MOST_PAGES) {
        return EINVAL.to_ptr();
    }
    // SAFETY: By the contract; the bounds were checked.
    unsafe { OdpUmem::allocate(device, addr as u64, size as u64, access) }
        .unwrap_or_else(Error::to_ptr)
}

/// The `umem` of `mr`, the MR of a region; `None` if it has none, or one of another kind.
///
/// # Safety
///
/// `mr` is valid for `'a`.
pub(crate) unsafe fn umem_of<'a>(mr: *mut mlx5::mlx5_ib_mr) -> Option<&'a OdpUmem> {
    // SAFETY: By the contract.
    let head = unsafe { head_of(mr) }?;
    // SAFETY: By the invariant, the head is a field of an `OdpUmem` then, which lives as long as the MR.
    let umem = || unsafe { &*mlx5::mlx5_odp_shim_head(mr).cast::<OdpUmem>() };
    (head.of() == KeyOf::Region).then(umem)
}

/// The region of `mr`; `None` if it has none, or none yet.
///
/// # Safety
///
/// `mr` is valid for `'a`.
pub(crate) unsafe fn region_of<'a>(mr: *mut mlx5::mlx5_ib_mr) -> Option<&'a DeviceRegion> {
    // SAFETY: By the contract.
    unsafe { umem_of(mr) }.and_then(|umem| Some(&*umem.placed.as_ref()?.region))
}

/// Makes the key of a registration ready: all of its entries say that there is no page.
///
/// # Safety
///
/// Called by mr.c: `mr` is new and complete, used by nothing else, and its memory is of [`mlx_odp_mlx5_umem_get`];
/// `current` is the application.
#[no_mangle]
unsafe extern "C" fn mlx5_ib_init_odp_mr(
    mr: *mut mlx5::mlx5_ib_mr,
    _pd: *mut mlx5::ib_pd,
) -> c_int {
    // SAFETY: By the contract.
    errno(unsafe { place(mr) })
}

/// # Safety
///
/// As for [`mlx5_ib_init_odp_mr`].
unsafe fn place(mr: *mut mlx5::mlx5_ib_mr) -> Result {
    let mut about = mlx5::mlx5_odp_shim_mr::default();
    // SAFETY: `mr` is complete.
    unsafe { mlx5::mlx5_odp_shim_describe(mr, &mut about) };
    let pages = PageRange::covering(about.va, about.length).ok_or(EINVAL)?;
    let absent = |_, room: &mut [u8]| room.fill(0);
    // Before there is a region: whatever is entered later stays.
    // SAFETY: `mr` is complete, and used by nothing else.
    unsafe { enable(mr, Kind::Mtt, pages.len(), hmm::PAGE_SHIFT, &absent)? };
    // SAFETY: `mr` lives until `close`, in `mlx_odp_mlx5_umem_release`.
    let key = DeviceKey::One(unsafe { RegionKey::new(mr, pages)? });
    // SAFETY: By the contract.
    unsafe { place_on(mr, key) }
}

/// Attaches a region on `key` to `mr`.
///
/// # Errors
///
/// Those of a registration.
///
/// # Safety
///
/// `mr` is complete and has memory of [`OdpUmem::allocate`], `key` is its key and ready; `current` is the application.
pub(crate) unsafe fn place_on(mr: *mut mlx5::mlx5_ib_mr, key: DeviceKey) -> Result {
    // SAFETY: By the contract.
    let umem = unsafe { umem_of(mr) }.ok_or(EINVAL)?;
    let mut about = mlx5::mlx5_odp_shim_mr::default();
    // SAFETY: `mr` is complete.
    unsafe { mlx5::mlx5_odp_shim_describe(mr, &mut about) };
    let length = match about.length {
        0 => IMPLICIT_LENGTH,
        length => length,
    };
    // SAFETY: The device is bound to its driver for as long as the RDMA device has regions: mlx5_ib is removed first.
    let dma: &'static DmaDevice<Bound> =
        unsafe { DmaDevice::from_raw(about.dma_device.cast::<bindings::device>()) };
    // SAFETY: The device of a region is in use.
    let device = unsafe { device_of(about.dev) };
    let key = Arc::new(key, GFP_KERNEL_ACCOUNT)?;
    let region = with_current_mm(|mm| {
        let registration = Registration {
            lkey: about.lkey,
            key: Key::new(about.va, length, about.iova, user_pages(mm))?,
            limit: Perm::from_writable(about.writable),
        };
        Registered::on_device(device, mm, registration, key.clone(), dma)
    })?;
    umem.placed.populate(Placed { region, key });
    Ok(())
}

/// Replaces `ib_umem_release` in mr.c, for memory of any kind.
///
/// # Safety
///
/// `umem` is null, or that of an MR that is not used any more, and whose key the device does not use any more.
#[no_mangle]
unsafe extern "C" fn mlx_odp_mlx5_umem_release(umem: *mut mlx5::ib_umem) {
    let Some(released) = NonNull::new(umem) else {
        return;
    };
    // SAFETY: Valid, by the contract.
    if unsafe { !mlx5::mlx5_odp_shim_is_odp(released.as_ptr()) } {
        // SAFETY: An ordinary `umem`, which is the RDMA core's to release.
        return unsafe { mlx5::ib_umem_release(umem) };
    }
    // SAFETY: `is_odp` says that it is a `UmemHead`.
    if unsafe { (*umem.cast::<UmemHead>()).of() } == KeyOf::Part {
        // SAFETY: Made by `KBox::into_raw` in `UmemHead::allocate_below`.
        return drop(unsafe { KBox::<UmemHead>::from_raw(umem.cast()) });
    }
    // SAFETY: The head of an `OdpUmem`, made by `KBox::into_raw` in `OdpUmem::allocate`.
    let umem = unsafe { KBox::<OdpUmem>::from_raw(umem.cast()) };
    if let Some(placed) = umem.placed.as_ref() {
        // A prefetch may have the region still. It finds out here that the key has gone.
        placed.key.close();
    }
    // Waits for invalidations under way, and for no fault.
    drop(umem);
}
