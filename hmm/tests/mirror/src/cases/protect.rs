// SPDX-License-Identifier: GPL-2.0
//! Rights that come and go.

use anyhow::{ensure, Result};

use super::scene::{Scene, CPU, DEVICE};
use crate::abi::EVENT_PROTECT_VMA;
use crate::device::{refused, Device, Want};
use crate::memory::{Area, Protection};
use crate::system::PageMap;
use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "protect/read-only",
        run: read_only,
    },
    Case {
        name: "protect/nothing",
        run: nothing,
    },
    Case {
        name: "protect/a-mirror-that-only-reads",
        run: only_reads,
    },
    Case {
        name: "protect/a-mirror-that-only-reads-prefetches-nothing-for-writing",
        run: only_reads_prefetch,
    },
];

const BOTH: Protection = Protection::ReadWrite;

fn read_only() -> Result<()> {
    let scene = Scene::new(16)?;
    scene.write(0..16, CPU)?;
    scene.device.with_event(EVENT_PROTECT_VMA, || {
        scene.area.protect(4..8, Protection::Read)
    })?;
    scene.refuses_write(4, libc::EPERM)?;
    scene.refuses_write(7, libc::EPERM)?;
    scene.check(0..16, CPU)?;
    scene.write(3..4, DEVICE)?;
    scene.write(8..9, DEVICE)?;
    scene.area.protect(4..8, BOTH)?;
    scene.write(4..8, DEVICE)?;
    scene.area.check(3..9, DEVICE)?;
    scene.area.check(9..16, CPU)
}

fn nothing() -> Result<()> {
    let scene = Scene::new(16)?;
    scene.write(0..16, CPU)?;
    scene.device.with_event(EVENT_PROTECT_VMA, || {
        scene.area.protect(4..8, Protection::None)
    })?;
    scene.refuses_read(4, libc::EFAULT)?;
    scene.refuses_write(7, libc::EFAULT)?;
    scene.check(0..4, CPU)?;
    scene.area.protect(4..8, BOTH)?;
    scene.check(0..16, CPU)?;
    scene.write(4..8, DEVICE)?;
    scene.area.check(4..8, DEVICE)
}

fn reader(area: &Area) -> Result<Device> {
    let device = Device::open()?;
    device.become_mirror(area.start(), area.len() as u64, 0)?;
    Ok(device)
}

fn only_reads() -> Result<()> {
    let area = Area::filled(16, CPU)?;
    let device = reader(&area)?;
    let scene = Scene { area, device };
    scene.refuses_write(0, libc::EPERM)?;
    scene.check(0..16, CPU)?;
    scene.refuses_write(0, libc::EPERM)?;
    scene.area.check(0..16, CPU)
}

/// Faulting in for a write is a write in the CPU's eyes: it takes memory that nobody asked for.
fn only_reads_prefetch() -> Result<()> {
    let area = Area::new(16)?;
    let device = reader(&area)?;
    let prefetched = device.prefetch(area.va(0), area.len() as u64, Want::Write);
    refused("prefetching for a write", prefetched, libc::EPERM)?;
    ensure!(
        !PageMap::of(area.va(0))?.is_present(),
        "a page was faulted in for a write"
    );
    Ok(())
}
