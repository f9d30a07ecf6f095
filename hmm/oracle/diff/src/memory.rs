// SPDX-License-Identifier: GPL-2.0
//! The system calls on memory of the arena ([`testkit::mm`]), as safe functions: no object of the program lies there
//! (`arena`), so none of them can take anything away.

use std::io;
use std::os::fd::BorrowedFd;

use testkit::mm;

use crate::arena::{Span, Zone, PAGE};

/// Advice that the libc crate does not name.
pub(crate) const MADV_GUARD_INSTALL: i32 = 102;
/// Takes guard markers away.
pub(crate) const MADV_GUARD_REMOVE: i32 = 103;

/// Maps `span`, replacing what is there. `flags` are those beyond `MAP_FIXED`.
pub(crate) fn map(
    span: Span,
    protection: i32,
    flags: i32,
    file: Option<(BorrowedFd<'_>, u64)>,
) -> io::Result<()> {
    // SAFETY: Replaces mappings of the arena only.
    unsafe { mm::map(span.start(), span.bytes(), protection, flags, file) }
}

/// Makes sure that nothing else is mapped in the arena.
pub(crate) fn check_free() -> io::Result<()> {
    for zone in [Zone::Small, Zone::Huge, Zone::Gigantic] {
        let span = zone.span();
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: MAP_FIXED_NOREPLACE replaces nothing, and the reservation is given up at once.
        unsafe { mm::map(span.start(), span.bytes(), libc::PROT_NONE, flags, None)? };
        unmap(span)?;
    }
    Ok(())
}

/// Private memory without a file.
pub(crate) fn map_private(span: Span) -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    map(span, protection, libc::MAP_PRIVATE, None)
}

/// Unmaps `span`.
pub(crate) fn unmap(span: Span) -> io::Result<()> {
    // SAFETY: Memory of the arena.
    unsafe { mm::unmap(span.start(), span.bytes()) }
}

/// Changes the rights of `span`.
pub(crate) fn protect(span: Span, protection: i32) -> io::Result<()> {
    // SAFETY: Memory of the arena.
    unsafe { mm::protect(span.start(), span.bytes(), protection) }
}

/// Gives advice on `span`.
pub(crate) fn advise(span: Span, advice: i32) -> io::Result<()> {
    // SAFETY: Memory of the arena.
    unsafe { mm::advise(span.start(), span.bytes(), advice) }
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
    // SAFETY: Both are memory of the arena.
    unsafe { mm::remap(from.start(), from.bytes(), to.start(), to.bytes(), keep) }
}

/// Moves the pages of `span` to the memory of `node`, as far as that can be done.
pub(crate) fn migrate(span: Span, node: i32) -> io::Result<()> {
    mm::move_pages(span.start(), span.bytes(), PAGE as usize, node).map(drop)
}

/// Writes the dirty pages of `span` back.
pub(crate) fn sync(span: Span) -> io::Result<()> {
    // SAFETY: Memory of the arena.
    unsafe { mm::sync(span.start(), span.bytes()) }
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
