// SPDX-License-Identifier: GPL-2.0
//! The device: an open file of `/dev/hmm_oracle` that is a mirror.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use anyhow::{bail, ensure, Context, Result};

use crate::abi;
use crate::memory::Area;

mod raw {
    use crate::abi::{
        self, MirrorAccess, MirrorOpen, MirrorPrefetch, MirrorPresent, MirrorStats as Stats,
    };

    nix::ioctl_readwrite!(
        /// Makes the file a mirror.
        open, abi::MAGIC, abi::MIRROR_OPEN, MirrorOpen);
    nix::ioctl_readwrite!(
        /// Reads or writes.
        access, abi::MAGIC, abi::MIRROR_ACCESS, MirrorAccess);
    nix::ioctl_readwrite!(
        /// Brings pages in.
        prefetch, abi::MAGIC, abi::MIRROR_PREFETCH, MirrorPrefetch);
    nix::ioctl_readwrite!(
        /// What is there.
        present, abi::MAGIC, abi::MIRROR_PRESENT, MirrorPresent);
    nix::ioctl_readwrite!(
        /// What was counted.
        stats, abi::MAGIC, abi::MIRROR_STATS, Stats);
}

pub(crate) use crate::abi::MirrorStats as Stats;

/// What a prefetch asks for.
#[derive(Clone, Copy)]
pub(crate) enum Want {
    Snapshot,
    Read,
    Write,
}

/// An open file of the device.
pub(crate) struct Device(File);

