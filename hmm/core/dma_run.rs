// SPDX-License-Identifier: GPL-2.0

//! Device addresses of runs of pages, and their split when the CPU takes pages away.
//!
//! `../kernel/dma.rs` makes the mappings that a [`DmaRun`] describes. Here is decided which pages are unmapped
//! together ([`DmaRun::without`]), and by how many calls a run is linked in an IOMMU ([`Links`]).
//!
//! An IOMMU may keep a mapping in entries larger than a page, as large as the addresses at both ends
//! and the length of the one call that made it allow, and cannot take a part out of such an entry. So
//! no call may make an entry that is larger than the CPU's own: a huge page's entry is split, or given
//! up whole, before a part of it goes, and both come as an invalidation of all of it.

use crate::addr::{PageIndex, PageRange, PAGE_SHIFT, PAGE_SIZE};
use crate::pfn::{Perm, Pfn};

/// The route of a device's accesses to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To ordinary memory.
    Memory,
    /// To another PCI device's memory, through the host bridge.
    HostBridge,
    /// To another PCI device's memory by its address on the bus, which no IOMMU sees.
    Bus,
}

/// Pages at consecutive device addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaRun {
    /// The first page.
    pub start: PageIndex,
    /// The frame of the first page; they are consecutive, too.
    pub pfn: Pfn,
    /// How many there are.
    pub pages: u64,
    /// The device's address of the first page.
    pub addr: u64,
    /// The device's rights, which an IOMMU enforces if there is one.
    pub perm: Perm,
    /// log2 of the pages that can only be unmapped together: blocks of so many, counted from page 0.
    pub order: u32,
    /// The route to them.
    pub route: Route,
}

/// A [`DmaRun`] without some pages, and these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The pages before those that go.
    pub before: Option<DmaRun>,
    /// The pages that go: those asked for, and what can only be unmapped together with them.
    pub gone: DmaRun,
    /// The pages after those that go.
    pub after: Option<DmaRun>,
}

impl DmaRun {
    /// The pages.
    #[inline]
    pub const fn range(&self) -> PageRange {
        PageRange::new(self.start, self.start.saturating_add(self.pages))
    }

    /// The device's address of the first byte of `page`.
    #[inline]
    pub fn addr_of(&self, page: PageIndex) -> Option<u64> {
        let index = self
            .range()
            .contains(page)
            .then(|| page.get() - self.start.get())?;
        Some(self.addr + (index << PAGE_SHIFT))
    }

    /// The part of the run in `pages`.
    fn part(&self, pages: PageRange) -> Option<Self> {
        let pages = self.range().intersection(&pages);
        if pages.is_empty() {
            return None;
        }
        Some(Self {
            start: pages.start(),
            pfn: self.pfn.add(pages.start().get() - self.start.get()),
            pages: pages.len(),
            addr: self.addr_of(pages.start())?,
            ..*self
        })
    }

    /// Splits off `pages` and those that are unmapped together with them; `None` if the run has none of them.
    pub fn without(&self, pages: PageRange) -> Option<Parts> {
        let own = self.range();
        let pages = own.intersection(&pages);
        if pages.is_empty() {
            return None;
        }
        let block = 1 << self.order;
        let start = PageIndex::new(pages.start().get() & !(block - 1)).max(own.start());
        let end = pages.end().get().checked_next_multiple_of(block);
        let end = end.map_or(own.end(), PageIndex::new).min(own.end());
        Some(Parts {
            before: self.part(PageRange::new(own.start(), start)),
            gone: self.part(PageRange::new(start, end))?,
            after: self.part(PageRange::new(end, own.end())),
        })
    }
}

/// Cuts the pages from `start` on at multiples of `2^order`: each piece is what goes together.
pub fn blocks(pages: PageRange, order: u32) -> impl Iterator<Item = PageRange> {
    let mut rest = pages;
    core::iter::from_fn(move || {
        let next = ((rest.start().get() >> order) + 1) << order;
        let block = PageRange::new(rest.start(), PageIndex::new(next).min(rest.end()));
        rest = PageRange::new(block.end(), rest.end());
        (!block.is_empty()).then_some(block)
    })
}

/// The calls that link a run to consecutive addresses of an IOMMU without making an entry that is too large: the
/// pages of each call, counted from the run's first one.
///
/// An entry of some size takes a call that covers the whole of an aligned block of that size. So calls
/// begin and end in the middle of such blocks.
pub struct Links {
    /// The bytes of the smallest entry that is too large; 0 if there is none.
    too_large: u64,
    addr: u64,
    done: u64,
    pages: u64,
}

impl Links {
    /// For `pages` pages at address `addr` of an IOMMU that has entries of the sizes that are set in
    /// `sizes`, none of which may become larger than `2^order` pages.
    pub const fn new(addr: u64, pages: u64, order: u32, sizes: u64) -> Self {
        let allowed = PAGE_SIZE << order;
        let larger = sizes & !(allowed | (allowed - 1));
        Self {
            // The lowest bit.
            too_large: larger & larger.wrapping_neg(),
            addr,
            done: 0,
            pages,
        }
    }
}

