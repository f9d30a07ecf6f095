// SPDX-License-Identifier: GPL-2.0
//! Huge pages: one translation, until they are split; made of small ones; with holes.

use anyhow::{ensure, Result};

use super::scene::{Scene, CPU, DEVICE};
use crate::abi::EVENT_CLEAR;
use crate::device::Want;
use crate::memory::{Advice, Area, HUGE, PAGE};
use crate::system::{huge_kib, huge_pages_on_request};
use crate::{Case, Skip};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "huge/one-fault",
        run: one_fault,
    },
    Case {
        name: "huge/split",
        run: split,
    },
    Case {
        name: "huge/a-page-is-unmapped",
        run: hole,
    },
    Case {
        name: "huge/collapse",
        run: collapse,
    },
    Case {
        name: "huge/fork",
        run: fork,
    },
    Case {
        name: "huge/part-of-one",
        run: part_of_one,
    },
];

const PMD_PAGES: usize = HUGE / PAGE;

/// Two huge pages, written by the CPU.
fn scene() -> Result<Scene> {
    huge_pages_on_request()?;
    let scene = Scene::of(Area::huge(2, CPU)?)?;
    let kib = huge_kib(scene.area.start())?;
    match kib as usize == 2 * HUGE / 1024 {
        true => Ok(scene),
        false => Err(Skip(format!("the machine gave {kib} KiB of huge pages of 4096")).into()),
    }
}

fn one_fault() -> Result<()> {
    let scene = scene()?;
    let ((), counted) = scene.device.counting(|| scene.check(5..6, CPU))?;
    ensure!(counted.faults == 1, "{} faults", counted.faults);
    ensure!(
        counted.pages == PMD_PAGES as u64,
        "{} pages came of one huge page",
        counted.pages
    );
    scene.check_warm(0..PMD_PAGES, CPU)?;
    let write = || scene.write(0..PMD_PAGES, DEVICE);
    scene.device.without_fault("writing the huge page", write)?;
    scene.area.check(0..PMD_PAGES, DEVICE)?;
    scene.area.check(PMD_PAGES..2 * PMD_PAGES, CPU)
}

fn split() -> Result<()> {
    let scene = scene()?;
    scene.write(0..2 * PMD_PAGES, CPU)?;
    // Frees a page of the middle, which splits the entry.
    scene.device.with_event(EVENT_CLEAR, || {
        scene.area.advise(100..101, Advice::DontNeed)
    })?;
    scene.check_fresh(100..101)?;
    scene.check(0..100, CPU)?;
    scene.check(101..PMD_PAGES, CPU)?;
    // The other one has lost nothing.
    scene.check_warm(PMD_PAGES..2 * PMD_PAGES, CPU)?;
    scene.write(99..102, DEVICE)?;
    scene.area.check(99..102, DEVICE)?;
    scene.area.check(0..99, CPU)?;
    scene.area.check(102..2 * PMD_PAGES, CPU)
}

fn hole() -> Result<()> {
    let scene = scene()?;
    scene.write(0..2 * PMD_PAGES, CPU)?;
    scene.area.unmap(7..8)?;
    scene.refuses_read(7, libc::EFAULT)?;
    scene.refuses_write(7, libc::EFAULT)?;
    scene.check(0..7, CPU)?;
    scene.check(8..PMD_PAGES, CPU)?;
    scene.check_warm(PMD_PAGES..2 * PMD_PAGES, CPU)?;
    scene.write(6..7, DEVICE)?;
    scene.write(8..9, DEVICE)?;
    scene.area.check(6..7, DEVICE)?;
    scene.area.check(8..9, DEVICE)?;
    scene.area.check(9..2 * PMD_PAGES, CPU)
}

fn collapse() -> Result<()> {
    let scene = scene()?;
    // Small pages first.
    scene.area.advise(0..PMD_PAGES, Advice::NoHugePage)?;
    scene.area.advise(0..PMD_PAGES, Advice::DontNeed)?;
    scene.area.write(0, &CPU.bytes(0, HUGE));
    ensure!(
        huge_kib(scene.area.start())? == 0,
        "the pages are not small"
    );
    scene.check(0..PMD_PAGES, CPU)?;
    scene.area.advise(0..PMD_PAGES, Advice::HugePage)?;
    scene.device.with_event(EVENT_CLEAR, || {
        scene.area.advise(0..PMD_PAGES, Advice::Collapse)
    })?;
    ensure!(huge_kib(scene.area.start())? > 0, "nothing was collapsed");
    let ((), counted) = scene.device.counting(|| scene.check(0..PMD_PAGES, CPU))?;
    ensure!(counted.faults == 1, "{} faults", counted.faults);
    scene.write(PMD_PAGES - 1..PMD_PAGES, DEVICE)?;
    scene.area.check(PMD_PAGES - 1..PMD_PAGES, DEVICE)?;
    scene.area.check(0..PMD_PAGES - 1, CPU)
}

fn fork() -> Result<()> {
    let scene = scene()?;
    scene.write(0..2 * PMD_PAGES, CPU)?;
    let (ours, theirs) = crate::process::pair()?;
    let child = crate::process::Child::fork(|| {
        theirs.wait()?;
        scene.area.check(0..2 * PMD_PAGES, CPU)
    })?;
    scene.check(0..2 * PMD_PAGES, CPU)?;
    scene.write(0..PMD_PAGES, DEVICE)?;
    scene.area.check(0..PMD_PAGES, DEVICE)?;
    scene.area.check(PMD_PAGES..2 * PMD_PAGES, CPU)?;
    ours.tell()?;
    child.succeeds()
}

/// A mirror whose ends lie within huge pages gets what is inside, and right.
fn part_of_one() -> Result<()> {
    let whole = scene()?;
    let device = crate::device::Device::open()?;
    let (first, pages) = (37, PMD_PAGES + 5);
    device.become_mirror(whole.area.va(first), (pages * PAGE) as u64, 1)?;
    let (start, len) = (whole.area.va(first), (pages * PAGE) as u64);
    let added = device.prefetch(start, len, Want::Write)?;
    ensure!(added == pages as u64, "{added} pages came of {pages}");
    let position = (first * PAGE) as u64;
    CPU.check(position, &device.read(start, len as usize)?)?;
    device.write(start, &DEVICE.bytes(position, len as usize))?;
    whole.area.check(0..first, CPU)?;
    whole.area.check(first..first + pages, DEVICE)?;
    whole.area.check(first + pages..2 * PMD_PAGES, CPU)
}
