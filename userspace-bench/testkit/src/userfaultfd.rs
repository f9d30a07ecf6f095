// SPDX-License-Identifier: GPL-2.0
//! userfaultfd: a program serves the faults of its own memory.
//!
//! None of it changes what is in memory: a page is filled only where there is none yet, and a fault that is
//! waited for is one like any other to the code that runs into it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;

use crate::memory::PAGE;

const MAGIC: u8 = 0xaa;
const API: u64 = 0xaa;
const PAGEFAULT: u8 = 0x12;
const FLAG_WP: u64 = 1 << 1;
const FLAG_MINOR: u64 = 1 << 2;
const FLAG_RWP: u64 = 1 << 3;
const WAKE_NO_PROTECTION: u64 = 0;
const PROTECT: u64 = 1;

const MINOR_SHMEM: u64 = 1 << 10;
const WP_HUGETLB_SHMEM: u64 = 1 << 12;
const WP_UNPOPULATED: u64 = 1 << 13;
const WP_ASYNC: u64 = 1 << 15;
const RWP: u64 = 1 << 17;
const RWP_ASYNC: u64 = 1 << 18;

/// Which faults are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// There is no page.
    Missing = 1,
    /// The page is protected against writes.
    WriteProtected = 2,
    /// The file has the page, but it is not mapped.
    Minor = 4,
    /// The page is protected against all access.
    Inaccessible = 8,
}

/// A fault to be served.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The page's address.
    pub va: u64,
    /// Of which kind.
    pub mode: Mode,
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
    pub(super) struct Span {
        pub(super) start: u64,
        pub(super) len: u64,
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
    nix::ioctl_read!(
        /// Has waiting faults look again.
        wake, MAGIC, 0x02, Span);
    nix::ioctl_readwrite!(
        /// Gives a page.
        copy, MAGIC, 0x03, Copy);
    nix::ioctl_readwrite!(
        /// Protects against writes, or no longer.
        protect, MAGIC, 0x06, Protect);
    nix::ioctl_readwrite!(
        /// Protects against all access, or no longer.
        forbid, MAGIC, 0x09, Protect);
    nix::ioctl_readwrite!(
        /// Maps a page that the file has.
        go_on, MAGIC, 0x07, Continue);
}

/// The open file that faults are reported by. What it was told ends with it.
#[derive(Debug)]
pub struct Userfaultfd(File);

impl Userfaultfd {
    /// One whose faults wait until they are served.
    ///
    /// # Errors
    ///
    /// Those of the system call and of `UFFDIO_API`, as all functions here.
    pub fn new() -> Result<Self> {
        Self::with(MINOR_SHMEM)
    }

    /// One for missing pages only.
    pub fn for_missing() -> Result<Self> {
        Self::with(0)
    }

    /// One that only protects pages, also of shared memory and where there are none: the kernel itself lifts
    /// the protection at a write, so nobody has to wait.
    pub fn unattended() -> Result<Self> {
        Self::with(WP_HUGETLB_SHMEM | WP_UNPOPULATED | WP_ASYNC)
    }

