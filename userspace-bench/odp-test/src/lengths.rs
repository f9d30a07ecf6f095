// SPDX-License-Identifier: GPL-2.0
//! Lengths at the ends of what there can be: the longest message, receives of more than that, sums that do not fit into
//! 32 bits, messages that do not fit into their receive; and pinned regions whose list of pages is long.
//!
//! Nobody has that much memory: many addresses lead to one short file.

use std::{fs::File, time::Duration};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::{Buffer, Env, Mode},
    loopback::{Loopback, GRH},
};
use odp_verbs::{Access, Completion, Op, QpConfig, Sge, SharedReceiveQueue, Status, Transport};
use testkit::{
    memory::{memory_file, Mapping, PAGE},
    patience,
    pattern::{compare, Pattern},
};

use crate::harness::Test;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::once("longest-write", longest_write).long(),
    Test::once("longest-read", longest_read).long(),
    Test::once("longest-send", longest_send).long(),
    Test::data("too-long", too_long),
    Test::data("long-receive", long_receive),
    Test::data("long-shared-receive", long_shared_receive),
    Test::data("long-datagram-receive", long_datagram_receive),
    Test::data("long-result", long_result),
    Test::data("short-receive", short_receive),
    Test::data("short-receive-unreliable", short_receive_unreliable),
    Test::once("pinned-3-gib", pinned),
];

/// The longest message: 2 GiB.
const LONGEST: usize = 1 << 31;
/// A piece of it, which has room in a pinned region of the kernel's own soft-RoCE.
const HALF: usize = LONGEST / 2;
/// The lengths of the files that back it, neither of which divides the other or the message.
const SOURCE: usize = 10 << 20;
const TARGET: usize = 6 << 20;
const PATTERN: Pattern = Pattern::new(31);

/// `len` bytes of addresses for `file_len` bytes of memory, registered.
fn repeated(env: &Env, mode: Mode, len: usize, file_len: usize) -> Result<(Buffer, File)> {
    let file = memory_file(file_len)?;
    let memory = Mapping::repeated(len, &file, file_len)?;
    Ok((env.cover(mode, memory, Access::ALL)?, file))
}

/// Queue pairs whose requests may have many pieces.
fn many_pieces(transport: Transport) -> QpConfig {
    QpConfig {
        sges: 8,
        ..QpConfig::new(transport)
    }
}

/// Waits for the end of a long message.
fn finished(env: &Env, link: &Loopback) -> Result<Completion> {
    let patience = patience::scaled(Duration::from_secs(600)).max(env.patience);
    Ok(link
        .first
        .completions()
        .wait(patience)?
        .expect(&[Status::SUCCESS])?)
}

/// What a long message has left in its target: its last bytes.
fn check_end(target: &Buffer) -> Result<()> {
    let mut expected = vec![0; TARGET];
    let first = LONGEST - TARGET;
    for (at, byte) in expected.iter_mut().enumerate() {
        let position = first + (at + TARGET - first % TARGET) % TARGET;
        *byte = PATTERN.byte((position % SOURCE) as u64);
    }
    compare(&expected, &target.memory.bytes(0, TARGET))?;
    Ok(())
}

fn longest_write(env: &Env) -> Result<()> {
    let (near, _) = repeated(env, Mode::Pinned, LONGEST, SOURCE)?;
    let (far, _) = repeated(env, Mode::Explicit, LONGEST, TARGET)?;
    near.fill(PATTERN, 0, SOURCE);
    let link = env.rc()?;
    let op = Op::Write(far.remote(0));
    link.first.post_send(1, op, &[near.sge(0, LONGEST)])?;
    finished(env, &link)?;
    check_end(&far)
}

fn longest_read(env: &Env) -> Result<()> {
    let (near, _) = repeated(env, Mode::Pinned, LONGEST, TARGET)?;
    let (far, _) = repeated(env, Mode::Explicit, LONGEST, SOURCE)?;
    far.fill(PATTERN, 0, SOURCE);
    let link = env.rc()?;
    let op = Op::Read(far.remote(0));
    link.first.post_send(1, op, &[near.sge(0, LONGEST)])?;
    finished(env, &link)?;
    check_end(&near)
}

fn longest_send(env: &Env) -> Result<()> {
    let (near, _) = repeated(env, Mode::Explicit, LONGEST, SOURCE)?;
    let (far, _) = repeated(env, Mode::Pinned, LONGEST, TARGET)?;
    near.fill(PATTERN, 0, SOURCE);
    let link = env.rc()?;
    // Two pieces that together have the length.
    let to = [far.sge(0, HALF), far.sge(HALF, HALF)];
    link.second.post_recv(2, &to)?;
    link.first.post_send(1, Op::Send, &[near.sge(0, LONGEST)])?;
    finished(env, &link)?;
    let received = link.second.completions().wait(env.patience)?;
    let received = received.expect(&[Status::SUCCESS])?;
    ensure!(
        received.len as usize == LONGEST,
        "{} bytes received",
        received.len
    );
    check_end(&far)
}

