// SPDX-License-Identifier: GPL-2.0
//! Memory that the tests work on, page by page, and what the CPU does with it.

use std::fs::File;
use std::ops::Range;

use anyhow::{Context, Result};
pub(crate) use testkit::memory::{memory_file, Advice, Protection, HUGE_PAGE as HUGE, PAGE};
use testkit::memory::{Backing, Mapping};
use testkit::mm;
pub(crate) use testkit::pattern::{check_zero, Pattern};

/// Addresses that belong to a test, in pages.
pub(crate) struct Area(Mapping);

/// A part of an [`Area`], in pages.
pub(crate) type Pages = Range<usize>;

fn bytes(pages: Pages) -> Range<usize> {
    pages.start * PAGE..pages.end * PAGE
}

impl Area {
    /// Private memory in small pages, untouched.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        let area = Self::reserve(pages * PAGE)?;
        area.advise(0..pages, Advice::NoHugePage)?;
        Ok(area)
    }

    /// The same, filled with `pattern`.
    pub(crate) fn filled(pages: usize, pattern: Pattern) -> Result<Self> {
        let area = Self::new(pages)?;
        area.fill(pattern);
        Ok(area)
    }

    /// Private memory that huge pages are wanted for, aligned to them, filled with `pattern`.
    pub(crate) fn huge(pmds: usize, pattern: Pattern) -> Result<Self> {
        let area = Self::reserve(pmds * HUGE)?;
        area.advise(0..area.pages(), Advice::HugePage)?;
        area.fill(pattern);
        Ok(area)
    }

    /// A shared mapping of the first pages of `file`.
    pub(crate) fn of_file(file: &File, pages: usize) -> Result<Self> {
        let mapping = Mapping::new(pages * PAGE, Backing::Shared(file), Protection::ReadWrite);
        Ok(Self(mapping.context("mapping a file")?))
    }

    /// `len` bytes, of which not all need ever be touched.
    pub(crate) fn reserve(len: usize) -> Result<Self> {
        let mapping = Mapping::anonymous(len);
        Ok(Self(
            mapping.with_context(|| format!("mapping {len} bytes"))?,
        ))
    }

    /// The first address.
    pub(crate) fn start(&self) -> u64 {
        self.0.addr()
    }

    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many pages.
    pub(crate) fn pages(&self) -> usize {
        self.len() / PAGE
    }

    /// The address of `page`.
    pub(crate) fn va(&self, page: usize) -> u64 {
        assert!(page <= self.pages());
        self.0.at(page * PAGE)
    }

    /// The CPU writes `bytes` at `offset`.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.write(offset, bytes);
    }

    /// The CPU reads `len` bytes at `offset`.
    pub(crate) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        self.0.bytes(offset, len)
    }

    /// The CPU writes `pattern` everywhere.
    pub(crate) fn fill(&self, pattern: Pattern) {
        self.write(0, &pattern.bytes(0, self.len()));
    }

    /// The CPU reads `pages`, which must be those of `pattern`.
    pub(crate) fn check(&self, pages: Pages, pattern: Pattern) -> Result<()> {
        let bytes = bytes(pages);
        let found = self.read(bytes.start, bytes.len());
        let checked = pattern.check(bytes.start as u64, &found);
        checked.context("what the CPU reads")
    }

    /// Gives advice.
    pub(crate) fn advise(&self, pages: Pages, advice: Advice) -> Result<()> {
        let advised = self.0.advise(bytes(pages), advice);
        advised.with_context(|| format!("advice {advice:?}"))
    }

    /// Changes the rights.
    pub(crate) fn protect(&self, pages: Pages, rights: Protection) -> Result<()> {
        let changed = self.0.protect(bytes(pages), rights);
        changed.context("changing rights")
    }

    /// Unmaps.
    pub(crate) fn unmap(&self, pages: Pages) -> Result<()> {
        self.0.unmap(bytes(pages)).context("unmapping")
    }

    /// Maps fresh private memory, in place of what is there.
    pub(crate) fn map_again(&self, pages: Pages) -> Result<()> {
        let mapped = self
            .0
            .map(bytes(pages), Backing::Anonymous, Protection::ReadWrite);
        mapped.context("mapping again")
    }

    /// Moves `pages` to where page `to` is, in place of what is there.
    pub(crate) fn move_to(&self, pages: Pages, to: usize) -> Result<()> {
        let moved = self.0.move_to(bytes(pages), &self.0, to * PAGE);
        moved.context("moving")
    }

    /// Writes back what is dirty.
    pub(crate) fn sync(&self) -> Result<()> {
        self.0.sync(0..self.len()).context("writing back")
    }
}

/// Takes pages out of `file`, from all that map them.
pub(crate) fn punch_hole(file: &File, pages: Pages) -> std::io::Result<()> {
    mm::punch_hole(file, bytes(pages))
}
