// SPDX-License-Identifier: GPL-2.0
//! Invalidation: memory is unmapped, protected, discarded or moved while the NIC has it mapped.

use anyhow::{Context as _, Result};
use odp_fixture::env::{anonymous, Buffer, Env, Mode};
use odp_verbs::{Access, Op, Status};
use testkit::{
    memory::{Advice, Backing, Protection, PAGE},
    pattern::Pattern,
};

use crate::harness::{Test, LOCAL_REFUSED, REMOTE_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("munmap-remote", munmap_remote),
    Test::on_demand("munmap-local", munmap_local),
    Test::on_demand("munmap-receiver", munmap_receiver),
    Test::on_demand("munmap-middle", munmap_middle),
    Test::on_demand("munmap-atomic", munmap_atomic),
    Test::on_demand("remap", remap),
    Test::on_demand("dontneed", dontneed),
    Test::on_demand("mprotect-read-only", read_only),
    Test::on_demand("mprotect-none", none),
    Test::on_demand("mprotect-before-use", before_use),
    Test::on_demand("mremap", mremap),
    Test::on_demand("zero-page", zero_page),
];

const SIZE: usize = 4 * PAGE;
/// The page that things happen to.
const TAKEN: std::ops::Range<usize> = PAGE..2 * PAGE;
/// Where in it the data is: odd, one packet.
const AT: usize = PAGE + 13;
const LEN: usize = 700;

/// A target that the NIC has read and written, so that it is mapped, and memory to do that with.
struct Scene<'a> {
    env: &'a Env,
    near: Buffer,
    far: Buffer,
}

impl<'a> Scene<'a> {
    fn new(env: &'a Env, mode: Mode) -> Result<Self> {
        let scene = Self {
            env,
            near: env.buffer(mode, SIZE)?,
            far: env.buffer(mode, SIZE)?,
        };
        scene
            .write(Pattern::new(1))
            .context("before anything happened")?;
        scene
            .read(Pattern::new(1))
            .context("before anything happened")?;
        Ok(scene)
    }

    /// The NIC writes, the CPU looks.
    fn write(&self, pattern: Pattern) -> Result<()> {
        let Self { env, near, far } = self;
        near.fill(pattern, AT, LEN);
        env.rc()?
            .write(near.sge(AT, LEN), far.remote(AT))
            .context("WRITE")?;
        far.check(pattern, AT, LEN).context("WRITE")?;
        Ok(())
    }

    /// The NIC reads what should be there.
    fn read(&self, pattern: Pattern) -> Result<()> {
        let Self { env, near, far } = self;
        near.memory.write(AT, &[0; LEN]);
        env.rc()?
            .read(far.remote(AT), near.sge(AT, LEN))
            .context("READ")?;
        near.check(pattern, AT, LEN).context("READ")?;
        Ok(())
    }

    fn write_refused(&self) -> Result<()> {
        let Self { env, near, far } = self;
        let sge = [near.sge(AT, LEN)];
        env.rc()?
            .refused(Op::Write(far.remote(AT)), &sge, REMOTE_REFUSED)
            .context("WRITE")
    }

    fn read_refused(&self) -> Result<()> {
        let Self { env, near, far } = self;
        let sge = [near.sge(AT, LEN)];
        env.rc()?
            .refused(Op::Read(far.remote(AT)), &sge, REMOTE_REFUSED)
            .context("READ")
    }
}

fn munmap_remote(env: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(env, mode)?;
    scene.far.memory.unmap(TAKEN)?;
    scene.write_refused()?;
    scene.read_refused()?;
    scene.write_refused().context("again")
}

fn munmap_local(env: &Env, mode: Mode) -> Result<()> {
    let Scene { env, near, far } = Scene::new(env, mode)?;
    near.memory.unmap(TAKEN)?;
    let sge = [near.sge(AT, LEN)];
    env.rc()?
        .refused(Op::Write(far.remote(AT)), &sge, LOCAL_REFUSED)
        .context("WRITE")?;
    env.rc()?
        .refused(Op::Send, &sge, LOCAL_REFUSED)
        .context("SEND")?;
    env.rc()?
        .refused(Op::Read(far.remote(AT)), &sge, LOCAL_REFUSED)
        .context("READ")?;
    far.check(Pattern::new(1), AT, LEN)
        .context("the target's memory")?;
    Ok(())
}

