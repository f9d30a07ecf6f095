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
        Ok(target)
    }
}

fn home() -> Result<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")
}
