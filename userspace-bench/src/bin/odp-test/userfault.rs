// SPDX-License-Identifier: GPL-2.0
//! Memory that a userfaultfd of the application's own serves: the NIC waits for its handler.

use std::{thread, time::Duration};

use anyhow::{ensure, Context as _, Result};
use odp_verbs::{
    env::{Buffer, Env, Mode},
    memory::{Mapping, PAGE},
    pattern::Pattern,
    userfault::Userfault,
    verbs::{Op, Status},
};

use crate::harness::Test;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("userfault", served),
    Test::on_demand("userfault-receiver", received),
    Test::on_demand("userfault-requester", requester),
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
