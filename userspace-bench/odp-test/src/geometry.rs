// SPDX-License-Identifier: GPL-2.0
//! Odd offsets, odd lengths and every path MTU. What surrounds the data must stay as it was.

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    env::{anonymous, Buffer, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::{Access, CompletionQueue, Mtu, Op, QpConfig, QueuePair, Transport};
use testkit::{
    memory::{HUGE_PAGE, PAGE},
    pattern::Pattern,
};

use crate::harness::Test;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("odd-write", |env, mode| matrix(env, mode, Verb::Write)),
    Test::data("odd-read", |env, mode| matrix(env, mode, Verb::Read)),
    Test::data("odd-send", |env, mode| matrix(env, mode, Verb::Send)),
    Test::data("path-mtu", path_mtu),
    Test::once("path-mtu-none", no_path_mtu),
    Test::data("empty-message", empty),
    Test::data("huge-page-boundary", huge_page_boundary),
];

const OFFSETS: [usize; 9] = [0, 1, 7, 8, 63, 511, 2048, 4088, 4095];
const LENGTHS: [usize; 14] = [
    1,
    3,
    8,
    64,
    255,
    1023,
    1024,
    1025,
    4095,
    4096,
    4097,
    8193,
    65537,
    (1 << 20) + 3,
];
const SIZE: usize = (2 << 20) + 8 * PAGE;
/// How much before and after the data is looked at.
const GUARD: usize = 2 * PAGE;

#[derive(Clone, Copy, Debug)]
enum Verb {
    Write,
    Read,
    Send,
}

/// Memory on both sides: the data at the first, something else at the second.
struct Table {
    from: Buffer,
    to: Buffer,
}

const DATA: Pattern = Pattern::new(1);
const OTHER: Pattern = Pattern::new(2);

impl Table {
    fn new(env: &Env, mode: Mode) -> Result<Self> {
        let table = Self {
            from: env.buffer(mode, SIZE)?,
            to: env.buffer(mode, SIZE)?,
        };
        table.from.fill(DATA, 0, SIZE);
        table.to.fill(OTHER, 0, SIZE);
        Ok(table)
    }

    /// Moves `len` bytes from `source` to `target`, looks at them and around them, and mends
    /// what was written over.
    fn try_one(
        &self,
        link: &Loopback,
        verb: Verb,
        source: usize,
        target: usize,
        len: usize,
    ) -> Result<()> {
        let Self { from, to } = self;
        match verb {
            Verb::Write => link.write(from.sge(source, len), to.remote(target))?,
            Verb::Read => link.read(from.remote(source), to.sge(target, len))?,
            Verb::Send => link
                .send(Op::Send, &[from.sge(source, len)], &[to.sge(target, len)])
                .map(drop)?,
        }
        to.check_from(DATA, source, target, len)?;
        to.check(OTHER, target - GUARD, GUARD)
            .context("before the data")?;
        to.check(OTHER, target + len, GUARD)
            .context("after the data")?;
        to.fill(OTHER, target, len);
        Ok(())
    }
}

/// Every offset of the target with every length; the source's offset takes its turns.
fn matrix(env: &Env, mode: Mode, verb: Verb) -> Result<()> {
    let table = Table::new(env, mode)?;
    let link = env.rc()?;
    for (i, offset) in OFFSETS.into_iter().enumerate() {
        for (j, len) in LENGTHS.into_iter().enumerate() {
            let other = OFFSETS[(i + j) % OFFSETS.len()];
            let (source, target) = (2 * PAGE + other, 2 * PAGE + offset);
            table
                .try_one(&link, verb, source, target, len)
                .with_context(|| format!("{len} bytes from page offset {other} to {offset}"))?;
        }
    }
    Ok(())
}

fn no_path_mtu(env: &Env) -> Result<()> {
    let queue = || CompletionQueue::new(&env.context, 16);
    let config = QpConfig::new(Transport::Rc);
    let queue_pair = || QueuePair::new(&env.domain, &queue()?, env.gid, config);
    let (first, second) = (queue_pair()?, queue_pair()?);
    match first.connect(&second.endpoint()?, Mtu::NONE) {
        Ok(()) => bail!("a queue pair without a path MTU was connected"),
        Err(error) => ensure!(error.errno() == Some(libc::EINVAL), "{error}"),
    }
    Ok(())
}

fn path_mtu(env: &Env, mode: Mode) -> Result<()> {
    let table = Table::new(env, mode)?;
    for mtu in Mtu::ALL.into_iter().filter(|&mtu| mtu <= env.mtu) {
        let link = Loopback::new(env, QpConfig::new(Transport::Rc), mtu)?;
        for verb in [Verb::Write, Verb::Read, Verb::Send] {
            for (offset, len) in [(0, mtu.bytes()), (1, 3 * mtu.bytes() + 1), (4090, 20_000)] {
                table
                    .try_one(&link, verb, 3 * PAGE + 17, 2 * PAGE + offset, len)
                    .with_context(|| format!("{verb:?} of {len} bytes, MTU {}", mtu.bytes()))?;
            }
        }
    }
    Ok(())
}

/// A message without data touches no memory, not even at an address where there is none.
fn empty(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, PAGE)?, env.buffer(mode, PAGE)?);
    let link = env.rc()?;
    far.fill(OTHER, 0, PAGE);
    link.ok(Op::Write(far.remote(100)), &[]).context("WRITE")?;
    link.ok(Op::Write(far.remote(100)), &[near.sge(5, 0)])
        .context("WRITE of an empty piece")?;
    link.ok(Op::Read(far.remote(100)), &[]).context("READ")?;
    link.send(Op::Send, &[], &[]).context("SEND")?;
    far.check(OTHER, 0, PAGE)?;
    Ok(())
}

/// Across the boundary of two huge pages, that the CPU has or has not touched.
fn huge_page_boundary(env: &Env, mode: Mode) -> Result<()> {
    let near = env.buffer(mode, 64 << 10)?;
    let len = 40_001;
    for touched in [false, true] {
        let memory = anonymous(2 * HUGE_PAGE)?;
        if touched {
            memory.write(0, &[0]);
            memory.write(HUGE_PAGE, &[0]);
        }
        let far = env.cover(mode, memory, Access::ALL)?;
        let (link, at) = (env.rc()?, HUGE_PAGE - 20_003);
        near.fill(DATA, 0, len);
        link.write(near.sge(0, len), far.remote(at))?;
        far.check_from(DATA, 0, at, len).context("WRITE")?;
        far.check_zero(at - GUARD, GUARD)
            .context("before the data")?;
        far.check_zero(at + len, GUARD).context("after the data")?;
        near.fill(OTHER, 0, len);
        link.read(far.remote(at), near.sge(0, len))?;
        near.check(DATA, 0, len).context("READ")?;
    }
    Ok(())
}
