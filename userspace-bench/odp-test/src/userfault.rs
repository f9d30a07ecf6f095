// SPDX-License-Identifier: GPL-2.0
//! Memory that a userfaultfd of the application's own serves: the NIC waits for its handler.

use std::{thread, time::Duration};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::env::{Buffer, Env, Mode};
use odp_verbs::{Access, Binding, Op, QpConfig, Status, Transport, Window, WindowType};
use testkit::{
    memory::{Mapping, PAGE},
    pattern::Pattern,
    userfault::Userfault,
};

use crate::harness::Test;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("userfault", served),
    Test::on_demand("userfault-receiver", received),
    Test::on_demand("userfault-requester", requester),
    Test::on_demand("userfault-retries", few_retries),
    Test::on_demand("userfault-atomic-write", atomic_write),
    Test::on_demand("userfault-no-bytes", no_bytes),
    Test::on_demand("userfault-zero-based", zero_based),
    Test::on_demand("userfault-after-atomic", after_atomic),
];

/// The page that is served, and where in it the data is: odd, one packet.
const SERVED: usize = PAGE;
const AT: usize = PAGE + 13;
const LEN: usize = 700;

/// How long the handler takes: longer than rxe's worker sleeps at a time, shorter than the requester tries.
const DELAY: Duration = Duration::from_millis(1200);

/// Runs `act` while the page is served with these bytes.
fn while_served(handler: &Handler, bytes: &[u8], act: impl FnOnce() -> Result<()>) -> Result<()> {
    thread::scope(|threads| {
        let serving = threads.spawn(|| handler.serve(bytes));
        let done = act();
        let handled = serving
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        handled.context("the handler")?;
        done
    })
}

/// What the handler gave to the page of `buffer`, with what the NIC wrote in it.
fn check(buffer: &Buffer, given: Pattern, written: Pattern) -> Result<()> {
    let mut expected = given.bytes(0, PAGE);
    expected[AT - SERVED..][..LEN].copy_from_slice(&written.bytes(0, LEN));
    ensure!(
        buffer.memory.bytes(SERVED, PAGE) == expected,
        "the page is not what the handler gave and the NIC wrote"
    );
    Ok(())
}

const GIVEN: Pattern = Pattern::new(1);
const WRITTEN: Pattern = Pattern::new(2);

/// The target of a WRITE.
fn served(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 2 * PAGE)?, env.buffer(mode, 3 * PAGE)?);
    let handler = Handler::new(&far.memory, SERVED)?;
    near.fill(WRITTEN, 0, LEN);
    let link = env.rc()?;
    while_served(&handler, &GIVEN.bytes(0, PAGE), || {
        link.write(near.sge(0, LEN), far.remote(AT))
            .context("WRITE")
    })?;
    check(&far, GIVEN, WRITTEN)
}

/// The same, with a requester that would have given up long before if nobody had answered: it is told that its peer is
/// not ready, and that uses up no retry.
fn few_retries(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 2 * PAGE)?, env.buffer(mode, 3 * PAGE)?);
    let handler = Handler::new(&far.memory, SERVED)?;
    near.fill(WRITTEN, 0, LEN);
    let link = env.pair(QpConfig {
        retries: 3,
        timeout: Some(14),
        ..QpConfig::new(Transport::Rc)
    })?;
    while_served(&handler, &GIVEN.bytes(0, PAGE), || {
        link.write(near.sge(0, LEN), far.remote(AT))
            .context("WRITE")
    })?;
    check(&far, GIVEN, WRITTEN)
}

/// An ATOMIC WRITE that is sent again, as its page was not there, goes to its address.
fn atomic_write(env: &Env, mode: Mode) -> Result<()> {
    let far = env.buffer(mode, 3 * PAGE)?;
    let handler = Handler::new(&far.memory, SERVED)?;
    let link = env.pair(QpConfig {
        extended: true,
        ..QpConfig::new(Transport::Rc)
    })?;
    let (value, at) = ([1, 2, 3, 4, 5, 6, 7, 8], SERVED + 64);
    while_served(&handler, &GIVEN.bytes(0, PAGE), || {
        let op = Op::AtomicWrite {
            at: far.remote(at),
            value,
        };
        link.ok(op, &[]).context("ATOMIC WRITE")
    })?;
    let mut expected = GIVEN.bytes(0, PAGE);
    expected[at - SERVED..][..8].copy_from_slice(&value);
    ensure!(
        far.memory.bytes(SERVED, PAGE) == expected,
        "the page is not what the handler gave and the NIC wrote"
    );
    far.check_zero(0, SERVED)?;
    Ok(())
}