/// Messages of more than 2 GiB are refused before a byte is sent, whatever their length is in 32 bits.
fn too_long(env: &Env, mode: Mode) -> Result<()> {
    let (near, _) = repeated(env, mode, HALF, SOURCE)?;
    let far = env.buffer(mode, 4 * PAGE)?;
    near.fill(PATTERN, 0, PAGE);
    let half = near.sge(0, HALF);
    // The last is 4 GiB and 4 KiB, which is one page in 32 bits.
    let lists: [&[Sge]; 3] = [
        &[half, half, near.sge(0, 1)],
        &[half, half, half],
        &[half, half, half, half, near.sge(0, PAGE)],
    ];
    for list in lists {
        let context = || format!("{} pieces", list.len());
        for op in [Op::Write(far.remote(0)), Op::Send] {
            let link = env.pair(many_pieces(Transport::Rc))?;
            link.second.post_recv(2, &[far.sge(0, PAGE)])?;
            link.refused(op, list, &[Status::LOC_LEN_ERR])
                .with_context(context)?;
            ensure!(
                link.second.completions().poll()?.is_none(),
                "something was received"
            );
        }
        env.pair(many_pieces(Transport::Rc))?
            .refused(Op::Read(far.remote(0)), list, &[Status::LOC_LEN_ERR])
            .with_context(context)?;
    }
    far.check_zero(0, 4 * PAGE)?;
    near.check(PATTERN, 0, PAGE)?;
    Ok(())
}

/// A short message, and receives that offer 2 GiB and more: exactly so much, less and more than 4 GiB.
fn receives(env: &Env, mode: Mode) -> Result<(Buffer, Buffer, Vec<Vec<Sge>>)> {
    let near = env.buffer(mode, PAGE)?;
    let (far, _) = repeated(env, mode, HALF, TARGET)?;
    near.fill(PATTERN, 0, PAGE);
    let (first, half) = (far.sge(5, HALF - 5), far.sge(0, HALF));
    let lists = vec![
        vec![first, half, far.sge(0, 5)],
        vec![first, half, half],
        vec![first, half, half, half],
        vec![first, half, half, half, far.sge(0, PAGE + 5)],
    ];
    Ok((near, far, lists))
}

fn received(far: &Buffer, end: Completion, header: usize) -> Result<()> {
    ensure!(
        end.len as usize == header + 100,
        "{} bytes received",
        end.len
    );
    far.check_from(PATTERN, 0, 5 + header, 100)?;
    far.check_zero(5 + header + 100, PAGE)?;
    far.memory.write(5, &[0; 200]);
    Ok(())
}

fn long_receive(env: &Env, mode: Mode) -> Result<()> {
    let (near, far, lists) = receives(env, mode)?;
    let link = env.pair(many_pieces(Transport::Rc))?;
    for (number, list) in lists.iter().enumerate() {
        let end = link.send(Op::Send, &[near.sge(0, 100)], list);
        end.map_err(Into::into)
            .and_then(|end| received(&far, end, 0))
            .with_context(|| format!("list {number}"))?;
    }
    Ok(())
}

fn long_shared_receive(env: &Env, mode: Mode) -> Result<()> {
    let (near, far, lists) = receives(env, mode)?;
    let shared = SharedReceiveQueue::new(&env.domain, 16, 8)?;
    let link = env.pair_with_receives(many_pieces(Transport::Rc), Some(&shared))?;
    for (number, list) in lists.iter().enumerate() {
        shared.post_recv(2, list)?;
        link.ok(Op::Send, &[near.sge(0, 100)])
            .with_context(|| format!("list {number}"))?;
        let end = link.second.completions().wait(env.patience)?;
        received(&far, end.expect(&[Status::SUCCESS])?, 0)
            .with_context(|| format!("list {number}"))?;
    }
    Ok(())
}

fn long_datagram_receive(env: &Env, mode: Mode) -> Result<()> {
    let (near, far, lists) = receives(env, mode)?;
    let link = env.pair(many_pieces(Transport::Ud))?;
    for (number, list) in lists.iter().enumerate() {
        let end = link.send(Op::Send, &[near.sge(0, 100)], list);
        end.map_err(Into::into)
            .and_then(|end| received(&far, end, GRH))
            .with_context(|| format!("list {number}"))?;
    }
    Ok(())
}

