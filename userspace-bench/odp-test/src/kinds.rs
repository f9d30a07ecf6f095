// SPDX-License-Identifier: GPL-2.0
//! Memory of every kind, at both ends of the connection: the same operations on each.

use std::fs::File;

use anyhow::{Context as _, Result};
use odp_fixture::{
    env::{anonymous, Buffer, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::{Access, Op};
use testkit::{
    memory::{
        huge_memory_file, memory_file, Advice, Backing, Mapping, Protection, HUGE_PAGE, PAGE,
    },
    pattern::Pattern,
};

use crate::{
    harness::{skip, Test},
    machine::file_on_disk,
};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("kind-anonymous", |env, mode| on_both(env, mode, small)),
    Test::data("kind-transparent-huge", |env, mode| {
        on_both(env, mode, transparent)
    }),
    Test::data("kind-hugetlb", |env, mode| on_both(env, mode, reserved)),
    Test::data("kind-shared-anonymous", |env, mode| {
        on_both(env, mode, shared_anonymous)
    }),
    Test::data("kind-memfd", |env, mode| on_both(env, mode, memfd)),
    Test::data("kind-memfd-hugetlb", |env, mode| {
        on_both(env, mode, memfd_reserved)
    }),
    Test::data("kind-file-shared", |env, mode| {
        on_both(env, mode, file_shared)
    }),
    Test::data("kind-file-private", |env, mode| {
        on_both(env, mode, file_private)
    }),
];

/// Two huge pages of each kind: the data goes over the boundary between them.
const SIZE: usize = 2 * HUGE_PAGE;

fn small() -> Result<Mapping> {
    let memory = anonymous(SIZE)?;
    memory.advise(0..SIZE, Advice::NoHugePage)?;
    Ok(memory)
}

fn transparent() -> Result<Mapping> {
    let memory = anonymous(SIZE)?;
    memory.advise(0..SIZE, Advice::HugePage)?;
    Ok(memory)
}

fn reserved() -> Result<Mapping> {
    Mapping::new(SIZE, Backing::HugeTlb, Protection::ReadWrite)
        .map_err(|e| skip(format!("no huge pages in the pool: {e}")))
}

fn shared_anonymous() -> Result<Mapping> {
    Ok(Mapping::new(
        SIZE,
        Backing::SharedAnonymous,
        Protection::ReadWrite,
    )?)
}

fn shared(file: &File) -> Result<Mapping> {
    Ok(Mapping::new(
        SIZE,
        Backing::Shared(file),
        Protection::ReadWrite,
    )?)
}

fn memfd() -> Result<Mapping> {
    shared(&memory_file(SIZE)?)
}

fn memfd_reserved() -> Result<Mapping> {
    let file = huge_memory_file(SIZE).map_err(|e| skip(format!("no huge memory file: {e}")))?;
    shared(&file).map_err(|e| skip(format!("no huge pages in the pool: {e:#}")))
}

fn file_shared() -> Result<Mapping> {
    shared(&file_on_disk(&[0; SIZE])?)
}

fn file_private() -> Result<Mapping> {
    let file = file_on_disk(&[0; SIZE])?;
    Ok(Mapping::new(
        SIZE,
        Backing::Private(&file),
        Protection::ReadWrite,
    )?)
}

/// Where data goes from and to: odd, at the very ends, over the boundary of huge pages.
const PIECES: [(usize, usize); 4] = [
    (0, 5000),
    (7 * PAGE - 3, 2 * PAGE + 100),
    (HUGE_PAGE - 9999, 30_001),
    (SIZE - 1501, 1501),
];

/// Every operation between two mappings that `make` makes; first on memory that nobody has touched.
fn on_both(env: &Env, mode: Mode, make: fn() -> Result<Mapping>) -> Result<()> {
    let near = env.cover(mode, make()?, Access::ALL)?;
    let far = env.cover(mode, make()?, Access::ALL)?;
    let link = env.rc()?;
    link.read(far.remote(HUGE_PAGE - 77), near.sge(HUGE_PAGE - 77, 5000))
        .context("READ of untouched memory")?;
    near.check_zero(0, SIZE)
        .context("READ of untouched memory")?;
    for (seed, (at, len)) in PIECES.into_iter().enumerate() {
        exchange(&link, &near, &far, 10 * seed as u64, at, len)
            .with_context(|| format!("{len} bytes at {at:#x}"))?;
    }
    // What was moved is all that was: each piece, and nothing beside them.
    let mut expected = vec![0; SIZE];
    for (seed, (at, len)) in PIECES.into_iter().enumerate() {
        Pattern::new(10 * seed as u64 + 2).fill(0, &mut expected[at..at + len]);
    }
    testkit::pattern::compare(&expected, &far.memory.bytes(0, SIZE))
        .context("the whole of the target")?;
    Ok(())
}

/// WRITE, READ, SEND and atomics of one piece; the last data is that of `seed + 2`.
fn exchange(
    link: &Loopback,
    near: &Buffer,
    far: &Buffer,
    seed: u64,
    at: usize,
    len: usize,
) -> Result<()> {
    let pattern = |n: u64| Pattern::new(seed + n);
    near.memory.write(at, &pattern(0).bytes(0, len));
    link.write(near.sge(at, len), far.remote(at))
        .context("WRITE")?;
    far.check_from(pattern(0), 0, at, len).context("WRITE")?;

    far.memory.write(at, &pattern(1).bytes(0, len));
    link.read(far.remote(at), near.sge(at, len))
        .context("READ")?;
    near.check_from(pattern(1), 0, at, len).context("READ")?;

    let word = at.next_multiple_of(8);
    let before = far.memory.word(word);
    let op = Op::FetchAdd {
        at: far.remote(word),
        add: 0x0102_0304_0506_0708,
    };
    link.ok(op, &[near.sge(word, 8)]).context("FETCH_ADD")?;
    anyhow::ensure!(
        near.memory.word(word) == before
            && far.memory.word(word) == before.wrapping_add(0x0102_0304_0506_0708),
        "FETCH_ADD: another value"
    );

    near.memory.write(at, &pattern(2).bytes(0, len));
    link.send(Op::Send, &[near.sge(at, len)], &[far.sge(at, len)])
        .context("SEND")?;
    far.check_from(pattern(2), 0, at, len).context("SEND")?;
    Ok(())
}
