// SPDX-License-Identifier: GPL-2.0

//! Regions: memory registered with `IBV_ACCESS_ON_DEMAND`.
//!
//! A request of the NIC arrives as iova and length. [`Key::translate`] turns that into bytes of the process, once, and
//! the [mirror](Region::mirror) these into pages, for accesses of the driver or for the NIC itself
//! ([`crate::on_device`]). A missing page is faulted in on the spot if that need not sleep (as a rule, for memory without
//! a file). Otherwise the access fails with [`AccessError::MustWait`], and the NIC raises a fault ([`Region::raise`]).

use core::ops::ControlFlow;

use hmm::{
    Access, Backing, ByteRange, FaultError, Mirror, Observer, Owned, PageIndex, PageRange, Perm,
    Permitted, Software, Waiting,
};

use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::task::Pid;

use crate::device::{AnyRegion, Device};
use crate::fault::{AccessError, Wanted};
use crate::key::Key;
use crate::observer::RegionStats;
use crate::stats::Stats;
use crate::ticket::{Awaited, Resume, Ticket};

impl From<AccessError> for Error {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::OutOfRange => EINVAL,
            AccessError::Fault(fault) => fault.into(),
            AccessError::MustWait(_) => EAGAIN,
            AccessError::Abandoned => EIO,
        }
    }
}

/// Registered memory of one process. Its translations are in the kernel's memory, or on a device, too
/// ([`OnDevice`](hmm::OnDevice)).
pub struct Region<B: Backing = Software> {
    device: Arc<Device>,
    region_stats: Arc<RegionStats>,
    key: Key,
    /// The process that registered it.
    pid: Pid,
    mirror: Mirror<RegionStats, B>,
}

impl<B: Backing> Region<B> {
    /// A region of `device` with this `key` and `mirror`, for the current process.
    pub(crate) fn new(
        device: Arc<Device>,
        region_stats: Arc<RegionStats>,
        key: Key,
        mirror: Mirror<RegionStats, B>,
    ) -> Self {
        Self {
            device,
            region_stats,
            key,
            pid: kernel::current!().group_leader().pid(),
            mirror,
        }
    }

    /// The translations of its pages.
    #[inline]
    pub fn mirror(&self) -> &Mirror<RegionStats, B> {
        &self.mirror
    }

    /// Its device.
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Its number, counters and tracepoints.
    pub(crate) fn region_stats(&self) -> &Arc<RegionStats> {
        &self.region_stats
    }

    /// The address space and credentials that its pages are faulted in with.
    pub(crate) fn owned(&self) -> &Arc<Owned> {
        self.mirror.owned()
    }

    /// What it covers.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The most that the NIC may do.
    pub fn limit(&self) -> Perm {
        self.owned().limit()
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        self.region_stats.stats()
    }

    /// Counts a retry: the page was brought in, but gone again before the NIC repeated the access.
    pub fn counts_retry(&self) {
        self.region_stats.collided();
    }

    /// Makes a worker bring in `wanted` and resume the request afterwards. The NIC has parked, or is about to park, the
    /// request.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn raise(&self, wanted: Wanted, waiter: Arc<dyn Resume>) -> Result<Ticket> {
        Ticket::raise(
            self.owned(),
            &self.region_stats,
            wanted,
            Awaited::First,
            waiter,
        )
    }

    /// Whether `ticket` is of a fault that this region has raised for the first page of `wanted` and the same access.
    pub fn has_raised(&self, ticket: &Ticket, wanted: Wanted) -> bool {
        ticket.is_for(self.region_stats.number(), wanted)
    }

    /// `access`, if the NIC may do that.
    ///
    /// # Errors
    ///
    /// A fault error if not.
    pub fn permit(&self, access: Access) -> Result<Permitted, AccessError> {
        self.owned().permit(access).map_err(AccessError::Fault)
    }

    /// Whether the `len` bytes from `iova` are all in the region.
    pub fn contains(&self, iova: u64, len: u64) -> bool {
        self.translate(iova, len).is_ok()
    }

    /// What it has of the `len` bytes from `iova`; `None` if that is nothing.
    pub fn clip(&self, iova: u64, len: u64) -> Option<ByteRange> {
        self.key.clip(iova, len)
    }

    /// The `len` bytes from `iova`, by their virtual addresses.
    ///
    /// # Errors
    ///
    /// [`AccessError::OutOfRange`] if they are not all in the region.
    #[inline]
    pub fn translate(&self, iova: u64, len: u64) -> Result<ByteRange, AccessError> {
        self.key
            .translate(iova, len)
            .map_err(|_| AccessError::OutOfRange)
    }
}

impl<B: Backing> AnyRegion for Region<B> {
    fn region_stats(&self) -> &Arc<RegionStats> {
        &self.region_stats
    }

    fn owned(&self) -> &Arc<Owned> {
        self.mirror.owned()
    }

    fn key(&self) -> &Key {
        &self.key
    }

    fn pid(&self) -> Pid {
        self.pid
    }

    fn prefetch_at_once(
        &self,
        pages: PageRange,
        permitted: Option<Permitted>,
        go_on: &dyn Fn() -> bool,
        added: &mut u64,
    ) -> (PageIndex, Result<(), FaultError>) {
        let mut reached = pages.start();
        let step = |end, pages| {
            reached = end;
            *added += pages;
            self.region_stats.prefetched(pages);
            match go_on() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let result = self
            .mirror
            .prefetch(pages, permitted, Waiting::Forbidden, step);
        (reached, result)
    }
}
