// SPDX-License-Identifier: GPL-2.0

//! Registration: from the arguments of an application to a region that is found on its device, and back.

use core::ops::Deref;

use hmm::{Backing, Limits, Mirror, MirrorDevice, OnDevice, PageRange, Perm, Software};

use kernel::device::{Bound, Device as DmaDevice};
use kernel::mm::{Mm, MmWithUser};
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::device::Device;
use crate::key::{BadKey, Key};
use crate::observer::RegionStats;
use crate::region::Region;

/// A registration, once its arguments have been checked ([`Key::new`]).
#[derive(Clone, Copy, Debug)]
pub struct Registration {
    /// The lkey of the region.
    pub lkey: u32,
    /// What it covers.
    pub key: Key,
    /// The most that the NIC may do.
    pub limit: Perm,
}

impl From<BadKey> for Error {
    fn from(bad: BadKey) -> Self {
        match bad {
            BadKey::Meaningless | BadKey::Wraps => EINVAL,
            BadKey::NotUser => EFAULT,
        }
    }
}

/// Calls `with` on the address space of the current process.
///
/// # Errors
///
/// `EINVAL` in a kernel thread, which has none.
pub fn with_current_mm<T>(with: impl FnOnce(&MmWithUser) -> Result<T>) -> Result<T> {
    let task = kernel::current!();
    let mm = task.mm().ok_or(EINVAL)?;
    with(mm)
}

/// The limits of a region's mirror, from the module's parameters.
fn limits() -> Limits {
    let parameters = crate::parameters();
    let memory = parameters.region_memory().map(Limits::new);
    memory
        .unwrap_or_default()
        // The parameters were checked when the module was loaded, so there is a geometry.
        .with_geometry(parameters.geometry().unwrap_or_default())
}

/// A region that is registered with its device. Dropping it deregisters the region.
pub struct Registered<B: Backing = Software>(Arc<Region<B>>);

impl Registered {
    /// Registers memory of `mm`, that of the current process, with `device`. Touches no page; costs the same for any
    /// length. Pages will be faulted in with the credentials of the current task.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; those of [`Mirror::new`].
    pub fn new(device: &Arc<Device>, mm: &Mm, registration: Registration) -> Result<Self> {
        Self::with_mirror(device, registration, |span, limit, region_stats| {
            Mirror::new(mm, span, limit, limits(), region_stats)
        })
    }
}

impl<D: MirrorDevice> Registered<OnDevice<D>> {
    /// Registers memory of `mm` with `device`, as [`Registered::new`] does. `on` is what the NIC has for it, which
    /// reaches memory as `dma` does; `dma` stays bound for as long as there is a region.
    ///
    /// # Errors
    ///
    /// Those of [`Registered::new`].
    pub fn on_device(
        device: &Arc<Device>,
        mm: &Mm,
        registration: Registration,
        on: Arc<D>,
        dma: &'static DmaDevice<Bound>,
    ) -> Result<Self> {
        Self::with_mirror(device, registration, |span, limit, region_stats| {
            Mirror::on_device(mm, span, limit, limits(), region_stats, on, dma)
        })
    }
}

impl<B: Backing> Registered<B> {
    /// Registers memory with the mirror that `mirror` makes of its pages and rights.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; that of `mirror`.
    fn with_mirror(
        device: &Arc<Device>,
        registration: Registration,
        mirror: impl FnOnce(PageRange, Perm, Arc<RegionStats>) -> Result<Mirror<RegionStats, B>>,
    ) -> Result<Self> {
        let Registration { lkey, key, limit } = registration;
        let region_stats = RegionStats::new(device.stats(), lkey)?;
        let mirror = mirror(key.span(), limit, region_stats.clone())?;
        let region = Region::new(device.clone(), region_stats, key, mirror);
        let region = Arc::new(region, GFP_KERNEL_ACCOUNT)?;
        device.register(region.clone())?;
        Ok(Self(region))
    }
}

impl<B: Backing> Deref for Registered<B> {
    type Target = Region<B>;

    #[inline]
    fn deref(&self) -> &Region<B> {
        &self.0
    }
}

impl<B: Backing> Drop for Registered<B> {
    fn drop(&mut self) {
        self.0.device().deregister(&*self.0);
    }
}
