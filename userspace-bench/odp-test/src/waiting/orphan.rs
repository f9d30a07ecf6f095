// SPDX-License-Identifier: GPL-2.0
//! A process is killed while its device waits for a page of it that somebody else withholds: what it had of the device
//! goes all the same. (The testbed's `waiting-removal` has that for every way to wait for a file.)

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    counters,
    env::{Env, Mode},
};
use odp_verbs::Op;
use testkit::{
    memory::PAGE,
    patience,
    process::{self, Helper, Parent},
    userfault::Userfault,
};

use super::{victim::role, PROMPT};
use crate::{
    harness::{Options, Test},
    prefetch_pending,
};

/// The tests of this file.
pub const TESTS: &[Test] = &[Test::once("waiting.orphan", orphan)];

/// The part of the process that is killed.
pub const ROLE: &str = "orphan";

/// The page belongs to a userfaultfd that outlives the process.
fn orphan(env: &Env) -> Result<()> {
    let device = env.context.name();
    let contexts =
        || counters::contexts(device).context("iproute2's rdma does not tell the contexts");
    let before = contexts()?;
    let mut victim = Helper::spawn(role(env, ROLE, None))?;
    let fd: i32 = victim.hear(PROMPT).context("a process that waits")?;
    let _withheld = taken_from(victim.id(), fd).context("its userfaultfd")?;
    ensure!(contexts()? > before, "the process has no context");
    victim.kill_within(PROMPT)?;
    let start = Instant::now();
    while contexts()? > before {
        if start.elapsed() > patience::scaled(PROMPT) {
            bail!("what the process had of the device is left");
        }
        thread::sleep(Duration::from_millis(20));
    }
    prefetch_pending::works(env)
}

/// Descriptor `fd` of process `pid`, to keep what it is for.
fn taken_from(pid: u32, fd: i32) -> io::Result<OwnedFd> {
    let owned = |fd: libc::c_long| match fd {
        ..0 => Err(io::Error::last_os_error()),
        // SAFETY: just made, and nobody else's.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    };
    // SAFETY: makes a new descriptor.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: as above.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

/// Plays [`ROLE`]: says which its userfaultfd is when somebody asks it for a page, and waits to be killed.
pub fn play(options: &Options) -> Result<()> {
    process::defer_to_kernel();
    let parent = Parent::new();
    let env = options.open()?;
    let (near, far) = (
        env.buffer(Mode::Pinned, PAGE)?,
        env.buffer(Mode::Explicit, 2 * PAGE)?,
    );
    let faults = Userfault::new(&far.memory, PAGE..2 * PAGE)?;
    let link = env.rc()?;
    link.first
        .post_send(0, Op::Write(far.remote(PAGE)), &[near.sge(0, 64)])?;
    ensure!(faults.asked_within(None)?, "nobody asks for the page");
    parent.tell(&faults.fd())?;
    loop {
        thread::park();
    }
}
