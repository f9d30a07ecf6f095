// SPDX-License-Identifier: GPL-2.0
//! Files: what the device writes reaches them, and what it only reads does not make them dirty.

use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};

use super::scene::{Scene, CPU, DEVICE};
use crate::abi::{EVENT_CLEAR, EVENT_PROTECT_PAGE};
use crate::device::Want;
use crate::memory::{memory_file, punch_hole, Area, PAGE};
use crate::system::{drop_caches, is_dirty, DiskFile, PageMap};
use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "files/write-back-keeps-reading",
        run: write_back,
    },
    Case {
        name: "files/written-pages-reach-the-disk",
        run: reach_the_disk,
    },
    Case {
        name: "files/only-written-pages-are-dirty",
        run: only_written,
    },
    Case {
        name: "files/prefetched-for-writing",
        run: prefetched_for_writing,
    },
    Case {
        name: "files/truncate",
        run: truncate,
    },
    Case {
        name: "files/punch-hole",
        run: hole,
    },
];

const PAGES: usize = 16;

/// A file on a disk whose pages the CPU has written, and a mirror of a mapping of it.
fn scene() -> Result<(DiskFile, Scene)> {
    let disk = DiskFile::new("data", &CPU.bytes(0, PAGES * PAGE))?;
    let scene = Scene::of(Area::of_file(&disk.file, PAGES)?)?;
    Ok((disk, scene))
}

fn contents(disk: &DiskFile) -> Result<Vec<u8>> {
    drop_caches()?;
    let mut bytes = vec![0; PAGES * PAGE];
    disk.file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn expect(bytes: &[u8], page: usize, device_wrote: bool) -> Result<()> {
    let pattern = if device_wrote { DEVICE } else { CPU };
    let position = page * PAGE;
    pattern
        .check(position as u64, &bytes[position..position + PAGE])
        .with_context(|| format!("page {page} of the file"))
}

fn write_back() -> Result<()> {
    let (disk, scene) = scene()?;
    scene.write(0..PAGES, DEVICE)?;
    scene
        .device
        .with_event(EVENT_PROTECT_PAGE, || scene.area.sync())?;
    scene.check_warm(0..PAGES, DEVICE)?;
    // What is written through a translation that stayed writable nobody would write back.
    scene.write_cold(4..5, CPU)?;
    scene.area.sync()?;
    let Scene { area, device } = scene;
    drop((area, device));
    let bytes = contents(&disk)?;
    (0..PAGES).try_for_each(|page| expect(&bytes, page, page != 4))
}

fn reach_the_disk() -> Result<()> {
    let (disk, scene) = scene()?;
    scene.check(0..PAGES, CPU)?;
    for page in [1, 7, 8, PAGES - 1] {
        scene.write(page..page + 1, DEVICE)?;
    }
    // The mirror is still there: it is the mapping that goes.
    scene.area.unmap(0..PAGES)?;
    let bytes = contents(&disk)?;
    (0..PAGES).try_for_each(|page| expect(&bytes, page, [1, 7, 8, PAGES - 1].contains(&page)))
}

fn frames(area: &Area) -> Result<Vec<u64>> {
    let frame = |page| PageMap::of(area.va(page))?.frame().context("no page");
    (0..area.pages()).map(frame).collect()
}

/// The kernel may keep several pages of a file as one, so it is all of a file or nothing.
fn only_written() -> Result<()> {
    for writes in [false, true] {
        let (_disk, scene) = scene()?;
        scene.check(0..PAGES, CPU)?;
        if writes {
            scene.write(0..PAGES, DEVICE)?;
            scene.check(0..PAGES, DEVICE)?;
        }
        let frames = frames(&scene.area)?;
        scene.area.unmap(0..PAGES)?;
        for (page, frame) in frames.into_iter().enumerate() {
            let dirty = is_dirty(frame)?;
            ensure!(
                dirty == writes,
                "page {page}: written is {writes}, dirty is {dirty}"
            );
        }
    }
    Ok(())
}

/// Memory of a file system that does not watch for the first write: it relies on the writer.
fn prefetched_for_writing() -> Result<()> {
    let file = memory_file(PAGES * PAGE)?;
    let area = Area::of_file(&file, PAGES)?;
    area.fill(CPU);
    let scene = Scene::of(area)?;
    let (start, len) = (scene.area.va(0), scene.area.len() as u64);
    scene.device.prefetch(start, len, Want::Write)?;
    let write = || scene.write(0..PAGES, DEVICE);
    scene.device.without_fault("writing", write)?;
    scene.area.unmap(0..PAGES)?;
    let mut bytes = vec![0; PAGES * PAGE];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(DEVICE.check(0, &bytes)?)
}

fn truncate() -> Result<()> {
    let (disk, scene) = scene()?;
    scene.write(0..PAGES, DEVICE)?;
    scene
        .device
        .with_event(EVENT_CLEAR, || Ok(disk.file.set_len(8 * PAGE as u64)?))?;
    scene.refuses_read(8, libc::EFAULT)?;
    scene.refuses_write(PAGES - 1, libc::EFAULT)?;
    scene.check(0..8, DEVICE)?;
    disk.file.set_len((PAGES * PAGE) as u64)?;
    scene.check_fresh(8..PAGES)
}

fn hole() -> Result<()> {
    let file = memory_file(PAGES * PAGE)?;
    let area = Area::of_file(&file, PAGES)?;
    area.fill(CPU);
    let scene = Scene::of(area)?;
    scene.check(0..PAGES, CPU)?;
    scene
        .device
        .with_event(EVENT_CLEAR, || Ok(punch_hole(&file, 4..6)?))?;
    scene.check_fresh(4..6)?;
    scene.check(0..4, CPU)?;
    scene.check(6..PAGES, CPU)?;
    scene.write(4..5, DEVICE)?;
    let mut bytes = vec![0; PAGE];
    file.read_exact_at(&mut bytes, 4 * PAGE as u64)?;
    Ok(DEVICE.check(4 * PAGE as u64, &bytes)?)
}
