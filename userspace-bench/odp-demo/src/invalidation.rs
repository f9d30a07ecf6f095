// SPDX-License-Identifier: GPL-2.0
//! Checks of invalidation: memory changes while the NIC has it mapped.
//!
//! Packets begin at the start of a page, so that nothing else is tested.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::Mode,
    traffic::{self, Lane, Placement},
};
use odp_verbs::{Op, Status};
use testkit::{
    memory::{Advice, Backing, Mapping, Protection, PAGE},
    pattern::Pattern,
    process::{self, Gate},
};

use crate::stage::{Check, Stage};

/// The checks of this file.
pub const CHECKS: &[Check] = &[
    Check {
        name: "munmap",
        title: "munmap: the NIC is refused; mapped again, it sees the new memory",
        required: true,
        run: munmap,
    },
    Check {
        name: "munmap-implicit",
        title: "The same through the region of the whole address space",
        required: true,
        run: munmap_implicit,
    },
    Check {
        name: "dontneed",
        title: "MADV_DONTNEED: the NIC reads zeroes, the CPU sees what it writes next",
        required: true,
        run: dontneed,
    },
    Check {
        name: "mprotect",
        title: "mprotect to read-only: WRITE is refused, READ works, and back",
        required: true,
        run: mprotect,
    },
    Check {
        name: "fork",
        title: "fork: what the NIC writes is seen by the parent, not by the child",
        required: true,
        run: fork,
    },
    Check {
        name: "neighbour",
        title: "Another process's traffic is not disturbed by refused accesses",
        required: true,
        run: neighbour,
    },
    Check {
        name: "churn",
        title: "Pages come and go under running traffic, every byte right",
        required: true,
        run: churn,
    },
];

const LEN: usize = 512;

fn munmap(stage: &Stage) -> Result<String> {
    take_and_give(stage, Mode::Explicit)
}

fn munmap_implicit(stage: &Stage) -> Result<String> {
    take_and_give(stage, Mode::Implicit)
}

fn take_and_give(stage: &Stage, mode: Mode) -> Result<String> {
    let (near, far) = (stage.buffer(mode, PAGE)?, stage.buffer(mode, 3 * PAGE)?);
    let (old, new) = (Pattern::new(10), Pattern::new(11));
    let page = PAGE..2 * PAGE;
    far.fill(old, PAGE, LEN);
    let link = stage.rc()?;
    link.read(far.remote(PAGE), near.sge(0, LEN))?;
    near.check_from(old, PAGE, 0, LEN)?;

    far.memory.unmap(page.clone())?;
    let refused = &[Status::REM_ACCESS_ERR];
    link.refused(Op::Read(far.remote(PAGE)), &[near.sge(0, LEN)], refused)
        .context("READ")?;
    let write = stage
        .rc()?
        .refused(Op::Write(far.remote(PAGE)), &[near.sge(0, LEN)], refused);
    write.context("WRITE")?;

    far.memory
        .map(page, Backing::Anonymous, Protection::ReadWrite)?;
    far.fill(new, PAGE, LEN);
    stage
        .rc()?
        .read(far.remote(PAGE), near.sge(0, LEN))
        .context("READ of the new memory")?;
    near.check_from(new, PAGE, 0, LEN)
        .context("the new memory")?;
    Ok("READ and WRITE end with REM_ACCESS_ERR, then the new bytes are read".into())
}

fn dontneed(stage: &Stage) -> Result<String> {
    let (near, far) = (
        stage.buffer(Mode::Explicit, PAGE)?,
        stage.buffer(Mode::Explicit, PAGE)?,
    );
    let (link, pattern) = (stage.rc()?, Pattern::new(20));
    far.fill(pattern, 0, LEN);
    link.read(far.remote(0), near.sge(0, LEN))?;
    far.memory.advise(0..PAGE, Advice::DontNeed)?;
    link.read(far.remote(0), near.sge(0, LEN))?;
    near.check_zero(0, LEN).context("the NIC reads")?;

    near.fill(pattern, 0, LEN);
    far.memory.advise(0..PAGE, Advice::DontNeed)?;
    link.write(near.sge(0, LEN), far.remote(0))?;
    far.check(pattern, 0, LEN).context("the CPU reads")?;
    Ok("both see one and the same page".into())
}

