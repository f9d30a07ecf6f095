// SPDX-License-Identifier: GPL-2.0
//! Each kind of event: what the device loses by it, and what it keeps.

use anyhow::{ensure, Result};

use super::scene::{Scene, CPU, DEVICE};
use crate::abi::{EVENT_CLEAR, EVENT_PROTECT_PAGE, EVENT_SOFT_DIRTY, EVENT_UNMAP};
use crate::memory::{Advice, Area, Pattern, PAGE};
use crate::process::{pair, Child, Side};
use crate::system::{set, PageMap};
use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "events/fork-keeps-reading",
        run: fork_keeps_reading,
    },
    Case {
        name: "events/copy-on-write-by-the-cpu",
        run: copy_on_write,
    },
    Case {
        name: "events/soft-dirty",
        run: soft_dirty,
    },
    Case {
        name: "events/munmap",
        run: munmap,
    },
    Case {
        name: "events/mremap",
        run: mremap,
    },
    Case {
        name: "events/dontneed",
        run: dontneed,
    },
    Case {
        name: "events/zero-page",
        run: zero_page,
    },
];

/// A child that checks that `area` is what the CPU wrote when it is told to.
fn witness(area: &Area) -> Result<(Child, Side)> {
    let (ours, theirs) = pair()?;
    let child = Child::fork(|| {
        theirs.wait()?;
        area.check(0..area.pages(), CPU)
    })?;
    Ok((child, ours))
}

fn fork_keeps_reading() -> Result<()> {
    let scene = Scene::new(16)?;
    scene.write(0..16, CPU)?;
    let (child, side) = scene
        .device
        .with_event(EVENT_PROTECT_PAGE, || witness(&scene.area))?;
    scene.check_warm(0..16, CPU)?;
    // A write through what was there before would reach the child.
    scene.write_cold(3..5, DEVICE)?;
    scene.check(3..5, DEVICE)?;
    scene.area.check(3..5, DEVICE)?;
    scene.area.check(0..3, CPU)?;
    scene.area.check(5..16, CPU)?;
    side.tell()?;
    child.succeeds()
}

fn copy_on_write() -> Result<()> {
    let scene = Scene::new(16)?;
    scene.check(0..16, CPU)?;
    let (child, side) = witness(&scene.area)?;
    let new = Pattern::new(3);
    scene.device.with_event(EVENT_CLEAR, || {
        scene
            .area
            .write(7 * PAGE, &new.bytes(7 * PAGE as u64, PAGE));
        Ok(())
    })?;
    scene.check(7..8, new)?;
    scene.check(0..7, CPU)?;
    scene.check(8..16, CPU)?;
    side.tell()?;
    child.succeeds()
}

fn soft_dirty() -> Result<()> {
    let scene = Scene::new(16)?;
    scene.write(0..16, CPU)?;
    scene
        .device
        .with_event(EVENT_SOFT_DIRTY, || set("/proc/self/clear_refs", "4"))?;
    let tracked = |page| Ok::<_, anyhow::Error>(PageMap::of(scene.area.va(page))?.is_soft_dirty());
    ensure!(!tracked(2)?, "this kernel does not clear soft-dirty bits");
    scene.check_warm(0..16, CPU)?;
    ensure!(!tracked(2)?, "a page is soft-dirty by being read");
    scene.write_cold(2..3, DEVICE)?;
    ensure!(tracked(2)?, "the device's write is not tracked");
    ensure!(!tracked(3)?, "a page that was not written is soft-dirty");
    scene.area.check(2..3, DEVICE)?;
    scene.area.check(3..16, CPU)
}

fn munmap() -> Result<()> {
    let scene = Scene::new(16)?;
    scene.write(0..16, CPU)?;
    scene
        .device
        .with_event(EVENT_UNMAP, || scene.area.unmap(4..6))?;
    scene.refuses_read(4, libc::EFAULT)?;
    scene.refuses_write(5, libc::EFAULT)?;
    scene.area.map_again(4..6)?;
    scene.check_fresh(4..6)?;
    scene.write(4..6, DEVICE)?;
    scene.area.check(4..6, DEVICE)?;
    scene.area.check(6..16, CPU)
}

fn mremap() -> Result<()> {
    let scene = Scene::of(Area::new(64)?)?;
    scene.area.fill(CPU);
    scene.check(0..64, CPU)?;
    let expected = scene.area.read(0, 8 * PAGE);
    scene
        .device
        .with_event(EVENT_UNMAP, || scene.area.move_to(0..8, 32))?;
    scene.refuses_read(0, libc::EFAULT)?;
    scene.refuses_write(7, libc::EFAULT)?;
    ensure!(
        scene.read(32..40)? == expected,
        "the device does not see what was moved"
    );
    scene.check(8..32, CPU)?;
    scene.write(32..33, DEVICE)?;
    scene.area.check(32..33, DEVICE)
}

fn dontneed() -> Result<()> {
    let scene = Scene::new(16)?;
    scene.write(0..16, CPU)?;
    scene
        .device
        .with_event(EVENT_CLEAR, || scene.area.advise(2..9, Advice::DontNeed))?;
    scene.check_fresh(2..9)?;
    scene.write(3..4, DEVICE)?;
    scene.area.check(3..4, DEVICE)?;
    scene.area.check(0..2, CPU)?;
    scene.area.check(9..16, CPU)
}

/// Untouched memory is one page for all that read it: a write must not go there.
fn zero_page() -> Result<()> {
    let scene = Scene::of(Area::new(16)?)?;
    let other = Scene::of(Area::new(16)?)?;
    scene.check_fresh(0..16)?;
    other.check_fresh(0..16)?;
    scene.write_cold(5..6, DEVICE)?;
    scene.area.check(5..6, DEVICE)?;
    scene.check_fresh(6..16)?;
    other.check_fresh(0..16)
}
