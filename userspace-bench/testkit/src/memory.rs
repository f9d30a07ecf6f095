// SPDX-License-Identifier: GPL-2.0
//! Address ranges whose pages can be given and taken while a NIC uses them.
//!
//! A [`Mapping`] owns a range of addresses, not necessarily memory: parts of it can be unmapped,
//! protected, moved or mapped again at will. Its memory is never borrowed, only copied in and out.

use std::{
    fs::File,
    io,
    ops::Range,
    os::fd::AsFd,
    ptr,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use crate::mm::{self, check};

/// The size of a base page.
pub const PAGE: usize = 4096;
/// The size of a huge page, transparent or not.
pub const HUGE_PAGE: usize = 2 << 20;

/// Where mappings are put: far from where the kernel and the allocator put theirs, so that
/// nothing of theirs ever appears in a hole that was made here.
const ARENA: Range<usize> = 0x1000_0000_0000..0x5000_0000_0000;
/// Mappings start this far apart at least, so that they share no page table and no huge page.
const SPACING: usize = 1 << 30;
static NEXT: AtomicUsize = AtomicUsize::new(ARENA.start);

/// What the CPU may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
}

impl Protection {
    fn bits(self) -> i32 {
        match self {
            Self::None => libc::PROT_NONE,
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// What is told to `madvise`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Throw the pages away; anonymous memory reads as zero afterwards.
    DontNeed,
    /// The pages may be thrown away, when memory is short.
    Free,
    /// Use huge pages.
    HugePage,
    /// Use no huge pages.
    NoHugePage,
    /// Write the pages out, to where they came from or to swap.
    PageOut,
    /// Put small pages together into huge ones, now.
    Collapse,
    /// Let pages of the same content become one (KSM).
    Mergeable,
}

impl Advice {
    fn bits(self) -> i32 {
        match self {
            Self::DontNeed => libc::MADV_DONTNEED,
            Self::Free => libc::MADV_FREE,
            Self::HugePage => libc::MADV_HUGEPAGE,
            Self::NoHugePage => libc::MADV_NOHUGEPAGE,
            Self::PageOut => libc::MADV_PAGEOUT,
            // Known to Linux since 6.1.
            Self::Collapse => 25,
            Self::Mergeable => libc::MADV_MERGEABLE,
        }
    }
}

/// What backs a mapping.
#[derive(Clone, Copy, Debug)]
pub enum Backing<'a> {
    /// Nothing: addresses only.
    Vacant,
    /// Anonymous memory, not accounted for before it is touched.
    Anonymous,
    /// The same, shared with children.
    SharedAnonymous,
    /// Huge pages of the pool in /proc/sys/vm/nr_hugepages.
    HugeTlb,
    /// A file, changes to which stay private.
    Private(&'a File),
    /// A file, changes to which are seen by all who look at it.
    Shared(&'a File),
    /// The same of a file on persistent memory, whose blocks outlive a loss of power as soon as they can be written to
    /// (`MAP_SYNC`).
    Synchronous(&'a File),
}

/// A range of addresses that nobody else uses. Unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    addr: usize,
    len: usize,
}

impl Mapping {
    /// `len` bytes of untouched anonymous memory.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::new(len, Backing::Anonymous, Protection::ReadWrite)
    }

    /// `len` bytes of addresses, backed by `backing`.
    pub fn new(len: usize, backing: Backing<'_>, protection: Protection) -> io::Result<Self> {
        let len = len.next_multiple_of(PAGE);
        let span = (len + PAGE).next_multiple_of(SPACING);
        let addr = NEXT.fetch_add(span, Ordering::Relaxed);
        if addr + span > ARENA.end {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let mapping = Self { addr, len };
        mapping.map(0..len, backing, protection)?;
        Ok(mapping)
    }

    /// `len` bytes of addresses that lead to the `file_len` bytes of `file` again and again.
    pub fn repeated(len: usize, file: &File, file_len: usize) -> io::Result<Self> {
        let mapping = Self::new(len, Backing::Vacant, Protection::ReadWrite)?;
        for start in (0..mapping.len).step_by(file_len) {
            let end = mapping.len.min(start + file_len);
            let (addr, len) = mapping.pages(&(start..end));
            let protection = Protection::ReadWrite.bits();
            // SAFETY: the addresses are this mapping's own and no Rust reference points there.
            unsafe {
                mm::map(
                    addr,
                    len,
                    protection,
                    libc::MAP_SHARED,
                    Some((file.as_fd(), 0)),
                )?
            };
        }
        Ok(mapping)
    }

    /// The first address.
    pub fn addr(&self) -> u64 {
        self.addr as u64
    }

    /// The address of `offset`.
    pub fn at(&self, offset: usize) -> u64 {
        (self.addr + offset) as u64
    }

    /// How many bytes there are.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address of `range`, which has to be of whole pages inside the mapping.
    fn pages(&self, range: &Range<usize>) -> (u64, usize) {
        assert!(
            range.start % PAGE == 0 && range.start <= range.end && range.end <= self.len,
            "{range:x?} is not of whole pages inside {:#x} bytes",
            self.len
        );
        (self.at(range.start), range.end - range.start)
    }

    fn ptr(&self, offset: usize) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.addr + offset)
    }

    /// Backs `range` with something new, in place of what was there.
    pub fn map(
        &self,
        range: Range<usize>,
        backing: Backing<'_>,
        protection: Protection,
    ) -> io::Result<()> {
        let (addr, len) = self.pages(&range);
        let offset = range.start as u64;
        let (flags, file) = match backing {
            Backing::Vacant => return self.unmap(range),
            Backing::Anonymous => (libc::MAP_PRIVATE | libc::MAP_NORESERVE, None),
            Backing::SharedAnonymous => (libc::MAP_SHARED | libc::MAP_NORESERVE, None),
            Backing::HugeTlb => (libc::MAP_PRIVATE | libc::MAP_HUGETLB, None),
            Backing::Private(file) => (libc::MAP_PRIVATE, Some((file.as_fd(), offset))),
            Backing::Shared(file) => (libc::MAP_SHARED, Some((file.as_fd(), offset))),
            Backing::Synchronous(file) => (
                libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC,
                Some((file.as_fd(), offset)),
            ),
        };
        // SAFETY: the addresses are this mapping's own and no Rust reference points there.
        unsafe { mm::map(addr, len, protection.bits(), flags, file) }
    }

    /// Takes away what backs `range`. Touching it is a segmentation fault until it is mapped again.
    pub fn unmap(&self, range: Range<usize>) -> io::Result<()> {
        let (addr, len) = self.pages(&range);
        // SAFETY: the addresses are this mapping's own and no Rust reference points there.
        unsafe { mm::unmap(addr, len) }
    }

    /// Changes what the CPU may do with `range`.
    pub fn protect(&self, range: Range<usize>, protection: Protection) -> io::Result<()> {
        let (addr, len) = self.pages(&range);
        // SAFETY: as in `unmap`.
        unsafe { mm::protect(addr, len, protection.bits()) }
    }

    /// Tells the kernel something about `range`.
    pub fn advise(&self, range: Range<usize>, advice: Advice) -> io::Result<()> {
        let (addr, len) = self.pages(&range);
        // SAFETY: as in `unmap`.
        unsafe { mm::advise(addr, len, advice.bits()) }
    }

    /// Writes back what `range` has of a shared file, and waits until that is done.
    pub fn sync(&self, range: Range<usize>) -> io::Result<()> {
        let (addr, len) = self.pages(&range);
        // SAFETY: as in `unmap`.
        unsafe { mm::sync(addr, len) }
    }

    /// Moves what backs `range` to `offset` of `target`; a hole stays behind.
    pub fn move_to(&self, range: Range<usize>, target: &Mapping, offset: usize) -> io::Result<()> {
        let (addr, len) = self.pages(&range);
        let (new, _) = target.pages(&(offset..offset + len));
        // SAFETY: both ranges belong to mappings and no Rust reference points there.
        unsafe { mm::remap(addr, len, new, len, 0) }
    }

    /// Moves the pages of `range` that there are to NUMA node `node`; how many are there then.
    pub fn move_to_node(&self, range: Range<usize>, node: i32) -> io::Result<usize> {
        let (addr, len) = self.pages(&range);
        let found = mm::move_pages(addr, len, PAGE, node)?;
        Ok(found.iter().filter(|n| **n == node).count())
    }

    /// Splits the transparent huge pages of `range`.
    pub fn split(&self, range: Range<usize>) -> io::Result<()> {
        let (addr, len) = self.pages(&range);
        let request = format!("{},{addr:#x},{:#x}", std::process::id(), addr + len as u64);
        std::fs::write("/sys/kernel/debug/split_huge_pages", request)
    }

    /// Adds to the eight bytes at `offset`, a multiple of 8, at once.
    pub fn add_to_word(&self, offset: usize, add: u64) {
        self.bounds(offset, 8);
        let word = self.ptr(offset).cast::<u64>();
        assert!(word.is_aligned());
        // SAFETY: in bounds of the mapping and aligned; whoever else changes the word at the same time
        // does so atomically.
        unsafe { AtomicU64::from_ptr(word) }.fetch_add(add, Ordering::SeqCst);
    }

    /// Forks a process that writes `byte` to every page of its copy of `range`, which has to be mapped,
    /// lives for `life`, and ends.
    pub fn fork_scribbler(
        &self,
        range: Range<usize>,
        byte: u8,
        life: Duration,
    ) -> io::Result<Scribbler> {
        let (_, len) = self.pages(&range);
        let first = self.ptr(range.start);
        // SAFETY: the copy calls nothing but usleep and _exit, which may be called where other threads
        // held locks; it writes to its own copy of memory that no Rust reference points to.
        unsafe {
            match libc::fork() {
                -1 => Err(io::Error::last_os_error()),
                0 => {
                    for offset in (0..len).step_by(PAGE / 2) {
                        first.wrapping_add(offset).write_volatile(byte);
                    }
                    libc::usleep(life.as_micros() as libc::useconds_t);
                    libc::_exit(0)
                }
                pid => Ok(Scribbler(pid)),
            }
        }
    }

    /// Which of the pages of `range` are resident.
    pub fn resident(&self, range: Range<usize>) -> io::Result<Vec<bool>> {
        let (_, len) = self.pages(&range);
        let mut pages = vec![0u8; len.div_ceil(PAGE)];
        // SAFETY: the vector has a byte for each page of the range.
        check(unsafe { libc::mincore(self.ptr(range.start).cast(), len, pages.as_mut_ptr()) })?;
        Ok(pages.into_iter().map(|p| p & 1 == 1).collect())
    }

    fn bounds(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.len),
            "{len:#x} bytes at {offset:#x} leave the mapping of {:#x} bytes",
            self.len
        );
    }

    /// Copies out of the memory at `offset`.
    ///
    /// Where nothing is mapped this ends in a segmentation fault, as it would for any program.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.bounds(offset, bytes.len());
        let mut at = self.ptr(offset);
        let mut rest = bytes;
        while !rest.is_empty() {
            if at as usize % 8 == 0 && rest.len() >= 8 {
                // SAFETY: in bounds of the mapping and aligned; a volatile read may race with the NIC.
                let word = unsafe { at.cast::<u64>().read_volatile() };
                rest[..8].copy_from_slice(&word.to_ne_bytes());
                at = at.wrapping_add(8);
                rest = &mut rest[8..];
            } else {
                // SAFETY: in bounds of the mapping; a volatile read may race with the NIC.
                rest[0] = unsafe { at.read_volatile() };
                at = at.wrapping_add(1);
                rest = &mut rest[1..];
            }
        }
    }

    /// Copies into the memory at `offset`.
    ///
    /// Where nothing is mapped this ends in a segmentation fault, as it would for any program.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.bounds(offset, bytes.len());
        let mut at = self.ptr(offset);
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            if at as usize % 8 == 0 && rest.len() >= 8 {
                let word = u64::from_ne_bytes(rest[..8].try_into().expect("eight bytes"));
                // SAFETY: in bounds of the mapping and aligned; a volatile write may race with the NIC.
                unsafe { at.cast::<u64>().write_volatile(word) };
                at = at.wrapping_add(8);
                rest = &rest[8..];
            } else {
                // SAFETY: in bounds of the mapping; a volatile write may race with the NIC.
                unsafe { at.write_volatile(first) };
                at = at.wrapping_add(1);
                rest = &rest[1..];
            }
        }
    }

    /// `len` bytes at `offset`.
    pub fn bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(offset, &mut bytes);
        bytes
    }

    /// The eight bytes at `offset` as a number of this machine.
    pub fn word(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes);
        u64::from_ne_bytes(bytes)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Nothing useful can be done about an error; the addresses are never used again.
        let _ = self.unmap(0..self.len);
    }
}

