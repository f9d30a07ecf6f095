// SPDX-License-Identifier: GPL-2.0
//! Memory that the tests work on, and what the CPU does with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result};
pub(crate) use hmm_oracle::PAGE;

use crate::pattern::Pattern;

/// Bytes in a huge page.
pub(crate) const HUGE: usize = 512 * PAGE;
/// Has the range become huge pages now.
pub(crate) const MADV_COLLAPSE: i32 = 25;

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Addresses that belong to a test. No object of the program lies there.
pub(crate) struct Area {
    start: usize,
    len: usize,
}

/// A part of an [`Area`], in pages.
pub(crate) type Pages = std::ops::Range<usize>;

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn map(at: usize, len: usize, rights: i32, flags: i32, fd: RawFd) -> io::Result<usize> {
    // SAFETY: Either the kernel chooses the address, or it is in an `Area`.
    let address = unsafe { libc::mmap(at as *mut _, len, rights, flags, fd, 0) };
    match address {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        address => Ok(address as usize),
    }
}

const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

impl Area {
    /// Private memory in small pages, untouched.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        let area = Self::reserve(pages * PAGE, READ_WRITE)?;
        area.advise(0..pages, libc::MADV_NOHUGEPAGE)?;
        Ok(area)
    }

    /// The same, filled with `pattern`.
    pub(crate) fn filled(pages: usize, pattern: Pattern) -> Result<Self> {
        let area = Self::new(pages)?;
        area.fill(pattern);
        Ok(area)
    }

    /// Private memory that huge pages are wanted for, aligned to them, filled with `pattern`.
    pub(crate) fn huge(pmds: usize, pattern: Pattern) -> Result<Self> {
        let len = pmds * HUGE;
        let outer = Self::reserve(len + HUGE, READ_WRITE)?;
        let start = outer.start.next_multiple_of(HUGE);
        let area = Self { start, len };
        // What lies around it stays reserved, so that nothing else comes to lie beside it.
        std::mem::forget(outer);
        area.advise(0..area.pages(), libc::MADV_HUGEPAGE)?;
        area.fill(pattern);
        Ok(area)
    }

    /// A shared mapping of the first pages of `file`.
    pub(crate) fn of_file(file: &File, pages: usize) -> Result<Self> {
        let len = pages * PAGE;
        let start = map(0, len, READ_WRITE, libc::MAP_SHARED, file.as_raw_fd());
        let start = start.context("mapping a file")?;
        Ok(Self { start, len })
    }

    /// `len` bytes, of which not all need ever be touched.
    pub(crate) fn reserve(len: usize, rights: i32) -> Result<Self> {
        let start = map(0, len, rights, ANONYMOUS | libc::MAP_NORESERVE, -1);
        let start = start.with_context(|| format!("mapping {len} bytes"))?;
        Ok(Self { start, len })
    }

    /// The first address.
    pub(crate) fn start(&self) -> u64 {
        self.start as u64
    }

    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many pages.
    pub(crate) fn pages(&self) -> usize {
        self.len / PAGE
    }

    /// The address of `page`.
    pub(crate) fn va(&self, page: usize) -> u64 {
        assert!(page <= self.pages());
        (self.start + page * PAGE) as u64
    }

    fn raw(&self, pages: &Pages) -> (*mut libc::c_void, usize) {
        (self.va(pages.start) as *mut _, pages.len() * PAGE)
    }

    /// The CPU writes `bytes` at `offset`.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        let to = (self.start + offset) as *mut u8;
        // SAFETY: Addresses of this area; a test that has taken them away dies of a signal.
        unsafe { to.copy_from(bytes.as_ptr(), bytes.len()) };
    }

    /// The CPU reads `len` bytes at `offset`.
    pub(crate) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let mut bytes = vec![0; len];
        let from = (self.start + offset) as *const u8;
        // SAFETY: As in `write`.
        unsafe { from.copy_to(bytes.as_mut_ptr(), len) };
        bytes
    }

    /// The CPU writes `pattern` everywhere.
    pub(crate) fn fill(&self, pattern: Pattern) {
        self.write(0, &pattern.bytes(0, self.len));
    }

    /// The CPU reads `pages`, which must be those of `pattern`.
    pub(crate) fn check(&self, pages: Pages, pattern: Pattern) -> Result<()> {
        let bytes = self.read(pages.start * PAGE, pages.len() * PAGE);
        pattern
            .check((pages.start * PAGE) as u64, &bytes)
            .context("what the CPU reads")
    }

    /// Gives advice.
    pub(crate) fn advise(&self, pages: Pages, advice: i32) -> Result<()> {
        let (start, len) = self.raw(&pages);
        // SAFETY: Addresses of this area, where no object lies.
        let result = check(unsafe { libc::madvise(start, len, advice) });
        result.with_context(|| format!("advice {advice}"))
    }

    /// Changes the rights.
    pub(crate) fn protect(&self, pages: Pages, rights: i32) -> Result<()> {
        let (start, len) = self.raw(&pages);
        // SAFETY: As above.
        check(unsafe { libc::mprotect(start, len, rights) }).context("changing rights")
    }

    /// Unmaps.
    pub(crate) fn unmap(&self, pages: Pages) -> Result<()> {
        let (start, len) = self.raw(&pages);
        // SAFETY: As above.
        check(unsafe { libc::munmap(start, len) }).context("unmapping")
    }

    /// Maps fresh private memory, in place of what is there.
    pub(crate) fn map_again(&self, pages: Pages) -> Result<()> {
        let (start, len) = self.raw(&pages);
        let flags = ANONYMOUS | libc::MAP_FIXED;
        let mapped = map(start as usize, len, READ_WRITE, flags, -1);
        mapped.map(|_| ()).context("mapping again")
    }

    /// Moves `pages` to where page `to` is, in place of what is there.
    pub(crate) fn move_to(&self, pages: Pages, to: usize) -> Result<()> {
        let (start, len) = self.raw(&pages);
        let (target, _) = self.raw(&(to..to + pages.len()));
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: As above, for both.
        let moved = unsafe { libc::mremap(start, len, len, flags, target) };
        match moved {
            libc::MAP_FAILED => Err(io::Error::last_os_error()).context("moving"),
            _ => Ok(()),
        }
    }

    /// Writes back what is dirty.
    pub(crate) fn sync(&self) -> Result<()> {
        let (start, len) = self.raw(&(0..self.pages()));
        // SAFETY: As above.
        check(unsafe { libc::msync(start, len, libc::MS_SYNC) }).context("writing back")
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: As above. What is unmapped already stays so.
        unsafe { libc::munmap(self.start as *mut _, self.len) };
    }
}

/// A file in memory of so many pages.
pub(crate) fn memory_file(pages: usize) -> Result<File> {
    use std::os::fd::FromRawFd;
    // SAFETY: The name is a string, and the descriptor is new.
    let fd = unsafe { libc::memfd_create(c"hmm-mirror".as_ptr(), libc::MFD_CLOEXEC) };
    check((fd < 0).into()).context("memfd_create")?;
    // SAFETY: As above.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len((pages * PAGE) as u64)?;
    Ok(file)
}

/// Takes pages out of `file`, from all that map them.
pub(crate) fn punch_hole(file: &File, pages: Pages) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (start, len) = (pages.start * PAGE, pages.len() * PAGE);
    // SAFETY: Takes no pointers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, start as i64, len as i64) })
}
