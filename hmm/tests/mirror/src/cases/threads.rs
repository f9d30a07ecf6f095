// SPDX-License-Identifier: GPL-2.0
//! One mirror, many threads: no wrong byte, whatever goes on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context, Result};

use super::scene::{Scene, CPU, DEVICE};
use crate::device::Want;
use crate::memory::{Advice, Area, Protection, PAGE};
use crate::process::{goes_on, Stop};
use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "threads/dontneed-and-protect",
        run: dontneed_and_protect,
    },
    Case {
        name: "threads/unmap-and-move",
        run: unmap_and_move,
    },
    Case {
        name: "threads/huge-pages",
        run: huge_pages,
    },
];

const SPAN: usize = 64;
const TIME: Duration = Duration::from_secs(4);

/// Runs `act` in `threads` threads, told which and how often, for a while, and `disturb` in one more.
///
/// Nothing is disturbed before all threads run: a thread that starts maps memory, and that would come
/// to lie in any hole.
fn together(
    threads: usize,
    act: impl Fn(usize, usize) -> Result<()> + Sync,
    disturb: impl Fn(usize) -> Result<()> + Sync,
) -> Result<()> {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let (act, stop, count, started) = (&act, &stop, &count, &started);
        let handles: Vec<_> = (0..threads)
            .map(|number| {
                scope.spawn(move || {
                    let _stop = Stop(stop);
                    started.wait();
                    let mut round = 0;
                    while goes_on(stop) {
                        act(number, round)?;
                        round += 1;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<_, anyhow::Error>(())
                })
            })
            .collect();
        let disturbed = {
            let _stop = Stop(stop);
            started.wait();
            let begun = Instant::now();
            let mut rounds = (0..).take_while(|_| goes_on(stop) && begun.elapsed() < TIME);
            rounds.try_for_each(&disturb)
        };
        for handle in handles {
            handle.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        disturbed
    })?;
    println!("      {} accesses", count.load(Ordering::Relaxed));
    Ok(())
}

/// Neighbours of what is taken away stay right; what is taken away is fresh or written.
fn dontneed_and_protect() -> Result<()> {
    let scene = Scene::new(SPAN)?;
    let both = Protection::ReadWrite;
    // Written by the device only.
    scene.area.advise(0..16, Advice::DontNeed)?;
    together(
        4,
        |thread, round| match thread {
            0 => scene.check(32..SPAN, CPU),
            1 => Ok(DEVICE.check_or_zero(0, &scene.read(0..16)?)?),
            2 => scene.write(round % 16..round % 16 + 1, DEVICE),
            // Readable all the time, writable now and then.
            _ => match scene.write(16..32, CPU) {
                Err(error) if is_errno(&error, libc::EPERM) => scene.check(16..32, CPU),
                result => result,
            },
        },
        |round| {
            let page = round % 16;
            scene.area.advise(page..page + 1, Advice::DontNeed)?;
            scene.area.protect(16..32, Protection::Read)?;
            scene.area.protect(16..32, both)
        },
    )
    .and_then(|()| {
        ensure!(scene.device.stats()?.faults > 0, "nothing was taken away");
        scene.area.check(16..SPAN, CPU)
    })
}

fn is_errno(error: &anyhow::Error, errno: i32) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|error| error.raw_os_error() == Some(errno))
    })
}

fn right_or_refused(
    result: std::io::Result<Vec<u8>>,
    right: impl Fn(&[u8]) -> Result<()>,
) -> Result<()> {
    match result {
        Ok(bytes) => right(&bytes),
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Pages 0 to 8 are unmapped and mapped, 16 to 24 move to 32 and back, the others stay.
fn unmap_and_move() -> Result<()> {
    let scene = Scene::of(Area::new(SPAN)?)?;
    scene.area.fill(CPU);
    // Written by the device only.
    scene.area.advise(0..8, Advice::DontNeed)?;
    scene.area.protect(32..40, Protection::None)?;
    together(
        4,
        |thread, round| {
            let page = round % 8;
            match thread {
                0 => scene.check(8..16, CPU).and(scene.check(40..SPAN, CPU)),
                1 => {
                    for at in [16, 32] {
                        let bytes = scene.read(at + page..at + page + 1);
                        right_or_refused(bytes, |bytes| {
                            let position = (16 + page) * PAGE;
                            let right = CPU.check(position as u64, bytes);
                            right
                                .with_context(|| format!("page {page} of those that move, at {at}"))
                        })?;
                    }
                    Ok(())
                }
                2 => right_or_refused(scene.read(page..page + 1), |bytes| {
                    Ok(DEVICE.check_or_zero((page * PAGE) as u64, bytes)?)
                }),
                _ => {
                    let bytes = DEVICE.bytes((page * PAGE) as u64, PAGE);
                    let written = scene.device.write(scene.area.va(page), &bytes);
                    right_or_refused(written.map(|()| Vec::new()), |_| Ok(()))
                }
            }
        },
        |_| {
            scene.area.unmap(0..8)?;
            scene.area.map_again(0..8)?;
            scene.area.move_to(16..24, 32)?;
            scene.area.move_to(32..40, 16)
        },
    )?;
    scene.check(8..32, CPU)
}

/// Huge pages that are split and made anew under the accesses.
fn huge_pages() -> Result<()> {
    crate::system::huge_pages_on_request()?;
    let scene = Scene::of(Area::huge(2, CPU)?)?;
    let pmd = scene.area.pages() / 2;
    // Written by the device only.
    scene.area.advise(0..pmd, Advice::DontNeed)?;
    together(
        4,
        |thread, round| {
            let page = (round * 37) % pmd;
            match thread {
                0 => scene.check(pmd + page..pmd + page + 1, CPU),
                1 => {
                    let found = scene.read(page..page + 1)?;
                    Ok(DEVICE.check_or_zero((page * PAGE) as u64, &found)?)
                }
                2 => scene.write(page..page + 1, DEVICE),
                _ => {
                    let (va, len) = (scene.area.va(page), PAGE as u64);
                    scene.device.prefetch(va, len, Want::Read)?;
                    Ok(())
                }
            }
        },
        |round| {
            let page = (round * 41) % pmd;
            match round % 16 {
                0 => scene.area.advise(0..pmd, Advice::DontNeed),
                15 => {
                    let _ = scene.area.advise(0..pmd, Advice::Collapse);
                    let _ = scene.area.advise(pmd..2 * pmd, Advice::Collapse);
                    Ok(())
                }
                _ => {
                    scene.area.advise(page..page + 1, Advice::DontNeed)?;
                    // Changes nothing but the size of the area's pages.
                    scene
                        .area
                        .protect(pmd + page..pmd + page + 1, Protection::Read)?;
                    let both = Protection::ReadWrite;
                    scene.area.protect(pmd + page..pmd + page + 1, both)
                }
            }
        },
    )?;
    scene.area.check(pmd..2 * pmd, CPU)
}
