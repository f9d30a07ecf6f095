// SPDX-License-Identifier: GPL-2.0
//! The programs for the guest, of userspace-bench and hmm, built with the chroot's cargo.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{self, files_under, Cache, Key};
use crate::cargo::Cargo;
use crate::chroot::{Bind, Chroot};
use crate::process;
use crate::repository::Repository;
use crate::ui::{self, Step};

/// All of them; each is a package of its name.
pub(crate) const PROGRAMS: &[&str] = &[DEMO, TEST, BENCH, STORM, FUZZ, DIFF, MIRROR];

/// The packages that they are built on.
pub(crate) const LIBRARIES: &[&str] = &["testkit", "odp-verbs", "odp-fixture"];

/// Where all that is.
pub(crate) const SOURCES: &[&str] = &["userspace-bench", "hmm/oracle/diff", "hmm/tests/mirror"];

/// The demo.
pub(crate) const DEMO: &str = "odp-demo";

/// The data tests.
pub(crate) const TEST: &str = "odp-test";

/// The benchmark.
pub(crate) const BENCH: &str = "odp-bench";

/// What `cargo bench` runs, in the guest as `odp-criterion`.
const CRITERION: &str = "access";

/// Data in memory that is in a storm.
pub(crate) const STORM: &str = "odp-storm";

/// Requests that should not be granted.
pub(crate) const FUZZ: &str = "odp-fuzz";

/// hmm's walk beside the kernel's.
pub(crate) const DIFF: &str = "hmm-diff";

/// The tests of mirrors.
pub(crate) const MIRROR: &str = "hmm-mirror";

const COLLECT: &str = include_str!("../scripts/collect-programs.sh");

/// What cargo needs of the repository to build one package of the workspace.
pub(crate) const MANIFESTS: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "hmm/Cargo.toml",
    "hmm/oracle/abi.rs",
    "mlx-odp/Cargo.toml",
    "rxe-testbed/Cargo.toml",
    "rxe-testbed/hca/Cargo.toml",
    "rxe-testbed/tracer/Cargo.toml",
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
            ui::note("the programs do not build as they are; the VM gets what was built last");
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

    /// Those of the sources as they are, if `ensure` would have nothing to build.
    pub(crate) fn at_hand(cache: &Cache, repository: &Repository, chroot: &Chroot) -> Option<Self> {
        let dir = cache.artefact("programs", &key(repository, chroot).ok()?);
        dir.exists().then_some(Self { dir: Some(dir) })
    }

    /// What was built last, if anything.
    fn last(cache: &Cache) -> Self {
        let dir = cache.artefacts("programs").pop();
        Self { dir }
    }

    /// The folder with the program files.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.join("bin"))
    }

    /// The program files.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        match self.folder() {
            Some(folder) => files_under(&folder, &[]),
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
        self.names_in("tests")
    }

    /// The cases that hmm-mirror offers.
    pub(crate) fn mirror_cases(&self) -> Vec<String> {
        self.names_in("mirror")
    }

    fn names_in(&self, list: &str) -> Vec<String> {
        let list = self.dir.as_ref().map(|dir| dir.join(list));
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
    let mut key = Key::builder()
        .add("chroot", chroot.key().as_str())
        .add_script("script", COLLECT);
    for source in SOURCES.iter().chain(MANIFESTS) {
        key = key.add_tree(source, &repository.path(source), &["target"])?;
    }
    Ok(key.finish())
}

fn build(cache: &Cache, repository: &Repository, chroot: &Chroot, key: &Key) -> Result<PathBuf> {
    cache.ensure("programs", key, |out| {
        let step = Step::start("building the programs for the VM");
        let log = cache.log("programs");
        let cargo = Cargo {
            cache,
            repository,
            chroot,
        };
        cargo.fetch(&step)?;
        let target = cargo.target()?;
        forget_benchmarks(&target)?;
        let mut build = vec![
            "build",
            "--release",
            "--locked",
            "--offline",
            "--bins",
            "--bench",
            CRITERION,
        ];
        for program in PROGRAMS {
            build.extend(["-p", program]);
        }
        process::run_logged(cargo.command(&build)?, &log, &step)
            .context("building the programs")?;
        let binds = [
            Bind::read(&target, "/build/target"),
            Bind::write(out, "/build/out"),
        ];
        let collect = chroot.script(&binds, COLLECT, PROGRAMS);
        process::run_logged(collect, &log, &step).context("collecting the programs")?;
        step.done();
        Ok(())
    })
}

/// Removes the benchmarks that were built before. Their files' names end with a hash of how they were built: the one
/// that is there after the next build is that build's.
fn forget_benchmarks(target: &Path) -> Result<()> {
    for entry in std::fs::read_dir(target.join("release/deps"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(&format!("{CRITERION}-")) {
            std::fs::remove_file(entry.path())
                .with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    Ok(())
}
