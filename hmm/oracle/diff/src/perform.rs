// SPDX-License-Identifier: GPL-2.0
//! Carries operations out. One that fails is as good as any: it may have been done in part.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use testkit::memory::memory_file;
use testkit::mm;
use testkit::process::{self, Forked};

use crate::abi;
use crate::arena::{Span, Zone, PAGE};
use crate::memory;
use crate::operation::{Backing, Operation, Store, FILE_PAGES};
use crate::poison;

/// Children at once: each doubles the memory in use.
const CHILDREN: usize = 2;
/// Video memory of a PC: registers of a device, on every machine and never in use.
const VIDEO: u64 = 0xa0000;

/// What operations work with.
pub(crate) struct Stage {
    disk: File,
    memfd: File,
    device: Option<File>,
    oracle: File,
    children: VecDeque<Forked>,
}

impl Stage {
    /// Makes the files.
    pub(crate) fn new() -> Result<Self> {
        let path = Path::new("/var/tmp/hmm-diff.data");
        let disk = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .with_context(|| format!("making {}", path.display()))?;
        std::fs::remove_file(path).context("removing the file's name")?;
        let device = OpenOptions::new().read(true).write(true).open("/dev/mem");
        let oracle = OpenOptions::new().read(true).write(true).open(abi::DEVICE);
        let stage = Self {
            disk,
            memfd: memory_file(0).context("memfd_create")?,
            device: device.ok(),
            oracle: oracle.with_context(|| format!("opening {}", abi::DEVICE))?,
            children: VecDeque::new(),
        };
        for file in [&stage.disk, &stage.memfd] {
            file.set_len(FILE_PAGES / 2 * PAGE).context("making room")?;
            for page in (0..FILE_PAGES / 2).step_by(3) {
                file.write_at(&page.to_ne_bytes(), page * PAGE)
                    .context("filling a file")?;
            }
        }
        Ok(stage)
    }

    /// The sizes of the files in bytes, by inode number.
    pub(crate) fn sizes(&self) -> Result<BTreeMap<u64, u64>> {
        let mut sizes = BTreeMap::new();
        for file in [&self.disk, &self.memfd] {
            let data = file.metadata().context("asking for a file's size")?;
            sizes.insert(data.ino(), data.len());
        }
        Ok(sizes)
    }

    /// One of the files.
    pub(crate) fn file(&self, store: Store) -> &File {
        match store {
            Store::Disk => &self.disk,
            Store::Memfd => &self.memfd,
        }
    }

    /// Does it.
    pub(crate) fn perform(&mut self, operation: &Operation) -> io::Result<()> {
        match *operation {
            Operation::Map {
                at,
                backing,
                protection,
            } => self.map(at, backing, protection),
            Operation::MapHuge { at, shared, write } => map_huge(at, shared, write),
            Operation::Unmap { at } => memory::unmap(at),
            Operation::Protect { at, protection } => memory::protect(at, protection),
            Operation::Populate { at, write } => memory::populate(at, write),
            Operation::Advise { at, advice } => memory::advise(at, advice.number()),
            Operation::Move { from, to, keep } => memory::remap(from, to, keep),
            Operation::Fork { writes } => self.fork(writes),
            Operation::Reap => {
                self.reap();
                Ok(())
            }
            Operation::Truncate { file, pages } => self.file(file).set_len(pages * PAGE),
            Operation::Punch { file, page, pages } => punch(self.file(file), page, pages),
            Operation::Sync { at } => memory::sync(at),
            Operation::ClearRefs { what } => {
                std::fs::write("/proc/self/clear_refs", what.to_string())
            }
            Operation::Compact => std::fs::write("/proc/sys/vm/compact_memory", "1"),
            Operation::Migrate { at, node } => memory::migrate(at, node),
            Operation::Poison { at } => poison::poison(at),
        }
    }

    fn map(&self, at: Span, backing: Backing, protection: i32) -> io::Result<()> {
        let sharing = |shared| match shared {
            true => libc::MAP_SHARED,
            false => libc::MAP_PRIVATE,
        };
        let (flags, file) = match backing {
            Backing::Private => (libc::MAP_PRIVATE, None),
            Backing::Shared => (libc::MAP_SHARED, None),
            Backing::File {
                file,
                offset,
                shared,
            } => (
                sharing(shared),
                Some((self.file(file).as_fd(), offset * PAGE)),
            ),
            Backing::Device => {
                let device = self.device.as_ref();
                let device = device.ok_or(io::Error::from_raw_os_error(libc::ENODEV))?;
                (libc::MAP_SHARED, Some((device.as_fd(), VIDEO)))
            }
            Backing::Special { shared } => (sharing(shared), Some((self.oracle.as_fd(), 0))),
            Backing::Hugetlb { shared } => {
                let size = match at.zone() {
                    Zone::Gigantic => libc::MAP_HUGE_1GB,
                    _ => libc::MAP_HUGE_2MB,
                };
                (sharing(shared) | libc::MAP_HUGETLB | size, None)
            }
        };
        // Without a reservation hugetlb would signal what it has no page for.
        memory::map(at, protection, flags, file)
    }

    /// A child shares all pages until one of the two writes.
    pub(crate) fn fork(&mut self, writes: Option<Span>) -> io::Result<()> {
        while self.children.len() >= CHILDREN {
            self.reap();
        }
        let (mut here, there) = UnixStream::pair()?;
        let child = process::fork_thread(|| child(writes, &there))?;
        self.children.push_back(child);
        drop(there);
        // Until it has written: what it does is part of this step.
        here.read(&mut [0]).map(drop)
    }

    /// Ends the oldest child.
    pub(crate) fn reap(&mut self) {
        drop(self.children.pop_front());
    }
}

/// The life of a child, which is killed by its parent, or with it.
fn child(writes: Option<Span>, mut done: &UnixStream) -> ! {
    // SAFETY: Changes nothing but this process's own setting.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if let Some(span) = writes {
        // What of it cannot be written stays as it is.
        let _ = memory::populate(span, true);
    }
    let _ = done.write_all(&[0]);
    loop {
        // SAFETY: Waits for signals.
        unsafe { libc::pause() };
    }
}

fn map_huge(at: Span, shared: bool, write: bool) -> io::Result<()> {
    let flags = match shared {
        true => libc::MAP_SHARED,
        false => libc::MAP_PRIVATE,
    };
    memory::map(at, libc::PROT_READ | libc::PROT_WRITE, flags, None)?;
    memory::advise(at, libc::MADV_HUGEPAGE)?;
    memory::populate(at, write)
}

fn punch(file: &File, page: u64, pages: u64) -> io::Result<()> {
    let (start, len) = ((page * PAGE) as usize, (pages * PAGE) as usize);
    mm::punch_hole(file, start..start + len)
}
