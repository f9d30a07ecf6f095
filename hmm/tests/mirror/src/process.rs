// SPDX-License-Identifier: GPL-2.0
//! Other processes, and waiting for them with a bound.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use testkit::process::{self, End, Forked};

/// What takes longer does not happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A process made by fork. Killed when dropped.
pub(crate) struct Child(Forked);

impl Child {
    /// Runs `act` in a new process. Only the calling thread goes on there.
    pub(crate) fn fork(act: impl FnOnce() -> Result<()>) -> Result<Self> {
        let child = process::fork_thread(|| match act() {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("in a child: {error:#}");
                1
            }
        });
        Ok(Self(child.context("fork")?))
    }

    /// Kills it.
    pub(crate) fn kill(&self) {
        self.0.kill();
    }

    /// Waits for its end, which must be one without an error.
    pub(crate) fn succeeds(self) -> Result<()> {
        let end = self.ends()?;
        ensure!(end == End::Status(0), "a child ended with {end:?}");
        Ok(())
    }

    /// Waits for its end, however long that takes.
    pub(crate) fn ends_at_last(self) -> Result<End> {
        self.0.end().context("waiting for a child")
    }

    /// Waits for its end.
    pub(crate) fn ends(self) -> Result<End> {
        let end = self.0.finish(PATIENCE)?;
        ensure!(end != End::Hung, "a child does not end");
        Ok(end)
    }
}

/// Whether `done` comes true within `time`.
pub(crate) fn within(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if done() {
            return true;
        }
        if begun.elapsed() > time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One side of a pair of processes or threads that wait for each other.
pub(crate) struct Side(UnixStream);

/// Both sides.
pub(crate) fn pair() -> Result<(Side, Side)> {
    let (one, other) = UnixStream::pair()?;
    for side in [&one, &other] {
        side.set_read_timeout(Some(PATIENCE))?;
    }
    Ok((Side(one), Side(other)))
}

impl Side {
    /// The other side may go on.
    pub(crate) fn tell(&self) -> Result<()> {
        Ok((&self.0).write_all(&[1])?)
    }

    /// Waits for the other side.
    pub(crate) fn wait(&self) -> Result<()> {
        let mut byte = [0];
        match (&self.0).read(&mut byte) {
            Ok(1) => Ok(()),
            Ok(_) => bail!("the other side is gone"),
            Err(error) => Err(error).context("waiting for the other side"),
        }
    }
}

/// Tells threads to stop when it is dropped, also if the test fails.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether to go on.
pub(crate) fn goes_on(stop: &AtomicBool) -> bool {
    !stop.load(Ordering::Relaxed)
}
