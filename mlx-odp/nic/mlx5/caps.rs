// SPDX-License-Identifier: GPL-2.0

//! What a device can do: what its firmware and this driver both have.

use hmm::PageRange;

use mlx_odp::mlx5::key_tree::KeyTree;

use crate::mlx5;

/// What a device announces.
///
/// # Safety
///
/// `dev` is valid.
pub(crate) unsafe fn odp_caps(dev: *mut mlx5::mlx5_ib_dev) -> mlx5::ib_odp_caps {
    // SAFETY: By the contract; each service is one that there is.
    unsafe {
        mlx5::ib_odp_caps {
            general_caps: general(dev),
            per_transport_caps: mlx5::ib_odp_caps__bindgen_ty_1 {
                rc_odp_caps: service(dev, mlx5::mlx5_odp_shim_service_MLX5_ODP_SHIM_RC),
                ud_odp_caps: service(dev, mlx5::mlx5_odp_shim_service_MLX5_ODP_SHIM_UD),
                xrc_odp_caps: service(dev, mlx5::mlx5_odp_shim_service_MLX5_ODP_SHIM_XRC),
                uc_odp_caps: 0,
            },
        }
    }
}

/// # Safety
///
/// `dev` is valid.
unsafe fn general(dev: *mut mlx5::mlx5_ib_dev) -> u64 {
    // SAFETY: By the contract.
    let implicit = unsafe { implicit_tree(dev).is_some() };
    let explicit = mlx5::ib_odp_general_cap_bits_IB_ODP_SUPPORT;
    let both = explicit | mlx5::ib_odp_general_cap_bits_IB_ODP_SUPPORT_IMPLICIT;
    (if implicit { both } else { explicit }).into()
}

/// # Safety
///
/// `dev` is valid, `service` one of the enumeration.
unsafe fn service(dev: *mut mlx5::mlx5_ib_dev, service: mlx5::mlx5_odp_shim_service) -> u32 {
    // SAFETY: By the contract.
    unsafe { mlx5::mlx5_odp_shim_service_caps(dev, service) }
}

/// log2 of the bytes of the largest part that a root can have on `dev`; `None` if keys cannot lead to keys.
///
/// # Safety
///
/// `dev` is valid.
pub(crate) unsafe fn largest_part(dev: *mut mlx5::mlx5_ib_dev) -> Option<u32> {
    // SAFETY: By the contract.
    unsafe { mlx5::mlx5_odp_shim_can_lead_on(dev).then(|| mlx5::mlx5_odp_shim_max_log_ksm(dev)) }
}

/// The tree of an implicit region on `dev`; `None` if it cannot have any.
///
/// # Safety
///
/// `dev` is valid.
pub(crate) unsafe fn implicit_tree(dev: *mut mlx5::mlx5_ib_dev) -> Option<KeyTree> {
    // SAFETY: By the contract.
    let (most, end) = unsafe { (largest_part(dev)?, mlx5::mlx5_odp_shim_user_end()) };
    KeyTree::implicit(PageRange::covering(0, end)?, most)
}
