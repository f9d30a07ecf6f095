// SPDX-License-Identifier: GPL-2.0

//! How a mirror is cut into chunks, and how large its fault-around window is.

use crate::addr::{PageIndex, PageRange, PMD_ORDER, PMD_PAGES, PUD_ORDER};

/// The geometry of a mirror: the size of its chunks and of its fault-around window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    chunk_order: u32,
    fault_around: u64,
}

/// log2 of the most pages in a chunk: 1 GiB. An invalidation may look through all of a chunk under its
/// lock.
const LARGEST_CHUNK_ORDER: u32 = PUD_ORDER;

impl Geometry {
    /// Chunks of `chunk_pages` pages, a power of two from 2 MiB to 1 GiB. A fault maps `fault_around` resident
    /// pages at most around those it was asked for, in the same PMD. `None` for other sizes of chunks.
    ///
    /// With larger chunks, accesses wait for more invalidations of other pages. With smaller ones, a mirror that is
    /// used throughout needs more notifiers: a mirror of 1 GiB of huge pages takes 8.8 KiB with chunks of 64 MiB, 6.7
    /// KiB with 128 MiB.
    ///
    /// ```
    /// use hmm::{Geometry, PMD_PAGES};
    ///
    /// assert_eq!(Geometry::new(1 << 15, PMD_PAGES), Some(Geometry::default()));
    /// assert_eq!(Geometry::new(3 * PMD_PAGES, 0), None);
    /// ```
    pub const fn new(chunk_pages: u64, fault_around: u64) -> Option<Self> {
        let chunk_order = chunk_pages.trailing_zeros();
        if !chunk_pages.is_power_of_two()
            || chunk_order < PMD_ORDER
            || chunk_order > LARGEST_CHUNK_ORDER
        {
            return None;
        }
        Some(Self {
            chunk_order,
            fault_around,
        })
    }

    /// The largest fault-around window, in pages.
    #[inline]
    pub fn fault_around(&self) -> u64 {
        self.fault_around
    }

    /// The least memory, in bytes, with which a mirror works well: that of four chunks in which every
    /// page has a translation of its own, and not less than 1 MiB. With less, the reaper would
    /// evict chunks in use to make room for others in use.
    #[inline]
    pub const fn least_memory(&self) -> usize {
        const TRANSLATION: usize = 8;
        const MIB: usize = 1 << 20;
        let four = (4 * TRANSLATION) << self.chunk_order;
        if four > MIB {
            four
        } else {
            MIB
        }
    }

    /// The pages of the chunk that `page` is in.
    pub fn chunk_around(&self, page: PageIndex) -> PageRange {
        let start = PageIndex::new(page.get() >> self.chunk_order << self.chunk_order);
        PageRange::new(start, start.saturating_add(1 << self.chunk_order))
    }

    /// The number of the chunk that `page` is in, counted from the one that `first` is in. For a page before
    /// that, one that no chunk has.
    #[inline]
    pub fn chunk_number(&self, first: PageIndex, page: PageIndex) -> usize {
        // For each access: without a check of the order, which is below 64, or of what is below the first.
        let first = first.get().wrapping_shr(self.chunk_order);
        let number = page.get().wrapping_shr(self.chunk_order);
        number.wrapping_sub(first) as usize
    }
}

impl Default for Geometry {
    /// Chunks of 128 MiB; fault-around to the end of the PMD.
    fn default() -> Self {
        Self {
            chunk_order: 15,
            fault_around: PMD_PAGES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_each_size_are_numbered_and_cover_their_pages() {
        for order in PMD_ORDER..=LARGEST_CHUNK_ORDER {
            let geometry = Geometry::new(1 << order, 8).unwrap();
            let pages = 1 << order;
            let first = PageIndex::new(5 * pages + 3);
            for (page, number) in [
                (5 * pages + 3, 0),
                (6 * pages - 1, 0),
                (6 * pages, 1),
                (105 * pages + 1, 100),
                (3, 5usize.wrapping_neg()),
            ] {
                let page = PageIndex::new(page);
                assert_eq!(
                    geometry.chunk_number(first, page),
                    number,
                    "{order} {page:?}"
                );
                let chunk = geometry.chunk_around(page);
                assert!(chunk.contains(page) && chunk.len() == pages);
                assert_eq!(chunk.start().get() % pages, 0);
            }
        }
    }

    #[test]
    fn only_such_chunks_can_be_had() {
        assert_eq!(Geometry::new(1 << 15, PMD_PAGES), Some(Geometry::default()));
        for pages in [0, 1, PMD_PAGES / 2, 3 * PMD_PAGES, 1 << 19, u64::MAX] {
            assert_eq!(Geometry::new(pages, 8), None, "{pages}");
        }
    }

    #[test]
    fn some_chunks_full_of_single_pages_fit_into_the_least_memory() {
        let least = |mib: u64| Geometry::new(mib << 8, 8).unwrap().least_memory() >> 10;
        // In MiB and KiB.
        assert_eq!([2, 128, 256, 1024].map(least), [1024, 1024, 2048, 8192]);
    }
}
