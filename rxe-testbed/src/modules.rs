// SPDX-License-Identifier: GPL-2.0
//! The repository's kernel modules, built out of tree against the prepared kernel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::cache::{files_under, Cache, Key};
use crate::chroot::{Bind, Chroot};
use crate::host;
use crate::kernel::Kernel;
use crate::process;
use crate::repository::Repository;
use crate::ui::Step;

/// What Kbuild sees of the repository.
const SOURCES: &[&str] = &["Kbuild", "hmm", "mlx-odp"];

/// What cargo and editors leave in the sources, and the oracle's program.
const NOT_SOURCES: &[&str] = &["target", ".git", "user"];

/// Present while make runs. A make that was killed may have left half an object behind.
const INTERRUPTED: &str = ".building";

const BUILD: &str = include_str!("../scripts/build-modules.sh");
const INDEX: &str = include_str!("../scripts/index-modules.sh");

/// The modules of one state of the sources.
#[derive(Clone, Debug)]
pub(crate) struct Modules {
    dir: PathBuf,
}

impl Modules {
    /// Gives the modules, building them if the sources or the kernel changed.
    pub(crate) fn ensure(
        cache: &Cache,
        repository: &Repository,
        chroot: &Chroot,
        kernel: &Kernel,
    ) -> Result<Self> {
        if !repository.path("Kbuild").is_file() {
            bail!("the repository has no Kbuild yet, so there is no driver of ours: use --driver stock");
        }
        let key = key(repository, kernel)?;
        let dir = cache.ensure(&kernel.own("modules"), &key, |target| {
            let step = Step::start("building the kernel modules");
            let stage = stage(cache, repository, kernel, "build")?;
            make(cache, chroot, kernel, &stage, "modules", &step)?;
            collect(&stage, &target.join("updates"))?;
            let binds = [
                Bind::read(kernel.dir(), "/build/kernel"),
                Bind::write(target, "/build/out"),
            ];
            let command = chroot.script(&binds, INDEX, &[&kernel.version.release]);
            process::run_logged(command, &cache.log("modules-index"), &step)
                .context("indexing the modules")?;
            step.done();
            Ok(())
        })?;
        Ok(Self { dir })
    }

    /// Whether `ensure` would have nothing to build.
    pub(crate) fn is_at_hand(cache: &Cache, repository: &Repository, kernel: &Kernel) -> bool {
        key(repository, kernel)
            .is_ok_and(|key| cache.artefact(&kernel.own("modules"), &key).exists())
    }

    /// The directory with depmod's index.
    pub(crate) fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    /// The module files.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        files_under(&self.dir.join("updates"), &[])
    }
}

