// SPDX-License-Identifier: GPL-2.0
//! Regions whose addresses are not those of the process (`ibv_reg_mr_iova`).

use anyhow::{ensure, Context as _, Result};
use odp_fixture::env::{anonymous, Env, Mode};
use odp_verbs::{Access, Op, Span, Status};
use testkit::{
    memory::{Advice, PAGE},
    pattern::Pattern,
};

use crate::harness::{Test, LOCAL_REFUSED, REMOTE_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::once("iova-remote", remote),
    Test::once("iova-local", local),
    Test::once("iova-invalidated", invalidated),
    Test::once("iova-bounds", bounds),
    Test::once("iova-own-page-offset", own_page_offset),
];

const ACCESS: Access = Access::from_bits(0x4f);
const SIZE: usize = 64 * PAGE;
/// At zero, low, with high bits set, and the last that fits.
const BASES: [u64; 5] = [
    0,
    0x10_0000,
    0x1234_5678_9000,
    0x8000_0000_0000_0000,
    u64::MAX - (SIZE as u64 - 1),
];
const PIECES: [(usize, usize); 4] = [(0, 64), (7, 1000), (4090, 9001), (SIZE - 5000, 5000)];

/// Calls `test` for each address at which a region may start.
fn on_bases(env: &Env, test: impl Fn(u64) -> Result<()>) -> Result<()> {
    assert_eq!(ACCESS, Access::ALL | Access::ON_DEMAND);
    tells_iova(env)?;
    BASES
        .into_iter()
        .try_for_each(|iova| test(iova).with_context(|| format!("iova {iova:#x}")))
}

/// A driver that fails this would do harm with addresses that are far apart.
fn tells_iova(env: &Env) -> Result<()> {
    ensure!(
        env.tells_iova()?,
        "the driver takes addresses of the region for those of the process"
    );
    Ok(())
}

fn remote(env: &Env) -> Result<()> {
    let near = env.buffer(Mode::Explicit, SIZE)?;
    on_bases(env, |iova| {
        let far = env.cover_iova(anonymous(SIZE)?, iova, ACCESS)?;
        let link = env.rc()?;
        for (at, len) in PIECES {
            let pattern = Pattern::new(at as u64 + 1);
            near.fill(pattern, at, len);
            link.write(near.sge(at, len), far.remote(at))?;
            far.check(pattern, at, len)
                .with_context(|| format!("WRITE at {at}"))?;
            near.memory.advise(0..SIZE, Advice::DontNeed)?;
            link.read(far.remote(at), near.sge(at, len))?;
            near.check(pattern, at, len)
                .with_context(|| format!("READ at {at}"))?;
        }
        link.ok(
            Op::FetchAdd {
                at: far.remote(40 * PAGE),
                add: 9,
            },
            &[near.sge(0, 8)],
        )?;
        ensure!(far.memory.word(40 * PAGE) == 9, "FETCH_ADD");
        Ok(())
    })
}

fn local(env: &Env) -> Result<()> {
    let far = env.buffer(Mode::Explicit, SIZE)?;
    on_bases(env, |iova| {
        let near = env.cover_iova(anonymous(SIZE)?, iova, ACCESS)?;
        let link = env.rc()?;
        for (at, len) in PIECES {
            let pattern = Pattern::new(at as u64 + 2);
            near.fill(pattern, at, len);
            link.write(near.sge(at, len), far.remote(at))?;
            far.check(pattern, at, len)
                .with_context(|| format!("WRITE from {at}"))?;
            near.memory.advise(0..SIZE, Advice::DontNeed)?;
            link.send(Op::Send, &[far.sge(at, len)], &[near.sge(at, len)])?;
            near.check(pattern, at, len)
                .with_context(|| format!("RECV at {at}"))?;
        }
        Ok(())
    })
}

/// An invalidation comes with the process's addresses; it has to find the region's.
fn invalidated(env: &Env) -> Result<()> {
    let near = env.buffer(Mode::Explicit, PAGE)?;
    on_bases(env, |iova| {
        let far = env.cover_iova(anonymous(SIZE)?, iova, ACCESS)?;
        let (link, pattern) = (env.rc()?, Pattern::new(3));
        for page in [0, 5, 63] {
            let at = page * PAGE;
            far.fill(pattern, at, PAGE);
            link.read(far.remote(at), near.sge(0, PAGE))?;
            near.check_from(pattern, at, 0, PAGE)?;
            far.memory.advise(at..at + PAGE, Advice::DontNeed)?;
            link.read(far.remote(at), near.sge(0, PAGE))?;
            near.check_zero(0, PAGE)
                .with_context(|| format!("page {page}, thrown away"))?;
        }
        far.memory.unmap(5 * PAGE..6 * PAGE)?;
        link.refused(
            Op::Read(far.remote(5 * PAGE)),
            &[near.sge(0, 8)],
            REMOTE_REFUSED,
        )?;
        Ok(())
    })
}

fn bounds(env: &Env) -> Result<()> {
    let near = env.buffer(Mode::Explicit, PAGE)?;
    on_bases(env, |iova| {
        let far = env.cover_iova(anonymous(SIZE)?, iova, ACCESS)?;
        let before = far.region.remote(iova.wrapping_sub(1));
        for at in [before, far.remote(SIZE - 7), far.remote(SIZE)] {
            let refused = env
                .rc()?
                .refused(Op::Write(at), &[near.sge(0, 8)], REMOTE_REFUSED);
            refused.with_context(|| format!("WRITE to {:#x}", at.addr))?;
        }
        let beyond = far.sge(SIZE - 7, 8);
        env.rc()?
            .refused(Op::Write(near.remote(0)), &[beyond], LOCAL_REFUSED)
            .context("locally")
    })
}

/// A region may start inside a page, but the addresses have to agree on where in the page.
fn own_page_offset(env: &Env) -> Result<()> {
    tells_iova(env)?;
    let (near, memory) = (env.buffer(Mode::Explicit, PAGE)?, anonymous(4 * PAGE)?);
    let far = env
        .domain
        .register_iova(&memory, 123..3 * PAGE + 45, 0x7000_0000_007b, ACCESS)?;
    let (pattern, last) = (Pattern::new(4), far.span().len - 1000);
    for at in [0, 3000, last] {
        near.fill(pattern, 0, 1000);
        env.rc()?
            .write(near.sge(0, 1000), far.remote(0x7000_0000_007b + at as u64))?;
        pattern
            .check(0, &memory.bytes(123 + at, 1000))
            .with_context(|| format!("at {at}"))?;
    }
    let refused = &[Status::REM_ACCESS_ERR];
    for at in [0x7000_0000_007a, 0x7000_0000_007b + last as u64 + 1] {
        env.rc()?
            .refused(Op::Write(far.remote(at)), &[near.sge(0, 1000)], refused)?;
    }
    let span = Span {
        addr: memory.at(0),
        len: PAGE,
        iova: 1,
    };
    // SAFETY: the span lies in a mapping.
    let disagreeing = unsafe { env.domain.register_raw(span, ACCESS) };
    ensure!(
        disagreeing.is_err(),
        "registered, though the addresses disagree within the page"
    );
    Ok(())
}
