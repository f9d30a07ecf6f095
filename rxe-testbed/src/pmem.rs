// SPDX-License-Identifier: GPL-2.0
//! What is in the NVDIMM of a VM: a file of the host. It has whatever the guest has stored, flushed or not, as soon as it
//! is stored, and keeps it when the VM is gone.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The size of a new one in MiB; no byte of it takes room on the disk before it is used.
const USUAL: u64 = 512;

/// The least that the guest's file system is of use in.
const LEAST: u64 = 64;

/// The guest's kernel takes memory of this many MiB at a time.
const STEP: u64 = 16;

/// The file, which no other VM has meanwhile.
pub(crate) struct Pmem {
    path: PathBuf,
    mib: u64,
    _lock: Flock<File>,
}

impl Pmem {
    /// The file `path`, made if there is none.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let context = || format!("--pmem {}", path.display());
        let new = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path);
        let file = match new {
            Ok(file) => file.set_len(USUAL << 20).map(|()| file),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                OpenOptions::new().read(true).write(true).open(path)
            }
            Err(error) => Err(error),
        };
        let file = file.with_context(context)?;
        let len = file.metadata().with_context(context)?.len();
        if len % (STEP << 20) != 0 || len < LEAST << 20 {
            bail!(
                "{}: it has {len} bytes; at least {LEAST} MiB are needed, and a multiple of {STEP} MiB",
                context()
            );
        }
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => bail!("{}: another VM has it", context()),
            Err((_, errno)) => return Err(errno).with_context(context),
        };
        // What QEMU gets may be looked at from another folder.
        let path = path.canonicalize().with_context(context)?;
        Ok(Self {
            path,
            mib: len >> 20,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How large it is.
    pub(crate) fn mib(&self) -> u64 {
        self.mib
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_is_one_vm_s() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("pmem");
        let pmem = Pmem::open(&path)?;
        assert_eq!(pmem.mib(), USUAL);
        assert!(Pmem::open(&path).is_err(), "two have it");
        drop(pmem);
        assert_eq!(Pmem::open(&path)?.mib(), USUAL);
        for (len, fits) in [
            (LEAST << 20, true),
            ((LEAST << 20) + 1, false),
            (LEAST << 19, false),
            (0, false),
        ] {
            File::create(&path)?.set_len(len)?;
            assert_eq!(Pmem::open(&path).is_ok(), fits, "{len}");
        }
        assert!(Pmem::open(folder.path()).is_err(), "a folder");
        Ok(())
    }
}
