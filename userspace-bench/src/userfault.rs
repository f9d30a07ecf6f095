// SPDX-License-Identifier: GPL-2.0
//! Memory whose missing pages this process brings itself, when somebody asks for one (userfaultfd(2)).

use std::{
    fs::File,
    io::{self, Read as _},
    mem::size_of,
    ops::Range,
    os::fd::{AsRawFd as _, FromRawFd as _},
    time::Duration,
};

use anyhow::{ensure, Context as _, Result};

use crate::memory::{Mapping, PAGE};

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct Span {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    span: Span,
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

/// What is told of the missing pages of some memory, and brings them.
#[derive(Debug)]
pub struct Userfault {
    file: File,
}

impl Userfault {
    /// For the pages of `range` in `memory`.
    pub fn new(memory: &Mapping, range: Range<usize>) -> Result<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: makes a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        ensure!(fd >= 0, "userfaultfd: {}", io::Error::last_os_error());
        // SAFETY: just made, and nobody else's.
        let file = unsafe { File::from_raw_fd(fd as i32) };
        let faults = Self { file };
        const API: u64 = 0xaa;
        let mut api = Api {
            api: API,
            features: 0,
            ioctls: 0,
        };
        faults.call(0x3f, &mut api).context("UFFDIO_API")?;
        const MISSING: u64 = 1;
        let mut register = Register {
            span: Span {
                start: memory.at(range.start),
                len: range.len() as u64,
            },
            mode: MISSING,
            ioctls: 0,
        };
        let registered = faults.call(0x00, &mut register);
        registered.context("UFFDIO_REGISTER")?;
        Ok(faults)
    }

    /// The descriptor, for another process to take hold of.
    pub fn fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Whether somebody waits for a page, or does before `limit`; none is for ever.
    pub fn asked_within(&self, limit: Option<Duration>) -> Result<bool> {
        let mut poll = libc::pollfd {
            fd: self.file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let limit = limit.map_or(-1, |limit| limit.as_millis() as i32);
        // SAFETY: one descriptor that is open.
        let ready = unsafe { libc::poll(&mut poll, 1, limit) };
        ensure!(ready >= 0, "poll: {}", io::Error::last_os_error());
        Ok(ready > 0)
    }

    /// Waits until somebody asks for a page; its address.
    pub fn wait(&self) -> Result<u64> {
        loop {
            self.asked_within(None)?;
            // `struct uffd_msg`: what it is about, and then, for a fault, flags and address.
            let mut message = [0; 32];
            match (&self.file).read_exact(&mut message) {
                // Somebody else has brought it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                result => result.context("waiting for a fault")?,
            }
            let address = u64::from_ne_bytes(message[16..24].try_into()?);
            return Ok(address & !(PAGE as u64 - 1));
        }
    }

    /// Gives the page at `address` these bytes, and lets those go on who wait for it.
    pub fn give(&self, address: u64, bytes: &[u8]) -> Result<()> {
        ensure!(bytes.len() == PAGE, "not a page");
        let mut copy = Copy {
            to: address,
            from: bytes.as_ptr() as u64,
            len: PAGE as u64,
            mode: 0,
            copied: 0,
        };
        match self.call(0x03, &mut copy) {
            // It is there: who has not seen that yet is told.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => self.wake(address),
            result => result.context("UFFDIO_COPY"),
        }
    }

    /// Has those look again who wait for the page at `address`.
    fn wake(&self, address: u64) -> Result<()> {
        let mut span = Span {
            start: address,
            len: PAGE as u64,
        };
        const TO_KERNEL: u64 = 2;
        let woken = self.request(TO_KERNEL, 0x02, &mut span);
        woken.context("UFFDIO_WAKE")
    }

    /// `_IOWR(0xaa, number, T)`.
    fn call<T>(&self, number: u64, argument: &mut T) -> io::Result<()> {
        const BOTH_WAYS: u64 = 3;
        self.request(BOTH_WAYS, number, argument)
    }

    fn request<T>(&self, direction: u64, number: u64, argument: &mut T) -> io::Result<()> {
        let size = size_of::<T>() as u64;
        let request = (direction << 30) | (size << 16) | (0xaa << 8) | number;
        // SAFETY: the argument is what the kernel expects for this number; addresses in it are those of
        // memory of a mapping, and of bytes that outlive the call.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request, argument) };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
