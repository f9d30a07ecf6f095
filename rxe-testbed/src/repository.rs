// SPDX-License-Identifier: GPL-2.0
//! The repository with the sources that this program builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Result};

use crate::cache::files_under;

/// What git and builds leave in a checkout.
const MADE: &[&str] = &[".git", "target", "book", "rust-project.json"];

/// The variable that names it.
pub(crate) const NAMED: &str = "HMM_ODP_SOURCES";

/// This package, when the program was built.
const BUILT_FROM: &str = env!("CARGO_MANIFEST_DIR");

/// Whether it is the root of a repository.
fn is_one(dir: &Path) -> bool {
    dir.join("rxe-testbed/Cargo.toml").is_file() && dir.join("Kbuild").is_file()
}

/// The repository's root directory.
#[derive(Clone, Debug)]
pub(crate) struct Repository(PathBuf);

impl Repository {
    /// Finds it: the one that [`NAMED`] names; the one that `cargo` runs this program from; the one that the current
    /// directory is in; the one that this program was built from, if it is still there.
    pub(crate) fn find() -> Result<Self> {
        if let Some(named) = std::env::var_os(NAMED).filter(|name| !name.is_empty()) {
            let dir = PathBuf::from(named);
            if !is_one(&dir) {
                bail!("{NAMED}: {} has no sources of hmm-odp", dir.display());
            }
            return Ok(Self(dir.canonicalize()?));
        }
        let parent = |package: PathBuf| package.parent().map(Path::to_owned);
        let from_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let here = std::env::current_dir().unwrap_or_default();
        let mut candidates = from_cargo
            .and_then(parent)
            .into_iter()
            .chain(here.ancestors().map(Path::to_owned))
            .chain(parent(PathBuf::from(BUILT_FROM)));
        match candidates.find(|dir| is_one(dir)) {
            Some(dir) => Ok(Self(dir)),
            None => bail!(
                "the sources of hmm-odp, from which the modules and programs are built, are neither here nor in {BUILT_FROM}, \
                 where this program was built: start it in a checkout, or name one with {NAMED}"
            ),
        }
    }

    /// A path in the repository.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.0.join(relative)
    }

    /// The files that belong to it, relative to the root: those that git knows, and without git all that a checkout
    /// has.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let git = Command::new("git")
            .args(["ls-files", "-z"])
            .current_dir(&self.0)
            .output();
        let known = match git {
            Ok(output) if output.status.success() => {
                let names = String::from_utf8_lossy(&output.stdout).into_owned();
                names.split_terminator('\0').map(str::to_owned).collect()
            }
            _ => self.files_without_git()?,
        };
        // One that was removed and not yet forgotten is none.
        let is_there = |file: &String| self.path(file).is_file();
        Ok(known.into_iter().filter(is_there).collect())
    }

    fn files_without_git(&self) -> Result<Vec<String>> {
        let files = files_under(&self.0, MADE)?;
        let relative = |path: PathBuf| {
            let path = path.strip_prefix(&self.0).ok()?;
            path.to_str().map(str::to_owned)
        };
        Ok(files.into_iter().filter_map(relative).collect())
    }

    /// The root itself.
    pub(crate) fn root(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_files_are_found_without_git_too() -> Result<()> {
        let repository = Repository::find()?;
        let with_git = repository.files()?;
        let without = repository.files_without_git()?;
        for file in ["Kbuild", "rxe-testbed/src/repository.rs", ".ci/run"] {
            assert!(with_git.iter().any(|known| known == file), "{file}");
            assert!(without.iter().any(|known| known == file), "{file}");
        }
        Ok(())
    }
}
