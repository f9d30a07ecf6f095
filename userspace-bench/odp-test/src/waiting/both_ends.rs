// SPDX-License-Identifier: GPL-2.0
//! A READ whose pages come late at both ends, one after the other. What was answered before the requester could take it
//! is answered again, and goes on from there to where it was not before.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::{Buffer, Env, Mode},
    waiting::FILE,
};
use odp_verbs::{Access, Op, Status};
use testkit::{
    memory::{Backing, Mapping, Protection, PAGE},
    patience,
    pattern::Pattern,
    slow_file::SlowFile,
};

use super::ASKED;
use crate::{harness::Test, prefetch_pending};

/// The tests of this file.
pub const TESTS: &[Test] = &[Test::on_demand("waiting.both-ends", both_ends)];

/// How long the READ is.
const PAGES: usize = 4;
/// What the memory has that it goes to.
const BEFORE: Pattern = Pattern::new(44);

fn both_ends(env: &Env, mode: Mode) -> Result<()> {
    let file = |pattern| SlowFile::new(PAGES, pattern).context("a file system of one's own");
    let (source, target) = (file(FILE)?, file(BEFORE)?);
    let result = read(env, mode, &source, &target);
    source.give_up();
    target.give_up();
    result?;
    prefetch_pending::works(env)
}

fn read(env: &Env, mode: Mode, source: &SlowFile, target: &SlowFile) -> Result<()> {
    let (far, near) = (cover(env, mode, source)?, cover(env, mode, target)?);
    let link = env.rc()?;
    let all = PAGES * PAGE;
    // The first page of the source is there, and all of the target but the first.
    far.check(FILE, 0, PAGE)?;
    source.hold(1..PAGES);
    target.hold(0..1);
    near.fill(BEFORE, PAGE, all - PAGE);
    link.first
        .post_send(0, Op::Read(far.remote(0)), &[near.sge(0, all)])?;
    // The responder has answered for the first page and stopped at the second; the requester could not take it.
    target.wait_until_asked(0, ASKED)?;
    source.wait_until_asked(1, ASKED)?;
    source.release_pages(1..2);
    // It asks for both, and the responder stops at the third.
    target.release();
    let deadline = Instant::now() + patience::scaled(env.patience);
    while near.check(FILE, PAGE, PAGE).is_err() {
        ensure!(Instant::now() < deadline, "the second page does not come");
        thread::sleep(Duration::from_millis(5));
    }
    source.release();
    let end = link.first.completions().wait(env.patience)?;
    end.expect(&[Status::SUCCESS])?;
    Ok(near.check(FILE, 0, all)?)
}

fn cover(env: &Env, mode: Mode, file: &SlowFile) -> Result<Buffer> {
    let file = file.open()?;
    let memory = Mapping::new(PAGES * PAGE, Backing::Shared(&file), Protection::ReadWrite)?;
    Ok(env.cover(mode, memory, Access::ALL)?)
}
