// SPDX-License-Identifier: GPL-2.0

//! The capabilities and operations that this driver adds to rxe's devices.

use kernel::ffi::{c_char, c_int};
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce};
use kernel::types::ForeignOwnable;

use mlx_odp::{Device, DeviceFiles};

use crate::hw_counters::Counters;
use crate::queue_pair::Parked;
use crate::{attributes, registration, reregistration, rxe, send_queue};

/// ODP over unreliable connections: all of their operations. rxe itself claims none.
const UC_CAPS: u32 = rxe::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_SEND
    | rxe::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_RECV
    | rxe::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_WRITE
    | rxe::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_SRQ_RECV;

/// This driver's state of a device, kept as its driver data: rxe's own structure has no room.
struct Kept {
    // Removed before the device is freed.
    files: SetOnce<DeviceFiles>,
    device: Arc<Device>,
    counters: Counters,
    parked: Pin<KBox<Parked>>,
}

/// Replaces `rxe_register_device` in `rxe.c`, which has just filled in rxe's attributes.
///
/// # Safety
///
/// Called by rxe with a device that is not registered yet, and the arguments of the function that this replaces.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_register_device(
    device: *mut rxe::rxe_dev,
    name: *const c_char,
    netdev: *mut rxe::net_device,
) -> c_int {
    // The first setting of an operation wins, and rxe's come later.
    let operations = rxe::ib_device_ops {
        alloc_hw_port_stats: Some(alloc_hw_port_stats),
        create_qp: Some(send_queue::create_qp),
        dealloc_driver: Some(dealloc_driver),
        fill_res_mr_entry: Some(rxe::rxe_shim_fill_res_mr_entry),
        fill_stat_mr_entry: Some(rxe::rxe_shim_fill_stat_mr_entry),
        get_hw_stats: Some(get_hw_stats),
        modify_qp: Some(attributes::modify_qp),
        modify_srq: Some(attributes::modify_srq),
        query_srq: Some(attributes::query_srq),
        reg_user_mr: Some(registration::reg_user_mr),
        rereg_user_mr: Some(reregistration::rereg_user_mr),
        ..Default::default()
    };
    // SAFETY: The device is valid and used by nothing else until it is registered.
    let kept = match unsafe { keep(&raw mut (*device).ib_dev) } {
        Ok(kept) => kept,
        Err(error) => {
            // SAFETY: rxe has not set its operations yet, so the core does not call this one when rxe frees the
            // device.
            unsafe { rxe::rxe_dealloc(&raw mut (*device).ib_dev) };
            return error.to_errno();
        }
    };
    // SAFETY: As above. The core copies the operations; `dealloc_driver` frees what is kept, also if the
    // registration fails. Name and net device are passed on.
    unsafe {
        let caps = &raw mut (*device).attr.odp_caps;
        (*caps).general_caps |= u64::from(rxe::ib_odp_general_cap_bits_IB_ODP_SUPPORT_IMPLICIT);
        (*caps).per_transport_caps.uc_odp_caps |= UC_CAPS;
        rxe::rxe_shim_set_driver_data(&raw mut (*device).ib_dev, kept.into_foreign());
        rxe::ib_set_device_ops(&raw mut (*device).ib_dev, &operations);
        rxe::rxe_register_device(device, name, netdev)
    }
}

/// Creates the state of a device.
///
/// # Errors
///
/// `ENOMEM`.
///
/// # Safety
///
/// `ibdev` is one of rxe's.
unsafe fn keep(ibdev: *mut rxe::ib_device) -> Result<KBox<Kept>> {
    let kept = Kept {
        files: SetOnce::new(),
        device: Device::new()?,
        // SAFETY: By the contract.
        counters: unsafe { Counters::new(ibdev)? },
        parked: Parked::new()?,
    };
    Ok(KBox::new(kept, GFP_KERNEL)?)
}

/// The state of `ibdev`.
///
/// # Safety
///
/// `ibdev` is one of rxe's, and in use for `'a`: from the call of its registration until the core calls
/// `dealloc_driver`.
unsafe fn kept_of<'a>(ibdev: *mut rxe::ib_device) -> &'a Kept {
    // SAFETY: Set before the registration, by `mlx_odp_rxe_register_device`, and not freed before
    // `dealloc_driver`.
    unsafe { KBox::<Kept>::borrow(rxe::rxe_shim_driver_data(ibdev)) }
}

/// The device of the regions of `ibdev`.
///
/// # Safety
///
/// `ibdev` is one of rxe's, and in use for `'a`.
pub(crate) unsafe fn device_of<'a>(ibdev: *mut rxe::ib_device) -> &'a Arc<Device> {
    // SAFETY: By the contract.
    unsafe { &kept_of(ibdev).device }
}

/// The parked requests of the queue pairs of `ibdev`.
///
/// # Safety
///
/// `ibdev` is one of rxe's, and in use for `'a`.
pub(crate) unsafe fn parked_of<'a>(ibdev: *mut rxe::ib_device) -> &'a Parked {
    // SAFETY: By the contract.
    unsafe { &kept_of(ibdev).parked }
}

/// `ibdev` is being removed. The core does not wait yet for the system calls in progress on it.
///
/// # Safety
///
/// `ibdev` is one of rxe's that was registered.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_remove_device(ibdev: *mut rxe::ib_device) {
    // SAFETY: By the contract: the core calls `dealloc_driver` later.
    unsafe { device_of(ibdev) }.remove();
}

/// Replaces `rxe_dealloc`, the last operation that the core calls.
///
/// # Safety
///
/// Called by the RDMA core, once, when nothing uses the device any more.
unsafe extern "C" fn dealloc_driver(ibdev: *mut rxe::ib_device) {
    // SAFETY: What the core would have called; it frees nothing that is used below.
    unsafe { rxe::rxe_dealloc(ibdev) };
    // SAFETY: Set by `mlx_odp_rxe_register_device`; it is not borrowed any more.
    drop(unsafe { KBox::<Kept>::from_foreign(rxe::rxe_shim_driver_data(ibdev)) });
}

/// Allocates the structure for the counters of a port, for `rdma statistic show link` and sysfs.
///
/// The core calls this during the registration, once it has checked that the device's name is unique: once for
/// sysfs, once for the counters of single queue pairs. The first call also creates the device's files in debugfs.
///
/// # Safety
///
/// Called by the RDMA core with one of rxe's devices, by the thread that registers it only.
unsafe extern "C" fn alloc_hw_port_stats(
    ibdev: *mut rxe::ib_device,
    _port: u32,
) -> *mut rxe::rdma_hw_stats {
    // SAFETY: By the contract.
    let kept = unsafe { kept_of(ibdev) };
    // SAFETY: The device has its name, which does not change before it is registered.
    let name = unsafe { CStr::from_char_ptr(rxe::rxe_shim_name(ibdev)) };
    if kept.files.as_ref().is_none() {
        // A device works without them.
        if let Ok(files) = DeviceFiles::new(name, &kept.device) {
            kept.files.populate(files);
        }
    }
    kept.counters.allocate()
}

/// Reads the counters of a port.
///
/// # Safety
///
/// Called by the RDMA core: `stats` was made by [`alloc_hw_port_stats`] for `ibdev`, and is locked.
unsafe extern "C" fn get_hw_stats(
    ibdev: *mut rxe::ib_device,
    stats: *mut rxe::rdma_hw_stats,
    port: u32,
    index: c_int,
) -> c_int {
    // SAFETY: By the contract.
    unsafe { Counters::read(kept_of(ibdev).device.stats(), ibdev, stats, port, index) }
}
