// SPDX-License-Identifier: GPL-2.0
//! Traffic on some pages while their neighbours come and go, and on many queue pairs at once.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure, Context as _, Result};
use odp_fixture::env::{anonymous, Buffer, Env, Mode};
use odp_verbs::{Access, Op, Status};
use testkit::{
    memory::{Advice, Backing, Mapping, Protection, HUGE_PAGE, PAGE},
    pattern::Pattern,
};

use crate::harness::Test;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("churn-beside", |env, mode| churn(env, mode, Churn::Beside)),
    Test::on_demand("churn-same", |env, mode| churn(env, mode, Churn::Same)),
    Test::on_demand("churn-huge", |env, mode| churn(env, mode, Churn::Huge)),
    Test::on_demand("churn-hit", hit),
    Test::on_demand("deregister-in-traffic", deregister),
    Test::data("parallel", parallel),
];

const TIME: Duration = Duration::from_secs(4);
const SIZE: usize = 2 * HUGE_PAGE;
/// What is in memory that is only read.
const UNCHANGED: Pattern = Pattern::new(1);

/// What happens to the memory while there is traffic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Churn {
    /// Other pages of the same huge page are unmapped, mapped, thrown away, protected.
    Beside,
    /// The very pages of the traffic change their protection to read-only and back, which leaves
    /// their content alone; reads must not notice.
    Same,
    /// As the first, in memory of huge pages, which are put together again at the end of a round.
    Huge,
}

/// Traffic goes to four pages out of each eight, what comes and goes is in the other four.
fn quiet(n: usize) -> usize {
    n / 4 * 8 + n % 4
}

fn churn(env: &Env, mode: Mode, what: Churn) -> Result<()> {
    let memory = anonymous(SIZE)?;
    let advice = if what == Churn::Huge {
        Advice::HugePage
    } else {
        Advice::NoHugePage
    };
    memory.advise(0..SIZE, advice)?;
    let pool = env.cover(mode, memory, Access::ALL)?;
    if what == Churn::Same {
        pool.fill(UNCHANGED, 0, SIZE);
    }
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        let other = threads.spawn(|| take(&pool.memory, what, &done));
        let result = match what {
            Churn::Same => reads(env, mode, &pool),
            _ => round_trips(env, mode, &pool),
        };
        done.store(true, Ordering::Relaxed);
        let taken = other
            .join()
            .map_err(|_| anyhow!("the other thread panicked"))?;
        let rounds = result?;
        let taken = taken.context("the other thread")?;
        ensure!(
            rounds > 20 && taken > 20,
            "{rounds} rounds, {taken} changes"
        );
        Ok(())
    })
}

/// Writes and reads quiet pages, in runs of up to four, until the time is over.
fn round_trips(env: &Env, mode: Mode, pool: &Buffer) -> Result<u64> {
    let (near, link, start) = (env.buffer(mode, 8 * PAGE)?, env.rc()?, Instant::now());
    let pages = SIZE / PAGE / 2;
    let mut round = 0;
    while start.elapsed() < TIME {
        let n = round as usize * 13 % pages / 4 * 4;
        let (at, len) = (
            quiet(n) * PAGE + round as usize % 97,
            3 * PAGE + round as usize % 89,
        );
        let (pattern, context) = (Pattern::new(round), || format!("round {round}, at {at:#x}"));
        near.fill(pattern, 0, len);
        link.write(near.sge(0, len), pool.remote(at))
            .with_context(context)?;
        pool.check_from(pattern, 0, at, len)
            .with_context(context)
            .context("WRITE")?;
        near.memory.write(0, &vec![0; len]);
        link.read(pool.remote(at), near.sge(0, len))
            .with_context(context)?;
        near.check(pattern, 0, len)
            .with_context(context)
            .context("READ")?;
        round += 1;
    }
    Ok(round)
}

/// Reads pages whose content never changes, until the time is over.
fn reads(env: &Env, mode: Mode, pool: &Buffer) -> Result<u64> {
    let (near, link, start) = (env.buffer(mode, 8 * PAGE)?, env.rc()?, Instant::now());
    let mut round = 0;
    while start.elapsed() < TIME {
        let n = round as usize * 13 % (SIZE / PAGE / 2) / 4 * 4;
        let (at, len) = (run(n).start + round as usize % 97, 3 * PAGE);
        link.read(pool.remote(at), near.sge(0, len))?;
        near.check_from(UNCHANGED, at, 0, len)
            .with_context(|| format!("round {round} at {at:#x}"))?;
        round += 1;
    }
    Ok(round)
}

/// The run of four quiet pages that `n` is in.
fn run(n: usize) -> Range<usize> {
    let first = quiet(n / 4 * 4);
    first * PAGE..(first + 4) * PAGE
}

/// Does things to pages until `done`; how often.
fn take(memory: &Mapping, what: Churn, done: &AtomicBool) -> Result<u64> {
    let mut changes = 0;
    while !done.load(Ordering::Relaxed) {
        let n = changes as usize * 5 % (SIZE / PAGE / 2);
        let page = (quiet(n) + 4) * PAGE;
        let page = page..page + PAGE;
        match (what, changes % 4) {
            (Churn::Same, _) => {
                memory.protect(run(n), Protection::Read)?;
                memory.protect(run(n), Protection::ReadWrite)?;
            }
            (_, 0) => {
                memory.unmap(page.clone())?;
                memory.map(page, Backing::Anonymous, Protection::ReadWrite)?;
            }
            (_, 1) => {
                memory.write(page.start, &[1]);
                memory.advise(page, Advice::DontNeed)?;
            }
            (_, 2) => {
                memory.protect(page.clone(), Protection::None)?;
                memory.protect(page, Protection::ReadWrite)?;
            }
            _ => memory.write(page.start, &[2; PAGE]),
        }
        if what == Churn::Huge && changes % 64 == 63 {
            let range = changes as usize % 128 / 64 * HUGE_PAGE;
            // Refused or not: whether huge pages come together is the kernel's affair.
            let _ = memory.advise(range..range + HUGE_PAGE, Advice::HugePage);
        }
        changes += 1;
    }
    Ok(changes)
}