impl Iterator for Links {
    /// The first page, and how many.
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let first = self.done;
        let mut pages = self.pages - first;
        if self.too_large > 0 {
            let addr = self.addr + (first << PAGE_SHIFT);
            let half = self.too_large / 2;
            // Up to the next middle of a block.
            let beyond_middle = addr.wrapping_sub(half) % self.too_large;
            pages = pages.min((self.too_large - beyond_middle) >> PAGE_SHIFT);
        }
        self.done += pages;
        (pages > 0).then_some((first, pages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const MIB: u64 = 1 << 20;
    /// The sizes of Intel's entries, and those of AMD's.
    const SIZES: [u64; 3] = [4096 | (2 * MIB) | (1024 * MIB), (1 << 39) - 4096, 4096];

    fn pages(start: u64, end: u64) -> PageRange {
        PageRange::new(PageIndex::new(start), PageIndex::new(end))
    }

    fn run(start: u64, count: u64, order: u32) -> DmaRun {
        DmaRun {
            start: PageIndex::new(start),
            pfn: Pfn::new(7 + start),
            pages: count,
            addr: 0x8000_0000 + (start << PAGE_SHIFT),
            perm: Perm::ReadWrite,
            order,
            route: Route::Memory,
        }
    }

    /// The largest entry that a call for `pages` pages at `addr` may make if the frames are as well
    /// aligned as can be.
    fn largest_entry(addr: u64, pages: u64, sizes: u64) -> u64 {
        let fits = |size: &u64| {
            let first = addr.next_multiple_of(*size);
            first + size <= addr + (pages << PAGE_SHIFT)
        };
        (12..48)
            .map(|bit| 1 << bit)
            .filter(|size| sizes & size != 0)
            .filter(fits)
            .max()
            .unwrap()
    }

    #[test]
    fn small_pages_go_one_by_one() {
        let parts = run(1000, 500, 0).without(pages(1100, 1101)).unwrap();
        assert_eq!(parts.before, Some(run(1000, 100, 0)));
        assert_eq!(parts.gone, run(1100, 1, 0));
        assert_eq!(parts.after, Some(run(1101, 399, 0)));
        assert_eq!(run(1000, 500, 0).without(pages(1500, 1600)), None);
    }

    #[test]
    fn a_huge_page_goes_whole_and_alone() {
        let parts = run(512, 3 * 512, 9).without(pages(1100, 1101)).unwrap();
        assert_eq!(parts.before, Some(run(512, 512, 9)));
        assert_eq!(parts.gone, run(1024, 512, 9));
        assert_eq!(parts.after, Some(run(1536, 512, 9)));
    }

    #[test]
    fn a_large_run_is_one_call_where_it_makes_no_large_entry() {
        let [intel, amd, small] = SIZES;
        let calls = |addr, pages, order, sizes| Links::new(addr, pages, order, sizes).count();
        assert_eq!(calls(2 * MIB, 512, 9, intel), 1);
        assert_eq!(calls(2 * MIB, 512, 0, intel), 2);
        assert_eq!(calls(3 * MIB, 512, 0, intel), 1);
        assert_eq!(calls(2 * MIB, 100, 0, intel), 1);
        assert_eq!(calls(2 * MIB, 512, 0, small), 1);
        assert_eq!(calls(2 * MIB, 512, 0, amd), 257);
    }

    #[test]
    fn blocks_are_aligned_and_leave_nothing_out() {
        let cut: Vec<_> = blocks(pages(1000, 2000), 9).collect();
        assert_eq!(
            cut,
            [pages(1000, 1024), pages(1024, 1536), pages(1536, 2000)]
        );
        assert_eq!(blocks(pages(7, 7), 0).count(), 0);
    }

    proptest! {
        #[test]
        fn taking_out_loses_and_keeps_every_page_once(
            start in 0u64..3000, count in 1u64..3000, order in prop_oneof![Just(0), Just(4), Just(9)],
            from in 0u64..6000, len in 0u64..3000,
        ) {
            let whole = run(start, count, order);
            let asked = pages(from, from + len);
            let Some(parts) = whole.without(asked) else {
                prop_assert!(!whole.range().overlaps(&asked));
                return Ok(());
            };
            let left = [parts.before, Some(parts.gone), parts.after];
            let mut next = whole.start;
            for part in left.iter().flatten() {
                prop_assert_eq!(part.start, next);
                prop_assert!(part.pages > 0);
                prop_assert_eq!(part.pfn.get(), 7 + part.start.get());
                prop_assert_eq!(Some(part.addr), whole.addr_of(part.start));
                next = part.range().end();
            }
            prop_assert_eq!(next, whole.range().end());
            // Exactly the blocks that a page was asked of.
            for block in blocks(whole.range(), order) {
                let gone = parts.gone.range().intersection(&block);
                let expected = if block.overlaps(&asked) { block.len() } else { 0 };
                prop_assert_eq!(gone.len(), expected);
            }
        }

        #[test]
        fn no_call_makes_an_entry_that_is_too_large(
            page in 0u64..2048, count in 1u64..3000, order in prop_oneof![Just(0), Just(9)],
            sizes in prop::sample::select(&SIZES[..]),
        ) {
            let addr = (1 << 30) + (page << PAGE_SHIFT);
            let calls: Vec<_> = Links::new(addr, count, order, sizes).collect();
            let mut next = 0;
            for (first, pages) in calls {
                prop_assert_eq!(first, next);
                prop_assert!(pages > 0);
                let entry = largest_entry(addr + (first << PAGE_SHIFT), pages, sizes);
                prop_assert!(entry <= PAGE_SIZE << order);
                next += pages;
            }
            prop_assert_eq!(next, count);
        }
    }
}
