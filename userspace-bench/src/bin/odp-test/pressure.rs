// SPDX-License-Identifier: GPL-2.0
//! The kernel moves pages for reasons of its own: it writes them out, puts them together into huge
//! ones, packs memory. Nobody may notice.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
};

use anyhow::{ensure, Context as _, Result};
use odp_verbs::{
    env::{anonymous, Buffer, Env, Mode},
    loopback::Loopback,
    memory::{Advice, Backing, Mapping, Protection, HUGE_PAGE, PAGE},
    pattern::Pattern,
    verbs::Access,
};

use crate::harness::{skip, Test};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("page-out-file", page_out_file),
    Test::on_demand("page-out-swap", page_out_swap),
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

/// A file on disk that no name leads to.
fn file_on_disk() -> Result<File> {
    let path = std::env::temp_dir().join(format!("odp-test.{}", std::process::id()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    fs::remove_file(&path)?;
    file.write_all_at(&OLD.bytes(0, SIZE), 0)?;
    file.sync_all()?;
    Ok(file)
}

/// What the NIC wrote to a file's page is not lost when the page is written out and forgotten.
fn page_out_file(env: &Env, mode: Mode) -> Result<()> {
    let file = file_on_disk()?;
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

fn page_out_swap(env: &Env, mode: Mode) -> Result<()> {
    if fs::read_to_string("/proc/swaps")?.lines().count() < 2 {
        return Err(skip("there is no swap"));
    }
    let (near, far) = (env.buffer(mode, SIZE)?, env.buffer(mode, SIZE)?);
    let link = env.rc()?;
    for round in 0..5 {
        let pattern = Pattern::new(20 + round);
        write_all(&link, &near, &far, pattern).context("WRITE")?;
        far.memory.advise(0..SIZE, Advice::PageOut)?;
        read_all(&link, &near, &far, pattern).context("READ of pages swapped out")?;
        far.memory.advise(0..SIZE, Advice::PageOut)?;
        far.check(pattern, 0, SIZE).context("the CPU's view")?;
    }
    Ok(())
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