/// Checks the modules with clippy; gives its warnings, which should be none.
pub(crate) fn clippy(
    cache: &Cache,
    repository: &Repository,
    chroot: &Chroot,
    kernel: &Kernel,
) -> Result<Vec<String>> {
    let step = Step::start("checking the kernel modules with clippy");
    let stage = stage(cache, repository, kernel, "clippy")?;
    // Only what is compiled is checked, so everything has to be compiled.
    for file in files_under(&stage, &[])? {
        if file.extension().is_some_and(|extension| extension == "o") {
            std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
    }
    make(cache, chroot, kernel, &stage, "clippy", &step)?;
    let log = process::read_lossy(&cache.log("clippy"))?;
    step.done();
    Ok(log
        .lines()
        .filter(|line| line.starts_with("warning:") || line.starts_with("error"))
        .map(str::to_owned)
        .collect())
}

fn key(repository: &Repository, kernel: &Kernel) -> Result<Key> {
    let mut key = Key::builder()
        .add("kernel", kernel.key().as_str())
        .add("scripts", format!("{BUILD}{INDEX}"));
    for source in SOURCES {
        key = key.add_tree(source, &repository.path(source), NOT_SOURCES)?;
    }
    Ok(key.finish())
}

/// Brings the staging directory up to date: only changed files are copied, so that make builds
/// only what depends on them.
fn stage(cache: &Cache, repository: &Repository, kernel: &Kernel, kind: &str) -> Result<PathBuf> {
    let stage = cache.path(kernel.own(&format!("stage-{kind}")));
    let mark = stage.join(".kernel");
    let kernel_before = std::fs::read_to_string(&mark).unwrap_or_default();
    if kernel_before != kernel.key().as_str() || stage.join(INTERRUPTED).exists() {
        host::remove_tree(&stage);
        std::fs::create_dir_all(&stage).with_context(|| format!("making {}", stage.display()))?;
        std::fs::write(&mark, kernel.key().as_str()).context("marking the staging directory")?;
    }
    let mut present = BTreeSet::new();
    for source in SOURCES {
        for file in files_under(&repository.path(source), NOT_SOURCES)? {
            let relative = file.strip_prefix(repository.root())?;
            copy_if_changed(&file, &stage.join(relative))?;
            present.insert(relative.to_owned());
        }
    }
    forget_vanished(&stage, &present)?;
    Ok(stage)
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let content = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let dir = to.parent().context("a file without a directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    std::fs::write(to, content).with_context(|| format!("writing {}", to.display()))
}

/// Removes the staged copies of sources that the repository no longer has.
fn forget_vanished(stage: &Path, present: &BTreeSet<PathBuf>) -> Result<()> {
    let list = stage.join(".sources");
    for name in std::fs::read_to_string(&list).unwrap_or_default().lines() {
        if !present.contains(Path::new(name)) {
            let _ = std::fs::remove_file(stage.join(name));
        }
    }
    let names: Vec<_> = present
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    std::fs::write(&list, names.join("\n")).context("listing the staged sources")
}

/// Runs make in the chroot. What the compiler says goes to the terminal, warnings as well.
fn make(
    cache: &Cache,
    chroot: &Chroot,
    kernel: &Kernel,
    stage: &Path,
    target: &str,
    step: &Step,
) -> Result<()> {
    let binds = [
        Bind::write(kernel.dir(), "/build/kernel"),
        Bind::write(stage, "/build/modules"),
    ];
    let jobs = host::processors().to_string();
    let arguments = [&*kernel.version.release, kernel.compiler(), &jobs, target];
    let command = chroot.script(&binds, BUILD, &arguments);
    let log = cache.log(target);
    let mark = stage.join(INTERRUPTED);
    std::fs::write(&mark, "").context("marking the staging directory")?;
    let status = process::run_to_log(command, &log, step)?;
    std::fs::remove_file(&mark).context("unmarking the staging directory")?;
    let said = without_progress(&process::read_lossy(&log)?);
    if !said.is_empty() && (target == "modules" || !status.success()) {
        step.say(&said);
    }
    if !status.success() {
        bail!("the kernel modules do not build (log: {})", log.display());
    }
    Ok(())
}

/// A build log without the lines that only say what is being compiled.
fn without_progress(log: &str) -> String {
    let is_progress = |line: &str| {
        let verb = line
            .strip_prefix("  ")
            .map(str::trim_start)
            .unwrap_or_default();
        line.starts_with("  ")
            && verb.split_whitespace().next().is_some_and(|word| {
                matches!(
                    word,
                    "CC" | "RUSTC" | "LD" | "MODPOST" | "BTF" | "BINDGEN" | "CLIPPY" | "GEN" | "AR"
                )
            })
            && line.contains("[M]")
    };
    // The debug kernel has no type information, so there is none to build against.
    let is_remark = |line: &str| line.starts_with("Skipping BTF generation");
    log.lines()
        .filter(|line| !is_progress(line) && !is_remark(line))
        .map(|line| line.replace("/build/modules/", ""))
        .collect::<Vec<_>>()
        .join("\n")
}

fn collect(stage: &Path, target: &Path) -> Result<()> {
    std::fs::create_dir_all(target).with_context(|| format!("making {}", target.display()))?;
    let mut found = 0;
    for file in files_under(stage, &[])? {
        if file.extension().is_some_and(|extension| extension == "ko") {
            let name = file.file_name().unwrap_or_default();
            std::fs::copy(&file, target.join(name))
                .with_context(|| format!("copying {}", file.display()))?;
            found += 1;
        }
    }
    if found == 0 {
        bail!("Kbuild made no module");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_are_shown() {
        let log = "  CC [M]  hmm/shim.o\nerror: no\n --> /build/modules/hmm/core/lib.rs:1\n  LD [M]  x.ko\n";
        assert_eq!(without_progress(log), "error: no\n --> hmm/core/lib.rs:1");
    }

    #[test]
    fn unchanged_files_are_left_alone() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (from, to) = (dir.path().join("a"), dir.path().join("d/a"));
        std::fs::write(&from, "1")?;
        copy_if_changed(&from, &to)?;
        let first = std::fs::metadata(&to)?.modified()?;
        copy_if_changed(&from, &to)?;
        assert_eq!(first, std::fs::metadata(&to)?.modified()?);
        Ok(())
    }

    #[test]
    fn vanished_sources_vanish_from_the_stage() -> Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("a.c"), "")?;
        forget_vanished(dir.path(), &BTreeSet::from(["a.c".into()]))?;
        assert!(dir.path().join("a.c").exists());
        forget_vanished(dir.path(), &BTreeSet::new())?;
        assert!(!dir.path().join("a.c").exists());
        Ok(())
    }
}