fn mprotect(stage: &Stage) -> Result<String> {
    let (near, far) = (
        stage.buffer(Mode::Explicit, PAGE)?,
        stage.buffer(Mode::Explicit, PAGE)?,
    );
    let (first, second) = (Pattern::new(30), Pattern::new(31));
    near.fill(first, 0, LEN);
    stage.rc()?.write(near.sge(0, LEN), far.remote(0))?;

    far.memory.protect(0..PAGE, Protection::Read)?;
    near.fill(second, 0, LEN);
    let write = stage.rc()?.refused(
        Op::Write(far.remote(0)),
        &[near.sge(0, LEN)],
        &[Status::REM_ACCESS_ERR],
    );
    write.context("WRITE")?;
    stage
        .rc()?
        .read(far.remote(0), near.sge(0, LEN))
        .context("READ")?;
    near.check(first, 0, LEN).context("what READ finds")?;

    far.memory.protect(0..PAGE, Protection::ReadWrite)?;
    near.fill(second, 0, LEN);
    stage
        .rc()?
        .write(near.sge(0, LEN), far.remote(0))
        .context("WRITE afterwards")?;
    far.check(second, 0, LEN)?;
    Ok("WRITE ends with REM_ACCESS_ERR while it may not, and works again".into())
}

fn fork(stage: &Stage) -> Result<String> {
    let (near, far) = (
        stage.buffer(Mode::Explicit, PAGE)?,
        stage.buffer(Mode::Explicit, PAGE)?,
    );
    let (link, old, new) = (stage.rc()?, Pattern::new(40), Pattern::new(41));
    near.fill(old, 0, LEN);
    link.write(near.sge(0, LEN), far.remote(0))?;
    near.fill(new, 0, LEN);

    let written = Gate::new()?;
    let child =
        process::fork(|| i32::from(written.wait().is_err() || far.check(old, 0, LEN).is_err()))?;
    link.write(near.sge(0, LEN), far.remote(0))
        .context("WRITE after the fork")?;
    written.open()?;
    let end = child.finish(Duration::from_secs(3))?;
    far.check(new, 0, LEN).context("the parent's memory")?;
    ensure!(
        end == process::End::Status(0),
        "the child sees what the NIC wrote for the parent ({end:?})"
    );
    Ok("copied on write as if the CPU had written".into())
}

fn neighbour(stage: &Stage) -> Result<String> {
    let helper = traffic::start(stage.part(traffic::ROLE))?;
    let (near, far) = (
        stage.buffer(Mode::Explicit, PAGE)?,
        stage.buffer(Mode::Explicit, PAGE)?,
    );
    far.fill(Pattern::new(50), 0, PAGE);
    near.fill(Pattern::new(50), 0, PAGE);
    for _ in 0..5 {
        let link = stage.rc()?;
        link.write(near.sge(0, LEN), far.remote(0))?;
        far.memory.unmap(0..PAGE)?;
        link.refused(
            Op::Write(far.remote(0)),
            &[near.sge(0, LEN)],
            &[Status::REM_ACCESS_ERR],
        )?;
        far.memory
            .map(0..PAGE, Backing::Anonymous, Protection::ReadWrite)?;
    }
    let report = traffic::stop(helper)?;
    ensure!(
        report.error.is_none(),
        "the neighbour: {}",
        report.error.unwrap_or_default()
    );
    Ok(format!(
        "5 refused accesses here, {} checked rounds there",
        report.rounds
    ))
}

fn churn(stage: &Stage) -> Result<String> {
    const PAGES: usize = 512;
    let pool = stage.buffer(Mode::Explicit, PAGES * PAGE)?;
    let lane = Lane::new(stage, Mode::Explicit, Placement::Aligned)?;
    let (near, link) = (stage.buffer(Mode::Explicit, PAGE)?, stage.rc()?);
    let done = AtomicBool::new(false);
    let rounds = thread::scope(|threads| -> Result<u64> {
        let others = threads.spawn(|| take_odd_pages(&pool.memory, PAGES, &done));
        let result = (0..400).try_for_each(|round: usize| -> Result<()> {
            // Even pages stay, odd pages between them come and go.
            let page = round * 7 % (PAGES / 2) * 2;
            let pattern = Pattern::new(round as u64);
            near.fill(pattern, 0, LEN);
            link.write(near.sge(0, LEN), pool.remote(page * PAGE))?;
            pool.check_from(pattern, 0, page * PAGE, LEN)?;
            lane.round(round as u64)
        });
        done.store(true, Ordering::Relaxed);
        let taken = others.join().expect("the thread does not panic")?;
        result.map(|()| taken)
    })?;
    Ok(format!(
        "400 writes checked while {rounds} neighbouring pages were unmapped and mapped"
    ))
}

/// Unmaps, maps and throws away every other page until told to stop; how many there were.
fn take_odd_pages(pool: &Mapping, pages: usize, done: &AtomicBool) -> Result<u64> {
    let mut taken = 0;
    while !done.load(Ordering::Relaxed) {
        let page = (taken as usize * 5 % (pages / 2)) * 2 + 1;
        let range = page * PAGE..(page + 1) * PAGE;
        pool.unmap(range.clone())?;
        pool.map(range.clone(), Backing::Anonymous, Protection::ReadWrite)?;
        pool.write(page * PAGE, &[1]);
        pool.advise(range, Advice::DontNeed)?;
        taken += 1;
    }
    Ok(taken)
}
