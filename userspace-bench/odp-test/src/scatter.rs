// SPDX-License-Identifier: GPL-2.0
//! Messages gathered from and scattered to several pieces of memory, at odd offsets, across regions.

use anyhow::{Context as _, Result};
use odp_fixture::env::{Buffer, Env, Mode};
use odp_verbs::{Op, Sge};
use testkit::{
    memory::PAGE,
    pattern::{compare, Pattern},
};

use crate::harness::{Test, LOCAL_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("gather", gather),
    Test::data("scatter-read", scatter_read),
    Test::data("scatter-recv", scatter_recv),
    Test::on_demand("gather-hole", gather_hole),
];

const SIZE: usize = 8 * PAGE;
/// For each message, its pieces: which of two buffers, where, how much.
const MESSAGES: [&[(usize, usize, usize)]; 4] = [
    &[(0, 4095, 2), (1, 7, 1000)],
    &[(1, 4090, 4101), (0, 1, 1), (1, 3 * PAGE - 1, 3)],
    &[
        (0, 511, 513),
        (1, 63, 64),
        (0, 5 * PAGE - 9, 2011),
        (1, 2 * PAGE + 2048, 4096),
    ],
    &[
        (0, 0, PAGE),
        (1, PAGE, PAGE),
        (0, 2 * PAGE, PAGE),
        (1, 3 * PAGE, PAGE),
    ],
];

fn total(pieces: &[(usize, usize, usize)]) -> usize {
    pieces.iter().map(|p| p.2).sum()
}

fn sges(buffers: &[Buffer; 2], pieces: &[(usize, usize, usize)]) -> Vec<Sge> {
    pieces
        .iter()
        .map(|&(which, at, len)| buffers[which].sge(at, len))
        .collect()
}

/// Fills both buffers, and says what the message gathered from them should be.
fn fill(buffers: &[Buffer; 2], pieces: &[(usize, usize, usize)]) -> Vec<u8> {
    for (seed, buffer) in buffers.iter().enumerate() {
        buffer.fill(Pattern::new(10 + seed as u64), 0, SIZE);
    }
    let piece = |&(which, at, len): &(usize, usize, usize)| {
        Pattern::new(10 + which as u64).bytes(at as u64, len)
    };
    pieces.iter().flat_map(piece).collect()
}

/// Checks that the message is in its pieces and that there are only zeroes around them.
fn scattered(buffers: &[Buffer; 2], pieces: &[(usize, usize, usize)], data: &[u8]) -> Result<()> {
    let mut expected = [vec![0; SIZE], vec![0; SIZE]];
    let mut rest = data;
    for &(which, at, len) in pieces {
        let (piece, after) = rest.split_at(len);
        expected[which][at..at + len].copy_from_slice(piece);
        rest = after;
    }
    for (which, buffer) in buffers.iter().enumerate() {
        compare(&expected[which], &buffer.memory.bytes(0, SIZE))
            .with_context(|| format!("buffer {which}"))?;
    }
    Ok(())
}

fn each_message(test: impl Fn(&[(usize, usize, usize)]) -> Result<()>) -> Result<()> {
    MESSAGES
        .into_iter()
        .try_for_each(|pieces| test(pieces).with_context(|| format!("pieces {pieces:?}")))
}

fn gather(env: &Env, mode: Mode) -> Result<()> {
    let link = env.rc()?;
    each_message(|pieces| {
        let buffers = [env.buffer(mode, SIZE)?, env.buffer(mode, SIZE)?];
        let far = env.buffer(mode, 2 * SIZE)?;
        let (data, at) = (fill(&buffers, pieces), 4093);
        link.ok(Op::Write(far.remote(at)), &sges(&buffers, pieces))?;
        compare(&data, &far.memory.bytes(at, data.len())).context("WRITE")?;
        far.memory.write(at, &vec![0; data.len()]);
        let to = [far.sge(at, data.len())];
        link.send(Op::Send, &sges(&buffers, pieces), &to)?;
        compare(&data, &far.memory.bytes(at, data.len())).context("SEND")?;
        far.check_zero(0, at).context("before the data")?;
        far.check_zero(at + data.len(), SIZE)
            .context("after the data")?;
        Ok(())
    })
}

fn scatter_read(env: &Env, mode: Mode) -> Result<()> {
    let link = env.rc()?;
    each_message(|pieces| {
        let buffers = [env.buffer(mode, SIZE)?, env.buffer(mode, SIZE)?];
        let far = env.buffer(mode, 2 * SIZE)?;
        let (pattern, len) = (Pattern::new(1), total(pieces));
        far.fill(pattern, 77, len);
        link.ok(Op::Read(far.remote(77)), &sges(&buffers, pieces))?;
        scattered(&buffers, pieces, &pattern.bytes(77, len))
    })
}

fn scatter_recv(env: &Env, mode: Mode) -> Result<()> {
    let link = env.rc()?;
    each_message(|pieces| {
        let buffers = [env.buffer(mode, SIZE)?, env.buffer(mode, SIZE)?];
        let near = env.buffer(mode, 2 * SIZE)?;
        let (pattern, len) = (Pattern::new(2), total(pieces));
        near.fill(pattern, 4091, len);
        link.send(Op::Send, &[near.sge(4091, len)], &sges(&buffers, pieces))?;
        scattered(&buffers, pieces, &pattern.bytes(4091, len))
    })
}

/// One piece of several has no memory.
fn gather_hole(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, SIZE)?, env.buffer(mode, SIZE)?);
    let link = env.rc()?;
    near.fill(Pattern::new(3), 0, SIZE);
    near.memory.unmap(4 * PAGE..5 * PAGE)?;
    let pieces = [
        near.sge(100, 50),
        near.sge(4 * PAGE + 5, 10),
        near.sge(6 * PAGE, 10),
    ];
    link.refused(Op::Write(far.remote(0)), &pieces, LOCAL_REFUSED)?;
    Ok(())
}