/// A process of [`Mapping::fork_scribbler`]. Waited for when dropped.
#[derive(Debug)]
pub struct Scribbler(libc::pid_t);

impl Scribbler {
    /// Ends it, wherever it is.
    pub fn kill(&self) {
        // SAFETY: the process is a child that has not been waited for.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }
}

impl Drop for Scribbler {
    fn drop(&mut self) {
        // SAFETY: the process is a child that has not been waited for.
        unsafe { libc::waitpid(self.0, ptr::null_mut(), 0) };
    }
}

/// A file in memory of `len` bytes, that no name leads to.
pub fn memory_file(len: usize) -> io::Result<File> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"odp".as_ptr(), libc::MFD_CLOEXEC) };
    file_of(fd, len)
}

/// The same, of huge pages of the pool in /proc/sys/vm/nr_hugepages.
pub fn huge_memory_file(len: usize) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_HUGETLB;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"odp".as_ptr(), flags) };
    file_of(fd, len)
}

/// The same of memory that the kernel itself cannot reach (memfd_secret(2)).
pub fn secret_file(len: usize) -> io::Result<File> {
    // SAFETY: the call takes flags only.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
    file_of(fd as libc::c_int, len)
}

fn file_of(fd: libc::c_int, len: usize) -> io::Result<File> {
    use std::os::fd::FromRawFd;

    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and belongs to nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len as u64)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_at_any_alignment() {
        let memory = Mapping::anonymous(2 * PAGE).unwrap();
        for offset in 0..20 {
            let bytes: Vec<u8> = (0..61).map(|i| i + offset as u8).collect();
            memory.write(offset, &bytes);
            assert_eq!(memory.bytes(offset, 61), bytes);
        }
    }

    #[test]
    fn pages_taken_away_and_given_again_are_new() {
        let memory = Mapping::anonymous(3 * PAGE).unwrap();
        memory.write(PAGE, b"old");
        memory.unmap(PAGE..2 * PAGE).unwrap();
        memory
            .map(PAGE..2 * PAGE, Backing::Anonymous, Protection::ReadWrite)
            .unwrap();
        assert_eq!(memory.bytes(PAGE, 3), [0; 3]);
    }

    #[test]
    fn a_move_takes_the_bytes_along() {
        let a = Mapping::anonymous(PAGE).unwrap();
        let b = Mapping::anonymous(PAGE).unwrap();
        a.write(5, b"here");
        a.move_to(0..PAGE, &b, 0).unwrap();
        assert_eq!(b.bytes(5, 4), b"here");
    }
}
