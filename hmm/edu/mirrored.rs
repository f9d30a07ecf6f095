// SPDX-License-Identifier: GPL-2.0

//! Pages of one process on the device, by a [`Mirror`] whose translations are the device's ([`crate::device`]).
//!
//! A copy goes through the device's translations. If it lacks one, it faults: [`Mirror::resolve`], and again.

use core::ops::ControlFlow;

use hmm::{
    Access, DmaRange, Event, FaultError, Limits, Mirror, Observer, OnDevice, PageIndex, PageRange,
    Perm, Removal, Waiting,
};
use kernel::device::Bound;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::device::{Device, Region};
use crate::engine::{Engine, Way};

/// Pages of the process that opened it.
pub(crate) struct Session {
    mirror: Mirror<Unobserved, OnDevice<Region>>,
    pub(crate) device: Arc<Device>,
    /// Of one page: says how the device reaches memory.
    pub(crate) range: Arc<DmaRange<'static>>,
}

impl Session {
    pub(crate) fn open(
        mm: &MmWithUser,
        dma: &'static kernel::device::Device<Bound>,
        pages: PageRange,
    ) -> Result<Self> {
        let device = Device::new(pages)?;
        let region = Arc::new(Region(device.clone()), GFP_KERNEL)?;
        let observer = Arc::new(Unobserved, GFP_KERNEL)?;
        let (limit, limits) = (Perm::ReadWrite, Limits::default());
        let mirror = Mirror::on_device(mm, pages, limit, limits, observer, region, dma)?;
        let one = PageRange::new(pages.start(), pages.start().saturating_add(1));
        let range = DmaRange::new(dma, one)?;
        Ok(Self {
            mirror,
            device,
            range,
        })
    }

    /// Faults in the pages with the rights for `access`, and enters them on the device.
    pub(crate) fn map(&self, pages: PageRange, access: Access) -> Result {
        let go_on = |_: PageIndex, _: u64| ControlFlow::Continue(());
        let permitted = self.mirror.owned().permit(access)?;
        self.mirror
            .prefetch(pages, Some(permitted), Waiting::Allowed, go_on)?;
        Ok(())
    }

    /// Copies between the process's memory and the device's buffer.
    pub(crate) fn copy(&self, engine: &mut Engine, user: u64, len: u64, way: Way) -> Result {
        let page = PageIndex::containing(user);
        let wanted = PageRange::new(page, page.saturating_add(1));
        let permitted = self.mirror.owned().permit(way.access())?;
        while self.device.copy(engine, user, len, way)?.is_none() {
            self.mirror.resolve(wanted, permitted, Waiting::Allowed)?;
        }
        Ok(())
    }

    /// Ends it, and returns how many pages the device was given, and how many it has forgotten.
    pub(crate) fn close(self) -> (u64, u64) {
        drop(self.mirror);
        self.device.counts()
    }
}

/// The device counts for itself.
struct Unobserved;

impl Observer for Unobserved {
    type Fault = ();

    fn fault_begins(&self, _page: PageIndex, _access: Access) {}
    fn fault_served(&self, (): (), _pages: u64, _around: u64) {}
    fn fault_failed(&self, (): (), _error: FaultError) {}
    fn collided(&self) {}
    fn invalidated(&self, _range: PageRange, _event: Event, _pages: u64) {}
    fn chunk_added(&self, _range: PageRange) {}
    fn chunk_removed(&self, _range: PageRange, _pages: u64, _why: Removal) {}
    fn resized(&self, _before: usize, _after: usize) {}
}
