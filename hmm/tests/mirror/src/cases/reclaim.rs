// SPDX-License-Identifier: GPL-2.0
//! Pages that the kernel takes on its own: swapped out, freed lazily, moved, merged.

use anyhow::{ensure, Result};

use super::scene::{Scene, CPU, DEVICE};
use crate::abi::EVENT_CLEAR;
use crate::device::Want;
use crate::memory::{Advice, Area, Pattern, PAGE};
use crate::process::{within, PATIENCE};
use crate::system::{get, set, PageMap, Swap};
use crate::{Case, Skip};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "reclaim/swap",
        run: swap,
    },
    Case {
        name: "reclaim/swap-after-a-late-write",
        run: late_write,
    },
    Case {
        name: "reclaim/lazily-freed",
        run: lazily_freed,
    },
    Case {
        name: "reclaim/compaction",
        run: compaction,
    },
    Case {
        name: "reclaim/merged",
        run: merged,
    },
];

const PAGES: usize = 64;

/// Swaps the pages out. A page that somebody holds at the moment takes another try.
fn page_out(scene: &Scene) -> Result<()> {
    let mut left = 0;
    let done = within(PATIENCE, || {
        let advised = scene.area.advise(0..PAGES, Advice::PageOut);
        let pages = PageMap::of_all(scene.area.start(), PAGES).unwrap_or_default();
        left = PAGES - pages.iter().filter(|page| page.is_swapped()).count();
        advised.is_ok() && left == 0
    });
    ensure!(done, "{left} pages were not swapped out");
    Ok(())
}

fn swap() -> Result<()> {
    let _swap = Swap::new()?;
    let scene = Scene::new(PAGES)?;
    scene.write(0..PAGES, DEVICE)?;
    scene.device.with_event(EVENT_CLEAR, || page_out(&scene))?;
    scene.check(0..PAGES, DEVICE)?;
    scene.device.with_event(EVENT_CLEAR, || page_out(&scene))?;
    scene.write(0..PAGES, CPU)?;
    scene.area.check(0..PAGES, CPU)
}

/// A page that came from swap is thrown away if nobody knows of a write to it.
fn late_write() -> Result<()> {
    let _swap = Swap::new()?;
    let scene = Scene::new(PAGES)?;
    for round in 0..4 {
        let pattern = Pattern::new(10 + round);
        page_out(&scene)?;
        // The page comes in for a read first.
        scene.read(0..PAGES)?;
        scene.write(0..PAGES, pattern)?;
        page_out(&scene)?;
        scene.check(0..PAGES, pattern)?;
        scene.area.check(0..PAGES, pattern)?;
    }
    Ok(())
}

/// The kernel may throw lazily freed pages away, but not those that were written afterwards.
fn lazily_freed() -> Result<()> {
    let _swap = Swap::new()?;
    let scene = Scene::new(PAGES)?;
    scene.write(0..PAGES, CPU)?;
    scene
        .device
        .with_event(EVENT_CLEAR, || scene.area.advise(0..PAGES, Advice::Free))?;
    scene.write_cold(8..16, DEVICE)?;
    // A page that somebody holds at the moment takes another try.
    let thrown_away = within(PATIENCE, || {
        let advised = scene.area.advise(0..PAGES, Advice::PageOut);
        let pages = PageMap::of_all(scene.area.va(16), PAGES - 16);
        let gone = |page: &PageMap| !page.is_present() && !page.is_swapped();
        advised.is_ok() && pages.is_ok_and(|pages| pages.iter().all(gone))
    });
    ensure!(
        thrown_away,
        "lazily freed pages are still there, so this shows nothing"
    );
    scene.check(8..16, DEVICE)?;
    scene.check_fresh(16..PAGES)?;
    scene.area.check(8..16, DEVICE)
}

fn frames(area: &Area) -> Result<Vec<Option<u64>>> {
    let pages = PageMap::of_all(area.start(), area.pages())?;
    Ok(pages.into_iter().map(PageMap::frame).collect())
}

/// Pages that lie between free ones move together.
fn compaction() -> Result<()> {
    const MANY: usize = 16384;
    const ROUNDS: usize = 3;
    for _ in 0..ROUNDS {
        let (area, other) = (Area::new(MANY)?, Area::new(MANY)?);
        for page in 0..MANY {
            let position = page * PAGE;
            let bytes = CPU.bytes(position as u64, PAGE);
            area.write(position, &bytes);
            other.write(position, &bytes);
        }
        let scene = Scene::of(area)?;
        let (start, len) = (scene.area.start(), scene.area.len() as u64);
        scene.device.prefetch(start, len, Want::Write)?;
        drop(other);
        let before = frames(&scene.area)?;
        let (moved, counted) = scene.device.counting(|| {
            set("/proc/sys/vm/compact_memory", "1")?;
            let after = frames(&scene.area)?;
            let moved = (0..MANY).filter(|page| before[*page] != after[*page]);
            Ok(moved.collect::<Vec<_>>())
        })?;
        ensure!(
            counted.invalidated >= moved.len() as u64,
            "{} pages moved, the device lost {}",
            moved.len(),
            counted.invalidated
        );
        for page in &moved {
            scene.check(*page..page + 1, CPU)?;
            scene.write(*page..page + 1, DEVICE)?;
            scene.area.check(*page..page + 1, DEVICE)?;
        }
        if !moved.is_empty() {
            println!("      {} of {MANY} pages have moved", moved.len());
            return Ok(());
        }
    }
    Err(Skip("compaction moved no page of the mirror".to_owned()).into())
}

/// Two pages with the same bytes become one; a write to either must not reach the other.
fn merged() -> Result<()> {
    const KSM: &str = "/sys/kernel/mm/ksm";
    let scene = Scene::new(16)?;
    let twin = Scene::new(16)?;
    scene.write(0..16, CPU)?;
    twin.write(0..16, CPU)?;
    let same = |page| {
        let frame = |scene: &Scene| PageMap::of(scene.area.va(page)).ok()?.frame();
        frame(&scene).is_some() && frame(&scene) == frame(&twin)
    };
    set(&format!("{KSM}/sleep_millisecs"), "1")?;
    scene.area.advise(0..16, Advice::Mergeable)?;
    twin.area.advise(0..16, Advice::Mergeable)?;
    set(&format!("{KSM}/run"), "1")?;
    let merged = within(PATIENCE, || (0..16).all(same));
    set(&format!("{KSM}/run"), "0")?;
    if !merged {
        let shared = get(&format!("{KSM}/pages_sharing"))?;
        return Err(Skip(format!("the kernel merged {shared} pages only")).into());
    }
    scene.check(0..16, CPU)?;
    scene.write(2..4, DEVICE)?;
    scene.area.check(2..4, DEVICE)?;
    twin.area.check(0..16, CPU)?;
    twin.check(0..16, CPU)?;
    scene.area.check(4..16, CPU)
}
