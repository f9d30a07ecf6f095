// SPDX-License-Identifier: GPL-2.0
//! The send queue is memory that the application shares with the kernel, and may write to at any time. Whatever it
//! writes there, its requests fail, and nothing else happens.
//!
//! The kernel's own soft-RoCE works on the requests where they are, with what it finds there as index and offset: some
//! of these would crash it. So each test first sees that the queue is not where the kernel works.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::env::{Buffer, Env, Mode};
use odp_verbs::{
    ring::{field, Request, SendRing, INLINE, REGISTER_BY_POINTER},
    CompletionQueue, Op, QpConfig, QueuePair, Sge, Status, Transport,
};
use testkit::{memory::PAGE, pattern::Pattern};

use crate::{harness::Test, operations::unless_extended};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("shared-queue-untouched", |env, mode| {
        Scene::new(env, mode).map(drop)
    }),
    Test::data("shared-queue-opcodes", opcodes),
    Test::data("shared-queue-fields", fields),
    Test::data("shared-queue-inline-results", inline_results),
    Test::data("shared-queue-taken-back", taken_back),
    Test::data("shared-queue-scribbled", scribbled),
];

/// Operations, as the kernel numbers them.
const WRITE: u32 = 0;
const SEND: u32 = 2;
const READ: u32 = 4;
const FETCH_ADD: u32 = 6;
const FLUSH: u32 = 14;
const ATOMIC_WRITE: u32 = 15;

const LEN: usize = 64;
const PATTERN: Pattern = Pattern::new(5);

/// Two queue pairs, the send queue of the first, and memory at both ends.
struct Scene<'a> {
    env: &'a Env,
    first: QueuePair,
    second: QueuePair,
    ring: SendRing,
    near: Buffer,
    far: Buffer,
}

impl<'a> Scene<'a> {
    /// Makes them, and sees that the kernel does not work in the queue.
    fn new(env: &'a Env, mode: Mode) -> Result<Self> {
        let config = QpConfig {
            extended: true,
            ..QpConfig::new(Transport::Rc)
        };
        let queue = || CompletionQueue::new(&env.context, 2 * config.depth);
        let reported = queue()?;
        let (first, ring) = SendRing::of(&env.context, || {
            QueuePair::new(&env.domain, &reported, env.gid, config)
        })
        .map_err(unless_extended)?;
        let second = QueuePair::new(&env.domain, &queue()?, env.gid, config)?;
        let (near, far) = (env.buffer(mode, 2 * PAGE)?, env.buffer(mode, 2 * PAGE)?);
        near.fill(PATTERN, 0, 2 * PAGE);
        let scene = Self {
            env,
            first,
            second,
            ring,
            near,
            far,
        };
        scene.connect()?;
        scene.works()?;
        let (addr, key) = scene.target();
        let request = Request::new(7, WRITE, &scene.pieces()).rdma(addr, key);
        scene.ring.post(&scene.first, &request, &scene.pieces())?;
        ensure!(scene.end()? == Status::SUCCESS, "a WRITE failed");
        let found = scene.ring.last(&scene.first);
        ensure!(
            field::KERNEL.into_iter().flatten().all(|at| found[at] == 0),
            "the kernel works in the shared send queue, and believes what is there"
        );
        scene.far.memory.write(0, &[0; LEN]);
        Ok(scene)
    }

    fn connect(&self) -> Result<()> {
        self.first.connect(&self.second.endpoint()?, self.env.mtu)?;
        self.second.connect(&self.first.endpoint()?, self.env.mtu)?;
        Ok(())
    }

    fn restore(&mut self) -> Result<()> {
        self.first.reset()?;
        self.second.reset()?;
        while self.first.completions().poll()?.is_some() {}
        while self.second.completions().poll()?.is_some() {}
        self.connect()
    }

    fn pieces(&self) -> [Sge; 1] {
        [self.near.sge(0, LEN)]
    }

    fn target(&self) -> (u64, u32) {
        let remote = self.far.remote(0);
        (remote.addr, remote.rkey)
    }

    fn end(&self) -> Result<Status> {
        Ok(self.first.completions().wait(self.env.patience)?.status)
    }

    /// An ordinary WRITE succeeds.
    fn works(&self) -> Result<()> {
        let op = Op::Write(self.far.remote(PAGE));
        self.first.post_send(1, op, &self.pieces())?;
        ensure!(self.end()? == Status::SUCCESS, "a WRITE failed");
        self.far.check_from(PATTERN, 0, PAGE, LEN)?;
        Ok(())
    }

    /// Posts `request`, which has to end with one of `expected` and to leave the peer's first page as it was.
    fn refused(&mut self, request: &Request, expected: &[Status]) -> Result<()> {
        self.ring.post(&self.first, request, &self.pieces())?;
        let status = self.end()?;
        ensure!(expected.contains(&status), "ended with {status}");
        self.restore()?;
        self.far.check_zero(0, PAGE).context("the peer's memory")?;
        self.works().context("afterwards")
    }
}