/// The receiver's memory is gone: both sides hear of it.
fn munmap_receiver(env: &Env, mode: Mode) -> Result<()> {
    let Scene { env, near, far } = Scene::new(env, mode)?;
    far.memory.unmap(TAKEN)?;
    let link = env.rc()?;
    link.second.post_recv(1, &[far.sge(AT, LEN)])?;
    let sent = link.run(Op::Send, &[near.sge(AT, LEN)])?;
    sent.expect(&[
        Status::REM_OP_ERR,
        Status::REM_INV_REQ_ERR,
        Status::REM_ACCESS_ERR,
    ])
    .context("the sender")?;
    let received = link
        .second
        .completions()
        .wait(env.patience)
        .context("the receiver")?;
    received.expect(LOCAL_REFUSED).context("the receiver")?;
    Ok(())
}

/// A hole in the middle of a message of several pages.
fn munmap_middle(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 8 * PAGE)?, env.buffer(mode, 8 * PAGE)?);
    let (old, new) = (Pattern::new(2), Pattern::new(3));
    far.fill(old, 0, 8 * PAGE);
    near.fill(new, 0, 8 * PAGE);
    let links = [env.rc()?, env.rc()?, env.rc()?];
    links[0].read(far.remote(0), near.sge(0, 8 * PAGE))?;
    near.fill(new, 0, 8 * PAGE);
    far.memory.unmap(4 * PAGE..5 * PAGE)?;
    let all = [near.sge(100, 6 * PAGE)];
    links[1]
        .refused(Op::Write(far.remote(100)), &all, REMOTE_REFUSED)
        .context("WRITE")?;
    links[2]
        .refused(Op::Read(far.remote(100)), &all, REMOTE_REFUSED)
        .context("READ")?;
    far.check(old, 0, 100).context("before the data")?;
    far.check(old, 5 * PAGE, 3 * PAGE)
        .context("after the hole")?;
    Ok(())
}

fn munmap_atomic(env: &Env, mode: Mode) -> Result<()> {
    let Scene { env, near, far } = Scene::new(env, mode)?;
    far.memory.unmap(TAKEN)?;
    let op = Op::FetchAdd {
        at: far.remote(PAGE),
        add: 1,
    };
    env.rc()?
        .refused(op, &[near.sge(0, 8)], REMOTE_REFUSED)
        .context("FETCH_ADD")?;
    let op = Op::CompareSwap {
        at: far.remote(PAGE + 8),
        compare: 0,
        swap: 1,
    };
    env.rc()?
        .refused(op, &[near.sge(0, 8)], REMOTE_REFUSED)
        .context("COMPARE_SWAP")?;
    Ok(())
}

fn remap(env: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(env, mode)?;
    for round in 0..20 {
        scene.far.memory.unmap(TAKEN)?;
        if round % 2 == 0 {
            scene.read_refused().context("while it is gone")?;
        }
        scene
            .far
            .memory
            .map(TAKEN, Backing::Anonymous, Protection::ReadWrite)?;
        let (first, second) = (Pattern::new(100 + round), Pattern::new(200 + round));
        scene.far.fill(first, AT, LEN);
        scene
            .read(first)
            .with_context(|| format!("mapped again, round {round}"))?;
        scene
            .write(second)
            .with_context(|| format!("mapped again, round {round}"))?;
    }
    // Replaced in one step, without a hole in between.
    scene
        .far
        .memory
        .map(TAKEN, Backing::Anonymous, Protection::ReadWrite)?;
    scene.far.fill(Pattern::new(9), AT, LEN);
    scene.read(Pattern::new(9)).context("replaced")?;
    scene.write(Pattern::new(8)).context("replaced")
}

fn dontneed(env: &Env, mode: Mode) -> Result<()> {
    let Scene { env, near, far } = Scene::new(env, mode)?;
    let link = env.rc()?;
    for round in 0..20 {
        far.fill(Pattern::new(round), AT, LEN);
        far.memory.advise(TAKEN, Advice::DontNeed)?;
        near.fill(Pattern::new(77), AT, LEN);
        link.read(far.remote(AT), near.sge(AT, LEN))?;
        near.check_zero(AT, LEN)
            .context("READ of what was thrown away")?;

        let pattern = Pattern::new(round + 100);
        far.memory.advise(TAKEN, Advice::DontNeed)?;
        near.fill(pattern, AT, LEN);
        link.write(near.sge(AT, LEN), far.remote(AT))?;
        far.check(pattern, AT, LEN)
            .context("WRITE to what was thrown away")?;
        far.check_zero(PAGE, AT - PAGE).context("before the data")?;

        // The requester's own pages as well.
        near.memory.advise(TAKEN, Advice::DontNeed)?;
        link.write(near.sge(AT, LEN), far.remote(AT))?;
        far.check_zero(AT, LEN)
            .context("WRITE from what was thrown away")?;
    }
    Ok(())
}

