// SPDX-License-Identifier: GPL-2.0
//! userfaultfd: this program serves the faults of its own memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::{bail, ensure, Context, Result};

use crate::memory::{Area, Pages, PAGE};
use crate::process::PATIENCE;

const MAGIC: u8 = 0xaa;
const API: u64 = 0xaa;
const PAGEFAULT: u8 = 0x12;
const FLAG_WP: u64 = 1 << 1;
const FLAG_MINOR: u64 = 1 << 2;
const WAKE_NO_PROTECTION: u64 = 0;
const PROTECT: u64 = 1;

/// Which faults are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Missing = 1,
    WriteProtected = 2,
    Minor = 4,
}

/// A fault to be served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    /// Where.
    pub(crate) va: u64,
    /// Of which kind.
    pub(crate) mode: Mode,
}

mod raw {
    use super::MAGIC;

    #[repr(C)]
    pub(super) struct Api {
        pub(super) api: u64,
        pub(super) features: u64,
        pub(super) ioctls: u64,
    }
    #[repr(C)]
    pub(super) struct Register {
        pub(super) start: u64,
        pub(super) len: u64,
        pub(super) mode: u64,
        pub(super) ioctls: u64,
    }
    #[repr(C)]
    pub(super) struct Copy {
        pub(super) to: u64,
        pub(super) from: u64,
        pub(super) len: u64,
        pub(super) mode: u64,
        pub(super) copied: i64,
    }
    #[repr(C)]
    pub(super) struct Protect {
        pub(super) start: u64,
        pub(super) len: u64,
        pub(super) mode: u64,
    }
    #[repr(C)]
    pub(super) struct Continue {
        pub(super) start: u64,
        pub(super) len: u64,
        pub(super) mode: u64,
        pub(super) mapped: i64,
    }
    nix::ioctl_readwrite!(
        /// The first call.
        api, MAGIC, 0x3f, Api);
    nix::ioctl_readwrite!(
        /// Serves a range.
        register, MAGIC, 0x00, Register);
    nix::ioctl_readwrite!(
        /// Gives a page.
        copy, MAGIC, 0x03, Copy);
    nix::ioctl_readwrite!(
        /// Protects against writes, or no longer.
        protect, MAGIC, 0x06, Protect);
    nix::ioctl_readwrite!(
        /// Maps a page that the file has.
        go_on, MAGIC, 0x07, Continue);
}

/// The open file that faults are reported by.
pub(crate) struct Userfault(File);

impl Userfault {
    /// Opens it.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Makes a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("userfaultfd");
        }
        // SAFETY: Just made.
        let file = unsafe { File::from_raw_fd(fd as i32) };
        const MINOR_SHMEM: u64 = 1 << 10;
        let mut api = raw::Api {
            api: API,
            features: MINOR_SHMEM,
            ioctls: 0,
        };
        // SAFETY: The argument has no pointers.
        unsafe { raw::api(file.as_raw_fd(), &mut api) }.context("UFFDIO_API")?;
        Ok(Self(file))
    }

    /// The file's descriptor.
    pub(crate) fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Serves faults of `mode` in `pages`.
    pub(crate) fn register(&self, area: &Area, pages: Pages, mode: Mode) -> Result<()> {
        let mut argument = raw::Register {
            start: area.va(pages.start),
            len: (pages.len() * PAGE) as u64,
            mode: mode as u64,
            ioctls: 0,
        };
        // SAFETY: The range is the test's own; no object lies there.
        let result = unsafe { raw::register(self.0.as_raw_fd(), &mut argument) };
        result.with_context(|| format!("UFFDIO_REGISTER for {mode:?}"))?;
        Ok(())
    }

    /// Waits for the next fault, with a bound.
    pub(crate) fn next(&self) -> Result<Message> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: One descriptor, as said.
        let ready = unsafe { libc::poll(&mut poll, 1, PATIENCE.as_millis() as i32) };
        ensure!(ready == 1, "no fault was reported");
        let mut message = [0; 32];
        (&self.0).read_exact(&mut message)?;
        if message[0] != PAGEFAULT {
            bail!("message {:#x} instead of a fault", message[0]);
        }
        let word = |at: usize| u64::from_ne_bytes(message[at..at + 8].try_into().unwrap_or([0; 8]));
        let flags = word(8);
        let mode = match flags {
            flags if flags & FLAG_WP != 0 => Mode::WriteProtected,
            flags if flags & FLAG_MINOR != 0 => Mode::Minor,
            _ => Mode::Missing,
        };
        Ok(Message {
            va: word(16) & !(PAGE as u64 - 1),
            mode,
        })
    }

    /// Gives the page at `va` the contents `bytes`.
    pub(crate) fn give(&self, va: u64, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() == PAGE);
        let mut argument = raw::Copy {
            to: va,
            from: bytes.as_ptr() as u64,
            len: PAGE as u64,
            mode: 0,
            copied: 0,
        };
        // SAFETY: The source is a page of bytes, the target is the test's own.
        unsafe { raw::copy(self.0.as_raw_fd(), &mut argument) }.context("UFFDIO_COPY")?;
        Ok(())
    }

    /// Protects `pages` against writes.
    pub(crate) fn protect(&self, area: &Area, pages: Pages) -> Result<()> {
        self.change_protection(area.va(pages.start), pages.len(), PROTECT)
    }

    /// Lets the write to the page at `va` go on.
    pub(crate) fn unprotect(&self, va: u64) -> Result<()> {
        self.change_protection(va, 1, WAKE_NO_PROTECTION)
    }

    fn change_protection(&self, va: u64, pages: usize, mode: u64) -> Result<()> {
        let mut argument = raw::Protect {
            start: va,
            len: (pages * PAGE) as u64,
            mode,
        };
        // SAFETY: The range is the test's own.
        let result = unsafe { raw::protect(self.0.as_raw_fd(), &mut argument) };
        result.context("UFFDIO_WRITEPROTECT")?;
        Ok(())
    }

    /// Maps the page that the file has for `va`.
    pub(crate) fn go_on(&self, va: u64) -> Result<()> {
        let mut argument = raw::Continue {
            start: va,
            len: PAGE as u64,
            mode: 0,
            mapped: 0,
        };
        // SAFETY: The range is the test's own.
        unsafe { raw::go_on(self.0.as_raw_fd(), &mut argument) }.context("UFFDIO_CONTINUE")?;
        Ok(())
    }
}
