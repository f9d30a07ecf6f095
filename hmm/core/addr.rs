// SPDX-License-Identifier: GPL-2.0

//! Addresses: bytes are `u64`, pages are [`PageIndex`], and nothing converts silently.
//!
//! A page is always the CPU's base page, [`PAGE_SIZE`] bytes, however large the entry that maps it. The
//! orders of the levels are those of x86-64 and of every other kernel with pages of 4 KiB.

use core::fmt;

/// log2 of the base page size in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// The base page size in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// log2 of how many pages a PMD entry maps: 2 MiB.
pub const PMD_ORDER: u32 = 9;
/// How many pages a PMD entry maps.
pub const PMD_PAGES: u64 = 1 << PMD_ORDER;
/// log2 of how many pages a PUD entry maps: 1 GiB.
pub const PUD_ORDER: u32 = 18;

/// The number of a page in a virtual address space: its address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageIndex(u64);

impl PageIndex {
    /// The page with number `index`.
    #[inline]
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// The page that holds byte address `addr`.
    #[inline]
    pub const fn containing(addr: u64) -> Self {
        Self(addr >> PAGE_SHIFT)
    }

    /// The number itself.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address of the page's first byte.
    #[inline]
    pub const fn addr(self) -> u64 {
        self.0 << PAGE_SHIFT
    }

    /// The page `pages` after this one; the last number there is if that would overflow.
    #[inline]
    pub const fn saturating_add(self, pages: u64) -> Self {
        Self(self.0.saturating_add(pages))
    }
}

/// Offset of a byte address within its page, in bytes.
#[inline]
pub const fn page_offset(addr: u64) -> usize {
    (addr & (PAGE_SIZE - 1)) as usize
}

/// Neighbouring bytes of a 64-bit address space.
///
/// ```
/// use hmm::ByteRange;
///
/// let bytes = ByteRange::new(0x1fff, 2).unwrap();
/// assert_eq!(bytes.pages().len(), 2);
/// assert_eq!(bytes.part(1, 1), ByteRange::new(0x2000, 1));
/// assert_eq!(bytes.part(1, 2), None);
/// assert_eq!(ByteRange::new(u64::MAX, 2), None);
/// ```
///
/// # Invariants
///
/// They do not pass the end of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    start: u64,
    len: u64,
}

impl ByteRange {
    /// The `len` bytes from byte address `start`. `None` if these pass the end of the address space.
    #[inline]
    pub const fn new(start: u64, len: u64) -> Option<Self> {
        match len == 0 || start.checked_add(len - 1).is_some() {
            // INVARIANT: Just checked.
            true => Some(Self { start, len }),
            false => None,
        }
    }

    /// The address of the first byte.
    #[inline]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// How many bytes there are.
    #[inline]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The `len` of these bytes that follow the first `offset`; `None` if there are not so many.
    #[inline]
    pub const fn part(&self, offset: u64, len: u64) -> Option<Self> {
        match offset <= self.len && len <= self.len - offset {
            // INVARIANT: A part of bytes that do not pass the end. Wraps only if it is empty, after the last byte of
            // all.
            true => Some(Self {
                start: self.start.wrapping_add(offset),
                len,
            }),
            false => None,
        }
    }

    /// The bytes after the first `count`; empty if there are none.
    #[inline]
    pub const fn after(&self, count: u64) -> Self {
        let count = if count < self.len { count } else { self.len };
        // INVARIANT: As for `part`.
        Self {
            start: self.start.wrapping_add(count),
            len: self.len - count,
        }
    }

    /// The pages that they are in.
    #[inline]
    pub const fn pages(&self) -> PageRange {
        let first = PageIndex::containing(self.start);
        match self.len {
            0 => PageRange::new(first, first),
            len => {
                let last = PageIndex::containing(self.start + (len - 1));
                PageRange::new(first, PageIndex(last.0 + 1))
            }
        }
    }
}

