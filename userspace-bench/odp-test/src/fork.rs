// SPDX-License-Identifier: GPL-2.0
//! Memory that is shared after a fork until one of the two writes: the NIC writes for the parent.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::{Buffer, Env, Mode},
    loopback::Loopback,
};
use testkit::{
    memory::PAGE,
    pattern::Pattern,
    process::{self, End, Gate},
};

use crate::harness::Test;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("fork-nic-writes", nic_writes),
    Test::on_demand("fork-parent-writes", parent_writes),
    Test::on_demand("fork-child-writes", child_writes),
    Test::on_demand("fork-nic-reads", nic_reads),
    Test::on_demand("fork-requester", requester),
    Test::on_demand("fork-requester-child-writes", requester_child_writes),
];

const SIZE: usize = 3 * PAGE;
const AT: usize = PAGE + 5;
const LEN: usize = 900;
const OLD: Pattern = Pattern::new(1);
const NEW: Pattern = Pattern::new(2);

/// Memory that the NIC has written and so has mapped for writing.
fn scene(env: &Env, mode: Mode) -> Result<(Loopback, Buffer, Buffer)> {
    let (near, far) = (env.buffer(mode, SIZE)?, env.buffer(mode, SIZE)?);
    let link = env.rc()?;
    nic_write(&link, &near, &far, OLD)?;
    Ok((link, near, far))
}

fn nic_write(link: &Loopback, near: &Buffer, far: &Buffer, pattern: Pattern) -> Result<()> {
    near.fill(pattern, AT, LEN);
    link.write(near.sge(AT, LEN), far.remote(AT))?;
    Ok(())
}

/// Forks a child that waits until `gate` opens and then checks that it sees `pattern`.
fn child_that_sees(gate: &Gate, far: &Buffer, pattern: Pattern) -> Result<process::Forked> {
    Ok(process::fork(|| {
        let opened = gate.wait().is_ok();
        i32::from(!opened || far.check(pattern, AT, LEN).is_err())
    })?)
}

fn finish(child: process::Forked) -> Result<()> {
    let end = child.finish(Duration::from_secs(10))?;
    ensure!(
        end == End::Status(0),
        "the child sees what it should not ({end:?})"
    );
    Ok(())
}

/// The first to write after the fork is the NIC.
fn nic_writes(env: &Env, mode: Mode) -> Result<()> {
    let (link, near, far) = scene(env, mode)?;
    let gate = Gate::new()?;
    let child = child_that_sees(&gate, &far, OLD)?;
    nic_write(&link, &near, &far, NEW)?;
    gate.open()?;
    finish(child)?;
    far.check(NEW, AT, LEN).context("the parent's memory")?;
    Ok(())
}

/// The parent's CPU writes first and so gets a new page. The NIC has to follow it there.
fn parent_writes(env: &Env, mode: Mode) -> Result<()> {
    let (link, near, far) = scene(env, mode)?;
    let gate = Gate::new()?;
    let child = child_that_sees(&gate, &far, OLD)?;
    far.memory.write(PAGE, b"x");
    nic_write(&link, &near, &far, NEW)?;
    gate.open()?;
    finish(child)?;
    far.check(NEW, AT, LEN).context("the parent's memory")?;
    ensure!(
        far.memory.bytes(PAGE, 1) == b"x",
        "what the parent wrote is gone"
    );
    Ok(())
}

/// The child writes first and gets the new page; the old one stays the parent's and the NIC's.
fn child_writes(env: &Env, mode: Mode) -> Result<()> {
    let (link, near, far) = scene(env, mode)?;
    let (wrote, look) = (Gate::new()?, Gate::new()?);
    let mine = Pattern::new(3);
    let child = process::fork(|| {
        far.fill(mine, AT, LEN);
        let went = wrote.open().is_ok() && look.wait().is_ok();
        i32::from(!went || far.check(mine, AT, LEN).is_err())
    })?;
    wrote.wait()?;
    far.check(OLD, AT, LEN)
        .context("the parent's memory, after the child wrote")?;
    link.read(far.remote(AT), near.sge(AT, LEN))?;
    near.check(OLD, AT, LEN)
        .context("READ after the child wrote")?;
    nic_write(&link, &near, &far, NEW)?;
    look.open()?;
    finish(child)?;
    far.check(NEW, AT, LEN).context("the parent's memory")?;
    Ok(())
}

/// The NIC reads after the fork, and again after the parent wrote.
fn nic_reads(env: &Env, mode: Mode) -> Result<()> {
    let (link, near, far) = scene(env, mode)?;
    let gate = Gate::new()?;
    let child = child_that_sees(&gate, &far, OLD)?;
    near.fill(NEW, AT, LEN);
    link.read(far.remote(AT), near.sge(AT, LEN))?;
    near.check(OLD, AT, LEN).context("READ after the fork")?;
    far.fill(NEW, AT, LEN);
    link.read(far.remote(AT), near.sge(AT, LEN))?;
    near.check(NEW, AT, LEN)
        .context("READ after the parent wrote")?;
    gate.open()?;
    finish(child)
}

/// The requester's memory, that the NIC has read and written and so has mapped for writing.
fn requester_scene(env: &Env, mode: Mode) -> Result<(Loopback, Buffer, Buffer)> {
    let (link, near, far) = scene(env, mode)?;
    near.memory.write(AT, &[0; LEN]);
    link.read(far.remote(AT), near.sge(AT, LEN))?;
    near.check(OLD, AT, LEN)?;
    Ok((link, near, far))
}

/// The result of a READ after the fork is the parent's, as is what a WRITE takes along.
fn requester(env: &Env, mode: Mode) -> Result<()> {
    let (link, near, far) = requester_scene(env, mode)?;
    let gate = Gate::new()?;
    let child = child_that_sees(&gate, &near, OLD)?;
    far.fill(NEW, AT, LEN);
    link.read(far.remote(AT), near.sge(AT, LEN))?;
    near.check(NEW, AT, LEN).context("the parent's memory")?;
    far.memory.write(AT, &[0; LEN]);
    link.write(near.sge(AT, LEN), far.remote(AT))?;
    far.check(NEW, AT, LEN).context("what was sent")?;
    gate.open()?;
    finish(child)
}

/// The child writes first: what is sent stays the parent's, and what is read does not reach the child.
fn requester_child_writes(env: &Env, mode: Mode) -> Result<()> {
    let (link, near, far) = requester_scene(env, mode)?;
    let (wrote, look) = (Gate::new()?, Gate::new()?);
    let mine = Pattern::new(3);
    let child = process::fork(|| {
        near.fill(mine, AT, LEN);
        let went = wrote.open().is_ok() && look.wait().is_ok();
        i32::from(!went || near.check(mine, AT, LEN).is_err())
    })?;
    wrote.wait()?;
    far.memory.write(AT, &[0; LEN]);
    link.write(near.sge(AT, LEN), far.remote(AT))?;
    far.check(OLD, AT, LEN).context("what was sent")?;
    far.fill(NEW, AT, LEN);
    link.read(far.remote(AT), near.sge(AT, LEN))?;
    near.check(NEW, AT, LEN).context("the parent's memory")?;
    look.open()?;
    finish(child)
}