/// A message that is longer than its receive, by a byte or by packets: the receiver has too little room, and the
/// sender has made an invalid request.
fn short_receive(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 16 * PAGE)?, env.buffer(mode, 16 * PAGE)?);
    near.fill(PATTERN, 0, 16 * PAGE);
    let mtu = env.mtu.bytes();
    for (len, room) in [
        (1, 0),
        (101, 100),
        (mtu + 1, mtu),
        (3 * mtu, 2 * mtu + 7),
        (2 * mtu, 10),
    ] {
        let context = || format!("{len} bytes into {room}");
        let shared = SharedReceiveQueue::new(&env.domain, 16, 4)?;
        for receives in [None, Some(&shared)] {
            let link = env.pair_with_receives(QpConfig::new(Transport::Rc), receives)?;
            far.memory.write(0, &vec![0; 16 * PAGE]);
            // In two pieces, or none: on a ConnectX a piece of no bytes is one of 2 GiB.
            let to = [far.sge(5, room / 2), far.sge(5 + room / 2, room - room / 2)];
            let to = if room == 0 { &[] } else { &to[..] };
            match receives {
                Some(shared) => shared.post_recv(2, to)?,
                None => link.second.post_recv(2, to)?,
            }
            link.refused(Op::Send, &[near.sge(0, len)], &[Status::REM_INV_REQ_ERR])
                .with_context(context)?;
            let end = link.second.completions().wait(env.patience)?;
            end.expect(&[Status::LOC_LEN_ERR]).with_context(context)?;
            far.check_zero(5 + room, PAGE).with_context(context)?;
            far.check_zero(0, 5).with_context(context)?;
        }
    }
    Ok(())
}

/// The same without acknowledgements: the sender does not learn of it, and the next messages arrive. The receive stays,
/// unless it is from a shared queue.
fn short_receive_unreliable(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 16 * PAGE)?, env.buffer(mode, 16 * PAGE)?);
    near.fill(PATTERN, 0, 16 * PAGE);
    let mtu = env.mtu.bytes();
    for (len, room) in [
        (101, 100),
        (2 * mtu, 10),
        (2 * mtu, mtu + 476),
        (4 * mtu, mtu + 7),
        (4 * mtu, 3 * mtu),
    ] {
        let shared = SharedReceiveQueue::new(&env.domain, 16, 4)?;
        for receives in [None, Some(&shared)] {
            let context = || format!("{len} bytes into {room}, shared: {}", receives.is_some());
            let link = env.pair_with_receives(QpConfig::new(Transport::Uc), receives)?;
            let post = |id| match receives {
                Some(shared) => shared.post_recv(id, &[far.sge(5, room)]),
                None => link.second.post_recv(id, &[far.sge(5, room)]),
            };
            for id in [10, 20] {
                far.memory.write(0, &vec![0; 16 * PAGE]);
                post(id)?;
                link.ok(Op::Send, &[near.sge(0, len)])
                    .with_context(context)?;
                let mut stays = id;
                if receives.is_some() {
                    let end = link.second.completions().wait(env.patience);
                    let end = end.with_context(context)?;
                    ensure!(end.id == id, "{} ended in the place of {id}", end.id);
                    end.expect(&[Status::LOC_LEN_ERR]).with_context(context)?;
                    stays = id + 1;
                    post(stays)?;
                }
                link.ok(Op::SendImm(7), &[near.sge(1, room)])
                    .with_context(context)?;
                let end = link.second.completions().wait(env.patience);
                let end = end.with_context(context)?.expect(&[Status::SUCCESS])?;
                ensure!(
                    (end.id, end.imm, end.len as usize) == (stays, Some(7), room),
                    "{}: received {end:?}",
                    context()
                );
                far.check_from(PATTERN, 1, 5, room).with_context(context)?;
                far.check_zero(5 + room, PAGE).with_context(context)?;
            }
        }
    }
    Ok(())
}

/// A pinned region of so many pages that their list does not fit into one piece of memory.
fn pinned(env: &Env) -> Result<()> {
    let len = 3 << 30;
    let (large, _) = repeated(env, Mode::Pinned, len, 2 << 20).context("registration")?;
    let small = env.buffer(Mode::Pinned, 2 * PAGE)?;
    let link = env.rc()?;
    for at in [0, (1 << 30) - 77, LONGEST - 1, len - 5003] {
        let pattern = Pattern::new(at as u64);
        small.fill(pattern, 0, 5003);
        link.write(small.sge(0, 5003), large.remote(at))?;
        large.check_from(pattern, 0, at, 5003)?;
        small.memory.write(0, &[0; 5003]);
        link.read(large.remote(at), small.sge(0, 5003))?;
        small.check(pattern, 0, 5003)?;
    }
    Ok(())
}

/// The result of an atomic operation has 8 bytes, though there is room for several packets.
fn long_result(env: &Env, mode: Mode) -> Result<()> {
    let len = 3 * env.mtu.bytes();
    let (near, far) = (env.buffer(mode, len)?, env.buffer(mode, PAGE)?);
    near.fill(PATTERN, 0, len);
    let link = env.rc()?;
    for count in 0..3 {
        let at = far.remote(0);
        let end = link.run(Op::FetchAdd { at, add: 1 }, &[near.sge(0, len)])?;
        let end = end.expect(&[Status::SUCCESS])?;
        ensure!(end.len == 8, "the result has {} bytes", end.len);
        let found = near.memory.word(0);
        ensure!(found == count, "{found} was there instead of {count}");
        near.check(PATTERN, 8, len - 8).context("after it")?;
    }
    Ok(())
}
