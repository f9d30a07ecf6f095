// SPDX-License-Identifier: GPL-2.0
//! Invalidations without end: every access completes nevertheless.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context, Result};

use super::scene::{Scene, CPU, DEVICE};
use crate::memory::{memory_file, punch_hole, Advice, Area, Protection, PAGE};
use crate::process::{goes_on, pair, Child, Stop};
use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "storm/dontneed",
        run: dontneed,
    },
    Case {
        name: "storm/mprotect",
        run: mprotect,
    },
    Case {
        name: "storm/punch-hole-by-another-process",
        run: hole,
    },
    Case {
        name: "storm/fork",
        run: fork,
    },
    Case {
        name: "storm/elsewhere-in-the-chunk",
        run: elsewhere,
    },
];

/// How many accesses each case makes.
const ACCESSES: usize = 2000;

/// Runs `storm` in two threads, told which it is, over and over, while `device` makes its accesses.
/// Prints how it went.
fn under<T>(
    scene: &Scene,
    storm: impl Fn(usize) -> Result<()> + Sync,
    device: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        let (stop, rounds, storm) = (&stop, &rounds, &storm);
        let threads: Vec<_> = (0..2)
            .map(|number| {
                scope.spawn(move || {
                    while goes_on(stop) {
                        storm(number)?;
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<_, anyhow::Error>(())
                })
            })
            .collect();
        let result = {
            let _stop = Stop(stop);
            device()
        };
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        let stats = scene.device.stats()?;
        println!(
            "      {} invalidations under {} accesses in {:.1} s: {} faults, {} collisions",
            rounds.load(Ordering::Relaxed),
            ACCESSES,
            begun.elapsed().as_secs_f64(),
            stats.faults,
            stats.collisions,
        );
        result
    })
}

/// Makes the accesses and says how long the slowest took.
fn accesses(mut access: impl FnMut(usize) -> Result<()>) -> Result<()> {
    let mut worst = Duration::ZERO;
    for number in 0..ACCESSES {
        let begun = Instant::now();
        access(number).with_context(|| format!("access {number}"))?;
        worst = worst.max(begun.elapsed());
    }
    println!("      the slowest access took {worst:.1?}");
    Ok(())
}

fn dontneed() -> Result<()> {
    let scene = Scene::new(1)?;
    under(
        &scene,
        |_| scene.area.advise(0..1, Advice::DontNeed),
        || {
            accesses(|number| match number % 2 {
                0 => scene.write(0..1, DEVICE),
                _ => Ok(DEVICE.check_or_zero(0, &scene.read(0..1)?)?),
            })
        },
    )?;
    ensure!(scene.device.stats()?.faults > 1, "nothing was taken away");
    scene.write(0..1, CPU)?;
    scene.area.check(0..1, CPU)
}

fn mprotect() -> Result<()> {
    let scene = Scene::new(1)?;
    let both = Protection::ReadWrite;
    under(
        &scene,
        |_| {
            scene.area.protect(0..1, Protection::Read)?;
            scene.area.protect(0..1, both)
        },
        || accesses(|_| scene.check(0..1, CPU)),
    )?;
    ensure!(scene.device.stats()?.faults > 1, "nothing was taken away");
    Ok(())
}

/// Somebody else's invalidations, which need no lock of this process's.
fn hole() -> Result<()> {
    let file = memory_file(PAGE)?;
    let scene = Scene::of(Area::of_file(&file, 1)?)?;
    let children = (0..2)
        .map(|_| {
            Child::fork(|| loop {
                punch_hole(&file, 0..1)?;
                file.write_all_at(&CPU.bytes(0, PAGE), 0)?;
            })
        })
        .collect::<Result<Vec<_>>>()?;
    accesses(|_| Ok(CPU.check_or_zero(0, &scene.read(0..1)?)?))?;
    let stats = scene.device.stats()?;
    drop(children);
    println!(
        "      {} faults, {} collisions",
        stats.faults, stats.collisions
    );
    ensure!(stats.faults > 1, "nothing was taken away");
    scene.write(0..1, DEVICE)?;
    let mut bytes = vec![0; PAGE];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(DEVICE.check(0, &bytes)?)
}

/// Write protection, over and over: each child keeps what there was when it was made.
fn fork() -> Result<()> {
    const CHILDREN: usize = 200;
    let scene = Scene::new(1)?;
    for number in 0..CHILDREN {
        let (old, new) = match number % 2 {
            0 => (CPU, DEVICE),
            _ => (DEVICE, CPU),
        };
        let (ours, theirs) = pair()?;
        let child = Child::fork(|| {
            theirs.wait()?;
            scene.area.check(0..1, old)
        })?;
        scene.write(0..1, new)?;
        scene.area.check(0..1, new)?;
        ours.tell()?;
        let kept = child.succeeds();
        kept.with_context(|| format!("child {number}"))?;
    }
    Ok(())
}

/// What happens to other pages of the chunk is no collision, unless so much of it happens during one
/// fault that the chunk cannot remember.
fn elsewhere() -> Result<()> {
    let scene = Scene::new(64)?;
    under(
        &scene,
        |number| {
            let page = 8 + 8 * number;
            scene.area.advise(page..page + 1, Advice::DontNeed)?;
            scene.area.write(page * PAGE, &[1]);
            // A breath, or more of them come than a fault could ever see through.
            thread::sleep(Duration::from_micros(500));
            Ok(())
        },
        || {
            accesses(|_| {
                scene.area.advise(0..1, Advice::DontNeed)?;
                scene.check_fresh(0..1)
            })
        },
    )?;
    let stats = scene.device.stats()?;
    ensure!(
        stats.faults >= ACCESSES as u64,
        "only {} faults",
        stats.faults
    );
    ensure!(
        stats.collisions <= ACCESSES as u64 / 100,
        "{} collisions with what concerns nobody",
        stats.collisions
    );
    Ok(())
}
