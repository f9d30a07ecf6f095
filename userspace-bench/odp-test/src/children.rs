// SPDX-License-Identifier: GPL-2.0
//! The parts of a region that the NIC has used: they come with the first access, go with the last page,
//! are bounded however far apart the accesses are, and come again.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    counters::Counters,
    env::{anonymous, Buffer, Env, Mode},
    footprint,
    loopback::Loopback,
};
use odp_verbs::{Access, Op, Status};
use testkit::{
    memory::{Advice, Backing, Protection, PAGE},
    patience,
    pattern::Pattern,
};

use crate::harness::{skip, Test};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("children-bounded", bounded),
    Test::on_demand("children-reaped", reaped),
    Test::on_demand("children-in-traffic", in_traffic),
    Test::once("children-deregister", deregister),
];

const GIB: usize = 1 << 30;
const LEN: usize = 64;
/// How many requests are posted at once.
const AT_ONCE: usize = 32;
/// How long a completion may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Kernel memory in objects that cannot be thrown away, of the whole machine, in bytes; nothing where
/// that [says nothing](footprint::is_blurred).
fn kernel_memory() -> Result<usize> {
    if footprint::is_blurred() {
        return Ok(0);
    }
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("SUnreclaim:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    let kib: usize = number.context("/proc/meminfo has no SUnreclaim")?.parse()?;
    Ok(kib << 10)
}

/// Waits until `done`, but not forever.
fn eventually(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        let limit = patience::scaled(Duration::from_secs(30));
        if start.elapsed() > limit {
            bail!("{what}, and that after {limit:?}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// How many parts this process's regions have made, and how many of these have been reaped.
fn children(env: &Env) -> Result<(u64, u64)> {
    let counters = Counters::of_process(env.context.name(), std::process::id());
    match (counters.chunks, counters.chunks_reaped) {
        (Some(made), Some(reaped)) => Ok((made, reaped)),
        _ => Err(skip("the driver does not count what it reaps")),
    }
}

/// The NIC writes at `offset` of `far` what is told by the place.
fn stamp(link: &Loopback, near: &Buffer, far: &Buffer, offset: usize, seed: u64) -> Result<()> {
    let pattern = Pattern::new(seed ^ offset as u64);
    near.fill(pattern, 0, LEN);
    link.write(near.sge(0, LEN), far.remote(offset))
        .with_context(|| format!("WRITE to {offset:#x}"))
}

/// The same at each of `offsets`, several at once.
fn stamp_all(
    link: &Loopback,
    near: &Buffer,
    far: &Buffer,
    offsets: &[usize],
    seed: u64,
) -> Result<()> {
    let slots = (0..near.memory.len()).step_by(LEN);
    for (slot, &offset) in slots.zip(offsets) {
        let pattern = Pattern::new(seed ^ offset as u64);
        near.memory.write(slot, &pattern.bytes(0, LEN));
        let write = Op::Write(far.remote(offset));
        link.first.post_send(1, write, &[near.sge(slot, LEN)])?;
    }
    for offset in offsets {
        let completion = link.first.completions().wait(PATIENCE)?;
        completion
            .expect(&[Status::SUCCESS])
            .with_context(|| format!("WRITE around {offset:#x}"))?;
    }
    Ok(())
}

/// The CPU sees there what the NIC wrote.
fn check(far: &Buffer, offset: usize, seed: u64) -> Result<()> {
    let pattern = Pattern::new(seed ^ offset as u64);
    far.check_from(pattern, 0, offset, LEN)
        .with_context(|| format!("{offset:#x}"))
}

/// The NIC sees it, too.
fn read(link: &Loopback, near: &Buffer, far: &Buffer, offset: usize, seed: u64) -> Result<()> {
    near.memory.write(0, &[0; LEN]);
    link.read(far.remote(offset), near.sge(0, LEN))
        .with_context(|| format!("READ of {offset:#x}"))?;
    let pattern = Pattern::new(seed ^ offset as u64);
    near.check_from(pattern, 0, 0, LEN)
        .with_context(|| format!("READ of {offset:#x}"))
}

/// One page in every GiB of 16 TiB. Without a bound the parts would take seven times as much as they may. Where
/// what they take cannot be seen, a quarter of it is more than enough for the bound to be reached.
fn bounded(env: &Env, mode: Mode) -> Result<()> {
    let places = match footprint::is_blurred() {
        true => 4 << 10,
        false => 16 << 10,
    };
    /// Three times the driver's bound on a machine with 2 GiB.
    const MOST: usize = 48 << 20;
    let (near, link) = (env.buffer(Mode::Pinned, PAGE)?, env.rc()?);
    let far = env.buffer(mode, places * GIB)?;
    far.memory.advise(0..far.memory.len(), Advice::NoHugePage)?;
    let at = |place: usize| place * GIB + place % (GIB / PAGE) * PAGE + place % 61 * 64;
    let (before, mut most) = (kernel_memory()?, 0);
    let offsets: Vec<usize> = (0..places).map(at).collect();
    for (n, offsets) in offsets.chunks(AT_ONCE).enumerate() {
        stamp_all(&link, &near, &far, offsets, 1)?;
        if n % 8 == 0 {
            most = most.max(kernel_memory()?.saturating_sub(before));
        }
    }
    let (made, reaped) = children(env)?;
    ensure!(made >= places as u64, "only {made} parts were made");
    ensure!(reaped > 0, "none of {made} parts was reaped");
    ensure!(most < MOST, "{} KiB of kernel memory", most >> 10);
    for place in 0..places {
        check(&far, at(place), 1)?;
    }
    // Those that have been reaped come again.
    for place in (0..places).step_by(16) {
        read(&link, &near, &far, at(place), 1)?;
        stamp(&link, &near, &far, at(place), 2)?;
        check(&far, at(place), 2)?;
    }
    far.memory.unmap(0..far.memory.len())?;
    gone(env, before)
}

/// Nothing is left of the parts, and the kernel's memory is back where it was.
fn gone(env: &Env, before: usize) -> Result<()> {
    /// What the kernel keeps for itself, of anybody's.
    const NOISE: usize = 4 << 20;
    let mut left = 0;
    // The small buffer of an implicit region is a part that stays.
    eventually("parts are left", || {
        let (made, reaped) = children(env)?;
        left = made - reaped;
        Ok(left <= 1)
    })
    .with_context(|| format!("{left}"))?;
    eventually("the kernel's memory is not back", || {
        Ok(kernel_memory()? < before + NOISE)
    })
}

/// Parts of which nothing is left go in the background, and come again.
fn reaped(env: &Env, mode: Mode) -> Result<()> {
    const PLACES: usize = 64;
    let (near, link) = (env.buffer(Mode::Pinned, PAGE)?, env.rc()?);
    let far = env.buffer(mode, PLACES * GIB)?;
    far.memory.advise(0..far.memory.len(), Advice::NoHugePage)?;
    let before = kernel_memory()?;
    for round in 0..3 {
        for place in 0..PLACES {
            stamp(&link, &near, &far, place * GIB + 100, round)?;
        }
        let (made, reaped) = children(env)?;
        ensure!(
            made - reaped >= PLACES as u64,
            "{made} made, {reaped} reaped while in use"
        );
        for place in 0..PLACES {
            check(&far, place * GIB + 100, round)?;
        }
        // Once it is thrown away, then it is unmapped and mapped anew.
        let all = 0..far.memory.len();
        if round == 0 {
            far.memory.advise(all, Advice::DontNeed)?;
        } else {
            far.memory.unmap(all.clone())?;
            far.memory
                .map(all, Backing::Anonymous, Protection::ReadWrite)?;
        }
        gone(env, before).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// Memory is thrown away again and again, at all distances in time around that of the reaper, while the
/// NIC uses it: whatever completes is right.
fn in_traffic(env: &Env, mode: Mode) -> Result<()> {
    const PLACES: usize = 8;
    const TIME: Duration = Duration::from_secs(4);
    let (near, link) = (env.buffer(Mode::Pinned, PAGE)?, env.rc()?);
    let far = env.buffer(mode, PLACES * GIB)?;
    // The first page of each place is traffic's; the chunk is emptied by taking it away.
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        let taker = threads.spawn(|| -> Result<()> {
            for pause in (0..).map(|n| n * 37 % 220) {
                if done.load(Ordering::Relaxed) {
                    return Ok(());
                }
                far.memory.advise(0..far.memory.len(), Advice::DontNeed)?;
                thread::sleep(Duration::from_millis(pause));
            }
            Ok(())
        });
        let traffic = || -> Result<()> {
            let (start, mut round) = (Instant::now(), 0);
            while start.elapsed() < TIME {
                round += 1;
                for place in 0..PLACES {
                    let offset = place * GIB + 40;
                    stamp(&link, &near, &far, offset, round)?;
                    // It is there, or has been thrown away since.
                    let zero = far.check_zero(offset, LEN).is_ok();
                    ensure!(
                        zero || check(&far, offset, round).is_ok()
                            || far.check_zero(offset, LEN).is_ok(),
                        "round {round}, place {place}: neither what was written nor nothing"
                    );
                }
                // Now and then long enough for the reaper to come.
                if round % 50 == 0 {
                    thread::sleep(Duration::from_millis(150));
                }
            }
            Ok(())
        };
        let result = traffic();
        done.store(true, Ordering::Relaxed);
        match taker.join() {
            Ok(taken) => result.and(taken),
            Err(_) => bail!("the thread that takes memory away has died"),
        }
    })?;
    let (_, reaped) = children(env)?;
    ensure!(reaped > 0, "nothing was reaped");
    Ok(())
}

/// Regions go while the reaper is on its way, at work, or has just been.
fn deregister(env: &Env) -> Result<()> {
    const PLACES: usize = 24;
    let (near, link) = (env.buffer(Mode::Pinned, PAGE)?, env.rc()?);
    let before = kernel_memory()?;
    for round in 0..15 {
        let memory = anonymous(PLACES * GIB)?;
        memory.advise(0..memory.len(), Advice::NoHugePage)?;
        let far = env.cover(Mode::Explicit, memory, Access::ALL)?;
        for place in 0..PLACES {
            stamp(&link, &near, &far, place * GIB, round)?;
            check(&far, place * GIB, round)?;
        }
        far.memory.unmap(0..PLACES / 2 * GIB)?;
        thread::sleep(Duration::from_millis(round * 14 % 210));
        drop(far);
    }
    eventually("the kernel's memory is not back", || {
        Ok(kernel_memory()? < before + (4 << 20))
    })
}