/// Where a message is received: it is not lost, nor are those after it, and they keep their order.
fn received(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 3 * PAGE)?, env.buffer(mode, 4 * PAGE)?);
    let handler = Handler::new(&far.memory, SERVED)?;
    near.fill(WRITTEN, 0, LEN);
    near.memory.write(PAGE, &Pattern::new(3).bytes(0, LEN));
    let link = env.rc()?;
    link.second.post_recv(1, &[far.sge(AT, LEN)])?;
    link.second.post_recv(2, &[far.sge(3 * PAGE, LEN)])?;
    while_served(&handler, &GIVEN.bytes(0, PAGE), || {
        link.first.post_send(1, Op::Send, &[near.sge(0, LEN)])?;
        link.first.post_send(2, Op::Send, &[near.sge(PAGE, LEN)])?;
        for queue in [link.second.completions(), link.first.completions()] {
            for id in [1, 2] {
                let end = queue.wait(env.patience)?.expect(&[Status::SUCCESS])?;
                ensure!(end.id == id, "{} ended in the place of {id}", end.id);
            }
        }
        Ok(())
    })?;
    far.check_from(Pattern::new(3), 0, 3 * PAGE, LEN)
        .context("the second message")?;
    check(&far, GIVEN, WRITTEN)
}

/// Where the data of a WRITE comes from, and where that of a READ goes.
fn requester(env: &Env, mode: Mode) -> Result<()> {
    let far = env.buffer(mode, 2 * PAGE)?;
    let source = env.buffer(mode, 3 * PAGE)?;
    let handler = Handler::new(&source.memory, SERVED)?;
    let link = env.rc()?;
    while_served(&handler, &GIVEN.bytes(0, PAGE), || {
        link.write(source.sge(AT, LEN), far.remote(5))
            .context("WRITE")
    })?;
    far.check_from(GIVEN, AT - SERVED, 5, LEN)?;

    let target = env.buffer(mode, 3 * PAGE)?;
    let handler = Handler::new(&target.memory, SERVED)?;
    far.memory.write(5, &WRITTEN.bytes(0, LEN));
    while_served(&handler, &GIVEN.bytes(0, PAGE), || {
        link.read(far.remote(5), target.sge(AT, LEN))
            .context("READ")
    })?;
    check(&target, GIVEN, WRITTEN)
}

/// A READ of no bytes after one that waits, whose response is lost like all others meanwhile, and asked for again after
/// a request that has some.
fn no_bytes(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 3 * PAGE)?, env.buffer(mode, 2 * PAGE)?);
    let handler = Handler::new(&near.memory, SERVED)?;
    far.fill(WRITTEN, 0, PAGE);
    near.fill(GIVEN, 0, LEN);
    let link = env.pair(QpConfig {
        retries: 3,
        ..QpConfig::new(Transport::Rc)
    })?;
    while_served(&handler, &GIVEN.bytes(0, PAGE), || {
        let read = Op::Read(far.remote(0));
        link.first.post_send(1, read, &[near.sge(AT, LEN)])?;
        link.first.post_send(2, read, &[])?;
        let write = Op::Write(far.remote(PAGE));
        link.first.post_send(3, write, &[near.sge(0, LEN)])?;
        for id in 1..=3 {
            let end = link.first.completions().wait(env.patience)?;
            let end = end.expect(&[Status::SUCCESS])?;
            ensure!(end.id == id, "{} ended in the place of {id}", end.id);
        }
        Ok(())
    })?;
    far.check_from(GIVEN, 0, PAGE, LEN)?;
    check(&near, GIVEN, WRITTEN)
}

