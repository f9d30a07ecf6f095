// SPDX-License-Identifier: GPL-2.0
//! The file that an image goes to. One that is there already is not lost by mistake, as somebody may have worked in it,
//! and it is whole at any time.

use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail, Context, Result};
use tempfile::NamedTempFile;

/// Where it goes.
pub(super) struct Out {
    path: PathBuf,
    force: bool,
}

impl Out {
    /// Fails if it could not go there, before anybody has waited for it.
    pub(super) fn check(path: &Path, force: bool) -> Result<Self> {
        let shown = path.display();
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("--out {shown}")),
            Ok(metadata) if metadata.is_dir() => {
                let file = path.join("hmm-odp.qcow2");
                bail!(
                    "--out {shown}: it is a folder: name a file in it, {} for instance",
                    file.display()
                );
            }
            Ok(metadata) if !metadata.is_file() => {
                bail!("--out {shown}: what is there is no ordinary file: name another")
            }
            Ok(_) if !force => {
                bail!("--out {shown}: the file is there already: --force replaces it")
            }
            Ok(_) => {}
        }
        let out = Self {
            path: path.to_owned(),
            force,
        };
        out.unfinished()?;
        Ok(out)
    }

    /// A file beside it.
    fn unfinished(&self) -> Result<NamedTempFile> {
        let parent = self.path.parent();
        let folder = parent.filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        tempfile::Builder::new()
            .prefix(".unfinished-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(|error| {
                let (shown, folder) = (self.path.display(), folder.display());
                let why = error.kind();
                anyhow!("--out {shown}: nothing can be written in {folder}: {why}")
            })
    }

    /// Takes what was made; gives its size.
    pub(super) fn take(&self, made: &Path) -> Result<u64> {
        let to = || format!("writing {}", self.path.display());
        let mut unfinished = self.unfinished()?;
        let mut made = File::open(made).with_context(to)?;
        let size = std::io::copy(&mut made, unfinished.as_file_mut()).with_context(to)?;
        match self.force {
            true => unfinished.persist(&self.path),
            // Somebody may have made one meanwhile.
            false => unfinished.persist_noclobber(&self.path),
        }
        .with_context(to)?;
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path, force: bool) -> String {
        let error = Out::check(path, force).err();
        error.map_or_else(String::new, |error| format!("{error:#}"))
    }

    #[test]
    fn what_is_there_is_replaced_only_by_force() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (made, path) = (dir.path().join("made"), dir.path().join("image"));
        std::fs::write(&made, "first")?;
        let out = Out::check(&path, false)?;
        assert_eq!(out.take(&made)?, 5);
        assert!(refused(&path, false).contains("--force"));
        std::fs::write(&made, "second")?;
        // It was not there when that was looked at.
        assert!(out.take(&made).is_err());
        assert_eq!(std::fs::read_to_string(&path)?, "first");
        Out::check(&path, true)?.take(&made)?;
        assert_eq!(std::fs::read_to_string(&path)?, "second");
        // Nothing else is left.
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 2);
        Ok(())
    }

    #[test]
    fn what_is_no_file_is_refused() -> Result<()> {
        let dir = tempfile::tempdir()?;
        for force in [false, true] {
            assert!(refused(dir.path(), force).contains("it is a folder"));
            assert!(refused(Path::new("/dev/null"), force).contains("no ordinary file"));
            let nowhere = dir.path().join("none/image");
            assert!(refused(&nowhere, force).contains("nothing can be written in"));
        }
        Ok(())
    }
}
