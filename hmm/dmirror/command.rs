// SPDX-License-Identifier: GPL-2.0

//! An ioctl's argument: checked on its way in, completed on its way out.

use hmm::{page_offset, PageIndex, PageRange, PAGE_SHIFT};
use kernel::prelude::*;
use kernel::transmute::{AsBytes, FromBytes};
use kernel::uaccess::{UserPtr, UserSlice, UserSliceWriter};

use crate::uapi;

#[repr(transparent)]
struct Raw(uapi::hmm_dmirror_cmd);

// SAFETY: Five integers, which may have any value.
unsafe impl FromBytes for Raw {}
// SAFETY: Five integers of 8 bytes, so there is no padding.
unsafe impl AsBytes for Raw {}
const _: () = assert!(size_of::<Raw>() == 5 * size_of::<u64>());

/// What the device is asked to do.
pub(crate) struct Command {
    raw: Raw,
    range: PageRange,
    reply: UserSliceWriter,
}

impl Command {
    /// Reads the argument at user address `argument`.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be read; `EINVAL` if no pages are meant, or not all of them are in
    /// `user`, or they do not begin at a page's start.
    pub(crate) fn read(argument: usize, user: PageRange) -> Result<Self> {
        let slice = UserSlice::new(UserPtr::from_addr(argument), size_of::<Raw>());
        let (mut reader, reply) = slice.reader_writer();
        let mut raw: Raw = reader.read()?;
        (raw.0.cpages, raw.0.faults) = (0, 0);
        let range = pages(&raw.0).ok_or(EINVAL)?;
        if range.is_empty() || range.intersection(&user) != range {
            return Err(EINVAL);
        }
        Ok(Self { raw, range, reply })
    }

    /// The pages that are meant.
    pub(crate) fn range(&self) -> PageRange {
        self.range
    }

    /// How many pages are meant. Not all commands mean pages by it.
    pub(crate) fn npages(&self) -> u64 {
        self.raw.0.npages
    }

    /// The caller's buffer, `size` bytes for each of the pages.
    pub(crate) fn buffer(&self, size: usize) -> Result<UserSlice> {
        let length = usize::try_from(self.range.len())?;
        let length = length.checked_mul(size).ok_or(EINVAL)?;
        Ok(UserSlice::new(
            UserPtr::from_addr(usize::try_from(self.raw.0.ptr)?),
            length,
        ))
    }

    /// The device begins anew.
    pub(crate) fn begin_anew(&mut self) {
        self.raw.0.cpages = 0;
    }

    /// The device is done with so many pages more.
    pub(crate) fn add_pages(&mut self, pages: u64) {
        self.raw.0.cpages += pages;
    }

    /// The device had to fault.
    pub(crate) fn add_fault(&mut self) {
        self.raw.0.faults += 1;
    }

    /// Gives the caller the counts.
    pub(crate) fn reply(mut self) -> Result {
        self.reply.write(&self.raw)
    }
}

fn pages(raw: &uapi::hmm_dmirror_cmd) -> Option<PageRange> {
    let length = raw.npages.checked_mul(1 << PAGE_SHIFT)?;
    raw.addr.checked_add(length)?;
    let start = PageIndex::containing(raw.addr);
    (page_offset(raw.addr) == 0).then_some(PageRange::new(start, start.saturating_add(raw.npages)))
}
