// SPDX-License-Identifier: GPL-2.0

//! The translation table of a key, as the device has it: an array of entries, one for each page.
//!
//! The table changes by UMR, a work request that writes whole blocks of 64 bytes. An update of one page writes its
//! neighbours in the block as well. An update therefore needs all entries of a block and writes each of them: the
//! buffer that goes to the device is reused and holds other entries.
//!
//! Entries are numbered from the first page of the region. Chunks of a mirror begin at multiples of 2 MiB of virtual
//! addresses. So if the region does not begin at a multiple of eight pages, a block can have entries of two chunks,
//! which have locks of their own ([`Table::shared_block`]).

use core::ops::Range;

use hmm::{Access, PageIndex, PageRange, Perm};

/// The bytes that a UMR writes at least.
pub const BLOCK: usize = 64;

/// The bytes of an entry that is an address.
pub const MTT: usize = 8;
/// The bytes of an entry that is another key.
pub const KSM: usize = 16;

/// In an entry: what the device may do. The address is a multiple of the page size, so these bits are free.
const MTT_READ: u64 = 1 << 0;
const MTT_WRITE: u64 = 1 << 1;

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtt {
    /// The address for DMA.
    pub dma: u64,
    /// What the device may do.
    pub perm: Perm,
}

impl Mtt {
    /// An entry for no page: an access raises a fault.
    pub const ABSENT: [u8; MTT] = [0; MTT];

    /// The entry of the device's table.
    pub fn encode(self) -> [u8; MTT] {
        let write = match self.perm.allows(Access::Write) {
            true => MTT_WRITE,
            false => 0,
        };
        (self.dma | MTT_READ | write).to_be_bytes()
    }
}

/// A piece of a large region: addresses from `va` of another key, as many as the table's page size says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ksm {
    /// The key.
    pub key: u32,
    /// The first address, as that key numbers them.
    pub va: u64,
}

impl Ksm {
    /// The entry of the device's table.
    pub fn encode(self) -> [u8; KSM] {
        let mut entry = [0; KSM];
        entry[4..8].copy_from_slice(&self.key.to_be_bytes());
        entry[8..].copy_from_slice(&self.va.to_be_bytes());
        entry
    }
}

/// Writes the entries `first` and following to `buffer`, all that it has room for, as `entry` gives them. Bytes at its
/// end that are no whole entry become 0.
pub fn write<const BYTES: usize>(
    buffer: &mut [u8],
    first: u64,
    mut entry: impl FnMut(u64) -> [u8; BYTES],
) {
    let mut chunks = buffer.chunks_exact_mut(BYTES);
    for (number, room) in (first..).zip(&mut chunks) {
        room.copy_from_slice(&entry(number));
    }
    chunks.into_remainder().fill(0);
}

/// The smallest whole blocks with `entries` of `bytes` bytes each. They may reach beyond the table's end; the entries
/// there are absent.
pub fn blocks(entries: Range<u64>, bytes: usize) -> Range<u64> {
    let in_block = (BLOCK / bytes) as u64;
    let start = entries.start - entries.start % in_block;
    match entries.is_empty() {
        true => start..start,
        false => start..entries.end.next_multiple_of(in_block),
    }
}

/// Which pages the entries of a table are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Whole pages of the table.
    span: PageRange,
    order: u32,
}

impl Table {
    /// The table of a region of `pages`, with an entry for each 2^`order` of them, at multiples of that.
    pub fn new(pages: PageRange, order: u32) -> Self {
        let size = 1 << order;
        let start = pages.start().get() & !(size - 1);
        let end = pages.end().get().next_multiple_of(size);
        Self {
            span: PageRange::new(PageIndex::new(start), PageIndex::new(end)),
            order,
        }
    }

    /// The number of entries.
    pub fn count(&self) -> u64 {
        self.span.len() >> self.order
    }

    /// The entries for `pages`, as far as there are any.
    pub fn entries(&self, pages: PageRange) -> Range<u64> {
        let pages = pages.intersection(&self.span);
        let start = pages.start().get().saturating_sub(self.span.start().get());
        match pages.is_empty() {
            true => 0..0,
            false => start >> self.order..((start + pages.len() - 1) >> self.order) + 1,
        }
    }

    /// The pages of the entry `number`; `None` beyond the table's end.
    pub fn pages(&self, number: u64) -> Option<PageRange> {
        (number < self.count()).then(|| {
            let start = self.span.start().get() + (number << self.order);
            PageRange::new(
                PageIndex::new(start),
                PageIndex::new(start + (1 << self.order)),
            )
        })
    }

    /// The block with entries for pages on both sides of `border`; `None` if there is none.
    pub fn shared_block(&self, border: PageIndex) -> Option<Range<u64>> {
        let from_border = PageRange::new(border, self.span.end());
        if !self.span.contains(border) || border == self.span.start() {
            return None;
        }
        let entry = self.entries(from_border).start;
        let block = blocks(entry..entry + 1, MTT);
        let inside = self.pages(block.start)?.start() < border;
        inside.then_some(block)
    }
}

#[cfg(test)]
mod tests;