/// The part of an access that lies in one page.
///
/// # Invariants
///
/// It does not pass the end of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    page: PageIndex,
    offset: usize,
    len: usize,
    done: usize,
}

impl Piece {
    /// The `len` bytes from byte address `addr`, if there are any and they lie in one page.
    #[inline]
    pub fn all_of(addr: u64, len: usize) -> Option<Self> {
        let offset = page_offset(addr);
        // No bytes wrap, and do not fit.
        let fits = len.wrapping_sub(1) < PAGE_SIZE as usize - offset;
        // INVARIANT: Just checked.
        fits.then_some(Self {
            page: PageIndex::containing(addr),
            offset,
            len,
            done: 0,
        })
    }

    /// The page.
    #[inline]
    pub fn page(&self) -> PageIndex {
        self.page
    }

    /// Its first byte's offset in the page.
    #[inline]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Its length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes: never.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes of the access come before it.
    #[inline]
    pub fn done(&self) -> usize {
        self.done
    }
}

/// The `len` bytes from byte address `addr`, page by page. They do not pass the end of the address space.
#[inline]
pub fn pieces(addr: u64, len: usize) -> impl Iterator<Item = Piece> {
    let (mut at, mut left, mut done) = (addr, len, 0usize);
    core::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let offset = page_offset(at);
        // INVARIANT: No more than the page has after `offset`.
        let piece = Piece {
            page: PageIndex::containing(at),
            offset,
            len: left.min(PAGE_SIZE as usize - offset),
            done,
        };
        left -= piece.len;
        // Neither wraps, but for `at` after the last byte of all; a check would cost each access.
        done = done.wrapping_add(piece.len);
        at = at.wrapping_add(piece.len as u64);
        Some(piece)
    })
}

/// The pages that the PMD entry for `page` maps.
#[inline]
pub const fn pmd_range(page: PageIndex) -> PageRange {
    let start = PageIndex(page.0 >> PMD_ORDER << PMD_ORDER);
    PageRange::new(start, start.saturating_add(PMD_PAGES))
}

/// Neighbouring pages: `start` included, `end` not.
///
/// ```
/// use hmm::{PageIndex, PageRange};
///
/// // Two bytes across the end of a page.
/// let pages = PageRange::covering(0x1fff, 2).unwrap();
/// assert_eq!((pages.start(), pages.len()), (PageIndex::new(1), 2));
/// // Bytes that pass the end of the address space.
/// assert!(PageRange::covering(u64::MAX, 2).is_none());
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PageRange {
    start: PageIndex,
    end: PageIndex,
}

impl PageRange {
    /// The pages from `start` to `end`, without `end`; empty if `end` is not above `start`.
    #[inline]
    pub const fn new(start: PageIndex, end: PageIndex) -> Self {
        let end = if end.0 < start.0 { start } else { end };
        Self { start, end }
    }

    /// The pages of the `len` bytes from byte address `addr`. `None` if these pass the end of the 64-bit address
    /// space.
    #[inline]
    pub const fn covering(addr: u64, len: u64) -> Option<Self> {
        match ByteRange::new(addr, len) {
            Some(bytes) => Some(bytes.pages()),
            None => None,
        }
    }

    /// The first page.
    #[inline]
    pub const fn start(&self) -> PageIndex {
        self.start
    }

    /// The page after the last one.
    #[inline]
    pub const fn end(&self) -> PageIndex {
        self.end
    }