    /// One that only makes pages inaccessible: the kernel itself gives them back at an access. `None` if this
    /// kernel cannot do so: it can from Linux 7.3 on.
    pub fn forbidding() -> Result<Option<Self>> {
        match Self::with(RWP | RWP_ASYNC) {
            Ok(userfault) => Ok(Some(userfault)),
            Err(error) if error.downcast_ref() == Some(&Errno::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn with(features: u64) -> Result<Self> {
        // Only of one that does not wait in a read can it be asked whether there is a fault.
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: A system call without pointers; it gives a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("userfaultfd");
        }
        // SAFETY: A new descriptor that nobody else owns.
        let file = unsafe { File::from_raw_fd(fd as i32) };
        let mut api = raw::Api {
            api: API,
            features,
            ioctls: 0,
        };
        // SAFETY: The argument is what the kernel expects, and has no pointers.
        unsafe { raw::api(file.as_raw_fd(), &mut api) }.context("UFFDIO_API")?;
        Ok(Self(file))
    }

    /// The file's descriptor.
    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Serves faults of `mode` in the `len` bytes from `start` on.
    pub fn register(&self, start: u64, len: u64, mode: Mode) -> Result<()> {
        let mut argument = raw::Register {
            start,
            len,
            mode: mode as u64,
            ioctls: 0,
        };
        // SAFETY: The argument is what the kernel expects. Faults of the range wait; no byte changes.
        let result = unsafe { raw::register(self.fd(), &mut argument) };
        result.with_context(|| format!("UFFDIO_REGISTER for {mode:?}"))?;
        Ok(())
    }

    /// Whether a fault waits to be served, or one does before `limit`; none is for ever.
    pub fn asked_within(&self, limit: Option<Duration>) -> Result<bool> {
        let mut poll = libc::pollfd {
            fd: self.fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let limit = limit.map_or(-1, |limit| limit.as_millis() as i32);
        // SAFETY: One descriptor, as said.
        let ready = unsafe { libc::poll(&mut poll, 1, limit) };
        ensure!(ready >= 0, "poll: {}", io::Error::last_os_error());
        Ok(ready > 0)
    }

    /// Waits for the next fault, for at most `patience`.
    pub fn next(&self, patience: Duration) -> Result<Message> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(self.asked_within(Some(left))?, "no fault was reported");
            if let Some(message) = self.next_if_any()? {
                return Ok(message);
            }
        }
    }

    /// The next fault; `None` if there is none any more, as another thread has served it.
    pub fn next_if_any(&self) -> Result<Option<Message>> {
        // `struct uffd_msg`: what it is about, and then, for a fault, flags and address.
        let mut message = [0; 32];
        match (&self.0).read_exact(&mut message) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            result => result.context("reading a fault")?,
        }
        if message[0] != PAGEFAULT {
            bail!("message {:#x} instead of a fault", message[0]);
        }
        let word = |at: usize| u64::from_ne_bytes(message[at..at + 8].try_into().unwrap_or([0; 8]));
        let flags = word(8);
        let mode = match flags {
            flags if flags & FLAG_WP != 0 => Mode::WriteProtected,
            flags if flags & FLAG_MINOR != 0 => Mode::Minor,
            flags if flags & FLAG_RWP != 0 => Mode::Inaccessible,
            _ => Mode::Missing,
        };
        Ok(Some(Message {
            va: word(16) & !(PAGE as u64 - 1),
            mode,
        }))
    }

    /// Gives the page at `va` the contents `bytes`, unless it is there already, and lets those go on who wait for it.
    pub fn give(&self, va: u64, bytes: &[u8]) -> Result<()> {
        ensure!(bytes.len() == PAGE, "not a page");
        let mut argument = raw::Copy {
            to: va,
            from: bytes.as_ptr() as u64,
            len: PAGE as u64,
            mode: 0,
            copied: 0,
        };
        // SAFETY: The source is a page of bytes; the target is written only if there is no page yet.
        match unsafe { raw::copy(self.fd(), &mut argument) } {
            // It is there: a fault that has not seen that yet is told.
            Err(Errno::EEXIST) => self.wake(va),
            result => result.map(drop).context("UFFDIO_COPY"),
        }
    }

    /// Has those look again who wait for the page at `va`.
    fn wake(&self, va: u64) -> Result<()> {
        let mut argument = raw::Span {
            start: va,
            len: PAGE as u64,
        };
        // SAFETY: The argument is what the kernel expects. Faults look again; no byte changes.
        unsafe { raw::wake(self.fd(), &mut argument) }.context("UFFDIO_WAKE")?;
        Ok(())
    }

    /// Protects the `len` bytes from `start` on against writes.
    pub fn protect(&self, start: u64, len: u64) -> Result<()> {
        self.change_protection(start, len, PROTECT)
    }

    /// Makes the `len` bytes from `start` on inaccessible.
    pub fn forbid(&self, start: u64, len: u64) -> Result<()> {
        let mode = PROTECT;
        let mut argument = raw::Protect { start, len, mode };
        // SAFETY: The argument is what the kernel expects. The next access gives the page back; no byte changes.
        unsafe { raw::forbid(self.fd(), &mut argument) }.context("UFFDIO_RWPROTECT")?;
        Ok(())
    }

    /// Lets the write to the page at `va` go on.
    pub fn unprotect(&self, va: u64) -> Result<()> {
        self.change_protection(va, PAGE as u64, WAKE_NO_PROTECTION)
    }

    fn change_protection(&self, start: u64, len: u64, mode: u64) -> Result<()> {
        let mut argument = raw::Protect { start, len, mode };
        // SAFETY: The argument is what the kernel expects. Writes wait or go on; no byte changes.
        let result = unsafe { raw::protect(self.fd(), &mut argument) };
        result.context("UFFDIO_WRITEPROTECT")?;
        Ok(())
    }

    /// Maps the page that the file has for `va`.
    pub fn go_on(&self, va: u64) -> Result<()> {
        let mut argument = raw::Continue {
            start: va,
            len: PAGE as u64,
            mode: 0,
            mapped: 0,
        };
        // SAFETY: The argument is what the kernel expects. The page comes to where there is none.
        unsafe { raw::go_on(self.fd(), &mut argument) }.context("UFFDIO_CONTINUE")?;
        Ok(())
    }
}
