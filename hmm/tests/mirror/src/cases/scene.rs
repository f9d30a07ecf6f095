// SPDX-License-Identifier: GPL-2.0
//! Memory with a mirror of it, and what the device does there, page by page.

use anyhow::{Context, Result};

use crate::device::{refused, Device};
use crate::memory::{check_zero, Area, Pages, Pattern, PAGE};

/// What the CPU has written.
pub(crate) const CPU: Pattern = Pattern::new(1);
/// What the device writes.
pub(crate) const DEVICE: Pattern = Pattern::new(2);

/// An area and a mirror of all of it.
pub(crate) struct Scene {
    pub(crate) area: Area,
    pub(crate) device: Device,
}

impl Scene {
    /// Small pages, written by the CPU.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        Self::of(Area::filled(pages, CPU)?)
    }

    /// A mirror of `area`.
    pub(crate) fn of(area: Area) -> Result<Self> {
        let device = Device::mirror(&area)?;
        Ok(Self { area, device })
    }

    /// The device reads `pages`.
    pub(crate) fn read(&self, pages: Pages) -> std::io::Result<Vec<u8>> {
        self.device
            .read(self.area.va(pages.start), pages.len() * PAGE)
    }

    /// The device reads `pages`, which must be those of `pattern`.
    pub(crate) fn check(&self, pages: Pages, pattern: Pattern) -> Result<()> {
        let bytes = self.read(pages.clone()).context("the device reads")?;
        let position = (pages.start * PAGE) as u64;
        pattern
            .check(position, &bytes)
            .context("what the device reads")
    }

    /// The same, without a fault.
    pub(crate) fn check_warm(&self, pages: Pages, pattern: Pattern) -> Result<()> {
        let what = format!("reading {pages:?}");
        self.device
            .without_fault(&what, || self.check(pages, pattern))
    }

    /// The device reads `pages`, which must be fresh.
    pub(crate) fn check_fresh(&self, pages: Pages) -> Result<()> {
        let bytes = self.read(pages).context("the device reads")?;
        check_zero(&bytes).context("what the device reads of fresh memory")
    }

    /// The device writes `pattern` to `pages`.
    pub(crate) fn write(&self, pages: Pages, pattern: Pattern) -> Result<()> {
        let position = pages.start * PAGE;
        let bytes = pattern.bytes(position as u64, pages.len() * PAGE);
        let written = self.device.write(self.area.va(pages.start), &bytes);
        written.context("the device writes")
    }

    /// The same, which must fault.
    pub(crate) fn write_cold(&self, pages: Pages, pattern: Pattern) -> Result<()> {
        let what = format!("writing {pages:?}");
        self.device.with_fault(&what, || self.write(pages, pattern))
    }

    /// The device must not read `page`.
    pub(crate) fn refuses_read(&self, page: usize, errno: i32) -> Result<()> {
        let what = format!("reading page {page}");
        refused(&what, self.read(page..page + 1), errno)
    }

    /// The device must not write `page`.
    pub(crate) fn refuses_write(&self, page: usize, errno: i32) -> Result<()> {
        let bytes = DEVICE.bytes((page * PAGE) as u64, PAGE);
        let what = format!("writing page {page}");
        refused(&what, self.device.write(self.area.va(page), &bytes), errno)
    }

    /// How many of `pages` the device has.
    pub(crate) fn present(&self, pages: Pages) -> Result<u64> {
        let len = (pages.len() * PAGE) as u64;
        let present = self.device.present(self.area.va(pages.start), len);
        present.context("asking what is present")
    }
}