    /// How many pages there are.
    #[inline]
    pub const fn len(&self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether there is no page.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pages one by one.
    #[inline]
    pub fn pages(&self) -> impl Iterator<Item = PageIndex> {
        (self.start.0..self.end.0).map(PageIndex)
    }

    /// Whether `page` is one of them.
    #[inline]
    pub fn contains(&self, page: PageIndex) -> bool {
        self.start <= page && page < self.end
    }

    /// Whether there is a page that is in both.
    #[inline]
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The pages that are in both.
    #[inline]
    pub fn intersection(&self, other: &Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.0, self.end.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn parts_of_bytes_are_among_them() {
        let numbers = [
            0,
            1,
            2,
            4095,
            4096,
            4097,
            u64::MAX - 4096,
            u64::MAX - 1,
            u64::MAX,
        ];
        let all = || numbers.into_iter();
        for (start, len) in all().flat_map(|start| all().map(move |len| (start, len))) {
            let end = u128::from(start) + u128::from(len);
            let Some(bytes) = ByteRange::new(start, len) else {
                assert!(end > 1 << 64);
                continue;
            };
            assert!(end <= 1 << 64);
            assert_eq!(bytes.pages().is_empty(), bytes.is_empty());
            assert_eq!(bytes.pages().start(), PageIndex::containing(start));
            for offset in all() {
                let rest = bytes.after(offset);
                assert_eq!(rest.len(), len.saturating_sub(offset));
                assert_eq!(bytes.part(offset, rest.len()).is_some(), offset <= len);
                for count in all() {
                    let within = u128::from(offset) + u128::from(count) <= u128::from(len);
                    let part = bytes.part(offset, count);
                    assert_eq!(part.is_some(), within, "{bytes:?} {offset} {count}");
                    let Some(part) = part.filter(|part| !part.is_empty()) else {
                        continue;
                    };
                    assert_eq!((part.start(), part.len()), (start + offset, count));
                    assert_eq!(part.pages().intersection(&bytes.pages()), part.pages());
                }
            }
        }
    }

    #[test]
    fn pieces_add_up_and_stay_in_their_pages() {
        for (addr, len) in [(0, 0), (4095, 1), (4095, 2), (100, 12_000), (8192, 4096)] {
            let all: Vec<_> = pieces(addr, len).collect();
            let only = (all.len() == 1).then(|| all[0]);
            assert_eq!(Piece::all_of(addr, len), only);
            assert_eq!(all.iter().map(|piece| piece.len).sum::<usize>(), len);
            let mut done = 0;
            for piece in all {
                assert_eq!(piece.done, done);
                assert_eq!(piece.page.addr() + piece.offset as u64, addr + done as u64);
                assert!(piece.len > 0 && piece.offset + piece.len <= PAGE_SIZE as usize);
                done += piece.len;
            }
        }
        // The last byte of the address space.
        assert_eq!(pieces(u64::MAX, 1).count(), 1);
        assert_eq!(Piece::all_of(u64::MAX, 1), pieces(u64::MAX, 1).next());
        assert_eq!(Piece::all_of(1, usize::MAX), None);
    }

    #[test]
    fn a_byte_range_covers_the_pages_it_touches() {
        let cases = [
            ((0, 0), (0, 0)),
            ((0, 1), (0, 1)),
            ((0, 4096), (0, 1)),
            ((0, 4097), (0, 2)),
            ((4095, 2), (0, 2)),
            ((4096, 1), (1, 2)),
            ((u64::MAX - 4095, 4096), ((1 << 52) - 1, 1 << 52)),
        ];
        for ((addr, len), (start, end)) in cases {
            let range = PageRange::covering(addr, len).unwrap();
            assert_eq!((range.start().get(), range.end().get()), (start, end));
        }
        assert!(PageRange::covering(u64::MAX, 2).is_none());
    }

    #[test]
    fn intersections_never_turn_inside_out() {
        let low = PageRange::new(PageIndex::new(2), PageIndex::new(5));
        let high = PageRange::new(PageIndex::new(7), PageIndex::new(9));
        assert!(low.intersection(&high).is_empty());
        assert!(high.intersection(&low).is_empty());
        let middle = PageRange::new(PageIndex::new(4), PageIndex::new(8));
        assert_eq!(low.intersection(&middle).len(), 1);
        assert!(low.contains(PageIndex::new(4)) && !low.contains(PageIndex::new(5)));
    }
}
