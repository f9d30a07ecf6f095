//! userspace-bench's programs for the guest, built with the chroot's cargo.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, Key};
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

/// Gives the programs that exist. Unless they are `required`, a failure is only a remark: someone
/// who tries out a module is not stopped by an unfinished benchmark.
pub(crate) fn ensure(
    cache: &Cache,
    repository: &Repository,
    chroot: &Chroot,
    required: bool,
) -> Result<Vec<PathBuf>> {
    match build(cache, repository, chroot) {
        Ok(programs) => Ok(programs),
        Err(error) if required => Err(error),
        Err(error) => {
            ui::note(&format!(
                "going on without userspace-bench: {:.300}",
                format!("{error:#}")
            ));
            Ok(Vec::new())
        }
    }
}

fn build(cache: &Cache, repository: &Repository, chroot: &Chroot) -> Result<Vec<PathBuf>> {
    let sources = repository.path("userspace-bench");
    let mut key = Key::builder()
        .add("chroot", chroot.key().as_str())
        .add("script", BUILD)
        .add_tree("userspace-bench", &sources, &["target"])?;
    for manifest in MANIFESTS {
        key = key.add_tree(manifest, &repository.path(manifest), &[])?;
    }
    let dir = cache.ensure("programs", &key.finish(), |target| {
        let step = Step::start("building the programs of userspace-bench");
        let log = cache.log("programs");
        let home = cargo_home()?;
        process::run_logged(fetch(repository), &log, &step)
            .context("fetching userspace-bench's crates")?;
        let objects = cache.path("target");
        std::fs::create_dir_all(&objects).context("making cargo's target directory")?;
        let binds = [
            Bind::read(repository.root(), "/build/repository"),
            Bind::write(&home, "/build/cargo"),
            Bind::write(&objects, "/build/target"),
            Bind::write(target, "/build/out"),
        ];
        let command = chroot.script(&binds, BUILD, &[DEMO, TEST]);
        process::run_logged(command, &log, &step).context("building userspace-bench")?;
        step.done();
        Ok(())
    })?;
    crate::cache::files_under(&dir, &[])
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
