// SPDX-License-Identifier: GPL-2.0
//! What goes is what the CPU takes, and nothing beside it.

use anyhow::{ensure, Result};

use super::scene::{Scene, CPU, DEVICE};
use crate::device::Want;
use crate::memory::{check_zero, Advice, Area, Protection, HUGE, PAGE};
use crate::system::huge_pages_on_request;
use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "exact/munmap",
        run: munmap,
    },
    Case {
        name: "exact/dontneed",
        run: dontneed,
    },
    Case {
        name: "exact/mprotect",
        run: mprotect,
    },
    Case {
        name: "exact/every-other-page",
        run: every_other,
    },
    Case {
        name: "exact/huge-neighbour",
        run: huge_neighbour,
    },
    Case {
        name: "exact/odd-bytes",
        run: odd_bytes,
    },
    Case {
        name: "exact/chunk-border",
        run: chunk_border,
    },
    Case {
        name: "exact/prefetch",
        run: prefetch,
    },
];

/// The device must have all but `gone`, and use the rest without a fault.
fn only_lost(scene: &Scene, gone: std::ops::Range<usize>) -> Result<()> {
    let pages = scene.area.pages();
    let lost = scene.present(gone.clone())?;
    ensure!(lost == 0, "the device still has {lost} of the pages");
    let kept = scene.present(0..pages)?;
    ensure!(
        kept == (pages - gone.len()) as u64,
        "the device has {kept} of {pages} pages"
    );
    scene.check_warm(0..gone.start, CPU)?;
    scene.check_warm(gone.end..pages, CPU)?;
    let write = || scene.write(gone.end..pages, DEVICE);
    scene.device.without_fault("writing after it", write)
}

fn munmap() -> Result<()> {
    let scene = Scene::new(64)?;
    scene.write(0..64, CPU)?;
    scene.area.unmap(20..24)?;
    only_lost(&scene, 20..24)?;
    scene.refuses_read(20, libc::EFAULT)?;
    scene.refuses_read(23, libc::EFAULT)
}

fn dontneed() -> Result<()> {
    let scene = Scene::new(64)?;
    scene.write(0..64, CPU)?;
    scene.area.advise(31..32, Advice::DontNeed)?;
    only_lost(&scene, 31..32)?;
    scene.check_fresh(31..32)
}

fn mprotect() -> Result<()> {
    let scene = Scene::new(64)?;
    scene.write(0..64, CPU)?;
    scene.area.protect(1..3, Protection::Read)?;
    only_lost(&scene, 1..3)?;
    scene.check(1..3, CPU)
}

fn every_other() -> Result<()> {
    let scene = Scene::new(64)?;
    scene.write(0..64, CPU)?;
    for page in (0..64).step_by(2) {
        scene.area.unmap(page..page + 1)?;
    }
    let kept = scene.present(0..64)?;
    ensure!(kept == 32, "the device has {kept} of 32 pages");
    for page in (1..64).step_by(2) {
        scene.check_warm(page..page + 1, CPU)?;
        scene.refuses_read(page - 1, libc::EFAULT)?;
    }
    Ok(())
}

fn huge_neighbour() -> Result<()> {
    huge_pages_on_request()?;
    const UNIT: usize = HUGE / PAGE;
    let scene = Scene::of(Area::huge(3, CPU)?)?;
    scene.write(0..3 * UNIT, CPU)?;
    scene.area.unmap(UNIT..2 * UNIT)?;
    only_lost(&scene, UNIT..2 * UNIT)
}

/// Every offset and length, across pages; and nothing around.
fn odd_bytes() -> Result<()> {
    let scene = Scene::new(4)?;
    let lens = [1, 2, 7, 8, 63, 4095, 4096, 4097, 8191, 9000];
    let offsets = [0, 1, 7, 100, 4090, 4095, 4096, 4097, 6000];
    for (offset, len) in offsets
        .into_iter()
        .flat_map(|offset| lens.map(|len| (offset, len)))
    {
        if offset + len > scene.area.len() {
            continue;
        }
        scene.area.fill(CPU);
        let (va, position) = (scene.area.start() + offset as u64, offset as u64);
        CPU.check(position, &scene.device.read(va, len)?)?;
        scene.device.write(va, &DEVICE.bytes(position, len))?;
        let end = offset + len;
        CPU.check(0, &scene.area.read(0, offset))?;
        DEVICE.check(position, &scene.area.read(offset, len))?;
        CPU.check(end as u64, &scene.area.read(end, scene.area.len() - end))?;
    }
    Ok(())
}

/// One access to two chunks, in a mirror of much more than there is memory.
fn chunk_border() -> Result<()> {
    const CHUNK: u64 = 128 << 20;
    let area = Area::reserve(1 << 40)?;
    let scene = Scene::of(area)?;
    let border = (scene.area.start() + (1 << 39)).next_multiple_of(CHUNK);
    let (va, len) = (border - 12_345, 23_456);
    scene.device.write(va, &DEVICE.bytes(va, len))?;
    let offset = (va - scene.area.start()) as usize;
    DEVICE.check(va, &scene.area.read(offset, len))?;
    check_zero(&scene.area.read(offset - 1000, 1000))?;
    check_zero(&scene.area.read(offset + len, 1000))?;
    let chunks = scene.device.stats()?.chunks;
    ensure!(chunks == 2, "{chunks} chunks for two");
    Ok(DEVICE.check(va, &scene.device.read(va, len)?)?)
}

/// What was brought in needs no fault; a snapshot brings in what the CPU has, and no more.
fn prefetch() -> Result<()> {
    let scene = Scene::of(Area::new(64)?)?;
    scene
        .area
        .write(16 * PAGE, &CPU.bytes(16 * PAGE as u64, 8 * PAGE));
    let (start, len) = (scene.area.va(0), scene.area.len() as u64);
    let added = scene.device.prefetch(start, len, Want::Snapshot)?;
    ensure!(added == 8, "{added} pages of 8");
    scene.check_warm(16..24, CPU)?;
    let added = scene.device.prefetch(start, len, Want::Write)?;
    ensure!(added == 56, "{added} pages of 56");
    let write = || scene.write(0..64, DEVICE);
    scene.device.without_fault("writing", write)?;
    scene.area.check(0..64, DEVICE)
}
