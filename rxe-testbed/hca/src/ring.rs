// SPDX-License-Identifier: GPL-2.0
//! A buffer of pages that the driver has given: where a byte of it is for the device.

use crate::status::Status;

/// The smallest pages, as a power of two, and the share of a page in which its beginning is told.
const LOG_PAGE: u32 = 12;
const SHARES: u64 = 64;

/// The largest pages that make sense: 2 GiB.
const MOST: u32 = 19;

/// Bytes of pages that are said to be so large.
fn page(log_page: u32) -> Result<u64, Status> {
    match log_page {
        0..=MOST => Ok(1 << (LOG_PAGE + log_page)),
        _ => Err(Status::BadParameter),
    }
}

/// A buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Buffer {
    pages: Vec<u64>,
    page: u64,
    offset: u64,
}

impl Buffer {
    /// One of `size` bytes in the given pages of 4 KiB times two to the power of `log_page`, which begins at `offset`
    /// shares of its first page.
    pub(crate) fn new(
        pages: &[u64],
        log_page: u32,
        offset: u32,
        size: u64,
    ) -> Result<Self, Status> {
        let page = page(log_page)?;
        let offset = u64::from(offset) * (page / SHARES);
        let count = (offset + size).div_ceil(page) as usize;
        let pages = pages.get(..count).ok_or(Status::BadInputLength)?.to_vec();
        Self::of(pages, page, offset)
    }

    /// All of the given pages from `offset` bytes on.
    pub(crate) fn whole(pages: Vec<u64>, log_page: u32, offset: u64) -> Result<Self, Status> {
        Self::of(pages, page(log_page)?, offset)
    }

    /// A part of it, of `size` bytes from `at` on, for entries of at most `entry` bytes, a power of two: as it begins
    /// where one may, none of them crosses a page.
    pub(crate) fn part(&self, at: u64, size: u64, entry: u64) -> Result<Self, Status> {
        let first = self.offset.checked_add(at);
        let first = first.filter(|first| first % entry == 0 && entry <= self.page);
        let first = first.ok_or(Status::BadParameter)?;
        let end = first.checked_add(size).ok_or(Status::BadSize)?;
        let pages = first / self.page..end.div_ceil(self.page);
        let pages = self.pages.get(pages.start as usize..pages.end as usize);
        let pages = pages.ok_or(Status::BadSize)?.to_vec();
        Self::of(pages, self.page, first % self.page)
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> usize {
        self.pages.len()
    }

    fn of(pages: Vec<u64>, page: u64, offset: u64) -> Result<Self, Status> {
        match pages.iter().all(|address| address % (1 << LOG_PAGE) == 0) {
            true => Ok(Self {
                pages,
                page,
                offset,
            }),
            false => Err(Status::BadParameter),
        }
    }

    /// The address of a byte. Within the size that the buffer was made for there is one, and entries whose size
    /// divides a page do not cross pages.
    pub(crate) fn address(&self, at: u64) -> Option<u64> {
        let at = self.offset.checked_add(at)?;
        let page = self.pages.get(usize::try_from(at / self.page).ok()?)?;
        page.checked_add(at % self.page)
    }

    /// The page that a query shows.
    pub(crate) fn first_page(&self) -> u64 {
        self.pages.first().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_buffer_may_begin_within_a_page() {
        let pages = [0x10000, 0x50000];
        let buffer =
            Buffer::new(&pages, 0, 32, 0x1000).unwrap_or_else(|status| unreachable!("{status:?}"));
        assert_eq!(buffer.address(0), Some(0x10800));
        assert_eq!(buffer.address(0x800), Some(0x50000));
        assert_eq!(buffer.address(0x1800), None);
        let short = Buffer::new(&pages[..1], 0, 32, 0x1000);
        assert_eq!(short, Err(Status::BadInputLength));
        assert_eq!(Buffer::new(&[0x10], 0, 0, 1), Err(Status::BadParameter));
    }

    proptest! {
        #[test]
        fn no_buffer_is_too_odd(
            pages: Vec<u64>, log_page in 0_u32..32, offset in 0_u32..64, size in 0_u64..1 << 40, at: u64,
        ) {
            if let Ok(buffer) = Buffer::new(&pages, log_page, offset, size) {
                let _ = buffer.address(at);
                let _ = buffer.first_page();
            }
        }
    }
}
