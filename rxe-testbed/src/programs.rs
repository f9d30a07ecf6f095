// SPDX-License-Identifier: GPL-2.0
//! userspace-bench's programs for the guest, built with the chroot's cargo.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{self, files_under, Cache, Key};
use crate::chroot::{Bind, Chroot};
use crate::process;
use crate::repository::Repository;
use crate::ui::{self, Step};

/// The demo.
pub(crate) const DEMO: &str = "odp-demo";

/// The data tests.
pub(crate) const TEST: &str = "odp-test";

const BUILD: &str = include_str!("../scripts/build-programs.sh");

/// What cargo needs of the repository to build one package of the workspace.
const MANIFESTS: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "hmm/Cargo.toml",
    "mlx-odp/Cargo.toml",
    "rxe-testbed/Cargo.toml",
];

/// The programs of one state of the sources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    dir: Option<PathBuf>,
}

impl Programs {
    /// Gives the programs that exist. Unless they are `required`, a failure is only a remark:
    /// someone who tries out a module is not stopped by an unfinished benchmark.
    pub(crate) fn ensure(
        cache: &Cache,
        repository: &Repository,
        chroot: &Chroot,
        required: bool,
    ) -> Result<Self> {
        let key = key(repository, chroot)?;
        let failed = cache.path("programs-failed");
        let known = std::fs::read_to_string(&failed).is_ok_and(|text| text == key.as_str());
        if !required && known {
            ui::note("userspace-bench does not build as it is; the VM gets what was built last");
            return Ok(Self::last(cache));
        }
        match build(cache, repository, chroot, &key) {
            Ok(dir) => Ok(Self { dir: Some(dir) }),
            Err(error) if required => Err(error),
            Err(error) => {
                cache::write_atomically(&failed, key.as_str().as_bytes())?;
                let text = format!("{error:#}");
                let first = text.lines().next().unwrap_or_default();
                ui::note(&format!("{first}; the VM gets what was built last"));
                Ok(Self::last(cache))
            }
        }
    }

    /// What was built last, if anything.
    fn last(cache: &Cache) -> Self {
        let dir = cache.artefacts("programs").pop();
        Self { dir }
    }

    /// The program files.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        match &self.dir {
            Some(dir) => files_under(&dir.join("bin"), &[]),
            None => Ok(Vec::new()),
        }
    }

    /// Whether there is such a program.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.dir
            .as_ref()
            .is_some_and(|dir| dir.join("bin").join(name).is_file())
    }

    /// The tests that odp-test offers.
    pub(crate) fn tests(&self) -> Vec<String> {
        let list = self.dir.as_ref().map(|dir| dir.join("tests"));
        let text = list
            .and_then(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect()
    }
}

fn key(repository: &Repository, chroot: &Chroot) -> Result<Key> {
    let sources = repository.path("userspace-bench");
    let mut key = Key::builder()
        .add("chroot", chroot.key().as_str())
        .add("script", BUILD)
        .add_tree("userspace-bench", &sources, &["target"])?;
    for manifest in MANIFESTS {
        key = key.add_tree(manifest, &repository.path(manifest), &[])?;
    }
    Ok(key.finish())
}

fn build(cache: &Cache, repository: &Repository, chroot: &Chroot, key: &Key) -> Result<PathBuf> {
    cache.ensure("programs", key, |target| {
        let step = Step::start("building the programs of userspace-bench");
        let log = cache.log("programs");
        process::run_logged(fetch(repository), &log, &step)
            .context("fetching userspace-bench's crates")?;
        let command = cargo(cache, repository, chroot, target, &["build", DEMO, TEST])?;
        process::run_logged(command, &log, &step).context("building userspace-bench")?;
        step.done();
        Ok(())
    })
}

/// The command that checks userspace-bench with the chroot's clippy.
pub(crate) fn clippy(cache: &Cache, repository: &Repository, chroot: &Chroot) -> Result<Command> {
    cargo(cache, repository, chroot, &cache.path("tmp"), &["clippy"])
}

/// The command that runs userspace-bench's own tests, with arguments for `cargo test`.
pub(crate) fn test(
    cache: &Cache,
    repository: &Repository,
    chroot: &Chroot,
    arguments: &[&str],
) -> Result<Command> {
    let arguments = [&["test"], arguments].concat();
    cargo(cache, repository, chroot, &cache.path("tmp"), &arguments)
}

/// The chroot's cargo on userspace-bench. Its crates come from the host's cargo; what it builds
/// stays in the cache between calls.
fn cargo(
    cache: &Cache,
    repository: &Repository,
    chroot: &Chroot,
    target: &Path,
    arguments: &[&str],
) -> Result<Command> {
    let home = cargo_home()?;
    let objects = cache.path("target");
    std::fs::create_dir_all(&objects).context("making cargo's target directory")?;
    let binds = [
        Bind::read(repository.root(), "/build/repository"),
        Bind::write(&home, "/build/cargo"),
        Bind::write(&objects, "/build/target"),
        Bind::write(target, "/build/out"),
    ];
    Ok(chroot.script(&binds, BUILD, arguments))
}

fn fetch(repository: &Repository) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["fetch", "--locked", "--target", "x86_64-unknown-linux-gnu"])
        .current_dir(repository.root());
    command
}

fn cargo_home() -> Result<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")
}
