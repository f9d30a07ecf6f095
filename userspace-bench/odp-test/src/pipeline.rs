// SPDX-License-Identifier: GPL-2.0
//! Many operations under way at once, in both directions, each of which has to fault its pages in.

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::{Buffer, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::{Op, QueuePair, Status};
use testkit::{memory::PAGE, pattern::Pattern};

use crate::harness::Test;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("pipelined-writes", writes),
    Test::data("pipelined-reads", reads),
    Test::data("pipelined-atomics", atomics),
    Test::data("pipelined-receives", receives),
    Test::data("both-directions", both_directions),
    Test::data("receive-posted-late", posted_late),
    Test::data("long-message", long_message),
    Test::on_demand("pipelined-hole", hole),
];

/// How many are under way.
const COUNT: usize = 48;
/// How far they are apart, and how long they are: they share pages, and span some.
const STEP: usize = 5 * PAGE + 77;
const LEN: usize = 5 * PAGE + 11;
const SIZE: usize = (COUNT + 1) * STEP;

/// Waits for `count` completions in the order of their work requests.
fn in_order(env: &Env, qp: &QueuePair, count: usize) -> Result<()> {
    for i in 0..count {
        let context = || format!("number {i}");
        let completion = qp.completions().wait(env.patience).with_context(context)?;
        completion
            .expect(&[Status::SUCCESS])
            .with_context(context)?;
        ensure!(
            completion.id == i as u64,
            "number {} completed as number {i}",
            completion.id
        );
    }
    Ok(())
}

/// Checks every message, and that there is nothing between them.
fn all_there(buffer: &Buffer, pattern: Pattern) -> Result<()> {
    for i in 0..COUNT {
        buffer
            .check(pattern, i * STEP, LEN)
            .with_context(|| format!("number {i}"))?;
        buffer
            .check_zero(i * STEP + LEN, STEP - LEN)
            .with_context(|| format!("after number {i}"))?;
    }
    Ok(())
}

fn scene(env: &Env, mode: Mode) -> Result<(Loopback, Buffer, Buffer)> {
    Ok((env.rc()?, env.buffer(mode, SIZE)?, env.buffer(mode, SIZE)?))
}

fn writes(env: &Env, mode: Mode) -> Result<()> {
    let (link, near, far) = scene(env, mode)?;
    near.fill(Pattern::new(1), 0, SIZE);
    for i in 0..COUNT {
        let (at, sge) = (far.remote(i * STEP), near.sge(i * STEP, LEN));
        link.first.post_send(i as u64, Op::Write(at), &[sge])?;
    }
    in_order(env, &link.first, COUNT)?;
    all_there(&far, Pattern::new(1))
}

fn reads(env: &Env, mode: Mode) -> Result<()> {
    let (link, near, far) = scene(env, mode)?;
    far.fill(Pattern::new(2), 0, SIZE);
    for i in 0..COUNT {
        let (at, sge) = (far.remote(i * STEP), near.sge(i * STEP, LEN));
        link.first.post_send(i as u64, Op::Read(at), &[sge])?;
    }
    in_order(env, &link.first, COUNT)?;
    all_there(&near, Pattern::new(2))
}

/// Each adds to a word that the one before it has added to; the pages are new to the NIC.
fn atomics(env: &Env, mode: Mode) -> Result<()> {
    let (link, near, far) = scene(env, mode)?;
    for i in 0..COUNT {
        let at = far.remote(i % 4 * 7 * PAGE + 8);
        let sge = near.sge(i * 3 * PAGE, 8);
        link.first.post_send(
            i as u64,
            Op::FetchAdd {
                at,
                add: i as u64 + 1,
            },
            &[sge],
        )?;
    }
    in_order(env, &link.first, COUNT)?;
    let mut words = [0; 4];
    for i in 0..COUNT {
        let before = near.memory.word(i * 3 * PAGE);
        ensure!(
            before == words[i % 4],
            "number {i} found {before}, expected {}",
            words[i % 4]
        );
        words[i % 4] += i as u64 + 1;
    }
    for (i, word) in words.into_iter().enumerate() {
        let found = far.memory.word(i * 7 * PAGE + 8);
        ensure!(found == word, "word {i} is {found}, expected {word}");
    }
    Ok(())
}

fn receives(env: &Env, mode: Mode) -> Result<()> {
    let (link, near, far) = scene(env, mode)?;
    near.fill(Pattern::new(3), 0, SIZE);
    for i in 0..COUNT {
        link.second.post_recv(i as u64, &[far.sge(i * STEP, LEN)])?;
    }
    for i in 0..COUNT {
        link.first
            .post_send(i as u64, Op::Send, &[near.sge(i * STEP, LEN)])?;
    }
    in_order(env, &link.second, COUNT)?;
    in_order(env, &link.first, COUNT)?;
    all_there(&far, Pattern::new(3))
}

