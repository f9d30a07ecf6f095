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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::files_under;

    /// Files without a place for it, or with no text of ours.
    const WITHOUT: &[&str] = &["json", "lock", "md", "svg", "toml", "txt"];

    #[test]
    fn every_source_file_says_its_licence() -> Result<()> {
        let repository = Repository::find()?;
        let needs = |path: &PathBuf| match path.extension().and_then(|ending| ending.to_str()) {
            Some(ending) => !WITHOUT.contains(&ending),
            None => path.file_name().is_some_and(|name| name == "Kbuild"),
        };
        let mut looked_at = 0;
        for part in ["Kbuild", "hmm", "mlx-odp", "rxe-testbed", "userspace-bench"] {
            let files = files_under(&repository.path(part), &["target"])?;
            for path in files.iter().filter(|path| needs(path)) {
                let text = std::fs::read_to_string(path)?;
                let said = text
                    .lines()
                    .take(2)
                    .any(|line| line.contains("SPDX-License-Identifier: GPL-2.0"));
                assert!(said, "{} does not begin with its licence", path.display());
                looked_at += 1;
            }
        }
        assert!(looked_at > 100, "only {looked_at} files were looked at");
        Ok(())
    }
}
