// SPDX-License-Identifier: GPL-2.0
//! The kernel moves pages for reasons of its own: it writes them out, puts them together into huge
//! ones, packs memory. Nobody may notice.

use std::{
    fs,
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::{anonymous, Buffer, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::Access;
use testkit::{
    memory::{Advice, Backing, Mapping, Protection, HUGE_PAGE, PAGE},
    patience,
    pattern::Pattern,
};

use crate::{
    harness::{skip, Test},
    machine::{file_on_disk, page_states, PageState, Setting, Swap},
};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("page-out-file", page_out_file),
    Test::on_demand("page-out-swap", |env, mode| {
        page_out_swap(env, mode, Backing::Anonymous)
    }),
    Test::on_demand("page-out-swap-shared", |env, mode| {
        page_out_swap(env, mode, Backing::SharedAnonymous)
    }),
    Test::on_demand("merge", merge),
    Test::on_demand("collapse", collapse),
    Test::on_demand("compaction", compaction),
];

const SIZE: usize = 64 * PAGE;
const OLD: Pattern = Pattern::new(1);
const NEW: Pattern = Pattern::new(2);

/// The NIC reads all of `far`, which should hold `pattern`.
fn read_all(link: &Loopback, near: &Buffer, far: &Buffer, pattern: Pattern) -> Result<()> {
    let len = far.memory.len() - 1;
    near.memory.write(0, &vec![0; len]);
    link.read(far.remote(1), near.sge(1, len))?;
    near.check(pattern, 1, len)?;
    Ok(())
}

/// The NIC writes `pattern` to all of `far`.
fn write_all(link: &Loopback, near: &Buffer, far: &Buffer, pattern: Pattern) -> Result<()> {
    let len = far.memory.len();
    near.fill(pattern, 0, len);
    link.write(near.sge(0, len), far.remote(0))?;
    Ok(())
}

/// What the NIC wrote to a file's page is not lost when the page is written out and forgotten.
fn page_out_file(env: &Env, mode: Mode) -> Result<()> {
    let file = file_on_disk(&OLD.bytes(0, SIZE))?;
    let memory = Mapping::new(SIZE, Backing::Shared(&file), Protection::ReadWrite)?;
    let far = env.cover(mode, memory, Access::ALL)?;
    let (near, link) = (env.buffer(mode, SIZE)?, env.rc()?);
    read_all(&link, &near, &far, OLD).context("READ")?;
    for round in 0..5 {
        let pattern = Pattern::new(10 + round);
        write_all(&link, &near, &far, pattern).context("WRITE")?;
        file.sync_all()?;
        far.memory.advise(0..SIZE, Advice::PageOut)?;
        read_all(&link, &near, &far, pattern).context("READ of pages written out")?;
        far.check(pattern, 0, SIZE).context("the CPU's view")?;
        far.memory.advise(0..SIZE, Advice::PageOut)?;
        let mut bytes = vec![0; SIZE];
        file.read_exact_at(&mut bytes, 0)?;
        pattern.check(0, &bytes).context("the file")?;
    }
    Ok(())
}

/// Pages go to a swap device, at both ends of the connection, and come back for the NIC.
fn page_out_swap(env: &Env, mode: Mode, backing: Backing<'_>) -> Result<()> {
    let _swap = Swap::add(32 << 20).context("adding swap")?;
    let buffer = || -> Result<Buffer> {
        let memory = Mapping::new(SIZE, backing, Protection::ReadWrite)?;
        Ok(env.cover(mode, memory, Access::ALL)?)
    };
    let (near, far) = (buffer()?, buffer()?);
    let link = env.rc()?;
    for round in 0..5 {
        let context = || format!("round {round}");
        let pattern = Pattern::new(20 + round);
        near.fill(pattern, 0, SIZE);
        swap_out(&near).with_context(context)?;
        link.write(near.sge(1, SIZE - 1), far.remote(1))
            .context("WRITE from pages swapped out")
            .with_context(context)?;
        far.memory.write(0, &pattern.bytes(0, 1));
        swap_out(&far).with_context(context)?;
        read_all(&link, &near, &far, pattern)
            .context("READ of pages swapped out")
            .with_context(context)?;
        // Dirty by the NIC only, this time.
        let newer = Pattern::new(40 + round);
        near.fill(newer, 0, SIZE);
        swap_out(&far).with_context(context)?;
        link.write(near.sge(0, SIZE), far.remote(0))
            .context("WRITE to pages swapped out")
            .with_context(context)?;
        swap_out(&far).with_context(context)?;
        far.check(newer, 0, SIZE)
            .context("the CPU's view")
            .with_context(context)?;
    }
    Ok(())
}

/// Has the pages of `buffer` written to swap; most of them have to be gone.
fn swap_out(buffer: &Buffer) -> Result<()> {
    buffer.memory.advise(0..SIZE, Advice::PageOut)?;
    let resident = buffer.memory.resident(0..SIZE)?;
    let gone = resident.iter().filter(|&&page| !page).count();
    ensure!(
        gone > SIZE / PAGE / 2,
        "only {gone} of {} pages are swapped out",
        SIZE / PAGE
    );
    Ok(())
}

/// How long the kernel may take to find pages of the same content.
const MERGED: Duration = Duration::from_secs(100);

/// Pages that the NIC has mapped for writing become one with others of the same content. Both ends still read
/// it; what the NIC writes then is in one of them only.
fn merge(env: &Env, mode: Mode) -> Result<()> {
    let run = Setting::new("/sys/kernel/mm/ksm/run", "0")
        .map_err(|e| skip(format!("the kernel merges no pages: {e:#}")))?;
    let _at_once = Setting::new("/sys/kernel/mm/ksm/sleep_millisecs", "5")?;
    let _many = Setting::new("/sys/kernel/mm/ksm/pages_to_scan", "2000")?;
    let buffer = || -> Result<Buffer> {
        let memory = anonymous(SIZE)?;
        memory.advise(0..SIZE, Advice::NoHugePage)?;
        memory.advise(0..SIZE, Advice::Mergeable)?;
        Ok(env.cover(mode, memory, Access::ALL)?)
    };
    let (near, one, two) = (env.buffer(mode, SIZE)?, buffer()?, buffer()?);
    let link = env.rc()?;
    for round in 0..3 {
        let context = || format!("round {round}");
        let pattern = Pattern::new(60 + round);
        write_all(&link, &near, &one, pattern).with_context(context)?;
        write_all(&link, &near, &two, pattern).with_context(context)?;
        run.set("1")?;
        merged(&one, &two).with_context(context)?;
        run.set("0")?;
        read_all(&link, &near, &one, pattern)
            .context("READ of merged pages")
            .with_context(context)?;
        read_all(&link, &near, &two, pattern)
            .context("READ of merged pages")
            .with_context(context)?;
        let newer = Pattern::new(70 + round);
        write_all(&link, &near, &one, newer)
            .context("WRITE to merged pages")
            .with_context(context)?;
        one.check(newer, 0, SIZE)
            .context("what was written")
            .with_context(context)?;
        two.check(pattern, 0, SIZE)
            .context("what was one with it")
            .with_context(context)?;
        read_all(&link, &near, &two, pattern)
            .context("READ of what was one with it")
            .with_context(context)?;
    }
    Ok(())
}

/// Waits until the pages of both are the same ones.
fn merged(one: &Buffer, two: &Buffer) -> Result<()> {
    let start = Instant::now();
    loop {
        let ones = page_states(&one.memory, 0..SIZE)?;
        let twos = page_states(&two.memory, 0..SIZE)?;
        let same = |pair: &(&PageState, &PageState)| pair.0 == pair.1;
        let count = ones.iter().zip(&twos).filter(same).count();
        if count == SIZE / PAGE {
            return Ok(());
        }
        ensure!(
            start.elapsed() < patience::scaled(MERGED),
            "only {count} of {} pages are merged",
            SIZE / PAGE
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Small pages that the NIC has mapped become one huge page.
fn collapse(env: &Env, mode: Mode) -> Result<()> {
    let memory = anonymous(HUGE_PAGE)?;
    memory.advise(0..HUGE_PAGE, Advice::NoHugePage)?;
    let far = env.cover(mode, memory, Access::ALL)?;
    let (near, link) = (env.buffer(mode, HUGE_PAGE)?, env.rc()?);
    write_all(&link, &near, &far, OLD)?;
    far.memory.advise(0..HUGE_PAGE, Advice::HugePage)?;
    if let Err(error) = far.memory.advise(0..HUGE_PAGE, Advice::Collapse) {
        return Err(skip(format!("the kernel does not collapse: {error}")));
    }
    read_all(&link, &near, &far, OLD).context("READ")?;
    write_all(&link, &near, &far, NEW)?;
    far.check(NEW, 0, HUGE_PAGE).context("WRITE")?;
    Ok(())
}

/// Pages are moved about while the NIC writes and reads them.
fn compaction(env: &Env, mode: Mode) -> Result<()> {
    let compact = || fs::write("/proc/sys/vm/compact_memory", "1");
    compact().map_err(|e| skip(format!("memory cannot be compacted: {e}")))?;
    let memory = anonymous(4 * HUGE_PAGE)?;
    memory.advise(0..4 * HUGE_PAGE, Advice::NoHugePage)?;
    let far = env.cover(mode, memory, Access::ALL)?;
    let (near, link) = (env.buffer(mode, 4 * HUGE_PAGE)?, env.rc()?);
    for round in 0..5 {
        let pattern = Pattern::new(30 + round);
        write_all(&link, &near, &far, pattern)?;
        // Holes, for the pages to be moved into.
        let holes = anonymous(4 * HUGE_PAGE)?;
        (0..4 * HUGE_PAGE / PAGE).for_each(|page| holes.write(page * PAGE, &[1]));
        for page in (0..4 * HUGE_PAGE / PAGE).step_by(2) {
            holes.advise(page * PAGE..(page + 1) * PAGE, Advice::DontNeed)?;
        }
        compact()?;
        read_all(&link, &near, &far, pattern).with_context(|| format!("round {round}"))?;
        let sum: usize = far
            .memory
            .resident(0..4 * HUGE_PAGE)?
            .into_iter()
            .filter(|&p| p)
            .count();
        ensure!(sum == 4 * HUGE_PAGE / PAGE, "only {sum} pages are left");
    }
    Ok(())
}
