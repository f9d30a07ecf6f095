// SPDX-License-Identifier: GPL-2.0

//! Mirrors of devices that have translations of their own, and have to be waited for until they forget one.
//!
//! It stands between [`Mirror`], which finds the pages, and [`DeviceXlt`], which keeps the table and what the device
//! has of it the same. A driver's part is [`MirrorDevice`] and [`DeviceChunk`].

use core::mem::ManuallyDrop;

use kernel::device::{Bound, Device};
use kernel::mm::Mm;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::addr::{PageIndex, PageRange};
use crate::device_xlt::DeviceXlt;
use crate::dma::{DmaError, DmaRange};
use crate::dma_pages::DmaPages;
use crate::fence::DeviceChunk;
use crate::limits::Limits;
use crate::mirror::Mirror;
use crate::notifier_lock::Sleep;
use crate::observer::Observer;
use crate::pfn::{Access, Perm, Permitted};
use crate::pmd_pages::PmdPages;
use crate::room::{Pmds, RoomForFault, Slots, Translations};
use crate::table::{translations, Backing, Table};
use crate::walk::{FaultError, Waiting};
use crate::xlt::Filled;

/// What a device has for a region: one key for all of its chunks, or a parent of keys for some of them each.
///
/// A driver implements this for a region and [`DeviceChunk`] for what the device has for one of its chunks. Where a
/// region is one key of the device, a chunk is a part of the key, which the region has; where it is a parent key with
/// children, [`MirrorDevice::open`] finds or makes the child that the chunk is a part of, and the children go with the
/// last of their chunks.
///
/// A fault takes this path: [`Mirror::resolve`] → the pages are found, valid and the chunk's lock, a mutex, held → they
/// are entered into the mirror's table and mapped for DMA → [`DeviceChunk::enter`] → the lock is released. Then the
/// driver resumes the device.
///
/// An invalidation takes this path: the mutex → [`DeviceChunk::zap`] waits for the device → the pages are unmapped,
/// marked dirty and taken out of the table. Write protection takes them away, too.
///
/// ```no_run
/// # #![no_std]
/// # use hmm::{Access, DeviceChunk, Entries, FaultError, Limits, Mirror, MirrorDevice, Observer, PageRange, Perm};
/// # use hmm::{Waiting, Zap, Zapped};
/// # use kernel::device::{Bound, Device};
/// # use kernel::error::Result;
/// # use kernel::mm::Mm;
/// # use kernel::sync::Arc;
/// # struct Part { pages: PageRange, key: u32 }
/// # impl DeviceChunk for Part {
/// #     fn enter(&mut self, _: &Entries<'_>) -> Result<(), FaultError> { Ok(()) }
/// #     fn zap<'z>(&mut self, zap: Zap<'z>, _: &Entries<'_>) -> Result<Zapped<'z>, Zap<'z>> { Err(zap) }
/// #     fn cut_off<'z>(&mut self, zap: Zap<'z>) -> Result<Zapped<'z>, Zap<'z>> { Err(zap) }
/// # }
/// # struct Region;
/// # impl Region {
/// #     fn key_of(&self, _pages: PageRange) -> Result<u32> { Ok(0) }
/// #     fn resume(&self, _outcome: Result<(), FaultError>) {}
/// # }
/// impl MirrorDevice for Region {
///     type Chunk = Part; // the example at `DeviceChunk`
///
///     fn open(&self, pages: PageRange) -> Result<Part> {
///         // One key, or the child that the pages are in.
///         Ok(Part { pages, key: self.key_of(pages)? })
///     }
/// }
///
/// # fn serve<O: Observer>(
/// #     mm: &Mm, span: PageRange, observer: Arc<O>, region: Arc<Region>, dma: &'static Device<Bound>,
/// #     pages: PageRange,
/// # ) -> Result {
/// let mirror = Mirror::on_device(mm, span, Perm::ReadWrite, Limits::default(), observer, region.clone(), dma)?;
/// // For each page fault event of the device:
/// let permitted = mirror.owned().permit(Access::Write)?;
/// region.resume(mirror.resolve(pages, permitted, Waiting::Allowed));
/// # Ok(())
/// # }
/// # fn main() {}
/// ```
pub trait MirrorDevice: Send + Sync + 'static {
    /// What it has for one chunk.
    type Chunk: DeviceChunk + Send + Sync + Unpin + 'static;

    /// Makes the device ready for the chunk of `pages`, none of which it has a translation for. Sleeps. May allocate
    /// with `GFP_KERNEL`. Of one mirror, one chunk is opened at a time.
    ///
    /// The result is dropped at the chunk's end, outside of the chunk's lock: after the device has forgotten all pages
    /// or has been cut off. Only then are the same pages opened again. (If neither was confirmed, it is never dropped,
    /// and they may be opened again, too.)
    ///
    /// # Errors
    ///
    /// `ENOMEM`: the fault fails with [`FaultError::NoMemory`]. Others: with [`FaultError::Device`].
    fn open(&self, pages: PageRange) -> Result<Self::Chunk>;
}

