// SPDX-License-Identifier: GPL-2.0
//! Other processes, and waiting for them with a bound.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

/// What takes longer does not happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A process made by fork.
pub(crate) struct Child {
    pid: libc::pid_t,
    waited: bool,
}

impl Child {
    /// Runs `act` in a new process. Only the calling thread goes on there.
    pub(crate) fn fork(act: impl FnOnce() -> Result<()>) -> Result<Self> {
        // SAFETY: The child does what the program does anyway; locks that other threads may hold
        // at this moment are those of the allocator, which the C library releases in the child.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).context("fork"),
            0 => {
                let status = match act() {
                    Ok(()) => 0,
                    Err(error) => {
                        eprintln!("in a child: {error:#}");
                        1
                    }
                };
                // SAFETY: Ends the process.
                unsafe { libc::_exit(status) }
            }
            pid => Ok(Self { pid, waited: false }),
        }
    }

    /// Kills it.
    pub(crate) fn kill(&self) {
        // SAFETY: A child that has not been waited for, so the number is still its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Waits for its end, which must be one without an error.
    pub(crate) fn succeeds(self) -> Result<()> {
        let status = self.ends()?;
        ensure!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            "a child ended with status {status:#x}"
        );
        Ok(())
    }

    /// Waits for its end, however long that takes.
    pub(crate) fn ends_at_last(&mut self) -> Result<i32> {
        let mut status = 0;
        // SAFETY: `status` can be written.
        let pid = unsafe { libc::waitpid(self.pid, &mut status, 0) };
        ensure!(pid == self.pid, "waitpid: {}", io::Error::last_os_error());
        self.waited = true;
        Ok(status)
    }

    /// Waits for its end.
    pub(crate) fn ends(mut self) -> Result<i32> {
        let mut status = 0;
        let ended = within(PATIENCE, || {
            // SAFETY: `status` can be written.
            let pid = unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
            pid == self.pid
        });
        ensure!(ended, "a child does not end");
        self.waited = true;
        Ok(status)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.waited {
            self.kill();
            let mut status = 0;
            // SAFETY: As above.
            unsafe { libc::waitpid(self.pid, &mut status, 0) };
        }
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