/// A READ into a page that comes late, through a window whose addresses begin at 0.
fn zero_based(env: &Env, mode: Mode) -> Result<()> {
    let near = env.buffer(mode, 3 * PAGE)?;
    let memory = Mapping::anonymous(2 * PAGE)?;
    let far = env.cover(mode, memory, Access::ALL | Access::MW_BIND)?;
    let handler = Handler::new(&near.memory, SERVED)?;
    far.memory.write(77, &WRITTEN.bytes(0, LEN));
    let link = env.pair(QpConfig {
        retries: 3,
        ..QpConfig::new(Transport::Rc)
    })?;
    let window = Window::new(&env.domain, WindowType::Two)?;
    let binding = Binding {
        region: &far.region,
        addr: far.iova + 70,
        len: PAGE as u64,
        access: Access::REMOTE_READ | Access::ZERO_BASED,
    };
    window.post_bind(&link.second, 1, binding)?;
    let bound = link.second.completions().wait(env.patience)?;
    bound.expect(&[Status::SUCCESS])?;
    while_served(&handler, &GIVEN.bytes(0, PAGE), || {
        link.read(window.remote(7), near.sge(AT, LEN))
            .context("READ")
    })?;
    check(&near, GIVEN, WRITTEN)
}

/// A READ whose responses are many, after an atomic operation whose result waits: they are not all kept, and those that
/// are not are asked for again, which is no retry.
fn after_atomic(env: &Env, mode: Mode) -> Result<()> {
    const MANY: usize = 512;
    let mtu = env.mtu.bytes();
    let (near, far) = (env.buffer(mode, 2 * PAGE)?, env.buffer(mode, MANY * mtu)?);
    let target = env.buffer(mode, MANY * mtu)?;
    let handler = Handler::new(&near.memory, SERVED)?;
    far.fill(WRITTEN, 0, MANY * mtu);
    let link = env.pair(QpConfig {
        retries: 0,
        // 2 s: nothing is lost.
        timeout: Some(19),
        ..QpConfig::new(Transport::Rc)
    })?;
    while_served(&handler, &GIVEN.bytes(0, PAGE), || {
        let add = Op::FetchAdd {
            at: far.remote(0),
            add: 0,
        };
        link.first.post_send(1, add, &[near.sge(SERVED, 8)])?;
        let read = Op::Read(far.remote(0));
        let all = [target.sge(0, MANY * mtu)];
        link.first.post_send(2, read, &all)?;
        for id in [1, 2] {
            let end = link.first.completions().wait(env.patience)?;
            let end = end.expect(&[Status::SUCCESS])?;
            ensure!(end.id == id, "{} ended in the place of {id}", end.id);
        }
        Ok(())
    })?;
    let result = near.memory.bytes(SERVED, 8);
    ensure!(result == WRITTEN.bytes(0, 8), "another result");
    Ok(target.check(WRITTEN, 0, MANY * mtu)?)
}

/// What serves the faults of one page.
pub struct Handler {
    faults: Userfault,
    page: u64,
}

impl Handler {
    /// For the page at `offset` of `memory`.
    pub fn new(memory: &Mapping, offset: usize) -> Result<Self> {
        Ok(Self {
            faults: Userfault::new(memory, offset..offset + PAGE)?,
            page: memory.at(offset),
        })
    }

    /// Waits for a fault, and gives the page these bytes after a while.
    fn serve(&self, bytes: &[u8]) -> Result<()> {
        self.wait()?;
        thread::sleep(DELAY);
        self.give(bytes)
    }

    /// Whether somebody waits for the page, or does before `limit`; none is for ever.
    pub fn asked_within(&self, limit: Option<Duration>) -> Result<bool> {
        self.faults.asked_within(limit)
    }

    /// Waits for a fault.
    pub fn wait(&self) -> Result<()> {
        self.faults.wait().map(drop)
    }

    /// Gives the page these bytes, and lets those go on who wait for it.
    pub fn give(&self, bytes: &[u8]) -> Result<()> {
        self.faults.give(self.page, bytes)
    }
}