/// The tables of a mirror are on a device.
pub struct OnDevice<D> {
    device: Arc<D>,
    dma: &'static Device<Bound>,
}

impl<D: MirrorDevice> Backing for OnDevice<D> {
    type Table = DeviceTable<D::Chunk>;

    /// Two chunks of the same pages would write to the same entries of the device.
    const MAY_OVERLAP: bool = false;

    fn open(&self, range: PageRange) -> Result<DeviceTable<D::Chunk>, FaultError> {
        let xlt = translations(range).map_err(|_| FaultError::NoMemory)?;
        let dma = DmaPages::new(self.dma, range).map_err(|error| match error {
            DmaError::Failed(_) => FaultError::NoMemory,
            _ => FaultError::Device,
        })?;
        let chunk = self.device.open(range).map_err(|error| match error {
            error if error == ENOMEM => FaultError::NoMemory,
            _ => FaultError::Device,
        })?;
        Ok(DeviceTable {
            xlt: ManuallyDrop::new(DeviceXlt::new(xlt, dma)),
            chunk: ManuallyDrop::new(chunk),
        })
    }
}

/// The translations of a chunk, and what the device has of them.
pub struct DeviceTable<C: DeviceChunk> {
    xlt: ManuallyDrop<DeviceXlt<Slots, Pmds, DmaPages>>,
    chunk: ManuallyDrop<C>,
}

impl<C: DeviceChunk + Send + Sync + Unpin + 'static> Table for DeviceTable<C> {
    type Lock = Sleep;

    fn xlt(&self) -> &Translations {
        self.xlt.xlt()
    }

    fn memory(&self) -> usize {
        self.xlt().memory() + self.xlt.dma().memory()
    }

    fn fill(
        &mut self,
        found: &PmdPages<'_>,
        limit: Perm,
        room: &mut RoomForFault,
    ) -> Result<Filled, FaultError> {
        self.xlt.enter(&mut *self.chunk, found, limit, room)
    }

    fn zap(&mut self, range: PageRange) -> u64 {
        self.xlt.revoke(&mut *self.chunk, range)
    }

    fn write_protect(&mut self, range: PageRange) -> u64 {
        self.zap(range)
    }

    fn uses(&self, range: PageRange) -> bool {
        self.xlt.uses(range)
    }

    fn close(&mut self) -> u64 {
        let (pages, _) = self.xlt.close(&mut *self.chunk);
        pages
    }
}

impl<C: DeviceChunk> Drop for DeviceTable<C> {
    /// If the device cannot be kept from the pages, they stay mapped, their frames are held, and the table and `chunk`
    /// are leaked, as it is never known when they can be freed.
    fn drop(&mut self) {
        let (_, forgotten) = self.xlt.close(&mut *self.chunk);
        if forgotten {
            // SAFETY: Not used again.
            unsafe {
                ManuallyDrop::drop(&mut self.chunk);
                ManuallyDrop::drop(&mut self.xlt);
            }
        }
    }
}

impl<O: Observer, D: MirrorDevice> Mirror<O, OnDevice<D>> {
    /// A mirror of `span` in `mm` for `device`, which reaches memory as `dma` does; otherwise as [`Mirror::new`].
    ///
    /// The mirror has to be dropped before `dma` is unbound. An invalidation that must not sleep is refused while the
    /// device has any of its pages.
    ///
    /// # Errors
    ///
    /// Those of [`Mirror::new`]; `EOPNOTSUPP` if the device reaches some memory only by copies.
    pub fn on_device(
        mm: &Mm,
        span: PageRange,
        limit: Perm,
        limits: Limits,
        observer: Arc<O>,
        device: Arc<D>,
        dma: &'static Device<Bound>,
    ) -> Result<Self> {
        // Said here rather than by the first fault.
        let page = PageRange::new(PageIndex::new(0), PageIndex::new(1));
        DmaRange::new(dma, page)?;
        Self::with_backing(mm, span, limit, limits, observer, OnDevice { device, dma })
    }

    /// Serves a fault of the device: enters the pages of `wanted` that are in the first page's PMD, for an access that
    /// [`Owned::permit`](crate::Owned::permit) has `permitted`. When this returns `Ok`, the device has been given the
    /// first of them, and may be resumed; it faults again if that has gone meanwhile. Sleeps, but waits for nobody
    /// except the device if `waiting` forbids it. The caller holds no lock.
    ///
    /// # Errors
    ///
    /// Those of [`Mirror::access_missing`]; [`FaultError::Device`] if the device has not taken the translations, or has
    /// been cut off.
    pub fn resolve(
        &self,
        wanted: PageRange,
        permitted: Permitted,
        waiting: Waiting,
    ) -> Result<(), FaultError> {
        self.serve(wanted, permitted, waiting, |chunk| {
            let access = permitted.access();
            chunk.table().xlt.allows(wanted.start(), access)
        })
    }

    /// Whether the device has been given `page`, for `access`. Sleeps.
    pub fn has(&self, page: PageIndex, access: Access) -> bool {
        self.look(page, |chunk| chunk.table().xlt.allows(page, access))
            .unwrap_or(false)
    }
}
