// SPDX-License-Identifier: GPL-2.0
//! Memory that a userfaultfd of the application's own serves: the NIC waits for its handler.

use std::{
    fs::File,
    io::{self, Read as _},
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _},
    thread,
    time::Duration,
};

use anyhow::{ensure, Context as _, Result};
use odp_verbs::{
    env::{Env, Mode},
    memory::{Mapping, PAGE},
    pattern::Pattern,
};

use crate::harness::Test;

/// The tests of this file.
pub const TESTS: &[Test] = &[Test::on_demand("userfault", served)];

/// The page that is served, and where in it the data is: odd, one packet.
const SERVED: usize = PAGE;
const AT: usize = PAGE + 13;
const LEN: usize = 700;

/// How long the handler takes: longer than rxe's worker sleeps at a time, shorter than the requester tries.
const DELAY: Duration = Duration::from_millis(1200);

fn served(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 2 * PAGE)?, env.buffer(mode, 3 * PAGE)?);
    let handler = Handler::new(&far.memory, SERVED)?;
    let (given, written) = (Pattern::new(1), Pattern::new(2));
    near.fill(written, 0, LEN);
    thread::scope(|threads| {
        let serving = threads.spawn(|| handler.serve(&given.bytes(0, PAGE)));
        let sent = env.rc()?.write(near.sge(0, LEN), far.remote(AT));
        let handled = serving
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        handled.context("the handler")?;
        sent.context("WRITE")
    })?;
    // What the handler gave, with what the NIC wrote in it.
    let mut expected = given.bytes(0, PAGE);
    expected[AT - SERVED..][..LEN].copy_from_slice(&written.bytes(0, LEN));
    ensure!(
        far.memory.bytes(SERVED, PAGE) == expected,
        "the page is not what the handler gave and the NIC wrote"
    );
    Ok(())
}

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

/// What serves the faults of one page.
struct Handler {
    file: File,
    page: u64,
}

impl Handler {
    fn new(memory: &Mapping, offset: usize) -> Result<Self> {
        // SAFETY: Makes a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        ensure!(fd >= 0, "userfaultfd: {}", io::Error::last_os_error());
        let handler = Self {
            // SAFETY: Just made.
            file: unsafe { File::from_raw_fd(fd as i32) },
            page: memory.at(offset),
        };
        const API: u64 = 0xaa;
        let mut api = Api {
            api: API,
            features: 0,
            ioctls: 0,
        };
        handler.call(0x3f, &mut api).context("UFFDIO_API")?;
        const MISSING: u64 = 1;
        let mut register = Register {
            start: handler.page,
            len: PAGE as u64,
            mode: MISSING,
            ioctls: 0,
        };
        handler
            .call(0x00, &mut register)
            .context("UFFDIO_REGISTER")?;
        Ok(handler)
    }

    /// Waits for a fault, and gives the page these bytes after a while.
    fn serve(&self, bytes: &[u8]) -> Result<()> {
        ensure!(bytes.len() == PAGE, "not a page");
        let mut message = [0; 32];
        (&self.file)
            .read_exact(&mut message)
            .context("waiting for a fault")?;
        thread::sleep(DELAY);
        let mut copy = Copy {
            to: self.page,
            from: bytes.as_ptr() as u64,
            len: PAGE as u64,
            mode: 0,
            copied: 0,
        };
        self.call(0x03, &mut copy).context("UFFDIO_COPY")
    }

    /// `_IOWR(0xaa, number, T)`.
    fn call<T>(&self, number: u64, argument: &mut T) -> Result<()> {
        let request = (3 << 30) | ((size_of::<T>() as u64) << 16) | (0xaa << 8) | number;
        // SAFETY: The argument is what the kernel expects for this number; addresses in it are those of
        // memory of the test's own.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request, argument) };
        ensure!(result == 0, "{}", io::Error::last_os_error());
        Ok(())
    }
}
