// SPDX-License-Identifier: GPL-2.0
//! The system calls on memory of the arena, as safe functions: no object of the program lies there
//! (`arena`), so none of them can take anything away.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::arena::Span;

/// Advice that the libc crate does not name.
pub(crate) const MADV_GUARD_INSTALL: i32 = 102;
/// Takes guard markers away.
pub(crate) const MADV_GUARD_REMOVE: i32 = 103;

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn at(span: Span) -> *mut libc::c_void {
    span.start() as *mut libc::c_void
}

/// Maps `span`, replacing what is there. `flags` are those beyond `MAP_FIXED`.
pub(crate) fn map(
    span: Span,
    protection: i32,
    flags: i32,
    file: Option<(BorrowedFd<'_>, u64)>,
) -> io::Result<()> {
    let (fd, offset) = match file {
        Some((fd, offset)) => (fd.as_raw_fd(), offset),
        None => (-1, 0),
    };
    let anonymous = if fd < 0 { libc::MAP_ANONYMOUS } else { 0 };
    let flags = flags | anonymous | libc::MAP_FIXED;
    // SAFETY: Replaces mappings of the arena only.
    let result = unsafe {
        libc::mmap(
            at(span),
            span.bytes(),
            protection,
            flags,
            fd,
            offset as libc::off_t,
        )
    };
    match result {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Private memory without a file.
pub(crate) fn map_private(span: Span) -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    map(span, protection, libc::MAP_PRIVATE, None)
}

/// Unmaps `span`.
pub(crate) fn unmap(span: Span) -> io::Result<()> {
    // SAFETY: Memory of the arena.
    check(unsafe { libc::munmap(at(span), span.bytes()) })
}

/// Changes the rights of `span`.
pub(crate) fn protect(span: Span, protection: i32) -> io::Result<()> {
    // SAFETY: Memory of the arena.
    check(unsafe { libc::mprotect(at(span), span.bytes(), protection) })
}

/// Gives advice on `span`.
pub(crate) fn advise(span: Span, advice: i32) -> io::Result<()> {
    // SAFETY: Memory of the arena.
    check(unsafe { libc::madvise(at(span), span.bytes(), advice) })
}

/// Touches every page of `span` as the CPU would, but with an error instead of a signal.
pub(crate) fn populate(span: Span, write: bool) -> io::Result<()> {
    let advice = match write {
        true => libc::MADV_POPULATE_WRITE,
        false => libc::MADV_POPULATE_READ,
    };
    advise(span, advice)
}

/// Moves `from` to `to`, which may have another size; `keep` leaves the old area in place.
pub(crate) fn remap(from: Span, to: Span, keep: bool) -> io::Result<()> {
    let keep = if keep { libc::MREMAP_DONTUNMAP } else { 0 };
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | keep;
    // SAFETY: Both are memory of the arena.
    let result = unsafe { libc::mremap(at(from), from.bytes(), to.bytes(), flags, at(to)) };
    match result {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Moves the pages of `span` to the memory of `node`, as far as that can be done.
pub(crate) fn migrate(span: Span, node: i32) -> io::Result<()> {
    const MOVE: i32 = 1 << 1;
    let pages: Vec<u64> = (0..span.pages())
        .map(|page| span.part(page, 1).start())
        .collect();
    let nodes = vec![node; pages.len()];
    let mut states = vec![0i32; pages.len()];
    // SAFETY: Three arrays with an element a page; the pages are of the arena.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            nodes.as_ptr(),
            states.as_mut_ptr(),
            MOVE,
        )
    };
    match result {
        // Some may be left where they were.
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes the dirty pages of `span` back.
pub(crate) fn sync(span: Span) -> io::Result<()> {
    // SAFETY: Memory of the arena.
    check(unsafe { libc::msync(at(span), span.bytes(), libc::MS_SYNC) })
}

/// Writes a byte to each page of `span`, which is writable memory: what the CPU itself does.
pub(crate) fn touch(span: Span) {
    (0..span.pages()).for_each(|page| touch_page(span, page));
}

/// The same in an order in which no two neighbours get neighbouring frames.
pub(crate) fn touch_scattered(span: Span) {
    // Prime, so that every page has its turn in any number of pages that is no multiple of it.
    const STRIDE: u64 = 7919;
    let pages = span.pages();
    (0..pages).for_each(|turn| touch_page(span, turn * STRIDE % pages));
}

fn touch_page(span: Span, page: u64) {
    let address = span.part(page, 1).start() as *mut u8;
    // SAFETY: The caller has mapped it writable; nobody else uses the arena.
    unsafe { address.write_volatile(1) };
}