fn read_only(env: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(env, mode)?;
    let memory = &scene.far.memory;
    memory.protect(TAKEN, Protection::Read)?;
    scene.write_refused().context("of read-only memory")?;
    scene.read(Pattern::new(1)).context("of read-only memory")?;
    scene
        .write_refused()
        .context("of read-only memory, after a READ")?;
    scene.far.check(Pattern::new(1), AT, LEN)?;
    memory.protect(TAKEN, Protection::ReadWrite)?;
    scene
        .write(Pattern::new(2))
        .context("of writable memory again")?;
    scene
        .read(Pattern::new(2))
        .context("of writable memory again")
}

fn none(env: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(env, mode)?;
    let memory = &scene.far.memory;
    memory.protect(TAKEN, Protection::None)?;
    scene.read_refused().context("of protected memory")?;
    scene.write_refused().context("of protected memory")?;
    memory.protect(TAKEN, Protection::ReadWrite)?;
    scene
        .read(Pattern::new(1))
        .context("of unprotected memory again")?;
    scene
        .write(Pattern::new(2))
        .context("of unprotected memory again")
}

/// Protected before the NIC ever saw it.
fn before_use(env: &Env, mode: Mode) -> Result<()> {
    let near = env.buffer(mode, SIZE)?;
    let memory = anonymous(SIZE)?;
    let pattern = Pattern::new(5);
    memory.write(0, &pattern.bytes(0, SIZE));
    memory.protect(0..SIZE, Protection::None)?;
    let scene = Scene {
        env,
        near,
        far: env.cover(mode, memory, Access::ALL)?,
    };
    scene.read_refused().context("of memory without access")?;
    scene.far.memory.protect(0..SIZE, Protection::Read)?;
    scene.read(pattern).context("of read-only memory")?;
    scene.write_refused().context("of read-only memory")?;
    scene.far.memory.protect(0..SIZE, Protection::ReadWrite)?;
    scene.write(Pattern::new(6))
}

fn mremap(env: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(env, mode)?;
    let new = env.buffer(mode, SIZE)?;
    let (pattern, near) = (Pattern::new(1), &scene.near);
    scene.far.memory.move_to(TAKEN, &new.memory, PAGE)?;
    scene.read_refused().context("of the old address")?;
    scene.write_refused().context("to the old address")?;
    new.check(pattern, AT, LEN)
        .context("the CPU reads the new address")?;
    env.rc()?
        .read(new.remote(AT), near.sge(AT, LEN))
        .context("READ of the new address")?;
    near.check(pattern, AT, LEN)
        .context("READ of the new address")?;
    near.fill(Pattern::new(2), AT, LEN);
    env.rc()?
        .write(near.sge(AT, LEN), new.remote(AT))
        .context("WRITE to the new address")?;
    new.check(Pattern::new(2), AT, LEN)
        .context("WRITE to the new address")?;
    // And back to where it came from.
    new.memory.move_to(TAKEN, &scene.far.memory, PAGE)?;
    scene.read(Pattern::new(2)).context("moved back")
}

/// A page that is read before anybody wrote it is the one page of zeroes that all share.
fn zero_page(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, SIZE)?, env.buffer(mode, SIZE)?);
    let other = env.buffer(mode, SIZE)?;
    let link = env.rc()?;
    let read = |buffer: &Buffer| link.read(buffer.remote(AT), near.sge(AT, LEN));
    read(&other)?;
    read(&far)?;
    near.check_zero(AT, LEN)
        .context("READ of untouched memory")?;

    near.fill(Pattern::new(1), AT, LEN);
    link.write(near.sge(AT, LEN), far.remote(AT))?;
    far.check(Pattern::new(1), AT, LEN)
        .context("WRITE after a READ")?;
    other
        .check_zero(0, SIZE)
        .context("memory that nobody wrote")?;

    far.memory.advise(0..SIZE, Advice::DontNeed)?;
    read(&far)?;
    far.fill(Pattern::new(2), AT, LEN);
    read(&far)?;
    near.check(Pattern::new(2), AT, LEN)
        .context("READ after the CPU wrote")?;
    read(&other)?;
    near.check_zero(AT, LEN)
        .context("READ of memory that nobody wrote")?;
    Ok(())
}