const REFUSED: &[Status] = &[Status::LOC_QP_OP_ERR];

/// Numbers that are no operation, or none for an application.
fn opcodes(env: &Env, mode: Mode) -> Result<()> {
    let mut scene = Scene::new(env, mode)?;
    let (addr, key) = scene.target();
    let near = (10..14).chain(16..48);
    let far = (6..32).flat_map(|bit| [1 << bit, (1u32 << bit) - 1]);
    for opcode in near
        .chain(far)
        .chain([REGISTER_BY_POINTER, u32::MAX, 1 << 31])
    {
        let request = Request::new(2, opcode, &scene.pieces()).rdma(addr, key);
        scene
            .refused(&request, REFUSED)
            .with_context(|| format!("operation {opcode:#x}"))?;
    }
    Ok(())
}

/// A way to spoil a request.
type Spoil = fn(&mut Request);

/// Lengths, indices and offsets that are not those of a new request, or not within it.
const SPOILED: &[(&str, Spoil)] = &[
    ("a byte less is left", |r| r.left -= 1),
    ("a byte more is left", |r| r.left += 1),
    ("all there can be is left", |r| r.left = u32::MAX),
    ("a byte longer", |r| {
        (r.len, r.left) = (r.len + 1, r.len + 1)
    }),
    ("2 GiB long", |r| (r.len, r.left) = (1 << 31, 1 << 31)),
    ("4 GiB long", |r| (r.len, r.left) = (u32::MAX, u32::MAX)),
    ("from the second piece", |r| r.piece = 1),
    ("from a piece far away", |r| r.piece = 1 << 20),
    ("from the last piece of all", |r| r.piece = u32::MAX),
    ("from the second byte", |r| r.offset = 1),
    ("from the end", |r| r.offset = r.len),
    ("from 4 GiB on", |r| r.offset = u32::MAX - 7),
    ("with more pieces than there may be", |r| r.pieces = 1 << 10),
    ("with all the pieces", |r| r.pieces = u32::MAX),
];

fn fields(env: &Env, mode: Mode) -> Result<()> {
    let mut scene = Scene::new(env, mode)?;
    let (addr, key) = scene.target();
    for (name, spoil) in SPOILED {
        for opcode in [WRITE, SEND, READ, FETCH_ADD] {
            let mut request = Request::new(3, opcode, &scene.pieces()).rdma(addr, key);
            if opcode == FETCH_ADD {
                request = request.atomic(addr, key, 1, 0);
            }
            spoil(&mut request);
            scene
                .refused(&request, REFUSED)
                .with_context(|| format!("operation {opcode}, {name}"))?;
        }
        // The data is in the request: as many bytes as it has room for.
        for opcode in [WRITE, SEND] {
            let mut request = Request::new(4, opcode, &[]).rdma(addr, key);
            request.flags |= INLINE;
            (request.len, request.left) = (LEN as u32, LEN as u32);
            spoil(&mut request);
            let fits = request.len == LEN as u32;
            let whole = (request.left, request.piece, request.offset) == (LEN as u32, 0, 0);
            if fits && whole {
                // The number of pieces means nothing there.
                continue;
            }
            scene
                .refused(&request, REFUSED)
                .with_context(|| format!("operation {opcode} of inline data, {name}"))?;
        }
    }
    for len in [0, 7, 9, 4096, u32::MAX] {
        let mut request = Request::new(5, ATOMIC_WRITE, &[]).rdma(addr, key);
        (request.len, request.left) = (len, len);
        scene
            .refused(&request, REFUSED)
            .with_context(|| format!("an ATOMIC WRITE of {len} bytes"))?;
    }
    let mut short = Request::new(5, FETCH_ADD, &[scene.near.sge(0, 7)]).atomic(addr, key, 1, 0);
    short.pieces = 1;
    (short.len, short.left) = (7, 7);
    scene
        .ring
        .post(&scene.first, &short, &[scene.near.sge(0, 7)])?;
    ensure!(
        scene.end()? == Status::LOC_LEN_ERR,
        "an atomic with room for 7 bytes"
    );
    scene.restore()?;
    let flush = Request::new(6, FLUSH, &[]).flush(addr, (1 << 31) + 1, key, 1, 0);
    scene
        .refused(&flush, &[Status::LOC_LEN_ERR])
        .context("a FLUSH of more than 2 GiB")?;
    scene.far.check_zero(0, PAGE)?;
    Ok(())
}

