// SPDX-License-Identifier: GPL-2.0
//! The system calls on ranges of addresses, as a result instead of -1.
//!
//! # Safety
//!
//! All functions that are unsafe have one contract: no Rust object lies in the range, and no reference points there.

use std::{
    fs::File,
    io,
    ops::Range,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

/// Turns the result of a call that gives 0 or -1 into a result.
pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn at(start: u64) -> *mut libc::c_void {
    ptr::with_exposed_provenance_mut(start as usize)
}

/// `mmap` of `len` bytes at `start` exactly: of `file` from an offset on, or of anonymous memory. `flags` are those
/// beyond `MAP_FIXED`, which replaces what is there, unless they have `MAP_FIXED_NOREPLACE`.
///
/// # Safety
///
/// See the module.
pub unsafe fn map(
    start: u64,
    len: usize,
    protection: i32,
    flags: i32,
    file: Option<(BorrowedFd<'_>, u64)>,
) -> io::Result<()> {
    let (kind, fd, offset) = match file {
        Some((file, offset)) => (0, file.as_raw_fd(), offset),
        None => (libc::MAP_ANONYMOUS, -1, 0),
    };
    let fixed = match flags & libc::MAP_FIXED_NOREPLACE {
        0 => libc::MAP_FIXED,
        _ => 0,
    };
    let flags = flags | kind | fixed;
    // SAFETY: by the contract.
    let p = unsafe { libc::mmap(at(start), len, protection, flags, fd, offset as libc::off_t) };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    p.expose_provenance();
    Ok(())
}

/// `munmap`.
///
/// # Safety
///
/// See the module.
pub unsafe fn unmap(start: u64, len: usize) -> io::Result<()> {
    // SAFETY: by the contract.
    check(unsafe { libc::munmap(at(start), len) })
}

/// `mprotect`.
///
/// # Safety
///
/// See the module.
pub unsafe fn protect(start: u64, len: usize, protection: i32) -> io::Result<()> {
    // SAFETY: by the contract.
    check(unsafe { libc::mprotect(at(start), len, protection) })
}

/// `madvise`.
///
/// # Safety
///
/// See the module.
pub unsafe fn advise(start: u64, len: usize, advice: i32) -> io::Result<()> {
    // SAFETY: by the contract.
    check(unsafe { libc::madvise(at(start), len, advice) })
}

/// `msync` that waits.
///
/// # Safety
///
/// See the module.
pub unsafe fn sync(start: u64, len: usize) -> io::Result<()> {
    // SAFETY: by the contract.
    check(unsafe { libc::msync(at(start), len, libc::MS_SYNC) })
}

/// `mremap` of `len` bytes to `new_len` bytes at `new` exactly; `flags` are those beyond that.
///
/// # Safety
///
/// See the module, for both ranges.
pub unsafe fn remap(
    start: u64,
    len: usize,
    new: u64,
    new_len: usize,
    flags: i32,
) -> io::Result<()> {
    let flags = flags | libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: by the contract.
    let p = unsafe { libc::mremap(at(start), len, new_len, flags, at(new)) };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    p.expose_provenance();
    Ok(())
}

/// `move_pages`: moves the pages of `page` bytes each in the range to NUMA node `node`, as far as nobody else maps them;
/// for each the node that it is on, or an error.
pub fn move_pages(start: u64, len: usize, page: usize, node: i32) -> io::Result<Vec<i32>> {
    /// MPOL_MF_MOVE.
    const MOVE: libc::c_int = 2;
    let pages: Vec<_> = (0..len / page).map(|n| start + (n * page) as u64).collect();
    let (nodes, mut found) = (vec![node; pages.len()], vec![0i32; pages.len()]);
    // SAFETY: the three lists have as many entries as the call is told; the pages stay where the process has them.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            nodes.as_ptr(),
            found.as_mut_ptr(),
            MOVE,
        )
    };
    match moved {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(found),
    }
}

/// `fallocate`: takes these bytes out of `file`, from all that map them.
pub fn punch_hole(file: &File, bytes: Range<usize>) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (start, len) = (bytes.start as i64, bytes.len() as i64);
    // SAFETY: takes no pointers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) })
}
