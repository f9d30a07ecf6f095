// SPDX-License-Identifier: GPL-2.0

//! What rxe tells the RDMA core about itself: the capabilities and operations that come with us.

use kernel::ffi::{c_char, c_int};
use kernel::prelude::*;

use crate::umem::region_of;
use crate::{registration, reregistration, rxe};

/// What works on demand over unreliable connections: all they have. rxe itself claims nothing there.
const UC_CAPS: u32 = rxe::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_SEND
    | rxe::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_RECV
    | rxe::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_WRITE
    | rxe::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_SRQ_RECV;

/// Takes the place of `rxe_register_device` in `rxe.c`, which has just filled in rxe's attributes.
///
/// # Safety
///
/// Called by rxe with a device that is not registered yet, and the arguments of the function that
/// it takes the place of.
#[no_mangle]
unsafe extern "C" fn mlx_odp_rxe_register_device(
    device: *mut rxe::rxe_dev,
    name: *const c_char,
    netdev: *mut rxe::net_device,
) -> c_int {
    let operations = rxe::ib_device_ops {
        fill_stat_mr_entry: Some(fill_stat_mr_entry),
        reg_user_mr: Some(registration::reg_user_mr),
        rereg_user_mr: Some(reregistration::rereg_user_mr),
        ..Default::default()
    };
    // SAFETY: The device is valid and nobody else's until it is registered. The core copies the
    // operations, and of each keeps the one that it is given first: ours. Name and net device are passed on.
    unsafe {
        let caps = &raw mut (*device).attr.odp_caps;
        (*caps).general_caps |= u64::from(rxe::ib_odp_general_cap_bits_IB_ODP_SUPPORT_IMPLICIT);
        (*caps).per_transport_caps.uc_odp_caps |= UC_CAPS;
        rxe::ib_set_device_ops(&raw mut (*device).ib_dev, &operations);
        rxe::rxe_register_device(device, name, netdev)
    }
}

/// The counters of a region, for `rdma statistic show mr`.
///
/// # Safety
///
/// Called by the RDMA core: `msg` is a message being made, `ibmr` one of rxe's, and referenced.
unsafe extern "C" fn fill_stat_mr_entry(msg: *mut rxe::sk_buff, ibmr: *mut rxe::ib_mr) -> c_int {
    // SAFETY: rxe's MRs contain their `ib_mr`.
    let mr = unsafe { kernel::container_of!(ibmr, rxe::rxe_mr, ibmr) };
    // SAFETY: The core holds `ibmr` for this call.
    let Some(region) = (unsafe { region_of(mr) }) else {
        return 0;
    };
    // SAFETY: `msg` is valid.
    let counters = unsafe { rxe::rxe_shim_begin_counters(msg) };
    if counters.is_null() {
        return EMSGSIZE.to_errno();
    }
    for (name, value) in region.stats().entries() {
        // SAFETY: `msg` is valid, the name is a C string.
        if unsafe { rxe::rdma_nl_stat_hwcounter_entry(msg, name.as_char_ptr(), value) } != 0 {
            // SAFETY: Undoes what was begun above.
            unsafe { rxe::rxe_shim_cancel_counters(msg, counters) };
            return EMSGSIZE.to_errno();
        }
    }
    // SAFETY: Begun above.
    unsafe { rxe::rxe_shim_end_counters(msg, counters) };
    0
}
