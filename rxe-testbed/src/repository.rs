// SPDX-License-Identifier: GPL-2.0
//! The repository that this program was built from.

use std::path::{Path, PathBuf};

use anyhow::{bail, Result};

/// The repository's root directory.
#[derive(Clone, Debug)]
pub(crate) struct Repository(PathBuf);

impl Repository {
    /// Finds it: `cargo` tells where this package is, else the current directory must be in it.
    pub(crate) fn find() -> Result<Self> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let from_cargo = package.and_then(|dir| dir.parent().map(Path::to_owned));
        let here = std::env::current_dir().unwrap_or_default();
        let candidates = from_cargo
            .into_iter()
            .chain(here.ancestors().map(Path::to_owned));
        for dir in candidates {
            if dir.join("rxe-testbed/Cargo.toml").is_file() {
                return Ok(Self(dir));
            }
        }
        bail!("not in the hmm-odp repository: start it there as `cargo testbed`");
    }

    /// A path in the repository.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.0.join(relative)
    }

    /// The root itself.
    pub(crate) fn root(&self) -> &Path {
        &self.0
    }
}