/// The flag of inline data means nothing for an operation whose result comes back: it goes to the pieces.
fn inline_results(env: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(env, mode)?;
    let (addr, key) = scene.target();
    let own = |i: usize| scene.near.sge(PAGE + 16 * i, 8);
    for round in 0..8 {
        let pattern = Pattern::new(100 + round);
        scene.far.fill(pattern, 0, 24);
        scene.near.memory.write(PAGE, &[0; LEN]);
        let before = scene.far.memory.word(0);
        let pieces = [own(0), own(1), own(2)];
        let read = Request::new(9, READ, &pieces).rdma(addr, key);
        let add = Request::new(9, FETCH_ADD, &pieces[..1]).atomic(addr, key, 1, 0);
        for (mut request, pieces) in [(read, &pieces[..]), (add, &pieces[..1])] {
            request.flags |= INLINE;
            scene.ring.post(&scene.first, &request, pieces)?;
            let status = scene.end()?;
            ensure!(
                status == Status::SUCCESS,
                "operation {} in round {round} ended with {status}",
                request.opcode
            );
        }
        for i in 0..3 {
            scene
                .near
                .check_from(pattern, 8 * i, PAGE + 16 * i, 8)
                .with_context(|| format!("piece {i} in round {round}"))?;
            scene.near.check_zero(PAGE + 16 * i + 8, 8)?;
        }
        ensure!(
            scene.far.memory.word(0) == before.wrapping_add(1),
            "FETCH_ADD in round {round}"
        );
    }
    Ok(())
}

/// What was posted cannot be taken back, nor changed while it is under way: it waits for a receive.
fn taken_back(env: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(env, mode)?;
    let (addr, key) = scene.target();
    let pieces = scene.pieces();
    let first = Request::new(10, WRITE, &pieces).rdma(addr, key);
    let send = |id| (Request::new(id, SEND, &pieces), &pieces[..]);
    let all = [(first, &pieces[..]), send(11), send(12)];
    scene.ring.post_all(&scene.first, &all)?;
    // With the first the kernel has taken the others.
    ensure!(scene.end()? == Status::SUCCESS, "a WRITE failed");
    scene.ring.move_producer(&scene.first, -2)?;
    for index in 0..64 {
        for field in [
            field::STATE,
            field::LEN,
            field::LEFT,
            field::OPCODE,
            field::PIECES,
        ] {
            scene.ring.scribble(&scene.first, index, field, 0x7fff_fff0);
        }
    }
    scene.ring.move_producer(&scene.first, 2)?;
    for id in [21, 22] {
        scene.second.post_recv(id, &[scene.far.sge(0, LEN)])?;
    }
    for id in [11, 12] {
        let end = scene.first.completions().wait(env.patience)?;
        ensure!(
            (end.id, end.status) == (id, Status::SUCCESS),
            "{} ended with {} in the place of {id}",
            end.id,
            end.status
        );
    }
    scene.far.check(PATTERN, 0, LEN)?;
    scene.works()
}

/// The requests are overwritten again and again while they are posted: each ends, nobody else notices.
fn scribbled(env: &Env, mode: Mode) -> Result<()> {
    const REQUESTS: u64 = 300;
    let mut scene = Scene::new(env, mode)?;
    let other = env.rc()?;
    let bystander = env.buffer(mode, 2 * PAGE)?;
    bystander.fill(PATTERN, 0, PAGE);
    // Not the keys and addresses of the pieces: those of a region may be used.
    let wild = [
        0,
        1,
        2,
        8,
        64,
        4096,
        1 << 20,
        (1 << 31) - 1,
        1 << 31,
        u32::MAX - 7,
        u32::MAX,
    ];
    let chosen = [
        field::OPCODE,
        field::FLAGS,
        field::STATE,
        field::LEN,
        field::LEFT,
        field::PIECE,
        field::PIECES,
        field::OFFSET,
    ];
    for number in 0..REQUESTS {
        let stop = AtomicBool::new(false);
        let status = thread::scope(|threads| {
            let (scene, stop) = (&scene, &stop);
            threads.spawn(move || {
                for step in (number as usize..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let (field, value) = (chosen[step % chosen.len()], wild[step % wild.len()]);
                    for index in 0..64 {
                        scene.ring.scribble(&scene.first, index, field, value);
                    }
                }
            });
            let op = Op::Write(scene.far.remote(PAGE));
            let posted = scene.first.post_send(number, op, &scene.pieces());
            // It may be without a signal now: what comes after it has one, or fails.
            let ended = posted.map(|()| {
                let end = scene.first.completions().wait(env.patience / 100);
                end.ok().map(|end| end.status)
            });
            stop.store(true, Ordering::Relaxed);
            ended
        })?;
        other
            .write(bystander.sge(0, LEN), bystander.remote(PAGE))
            .with_context(|| format!("beside request {number}, which ended with {status:?}"))?;
        bystander.check_from(PATTERN, 0, PAGE, LEN)?;
        if status != Some(Status::SUCCESS) {
            scene.restore()?;
        }
    }
    scene.far.check_zero(0, PAGE)?;
    scene.works()
}