/// The very pages of the traffic are unmapped and mapped. A message is refused or goes through,
/// and one that goes through after the last change is right.
fn hit(env: &Env, mode: Mode) -> Result<()> {
    let (near, pool) = (env.buffer(mode, 4 * PAGE)?, env.buffer(mode, 16 * PAGE)?);
    near.fill(UNCHANGED, 0, 4 * PAGE);
    let done = AtomicBool::new(false);
    let (through, refused) = thread::scope(|threads| {
        let other = threads.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                pool.memory.unmap(4 * PAGE..12 * PAGE)?;
                pool.memory.map(
                    4 * PAGE..12 * PAGE,
                    Backing::Anonymous,
                    Protection::ReadWrite,
                )?;
                thread::sleep(Duration::from_micros(300));
            }
            Ok(())
        });
        let result = shoot(env, &near, &pool);
        done.store(true, Ordering::Relaxed);
        other
            .join()
            .map_err(|_| anyhow!("the other thread panicked"))??;
        result
    })?;
    ensure!(
        through > 0,
        "{through} messages went through, {refused} were refused"
    );
    env.rc()?
        .write(near.sge(0, 3 * PAGE), pool.remote(6 * PAGE + 5))?;
    pool.check_from(UNCHANGED, 0, 6 * PAGE + 5, 3 * PAGE)
        .context("after the last change")?;
    Ok(())
}

/// Writes and reads until the time is over, on a new pair after each refusal. How many went
/// through and how many were refused.
fn shoot(env: &Env, near: &Buffer, pool: &Buffer) -> Result<(u64, u64)> {
    let (mut through, mut refused, start) = (0, 0, Instant::now());
    let mut link = env.rc()?;
    while start.elapsed() < TIME {
        let at = pool.remote(6 * PAGE + 5);
        let op = if through % 2 == 0 {
            Op::Write(at)
        } else {
            Op::Read(at)
        };
        let completion = link.run(op, &[near.sge(0, 3 * PAGE)])?;
        match completion
            .expect(&[Status::SUCCESS, Status::REM_ACCESS_ERR])?
            .status
        {
            Status::SUCCESS => through += 1,
            _ => {
                refused += 1;
                link = env.rc()?;
            }
        }
        near.fill(UNCHANGED, 0, 4 * PAGE);
    }
    Ok((through, refused))
}

/// Regions are deregistered while messages to them are under way.
fn deregister(env: &Env, mode: Mode) -> Result<()> {
    let near = env.buffer(mode, 64 * PAGE)?;
    near.fill(UNCHANGED, 0, 64 * PAGE);
    let start = Instant::now();
    while start.elapsed() < TIME / 2 {
        let memory = anonymous(64 * PAGE)?;
        let region = env.register(mode, &memory, Access::ALL)?;
        let link = env.rc()?;
        for i in 0..16 {
            let at = region.remote(memory.at(3 * i as usize * PAGE));
            link.first
                .post_send(i, Op::Write(at), &[near.sge(5, 16 * PAGE)])?;
        }
        region.deregister()?;
        for _ in 0..16 {
            let ended = [
                Status::SUCCESS,
                Status::REM_ACCESS_ERR,
                Status::WR_FLUSH_ERR,
            ];
            link.first
                .completions()
                .wait(env.patience)?
                .expect(&ended)?;
        }
    }
    Ok(())
}

/// Eight queue pairs of eight threads on one region, each with its own pieces of every page.
fn parallel(env: &Env, mode: Mode) -> Result<()> {
    const THREADS: usize = 8;
    const PIECE: usize = PAGE / THREADS;
    let pool = env.buffer(mode, 64 * PAGE)?;
    let lane = &|index: usize| -> Result<()> {
        let (near, link) = (env.buffer(mode, PAGE)?, env.rc()?);
        for page in 0..64 {
            let at = page * PAGE + index * PIECE;
            let pattern = Pattern::new((index * 1000 + page) as u64);
            near.fill(pattern, 0, PIECE - 3);
            link.write(near.sge(0, PIECE - 3), pool.remote(at + 1))?;
            near.memory.write(0, &[0; PIECE]);
            link.read(pool.remote(at + 1), near.sge(0, PIECE - 3))?;
            near.check(pattern, 0, PIECE - 3)
                .with_context(|| format!("READ of page {page}"))?;
            pool.check_from(pattern, 0, at + 1, PIECE - 3)
                .with_context(|| format!("page {page}"))?;
        }
        Ok(())
    };
    thread::scope(|threads| {
        let started: Vec<_> = (0..THREADS)
            .map(|i| threads.spawn(move || lane(i)))
            .collect();
        for (index, thread) in started.into_iter().enumerate() {
            let result = thread
                .join()
                .map_err(|_| anyhow!("thread {index} panicked"))?;
            result.with_context(|| format!("thread {index}"))?;
        }
        Ok(())
    })
}
