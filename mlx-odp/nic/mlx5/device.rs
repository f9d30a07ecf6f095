// SPDX-License-Identifier: GPL-2.0

//! Devices: their state, and the event queue of their page faults.
//!
//! The event queue is made with the first region, so a device that pages nothing has none.

use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce};
use kernel::types::ForeignOwnable;

use mlx_odp::{errno, not_supported, Device, DeviceFiles};

use crate::caps::odp_caps;
use crate::mlx5;

/// This driver's state of a device, kept as its driver data.
struct Kept {
    /// Made when the device has its name. Removed before the device is freed.
    files: SetOnce<DeviceFiles>,
    device: Arc<Device>,
}

/// The module is loaded. There is nothing to do: `mlx_odp` has been loaded before it.
#[no_mangle]
extern "C" fn mlx5_ib_odp_init() -> c_int {
    0
}

/// Sets what a device announces, before it is registered.
///
/// # Safety
///
/// Called by mlx5_ib with a device that is not registered yet.
#[no_mangle]
unsafe extern "C" fn mlx5_ib_odp_init_one(dev: *mut mlx5::mlx5_ib_dev) -> c_int {
    // SAFETY: By the contract.
    errno(unsafe { announce(dev) })
}

/// # Safety
///
/// `dev` is valid and not registered yet.
unsafe fn announce(dev: *mut mlx5::mlx5_ib_dev) -> Result {
    // SAFETY: By the contract.
    if unsafe { !mlx5::mlx5_odp_shim_can_page(dev) } {
        return Ok(());
    }
    let kept = Kept {
        files: SetOnce::new(),
        device: Device::new()?,
    };
    let kept = KBox::new(kept, GFP_KERNEL)?;
    // SAFETY: By the contract.
    let caps = unsafe { odp_caps(dev) };
    // SAFETY: By the contract. `mlx5_ib_odp_cleanup_one` frees what is kept.
    unsafe {
        mlx5::mlx5_odp_shim_set_driver_data(dev, kept.into_foreign());
        mlx5::mlx5_odp_shim_announce(dev, &caps);
    }
    Ok(())
}

/// Ends what [`mlx5_ib_odp_init_one`] and [`mlx5r_odp_create_eq`] began.
///
/// # Safety
///
/// Called by mlx5_ib when nothing uses the device any more: there are no regions and no queue pairs.
#[no_mangle]
unsafe extern "C" fn mlx5_ib_odp_cleanup_one(dev: *mut mlx5::mlx5_ib_dev) {
    // SAFETY: By the contract. A device that announces nothing has nothing of this driver's.
    unsafe {
        if mlx5::mlx5_odp_shim_announces(dev) {
            // Faults that waited for a page ended with their regions; what they queued is done here.
            mlx5::mlx5_odp_shim_destroy_eq(dev);
            drop(KBox::<Kept>::from_foreign(mlx5::mlx5_odp_shim_driver_data(
                dev,
            )));
        }
    }
}

/// The device is about to be unregistered: prefetches that an application waits for in a system call end, as the RDMA
/// core waits for these calls.
///
/// # Safety
///
/// Called by `shim.c` with a device that is in use.
#[no_mangle]
unsafe extern "C" fn mlx_odp_mlx5_remove(dev: *mut mlx5::mlx5_ib_dev) {
    // SAFETY: By the contract.
    unsafe {
        if mlx5::mlx5_odp_shim_announces(dev) {
            kept_of(dev).device.remove();
        }
    }
}

/// The state of `dev`.
///
/// # Safety
///
/// `dev` announces ODP, and is in use for `'a`: between `mlx5_ib_odp_init_one` and `mlx5_ib_odp_cleanup_one`.
unsafe fn kept_of<'a>(dev: *mut mlx5::mlx5_ib_dev) -> &'a Kept {
    // SAFETY: Set by `announce`, freed by `mlx5_ib_odp_cleanup_one`.
    unsafe { KBox::<Kept>::borrow(mlx5::mlx5_odp_shim_driver_data(dev)) }
}

/// The device of the regions of `dev`.
///
/// # Safety
///
/// `dev` announces ODP, and is in use for `'a`.
pub(crate) unsafe fn device_of<'a>(dev: *mut mlx5::mlx5_ib_dev) -> &'a Arc<Device> {
    // SAFETY: By the contract.
    unsafe { &kept_of(dev).device }
}

/// The first step of each registration on demand: makes the event queue and the files in debugfs, if there are none
/// yet.
///
/// # Safety
///
/// Called by mlx5_ib with a device that is registered, and its page fault queue.
#[no_mangle]
unsafe extern "C" fn mlx5r_odp_create_eq(
    dev: *mut mlx5::mlx5_ib_dev,
    eq: *mut mlx5::mlx5_ib_pf_eq,
) -> c_int {
    // SAFETY: By the contract.
    if unsafe { !mlx5::mlx5_odp_shim_announces(dev) } {
        return not_supported().to_errno();
    }
    // SAFETY: By the contract.
    let made = unsafe { mlx5::mlx5_odp_shim_create_eq(dev, eq) };
    if made <= 0 {
        return made;
    }
    // SAFETY: It announces ODP, and is in use; a registered device has a name, which outlives this call.
    let (kept, name) = unsafe {
        (
            kept_of(dev),
            CStr::from_char_ptr(mlx5::mlx5_odp_shim_name(dev)),
        )
    };
    // Only one comes here. A device works without them.
    if let Ok(files) = DeviceFiles::new(name, &kept.device) {
        kept.files.populate(files);
    }
    0
}
