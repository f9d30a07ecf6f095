// SPDX-License-Identifier: GPL-2.0

//! The device's own memory. As there is no device, pages of system memory play its part; they come
//! and go with the pages that are in use.

use hmm::{DeviceMemory, Extent, Pool, SystemPages};
use kernel::page::{Page, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::{new_spinlock, SpinLock};

/// Pages of a device's memory: 512 MiB, twice what the largest test uses.
const PAGES: u64 = 1 << 17;

/// One device.
#[pin_data]
pub(crate) struct Device {
    #[pin]
    pub(crate) pool: Pool<Vram>,
}

impl Device {
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            pool <- Pool::new(c"hmm_dmirror", PAGES, Vram::new(PAGES)),
        })
    }
}

/// Pages of a row.
const ROW: u64 = 512;

/// The pages in use, by their numbers: rows of [`ROW`] places, which come into being when they are
/// first used.
#[pin_data]
pub(crate) struct Vram {
    #[pin]
    rows: SpinLock<KVec<KVec<Option<Page>>>>,
}

impl Vram {
    pub(crate) fn new(pages: u64) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            rows <- new_spinlock!(empty_rows(pages.div_ceil(ROW))?),
        })
    }

    /// The device reads a page.
    pub(crate) fn read(&self, page: u64, to: &mut [u8; PAGE_SIZE]) -> Result {
        let mut rows = self.rows.lock();
        let page = place_of(&mut rows, page).and_then(|place| place.as_ref());
        // SAFETY: As long as the page. Nobody else touches it while the rows are locked.
        unsafe { page.ok_or(EIO)?.read_raw(to.as_mut_ptr(), 0, PAGE_SIZE) }
    }

    /// The device writes a page.
    pub(crate) fn write(&self, page: u64, from: &[u8; PAGE_SIZE]) -> Result {
        let mut rows = self.rows.lock();
        let page = place_of(&mut rows, page).and_then(|place| place.as_ref());
        // SAFETY: As in `read`.
        unsafe { page.ok_or(EIO)?.write_raw(from.as_ptr(), 0, PAGE_SIZE) }
    }

    /// Makes places for the pages of an extent.
    fn make_rows(&self, extent: Extent) -> Result {
        for row in extent.first / ROW..=(extent.first + extent.pages - 1) / ROW {
            let missing =
                |rows: &KVec<KVec<_>>| rows.get(row as usize).is_some_and(|row| row.is_empty());
            if missing(&self.rows.lock()) {
                let mut places = empty_row()?;
                let mut rows = self.rows.lock();
                if missing(&rows) {
                    core::mem::swap(&mut rows[row as usize], &mut places);
                }
            }
        }
        Ok(())
    }
}

impl DeviceMemory for Vram {
    fn to_device(&self, from: Option<&SystemPages<'_>>, to: Extent) -> Result {
        self.make_rows(to)?;
        for index in 0..to.pages {
            let flags = match from {
                Some(_) => GFP_KERNEL,
                None => GFP_KERNEL | __GFP_ZERO,
            };
            let mut page = Page::alloc_page(flags)?;
            if let Some(from) = from {
                from.copy_to(index, &mut page);
            }
            let mut rows = self.rows.lock();
            *place_of(&mut rows, to.first + index).ok_or(EIO)? = Some(page);
        }
        Ok(())
    }

    fn to_system(&self, from: Extent, to: &SystemPages<'_>) -> Result {
        for index in 0..from.pages {
            let mut rows = self.rows.lock();
            let place = place_of(&mut rows, from.first + index);
            let page = place.and_then(|place| place.as_ref()).ok_or(EIO)?;
            to.copy_from(index, page);
        }
        Ok(())
    }

    fn freed(&self, extent: Extent) {
        let mut rows = self.rows.lock();
        for page in extent.first..extent.first + extent.pages {
            if let Some(place) = place_of(&mut rows, page) {
                *place = None;
            }
        }
    }
}

/// The place of a page, if its row is there.
fn place_of(rows: &mut KVec<KVec<Option<Page>>>, page: u64) -> Option<&mut Option<Page>> {
    let row = rows.get_mut((page / ROW) as usize)?;
    row.get_mut((page % ROW) as usize)
}

fn empty_row() -> Result<KVec<Option<Page>>> {
    let mut row = KVec::with_capacity(ROW as usize, GFP_KERNEL)?;
    for _ in 0..ROW {
        row.push(None, GFP_KERNEL)?;
    }
    Ok(row)
}

fn empty_rows(count: u64) -> Result<KVec<KVec<Option<Page>>>> {
    let mut rows = KVec::with_capacity(count as usize, GFP_KERNEL)?;
    for _ in 0..count {
        rows.push(KVec::new(), GFP_KERNEL)?;
    }
    Ok(rows)
}
