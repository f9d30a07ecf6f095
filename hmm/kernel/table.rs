// SPDX-License-Identifier: GPL-2.0

//! The translation table of a chunk ([`Table`]). The mirror's [`Backing`] allocates it.
//!
//! A device in software looks into the table in the kernel's memory, a [`SoftwareTable`], and has no other. One in
//! hardware has a copy of it: [`crate::device_table`].

use kernel::prelude::*;

use crate::addr::{PageIndex, PageRange};
use crate::notifier_lock::{NotifierLock, Spin};
use crate::page::{mark_dirty, persist, write_back};
use crate::pfn::{Access, Perm, Pfn};
use crate::pmd_pages::PmdPages;
use crate::room::{empty_slots, AtOnce, RoomForFault, Translations};
use crate::walk::FaultError;
use crate::xlt::{pmds_in, Filled, Xlt};

/// Makes the tables of a mirror. Not for drivers to implement: they have [`crate::MirrorDevice`].
pub trait Backing: Send + Sync + 'static {
    /// The table of a chunk.
    type Table: Table;

    /// Whether a chunk may be made while another one of the same pages is being freed. If not, it waits for that.
    const MAY_OVERLAP: bool;

    /// An empty table of `range`. Sleeps.
    ///
    /// # Errors
    ///
    /// [`FaultError::NoMemory`]; [`FaultError::Device`].
    fn open(&self, range: PageRange) -> Result<Self::Table, FaultError>;
}

/// The translations of a chunk, wherever they are. Under the chunk's lock.
#[expect(
    unreachable_pub,
    reason = "the bound of a public trait that only this crate implements"
)]
pub trait Table: Send + Sync + Unpin + Sized + 'static {
    /// That lock.
    type Lock: NotifierLock;

    /// What there is in the kernel's memory.
    fn xlt(&self) -> &Translations;

    /// How many bytes it takes, those of `self` not among them.
    fn memory(&self) -> usize;

    /// Enters the pages of `found`, with no more rights than `limit`.
    ///
    /// # Errors
    ///
    /// What the fault fails with.
    fn fill(
        &mut self,
        found: &PmdPages<'_>,
        limit: Perm,
        room: &mut RoomForFault,
    ) -> Result<Filled, FaultError>;

    /// Whether pages that the device did not ask for may be entered ([`Table::take_along`]): one that has a table of its own
    /// would have to be told of each.
    const TAKES_ALONG: bool = false;

    /// Enters those pages of `found`, with no more rights than `limit`, that have no translation, as far as there is
    /// room for them; returns how many.
    fn take_along(&mut self, found: &PmdPages<'_>, limit: Perm) -> u64 {
        let _ = (found, limit);
        0
    }

    /// Removes the translations of `range`, marks pages that the device wrote dirty, and returns how many there were.
    fn zap(&mut self, range: PageRange) -> u64;

    /// Removes the right to write from the translations of `range`; as [`Table::zap`], if it removes them.
    fn write_protect(&mut self, range: PageRange) -> u64;

    /// Whether an invalidation of `range` has to wait for the device.
    fn uses(&self, range: PageRange) -> bool;

    /// Removes all translations, at the end.
    fn close(&mut self) -> u64;
}

/// A mirror of a device in software: its tables are in the kernel's memory.
pub struct Software;

impl Backing for Software {
    type Table = SoftwareTable;

    const MAY_OVERLAP: bool = true;

    fn open(&self, range: PageRange) -> Result<SoftwareTable, FaultError> {
        let xlt = translations(range).map_err(|_| FaultError::NoMemory)?;
        Ok(SoftwareTable(xlt))
    }
}

/// An empty table of `range`.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn translations(range: PageRange) -> Result<Translations> {
    Ok(Xlt::new(
        range,
        empty_slots(pmds_in(range), GFP_KERNEL_ACCOUNT)?,
    ))
}

/// Translations that are in the kernel's memory alone.
// A type of its own also keeps the names of generic functions within the kernel's limit.
pub struct SoftwareTable(Translations);

impl SoftwareTable {
    /// The frame of `page` if its translation allows `access`; see [`Xlt::translate`].
    #[inline]
    pub(crate) fn translate(&self, page: PageIndex, access: Access) -> Option<Pfn> {
        self.0.translate(page, access)
    }

    /// Whether this is the first use of `page`, which was taken along; see [`Xlt::first_use`].
    pub(crate) fn first_use(&self, page: PageIndex) -> bool {
        self.0.first_use(page)
    }
}

impl Table for SoftwareTable {
    type Lock = Spin;

    #[inline]
    fn xlt(&self) -> &Translations {
        &self.0
    }

    #[inline]
    fn memory(&self) -> usize {
        self.0.memory()
    }

    #[inline]
    fn fill(
        &mut self,
        found: &PmdPages<'_>,
        limit: Perm,
        room: &mut RoomForFault,
    ) -> Result<Filled, FaultError> {
        Ok(match found.huge() {
            Some(run) => self.0.fill(&run, limit, room),
            None => self.0.fill_single(found.single(), limit, room),
        })
    }

    const TAKES_ALONG: bool = true;

    fn take_along(&mut self, found: &PmdPages<'_>, limit: Perm) -> u64 {
        // None of a huge entry.
        self.0.take_along(found.single(), limit)
    }

    #[inline]
    fn zap(&mut self, range: PageRange) -> u64 {
        self.0.zap(range, &mut AtOnce, written)
    }

    /// The translations stay.
    #[inline]
    fn write_protect(&mut self, range: PageRange) -> u64 {
        self.0.write_protect(range, written);
        0
    }

    fn uses(&self, range: PageRange) -> bool {
        self.0.has_any(range)
    }

    #[inline]
    fn close(&mut self) -> u64 {
        self.zap(self.0.range())
    }
}

/// The device wrote the `1 << order` frames from `pfn` on, or some of them, and its translation has gone or become
/// read-only: marks them dirty. Persistent memory gets what was written now, as nobody finds it by its address any more
/// when it is to be made sure of ([`Mirror::write_back`](crate::Mirror::write_back)).
fn written(pfn: Pfn, order: u32) {
    // SAFETY: The frame was found in the process's page table; an invalidation that lets go of it has
    // to come through the chunk's lock first. Translations change only while that is held.
    unsafe { mark_dirty(pfn) };
    // SAFETY: As above, for all frames of the entry.
    if unsafe { write_back(pfn, 1 << order) } {
        persist();
    }
}
