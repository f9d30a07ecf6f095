// SPDX-License-Identifier: GPL-2.0

//! Registrations of regions that are more than one key: implicit ones, and large explicit ones. mr.c registers the
//! others, and gets their memory from [`crate::umem`].
//!
//! Registration costs the same for any size, except for the root's entries: 16 bytes for each 16 GiB, or at most
//! 8 KiB where they are leaves.

use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::c_int;
use kernel::prelude::*;

use mlx_odp::mlx5::key_tree::KeyTree;
use mlx_odp::{check_huge_pages, not_supported, HUGETLB, IMPLICIT_LENGTH};

use hmm::PageRange;

use crate::caps::{implicit_tree, largest_part};
use crate::device_key::DeviceKey;
use crate::mlx5;
use crate::tree::{enable_root, NullEntry, Tree};
use crate::umem::{place_on, OdpUmem};

const _: () = assert!(HUGETLB == mlx5::ib_access_flags_IB_ACCESS_HUGETLB as c_int);

/// The arguments of a registration.
struct RegMr {
    pd: *mut mlx5::ib_pd,
    /// In memory; 0 and 0 for an implicit region.
    va: u64,
    length: u64,
    iova: u64,
    access: c_int,
}

/// A registration on demand, before mr.c sees it. Null if it is for mr.c.
///
/// # Safety
///
/// Called by `shim.c` with a protection domain of the application, which is `current`.
#[no_mangle]
unsafe extern "C" fn mlx_odp_mlx5_register(
    pd: *mut mlx5::ib_pd,
    start: u64,
    length: u64,
    iova: u64,
    access: c_int,
) -> *mut mlx5::mlx5_ib_mr {
    let asked = RegMr {
        pd,
        va: start,
        length,
        iova,
        access,
    };
    if let Err(error) = check_huge_pages(access, start, length) {
        return error.to_ptr();
    }
    // SAFETY: By the contract.
    unsafe { register_large(&asked) }.unwrap_or_else(Error::to_ptr)
}

/// # Safety
///
/// As for [`mlx_odp_mlx5_register`].
unsafe fn register_large(asked: &RegMr) -> Result<*mut mlx5::mlx5_ib_mr> {
    // SAFETY: By the contract.
    unsafe {
        let dev = mlx5::mlx5_odp_shim_dev_of(asked.pd);
        let tree =
            largest_part(dev).and_then(|most| KeyTree::explicit(asked.iova, asked.length, most));
        let Some(tree) = tree else {
            return Ok(core::ptr::null_mut());
        };
        if PageRange::covering(asked.va, asked.length).is_none() {
            return Err(EINVAL);
        }
        to_result(mlx5::mlx5_odp_shim_prepare(dev))?;
        register(asked, tree)
    }
}

/// An implicit registration.
///
/// # Safety
///
/// Called by mr.c with a protection domain of the application, which is `current`.
#[no_mangle]
unsafe extern "C" fn mlx5_ib_alloc_implicit_mr(
    pd: *mut mlx5::mlx5_ib_pd,
    access: c_int,
) -> *mut mlx5::mlx5_ib_mr {
    // SAFETY: By the contract.
    unsafe {
        let pd = mlx5::mlx5_odp_shim_ib_pd(pd);
        let asked = RegMr {
            pd,
            va: 0,
            length: 0,
            iova: 0,
            access,
        };
        let tree = implicit_tree(mlx5::mlx5_odp_shim_dev_of(pd));
        let region = tree.ok_or_else(not_supported).and_then(|tree| {
            check_huge_pages(access, 0, IMPLICIT_LENGTH)?;
            register(&asked, tree)
        });
        region.unwrap_or_else(Error::to_ptr)
    }
}

/// Makes the region's root, and the region.
///
/// # Errors
///
/// Those of a registration.
///
/// # Safety
///
/// `asked` has a protection domain of the application, which is `current`, and pages that do not wrap.
unsafe fn register(asked: &RegMr, tree: KeyTree) -> Result<*mut mlx5::mlx5_ib_mr> {
    // Keys of a few sizes, so that mlx5_ib finds one that was given back.
    let count = tree.count().next_power_of_two();
    // SAFETY: By the contract. The memory becomes the MR's, or is released if there is no MR.
    let mr = unsafe {
        let dev = mlx5::mlx5_odp_shim_dev_of(asked.pd);
        let device = mlx5::mlx5_odp_shim_ib_device(dev);
        let head = OdpUmem::allocate(device, asked.va, asked.length, asked.access)?;
        from_err_ptr(mlx5::mlx5_odp_shim_new_root(
            asked.pd,
            head,
            asked.access,
            count as usize,
        ))?
    };
    // SAFETY: It is new and not published yet.
    let complete = unsafe { complete(mr, asked, tree, count) };
    complete.map(|()| mr).inspect_err(|_| {
        // SAFETY: As above.
        unsafe { mlx5::mlx5_odp_shim_free_mr(mr) }
    })
}

/// Enables the root `mr`, with `count` entries, and attaches its region.
///
/// # Safety
///
/// As for [`register`]; `mr` is a new root, which is not published yet.
unsafe fn complete(mr: *mut mlx5::mlx5_ib_mr, asked: &RegMr, tree: KeyTree, count: u64) -> Result {
    let implicit = asked.length == 0;
    // SAFETY: By the contract. `mr` lives until `close`.
    unsafe {
        let faults = mlx5::mlx5_odp_shim_memory_scheme(mlx5::mlx5_odp_shim_dev_of(asked.pd));
        if faults {
            to_result(mlx5::mlx5_odp_shim_make_null_mkey(mr))?;
        }
        let null = NullEntry {
            key: mlx5::mlx5_odp_shim_null_mkey(mr),
            faults,
        };
        match implicit {
            true => mlx5::mlx5_odp_shim_set_implicit(mr),
            false => mlx5::mlx5_odp_shim_set_range(mr, tree.start(), tree.length()),
        }
        enable_root(mr, &tree, null, count)?;
        // What the application and the RDMA core know of it.
        mlx5::mlx5_odp_shim_set_range(mr, asked.iova, asked.length);
        let va_offset = asked.va.wrapping_sub(asked.iova);
        let tree = Tree::new(mr, tree, va_offset, null)?;
        place_on(mr, DeviceKey::Tree(tree))?;
        // From here on it is found.
        to_result(mlx5::mlx5_odp_shim_store_root(mr))
    }
}
