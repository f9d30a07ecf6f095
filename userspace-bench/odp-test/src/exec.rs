// SPDX-License-Identifier: GPL-2.0
//! A process that executes another program in the middle of it: the memory that its regions stand for is gone
//! at once, whether the device's files are closed with it or handed on.

use std::{fs, os::unix::process::CommandExt as _, thread, time::Duration};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    env::{Env, Mode},
    traffic::{Lane, Placement},
};
use odp_verbs::{
    Access, CompletionQueue, Endpoint, Op, QpConfig, QueuePair, Remote, Status, Transport,
};
use testkit::{
    memory::PAGE,
    pattern::Pattern,
    process::{End, Helper, Parent},
};

use crate::harness::{self, Test};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("exec", |env, mode| executed(env, mode, CLOSES)),
    Test::on_demand("exec-files-kept", |env, mode| executed(env, mode, KEEPS)),
];

/// The parts of the process that is left, and of the program that follows.
pub const CLOSES: &str = "executor";
/// As [`CLOSES`], with the device's files open for the program that follows.
pub const KEEPS: &str = "keeper";
/// The program that follows.
pub const FOLLOWS: &str = "follower";

const AT: usize = PAGE - 3;
const LEN: usize = 2 * PAGE + 7;
const SOON: Duration = Duration::from_secs(60);

fn queue_pair(env: &Env) -> Result<QueuePair> {
    let queue = CompletionQueue::new(&env.context, 128)?;
    let config = QpConfig {
        // The other side may be gone before any request finds its memory gone.
        retries: 6,
        ..QpConfig::new(Transport::Rc)
    };
    Ok(QueuePair::new(&env.domain, &queue, env.gid, config)?)
}

/// The side of the one who stays.
fn executed(env: &Env, mode: Mode, part: &str) -> Result<()> {
    let (near, lane) = (
        env.buffer(mode, 4 * PAGE)?,
        Lane::new(env, mode, Placement::Odd)?,
    );
    let mut helper = Helper::spawn(harness::role(env, &format!("{part}.{mode}")))?;
    let (endpoint, remote): (Endpoint, Remote) = helper.hear(SOON)?;
    let qp = queue_pair(env)?;
    qp.connect(&endpoint, env.mtu)?;
    helper.tell(&qp.endpoint()?)?;
    let connected: bool = helper.hear(SOON)?;
    ensure!(connected, "the other process is not connected");
    near.fill(Pattern::new(1), AT, LEN);
    let write = |id| qp.post_send(id, Op::Write(remote), &[near.sge(AT, LEN)]);
    write(0)?;
    qp.completions()
        .wait(env.patience)?
        .expect(&[Status::SUCCESS])
        .context("before")?;
    helper.tell(&"go on")?;
    // In the middle of it, some of these.
    for id in 1..20 {
        write(id)?;
        thread::sleep(Duration::from_millis(1));
    }
    let well: bool = helper.hear(SOON).context("the program that follows")?;
    ensure!(well, "the program that follows is not well");
    write(20)?;
    let mut last = Status::SUCCESS;
    for id in 1..=20 {
        let end = qp.completions().wait(env.patience)?;
        ensure!(end.id == id, "{} ended in the place of {id}", end.id);
        if last == Status::SUCCESS {
            last = end.status;
        } else {
            end.expect(&[Status::WR_FLUSH_ERR])?;
        }
    }
    // The memory goes first; once the files are closed, there is nobody to answer.
    let gone = last == Status::RETRY_EXC_ERR && part == CLOSES;
    ensure!(
        last == Status::REM_ACCESS_ERR || gone,
        "the first to fail ended with {last}"
    );
    lane.run(Duration::from_millis(100))
        .context("traffic of this process")?;
    helper.tell(&"leave")?;
    let end = helper.finish(SOON)?;
    ensure!(end == End::Status(0), "the program that follows: {end:?}");
    Ok(())
}

/// The part of the process that is left.
pub fn leave(env: &Env, mode: Mode, keeps: bool) -> Result<()> {
    let parent = Parent::new();
    let far = env.buffer(mode, 4 * PAGE)?;
    let qp = queue_pair(env)?;
    parent.tell(&(qp.endpoint()?, far.remote(AT)))?;
    let peer: Endpoint = parent.hear()?;
    qp.connect(&peer, env.mtu)?;
    parent.tell(&true)?;
    let _: String = parent.hear()?;
    far.check(Pattern::new(1), AT, LEN)?;
    if keeps {
        keep_open()?;
    }
    let error = harness::role(env, &format!("{FOLLOWS}.{mode}")).exec();
    bail!("cannot execute this program again: {error}")
}

/// Leaves the device's files open when another program is executed.
fn keep_open() -> Result<()> {
    let mut kept = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if target.starts_with("/dev/infiniband") {
            let fd = entry.file_name().to_string_lossy().parse()?;
            // SAFETY: changes a setting of an open file only.
            let result = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
            ensure!(result == 0, "{}", std::io::Error::last_os_error());
            kept += 1;
        }
    }
    ensure!(kept > 0, "no file of the device is open");
    Ok(())
}

/// The part of the program that follows: the same addresses, registered anew, are its own.
pub fn follow(env: &Env, mode: Mode) -> Result<()> {
    let parent = Parent::new();
    let (near, far) = (env.buffer(mode, 4 * PAGE)?, env.buffer(mode, 4 * PAGE)?);
    let link = env.rc()?;
    far.check_zero(0, 4 * PAGE)?;
    near.fill(Pattern::new(2), AT, LEN);
    link.write(near.sge(AT, LEN), far.remote(AT))?;
    far.check(Pattern::new(2), AT, LEN)?;
    env.cover(mode, odp_fixture::env::anonymous(PAGE)?, Access::ALL)?;
    parent.tell(&true)?;
    let _: String = parent.hear()?;
    // What the process before registered was not written to where it is now.
    far.check(Pattern::new(2), AT, LEN)?;
    Ok(())
}
