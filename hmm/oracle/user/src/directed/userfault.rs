// SPDX-License-Identifier: GPL-2.0
//! Pages that a userfaultfd has write-protected, and the markers that it leaves where they were.
//!
//! In its asynchronous mode the kernel lifts the protection by itself, so nobody has to wait.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::arena::Span;

/// `struct uffdio_api` of the kernel's `linux/userfaultfd.h`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register` of the same.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_writeprotect` of the same.
#[repr(C)]
struct WriteProtect {
    start: u64,
    len: u64,
    mode: u64,
}

mod raw {
    nix::ioctl_readwrite!(
        /// Says what is wanted.
        api, 0xaa, 0x3f, super::Api);
    nix::ioctl_readwrite!(
        /// Watches a range.
        register, 0xaa, 0x00, super::Register);
    nix::ioctl_readwrite!(
        /// Write-protects a range.
        write_protect, 0xaa, 0x06, super::WriteProtect);
}

/// Write-protects what is in `span`. The protection lasts as long as the descriptor.
pub(super) fn write_protect(span: Span) -> Result<OwnedFd> {
    const HUGETLB_SHMEM: u64 = 1 << 12;
    const UNPOPULATED: u64 = 1 << 13;
    const ASYNC: u64 = 1 << 15;
    const MODE_WP: u64 = 1 << 1;
    // SAFETY: A system call without pointers; it gives a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("userfaultfd");
    }
    // SAFETY: A new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut api = Api {
        api: 0xaa,
        features: HUGETLB_SHMEM | UNPOPULATED | ASYNC,
        ioctls: 0,
    };
    // SAFETY: The argument is what the kernel expects, and has no pointers.
    unsafe { raw::api(fd.as_raw_fd(), &mut api) }.context("UFFDIO_API")?;
    let (start, len) = (span.start(), span.bytes() as u64);
    let mut register = Register {
        start,
        len,
        mode: MODE_WP,
        ioctls: 0,
    };
    // SAFETY: As above; the range is of the arena.
    unsafe { raw::register(fd.as_raw_fd(), &mut register) }.context("UFFDIO_REGISTER")?;
    let mode = 1;
    let mut protect = WriteProtect { start, len, mode };
    // SAFETY: As above.
    unsafe { raw::write_protect(fd.as_raw_fd(), &mut protect) }.context("UFFDIO_WRITEPROTECT")?;
    Ok(fd)
}