fn both_directions(env: &Env, mode: Mode) -> Result<()> {
    let (link, a, b) = scene(env, mode)?;
    let (to_a, to_b) = (env.buffer(mode, SIZE)?, env.buffer(mode, SIZE)?);
    a.fill(Pattern::new(4), 0, SIZE);
    b.fill(Pattern::new(5), 0, SIZE);
    for i in 0..COUNT {
        let (at, id) = (i * STEP, i as u64);
        link.first
            .post_send(id, Op::Write(to_b.remote(at)), &[a.sge(at, LEN)])?;
        let (op, sge) = match i % 2 {
            0 => (Op::Write(to_a.remote(at)), b.sge(at, LEN)),
            _ => (Op::Read(b.remote(at)), to_a.sge(at, LEN)),
        };
        link.second.post_send(id, op, &[sge])?;
    }
    in_order(env, &link.first, COUNT)?;
    in_order(env, &link.second, COUNT)?;
    all_there(&to_b, Pattern::new(4)).context("first to second")?;
    all_there(&to_a, Pattern::new(5)).context("second to first")
}

/// The sender is told to try again until the receive is there.
fn posted_late(env: &Env, mode: Mode) -> Result<()> {
    let (link, near, far) = scene(env, mode)?;
    near.fill(Pattern::new(6), 1, LEN);
    link.first.post_send(0, Op::Send, &[near.sge(1, LEN)])?;
    std::thread::sleep(std::time::Duration::from_millis(30));
    link.second.post_recv(0, &[far.sge(1, LEN)])?;
    in_order(env, &link.second, 1)?;
    in_order(env, &link.first, 1)?;
    far.check(Pattern::new(6), 1, LEN)?;
    Ok(())
}

/// A message of 8 MiB, the longest that soft-RoCE takes.
fn long_message(env: &Env, mode: Mode) -> Result<()> {
    const LONG: usize = 8 << 20;
    let (link, near) = (env.rc()?, env.buffer(mode, LONG + 2 * PAGE)?);
    let far = env.buffer(mode, LONG + 2 * PAGE)?;
    near.fill(Pattern::new(7), 4095, LONG);
    link.write(near.sge(4095, LONG), far.remote(4095))
        .context("WRITE")?;
    far.check(Pattern::new(7), 4095, LONG).context("WRITE")?;
    near.memory.write(4095, &vec![0; LONG]);
    link.read(far.remote(4095), near.sge(4095, LONG))
        .context("READ")?;
    near.check(Pattern::new(7), 4095, LONG).context("READ")?;
    Ok(())
}

/// One of many requests gathers from memory that is not there, in the middle of its list: those before
/// it are done, it says why, those after it are flushed, and nothing past the hole is sent.
fn hole(env: &Env, mode: Mode) -> Result<()> {
    const BAD: usize = COUNT / 2;
    let (link, near, far) = scene(env, mode)?;
    let gone = env.buffer(mode, 2 * PAGE)?;
    near.fill(Pattern::new(8), 0, SIZE);
    gone.memory.unmap(0..2 * PAGE)?;
    // The pieces end in the middle of packets, and the hole begins there.
    let (before, missing) = (PAGE + 1500, 1000);
    for i in 0..COUNT {
        let at = i * STEP;
        let middle = match i == BAD {
            true => gone.sge(7, missing),
            false => near.sge(at + before, missing),
        };
        let rest = near.sge(at + before + missing, LEN - before - missing);
        let sges = [near.sge(at, before), middle, rest];
        link.first
            .post_send(i as u64, Op::Write(far.remote(at)), &sges)?;
    }
    in_order(env, &link.first, BAD)?;
    let failed = link.first.completions().wait(env.patience)?;
    ensure!(failed.id == BAD as u64, "number {} failed", failed.id);
    failed.expect(&[Status::LOC_PROT_ERR])?;
    for i in BAD + 1..COUNT {
        let completion = link.first.completions().wait(env.patience)?;
        let context = || format!("number {i}, after the one that failed");
        completion
            .expect(&[Status::WR_FLUSH_ERR])
            .with_context(context)?;
    }
    for i in 0..BAD {
        far.check(Pattern::new(8), i * STEP, LEN)
            .with_context(|| format!("number {i}"))?;
    }
    far.check_zero(BAD * STEP + before, SIZE - BAD * STEP - before)
        .context("from the hole on")?;
    Ok(())
}
