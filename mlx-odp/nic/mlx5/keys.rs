// SPDX-License-Identifier: GPL-2.0

//! The keys of a device, as the walk from a fault's key to its regions needs them ([`mlx_odp::mlx5::mkey`]).
//!
//! mlx5_ib keeps all keys that a fault may name in one table. A key that was found there is held: its deregistration
//! waits until it is put. So a holder must not wait for a page, nor for another thread that does.

use core::ptr::NonNull;

use kernel::error::from_err_ptr;
use kernel::prelude::*;

use mlx_odp::mlx5::mkey::{Found, Keys, Klm};

use crate::mlx5;
use crate::umem::{region_of, umem_of, DeviceRegion};

/// A key that is held.
pub(crate) struct Mkey(NonNull<mlx5::mlx5_ib_mkey>);

impl Mkey {
    /// Finds `key`; `None` if mlx5_ib knows no such key: memory that needs no paging.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the key is one that was given back, by its variant.
    ///
    /// # Safety
    ///
    /// `dev` is in use.
    pub(crate) unsafe fn find(dev: *mut mlx5::mlx5_ib_dev, key: u32) -> Result<Option<Self>> {
        // SAFETY: By the contract. Gives a reference, null, or an error.
        let found = unsafe { from_err_ptr(mlx5::mlx5_odp_shim_find_mkey(dev, key))? };
        Ok(NonNull::new(found).map(Self))
    }

    /// Finds the key of the region that `key` is one of, in the memory scheme: `key` may be any key of a tree that
    /// leads to pages, or the one without memory. `None` if there is no region, or if it is being deregistered.
    ///
    /// # Safety
    ///
    /// `dev` is in use.
    unsafe fn find_root(dev: *mut mlx5::mlx5_ib_dev, key: u32) -> Option<Self> {
        // SAFETY: By the contract. Gives a reference or null.
        NonNull::new(unsafe { mlx5::mlx5_odp_shim_find_root(dev, key) }).map(Self)
    }

    fn kind(&self) -> mlx5::mlx5_mkey_type {
        // SAFETY: Held.
        unsafe { mlx5::mlx5_odp_shim_mkey_type(self.0.as_ptr()) }
    }

    /// The MR that it is the key of; `None` if it is a key of another kind.
    pub(crate) fn mr(&self) -> Option<*mut mlx5::mlx5_ib_mr> {
        let is_mr = self.kind() == mlx5::mlx5_mkey_type_MLX5_MKEY_MR;
        // SAFETY: Held, and the key of an MR, which lives as long.
        is_mr.then(|| unsafe { mlx5::mlx5_odp_shim_mr_of(self.0.as_ptr()) })
    }
}

impl Drop for Mkey {
    fn drop(&mut self) {
        // SAFETY: Held, and not used after this.
        unsafe { mlx5::mlx5_odp_shim_put_mkey(self.0.as_ptr()) };
    }
}

/// A region, and its key, which is held.
pub(crate) struct HeldRegion {
    _key: Mkey,
    mr: *mut mlx5::mlx5_ib_mr,
}

impl HeldRegion {
    /// The region with this key.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the key is that of something else.
    pub(crate) fn new(key: Mkey) -> Result<Self> {
        let mr = key.mr().ok_or(EFAULT)?;
        let held = Self { _key: key, mr };
        held.region().ok_or(EFAULT)?;
        Ok(held)
    }

    /// The region that `key` is one of, in the memory scheme.
    ///
    /// # Errors
    ///
    /// `EFAULT` if there is none.
    ///
    /// # Safety
    ///
    /// `dev` is in use for as long as the value.
    pub(crate) unsafe fn of_memory(dev: *mut mlx5::mlx5_ib_dev, key: u32) -> Result<Self> {
        // SAFETY: By the contract.
        Self::new(unsafe { Mkey::find_root(dev, key) }.ok_or(EFAULT)?)
    }

    /// Whether a fault on read-only memory comes from a write. The device does not say. `had` is whether it had the
    /// page before: then it is a write, or it has come while another fault was served. The former comes again at once.
    pub(crate) fn writes(&self, address: u64, had: bool) -> bool {
        // SAFETY: The key is held, and with it the MR.
        let umem = unsafe { umem_of(self.mr) };
        umem.is_some_and(|umem| umem.refusals().writes(address, had))
    }

    /// The region.
    pub(crate) fn region(&self) -> Option<&DeviceRegion> {
        // SAFETY: The key is held for as long as the reference.
        unsafe { region_of(self.mr) }
    }
}

/// All keys of a device.
pub(crate) struct DeviceKeys(*mut mlx5::mlx5_ib_dev);

impl DeviceKeys {
    /// Those of `dev`.
    ///
    /// # Safety
    ///
    /// `dev` is in use for as long as the value.
    pub(crate) unsafe fn new(dev: *mut mlx5::mlx5_ib_dev) -> Self {
        Self(dev)
    }

    /// The list of an indirect key, and the address of its first byte.
    fn list(&self, key: &Mkey) -> Result<(u64, KVec<Klm>)> {
        // SAFETY: Held.
        let count = unsafe { mlx5::mlx5_odp_shim_klms(key.0.as_ptr()) };
        let mut bytes = KVec::from_elem([0u8; Klm::BYTES], count as usize, GFP_KERNEL)?;
        let mut start = 0;
        // SAFETY: The device is in use, the key held, and there is room for so many.
        kernel::error::to_result(unsafe {
            mlx5::mlx5_odp_shim_query_klms(
                self.0,
                key.0.as_ptr(),
                &mut start,
                bytes.as_mut_ptr().cast(),
                count,
            )
        })?;
        let mut klms = KVec::with_capacity(bytes.len(), GFP_KERNEL)?;
        for klm in &bytes {
            klms.push(Klm::decode(*klm), GFP_KERNEL)?;
        }
        Ok((start, klms))
    }
}

/// What a list of pieces is kept in.
pub(crate) struct Klms(KVec<Klm>);

impl AsRef<[Klm]> for Klms {
    fn as_ref(&self) -> &[Klm] {
        &self.0
    }
}

impl Keys for DeviceKeys {
    type Region = HeldRegion;
    type List = Klms;
    type Error = Error;

    fn find(&self, key: u32) -> Result<Found<HeldRegion, Klms>> {
        // SAFETY: In use, by the contract of `new`.
        let Some(key) = (unsafe { Mkey::find(self.0, key)? }) else {
            return Ok(Found::NotOnDemand);
        };
        match key.kind() {
            mlx5::mlx5_mkey_type_MLX5_MKEY_MW | mlx5::mlx5_mkey_type_MLX5_MKEY_INDIRECT_DEVX => {
                let (start, klms) = self.list(&key)?;
                Ok(Found::Indirect {
                    start,
                    klms: Klms(klms),
                })
            }
            _ => Ok(Found::Region(HeldRegion::new(key)?)),
        }
    }
}