impl Device {
    /// Opens the file, which is no mirror yet.
    pub(crate) fn open() -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(abi::DEVICE);
        Ok(Self(file.with_context(|| {
            format!("{}: is hmm_oracle.ko loaded?", abi::DEVICE)
        })?))
    }

    /// A mirror of all of `area` that may write.
    pub(crate) fn mirror(area: &Area) -> Result<Self> {
        let device = Self::open()?;
        device
            .become_mirror(area.start(), area.len() as u64, 1)
            .context("making a mirror")?;
        Ok(device)
    }

    /// The file that this process has inherited as `fd`.
    pub(crate) fn inherited(fd: RawFd) -> Self {
        // SAFETY: The process was given the descriptor for this, and nobody else uses it.
        Self(unsafe { File::from_raw_fd(fd) })
    }

    /// The file's descriptor.
    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The file becomes a mirror of `len` bytes from `start`.
    pub(crate) fn become_mirror(&self, start: u64, len: u64, writable: u64) -> io::Result<()> {
        let mut argument = abi::MirrorOpen {
            start,
            len,
            writable,
        };
        // SAFETY: The argument has no pointers.
        unsafe { raw::open(self.fd(), &mut argument) }?;
        Ok(())
    }

    /// Reads `len` bytes at `va`.
    pub(crate) fn read(&self, va: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut argument = abi::MirrorAccess {
            va,
            len: len as u64,
            buffer: bytes.as_mut_ptr() as u64,
            write: 0,
        };
        // SAFETY: The buffer has room for `len` bytes.
        unsafe { raw::access(self.fd(), &mut argument) }?;
        Ok(bytes)
    }

    /// Writes `bytes` to `va`.
    pub(crate) fn write(&self, va: u64, bytes: &[u8]) -> io::Result<()> {
        let mut argument = abi::MirrorAccess {
            va,
            len: bytes.len() as u64,
            buffer: bytes.as_ptr() as u64,
            write: 1,
        };
        // SAFETY: The buffer is `len` bytes, which are only read.
        unsafe { raw::access(self.fd(), &mut argument) }?;
        Ok(())
    }

    /// An access whose buffer and flags may be anything.
    ///
    /// # Safety
    ///
    /// If `buffer` is an address of this process's, there are `len` bytes for the kernel to write.
    pub(crate) unsafe fn raw_access(
        &self,
        va: u64,
        len: u64,
        buffer: u64,
        write: u64,
    ) -> io::Result<()> {
        let mut argument = abi::MirrorAccess {
            va,
            len,
            buffer,
            write,
        };
        // SAFETY: By the contract of this function.
        unsafe { raw::access(self.fd(), &mut argument) }?;
        Ok(())
    }

    /// Brings `len` bytes at `va` in; gives how many pages that added.
    pub(crate) fn prefetch(&self, va: u64, len: u64, want: Want) -> io::Result<u64> {
        let policy = match want {
            Want::Snapshot => abi::SNAPSHOT,
            Want::Read => abi::READ,
            Want::Write => abi::WRITE,
        };
        self.raw_prefetch(va, len, u64::from(policy))
    }

    /// The same with a policy that may not exist.
    pub(crate) fn raw_prefetch(&self, va: u64, len: u64, policy: u64) -> io::Result<u64> {
        let mut argument = abi::MirrorPrefetch {
            va,
            len,
            policy,
            added: 0,
        };
        // SAFETY: The argument has no pointers.
        unsafe { raw::prefetch(self.fd(), &mut argument) }?;
        Ok(argument.added)
    }

    /// How many of the pages it can read without a fault.
    pub(crate) fn present(&self, va: u64, len: u64) -> io::Result<u64> {
        let mut argument = abi::MirrorPresent { va, len, pages: 0 };
        // SAFETY: The argument has no pointers.
        unsafe { raw::present(self.fd(), &mut argument) }?;
        Ok(argument.pages)
    }

    /// What it has counted.
    pub(crate) fn stats(&self) -> Result<Stats> {
        self.try_stats().context("reading the counters")
    }

    /// The same, for a file that may be no mirror.
    pub(crate) fn try_stats(&self) -> io::Result<Stats> {
        let mut stats = Stats::default();
        // SAFETY: The argument has no pointers.
        unsafe { raw::stats(self.fd(), &mut stats) }?;
        Ok(stats)
    }

    /// What `act` adds to the counters.
    pub(crate) fn counting<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<(T, Stats)> {
        let before = self.stats()?;
        let result = act()?;
        Ok((result, difference(&self.stats()?, &before)))
    }

    /// `act` must not fault.
    pub(crate) fn without_fault<T>(
        &self,
        what: &str,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let (result, counted) = self.counting(|| act().context(what.to_owned()))?;
        ensure!(counted.faults == 0, "{what}: {} faults", counted.faults);
        Ok(result)
    }

    /// `act` must fault.
    pub(crate) fn with_fault<T>(&self, what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let (result, counted) = self.counting(|| act().context(what.to_owned()))?;
        ensure!(counted.faults > 0, "{what}: no fault");
        Ok(result)
    }

    /// `act` must be told to the mirror as an event of the kind at `kind`.
    pub(crate) fn with_event<T>(&self, kind: usize, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let (result, counted) = self.counting(act)?;
        ensure!(
            counted.events[kind] > 0,
            "no event of kind {kind}: {counted:?}"
        );
        Ok(result)
    }
}

fn difference(after: &Stats, before: &Stats) -> Stats {
    let mut events = after.events;
    for (after, before) in events.iter_mut().zip(before.events) {
        *after -= before;
    }
    Stats {
        faults: after.faults - before.faults,
        pages: after.pages - before.pages,
        around: after.around - before.around,
        collisions: after.collisions - before.collisions,
        failures: after.failures - before.failures,
        chunks: after.chunks - before.chunks,
        reaped: after.reaped - before.reaped,
        invalidated: after.invalidated - before.invalidated,
        events,
    }
}

/// `result` must be the error `errno`.
pub(crate) fn refused<T: Debug>(what: &str, result: io::Result<T>, errno: i32) -> Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        Err(error) => bail!(
            "{what}: {error}, expected {}",
            io::Error::from_raw_os_error(errno)
        ),
        Ok(_) => bail!(
            "{what}: succeeded, expected {}",
            io::Error::from_raw_os_error(errno)
        ),
    }
}
