// SPDX-License-Identifier: GPL-2.0
//! The chroot's cargo: one known version of the compiler, of clippy and of rustfmt, whatever the
//! host has. The crates come from the host's cargo, so that the chroot needs no network.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::chroot::{Bind, Chroot};
use crate::process;
use crate::repository::Repository;
use crate::ui::Step;

const CARGO: &str = include_str!("../scripts/cargo.sh");

/// Where the chroot's cargo finds things.
pub(crate) struct Cargo<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) repository: &'a Repository,
    pub(crate) chroot: &'a Chroot,
}

impl Cargo<'_> {
    /// Has the host's cargo download what `Cargo.lock` names and is not there yet.
    pub(crate) fn fetch(&self, step: &Step) -> Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["fetch", "--locked", "--target", "x86_64-unknown-linux-gnu"])
            .current_dir(self.repository.root());
        process::run_logged(command, &self.cache.log("cargo-fetch"), step)
            .context("downloading the crates")
    }

    /// A command of the chroot's cargo. What it builds stays in the cache between calls.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Command> {
        let home = home()?;
        let target = self.target()?;
        let binds = [
            Bind::read(self.repository.root(), "/build/repository"),
            Bind::write(&home, "/build/cargo"),
            Bind::write(&target, "/build/target"),
        ];
        Ok(self.chroot.script(&binds, CARGO, arguments))
    }

    /// cargo's target directory as the host sees it.
    pub(crate) fn target(&self) -> Result<PathBuf> {
        let target = self.cache.path("target");
        std::fs::create_dir_all(&target).context("making cargo's target directory")?;
        forget_other_repository(&target, self.repository.root())?;
        Ok(target)
    }
}

/// The workspace's packages.
const PACKAGES: &[&str] = &["hmm-", "mlx-odp-", "odp-", "rxe-testbed-", "testkit-"];

/// Has cargo build the workspace's packages anew if it built those of another working tree last. It goes by
/// the times of files, and all trees are in the same place in the chroot: older files of this one would pass
/// for those that the other's were built from.
fn forget_other_repository(target: &Path, root: &Path) -> Result<()> {
    let mark = target.join("repository");
    let root = root.as_os_str().as_encoded_bytes();
    if std::fs::read(&mark).is_ok_and(|last| last == root) {
        return Ok(());
    }
    for profile in ["debug", "release"] {
        let known = target.join(profile).join(".fingerprint");
        for entry in std::fs::read_dir(known).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if PACKAGES.iter().any(|package| name.starts_with(package)) {
                std::fs::remove_dir_all(entry.path())
                    .with_context(|| format!("removing {}", entry.path().display()))?;
            }
        }
    }
    std::fs::write(&mark, root).with_context(|| format!("writing {}", mark.display()))
}

fn home() -> Result<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_tree_left_is_built_anew() -> Result<()> {
        let target = std::env::temp_dir().join(format!("testbed-target-{}", std::process::id()));
        let known = target.join("release/.fingerprint");
        let (ours, foreign) = (known.join("hmm-diff-0123"), known.join("libc-0123"));
        let make = || [&ours, &foreign].map(std::fs::create_dir_all);
        make().into_iter().collect::<Result<Vec<_>, _>>()?;
        forget_other_repository(&target, Path::new("/a"))?;
        assert!(!ours.exists() && foreign.exists());
        make().into_iter().collect::<Result<Vec<_>, _>>()?;
        forget_other_repository(&target, Path::new("/a"))?;
        assert!(ours.exists());
        forget_other_repository(&target, Path::new("/b"))?;
        assert!(!ours.exists() && foreign.exists());
        std::fs::remove_dir_all(&target)?;
        Ok(())
    }
}
