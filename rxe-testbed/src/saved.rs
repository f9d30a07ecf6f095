// SPDX-License-Identifier: GPL-2.0
//! `cache save` and `cache load`: what is built, in one file, so that another machine need not build it. What no later run
//! takes stays out of it: what was built for earlier sources or from an earlier state of the archive, and what only tells
//! of the past.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::build::{self, Wanted};
use crate::cache::{kind_of, Cache, EPOCH};
use crate::cli::{CacheAction, CacheArguments};
use crate::host;
use crate::kernel;
use crate::process;
use crate::series::Series;
use crate::ui::Step;

/// What belongs to the artefacts: without it, nobody would know that these are the ones that are wanted.
const BESIDE: &[&str] = &[EPOCH, kernel::MEMORY];

/// The kinds that are built anew each time: modules without those that do not build.
const NEVER_TAKEN: &str = "modules-part";

/// The kinds that are Debian roots; `guestroot` has more than one.
const ROOTS: &[&str] = &["chroot", "guestroot", "lintian", "browser"];

/// What of a root is left out. Not everybody may make its devices, and where it is used they are the host's; apt makes its
/// indexes anew; the rest is what was logged, or is temporary.
const NOT_OF_A_ROOT: &[&str] = &[
    "dev/*",
    "tmp/*",
    "var/tmp/*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/log/*.log",
    "var/log/apt/*",
];

/// Saves or loads.
pub(crate) fn run(arguments: &CacheArguments, series: Option<Series>) -> Result<u8> {
    match &arguments.action {
        CacheAction::Save { file } => {
            let world = build::ensure(Wanted {
                programs: true,
                ..Wanted::stock(series)
            })?;
            let step = Step::start(format!("saving {}", world.cache.path("").display()));
            save(&world.cache, file, host::namespace(), &step)?;
            step.done();
            let size = std::fs::metadata(file).map_or(0, |file| file.len());
            println!("{} ({})", file.display(), host::gib(size));
        }
        CacheAction::Load { file } => {
            let cache = Cache::open()?;
            let _building = cache.lock_build()?;
            let step = Step::start(format!("loading {}", file.display()));
            load(&cache, file, host::namespace(), &step)?;
            step.done();
        }
    }
    Ok(0)
}

/// Writes what is built to `file`, packed as its ending says, by tar in the `namespace` in which it was built: files may
/// belong to others there.
fn save(cache: &Cache, file: &Path, mut namespace: Command, step: &Step) -> Result<()> {
    let names = taken(cache)?;
    // Under another name until it is whole: the ending has to be the same.
    let name = file.file_name().context("save: to which file?")?;
    let unfinished = file.with_file_name(format!(".unfinished-{}", name.to_string_lossy()));
    namespace.args([
        "tar",
        "--create",
        "--auto-compress",
        "--force-local",
        "--sparse",
        "--numeric-owner",
    ]);
    namespace.args(["--anchored", "--no-wildcards-match-slash"]);
    for root in ROOTS {
        for pattern in NOT_OF_A_ROOT {
            namespace.arg(format!("--exclude={root}-*/{pattern}"));
        }
    }
    namespace.arg("--file").arg(&unfinished);
    namespace.arg("--directory").arg(cache.path(""));
    namespace.arg("--").args(names);
    let saved = process::run_logged(namespace, &cache.log("save"), step)
        .and_then(|()| std::fs::rename(&unfinished, file).context("giving it its name"));
    if saved.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    saved.with_context(|| format!("saving to {}", file.display()))
}

/// The names of what a later run takes.
fn taken(cache: &Cache) -> Result<Vec<OsString>> {
    let epoch = std::fs::read_to_string(cache.path(EPOCH));
    let epoch = epoch.ok().and_then(|epoch| epoch.trim().parse().ok());
    let epoch = epoch.context("the cache has nothing to save")?;
    let mut paths = cache.current(epoch);
    paths.retain(|path| kind_of(path).is_some_and(|kind| !kind.starts_with(NEVER_TAKEN)));
    paths.extend(BESIDE.iter().map(|name| cache.path(name)));
    if !paths
        .iter()
        .any(|path| kind_of(path).as_deref() == Some("chroot"))
    {
        bail!("nothing has been built since the cache's beginning: `cargo testbed build` does");
    }
    let names = paths.iter().filter(|path| path.exists());
    Ok(names
        .filter_map(|path| Some(path.file_name()?.to_owned()))
        .collect())
}

/// Fills a cache with what was saved. One in which something is built already is left as it is.
fn load(cache: &Cache, file: &Path, mut namespace: Command, step: &Step) -> Result<()> {
    if !cache.artefacts("chroot").is_empty() {
        bail!(
            "{} has been built already: `clean --all` empties it, HMM_ODP_CACHE names another",
            cache.path("").display()
        );
    }
    if !file.is_file() {
        bail!("there is no {}", file.display());
    }
    let unpacked = cache.path("tmp/load");
    std::fs::create_dir_all(&unpacked).with_context(|| format!("making {}", unpacked.display()))?;
    namespace.args(["tar", "--extract", "--force-local"]);
    namespace.args(["--numeric-owner", "--same-permissions"]);
    namespace.arg("--file").arg(file);
    namespace.arg("--directory").arg(&unpacked);
    let loaded = process::run_logged(namespace, &cache.log("load"), step)
        .and_then(|()| move_into(cache, &unpacked));
    host::remove_tree(&unpacked);
    loaded.with_context(|| format!("loading {}", file.display()))
}

/// Moves what was unpacked to its places, what makes it valid last.
fn move_into(cache: &Cache, unpacked: &Path) -> Result<()> {
    let new = Cache::at(unpacked);
    let complete = new.complete();
    if complete.is_empty() || !new.path(EPOCH).is_file() {
        bail!("this is not what `cache save` writes");
    }
    let beside: Vec<PathBuf> = BESIDE.iter().map(|name| new.path(name)).collect();
    for path in complete.into_iter().chain(beside) {
        if path.exists() {
            let place = cache.path(path.file_name().unwrap_or_default());
            // A cache without a chroot may have other parts of it.
            host::remove_tree(&place);
            std::fs::rename(&path, &place)
                .with_context(|| format!("making {}", place.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const KEY: &str = "0123456789abcdef";

    /// tar, without a namespace.
    fn plain() -> Command {
        Command::new("env")
    }

    fn cache_in(dir: &Path) -> Result<Cache> {
        for name in ["tmp", "logs"] {
            std::fs::create_dir_all(dir.join(name))?;
        }
        Ok(Cache::at(dir))
    }

    fn fill(cache: &Cache) -> Result<()> {
        let chroot = cache.path(format!("chroot-{KEY}"));
        std::fs::create_dir_all(chroot.join("dev"))?;
        std::fs::write(chroot.join("dev/null"), "")?;
        std::fs::create_dir_all(chroot.join("usr/dev"))?;
        std::fs::write(chroot.join("usr/dev/file"), "content")?;
        for file in ["tmp/file", "var/log/dpkg.log", "var/log/apt/term.log"] {
            let file = chroot.join(file);
            std::fs::create_dir_all(file.parent().context("a folder")?)?;
            std::fs::write(file, "")?;
        }
        for name in ["stage-build-7.3", "results", "logs/old"] {
            std::fs::create_dir(cache.path(name))?;
        }
        for kind in ["modules-7.3", "modules-part-7.3"] {
            std::fs::create_dir(cache.path(format!("{kind}-{KEY}")))?;
        }
        // Of earlier sources.
        let old = cache.path(format!("modules-7.3-{}", KEY.replace('0', "f")));
        std::fs::create_dir(&old)?;
        std::fs::File::open(&old)?.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(2))?;
        std::fs::write(cache.path(EPOCH), "1")?;
        Ok(())
    }

    #[test]
    fn what_was_saved_can_be_loaded_elsewhere() -> Result<()> {
        let [from, to] = [tempfile::tempdir()?, tempfile::tempdir()?];
        let (first, second) = (cache_in(from.path())?, cache_in(to.path())?);
        let file = to.path().join("saved.tar");
        let step = Step::start("a test");
        assert!(save(&first, &file, plain(), &step).is_err());
        fill(&first)?;
        save(&first, &file, plain(), &step)?;
        load(&second, &file, plain(), &step)?;
        let chroot = second.path(format!("chroot-{KEY}"));
        let content = std::fs::read_to_string(chroot.join("usr/dev/file"))?;
        assert_eq!(content, "content");
        assert_eq!(std::fs::read_to_string(second.path(EPOCH))?, "1");
        assert!(chroot.join("dev").is_dir() && !chroot.join("dev/null").exists());
        let mut all: Vec<_> = std::fs::read_dir(second.path(""))?.collect::<Result<_, _>>()?;
        all.sort_by_key(std::fs::DirEntry::file_name);
        let names: Vec<_> = all.iter().map(std::fs::DirEntry::file_name).collect();
        let [chroot_name, modules] = ["chroot", "modules-7.3"].map(|kind| format!("{kind}-{KEY}"));
        assert_eq!(
            names,
            [&*chroot_name, EPOCH, "logs", &*modules, "saved.tar", "tmp"]
        );
        assert!(!second.path("logs/old").exists());
        assert!(!chroot.join("tmp/file").exists() && !chroot.join("var/log/dpkg.log").exists());
        assert!(chroot.join("var/log/apt").is_dir());
        assert_eq!(std::fs::read_dir(chroot.join("var/log/apt"))?.count(), 0);
        assert!(!second.path("tmp/load").exists());
        let again = load(&second, &file, plain(), &step);
        assert!(again.is_err_and(|error| error.to_string().contains("already")));
        Ok(())
    }

    #[test]
    fn only_what_was_saved_is_loaded() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = cache_in(&dir.path().join("cache"))?;
        let (other, file) = (dir.path().join("other"), dir.path().join("other.tar"));
        std::fs::write(&other, "")?;
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--file").arg(&file);
        let made = tar
            .arg("--directory")
            .arg(dir.path())
            .arg("other")
            .status()?;
        assert!(made.success());
        let step = Step::start("a test");
        for file in [&file, &other, &dir.path().join("none")] {
            assert!(
                load(&cache, file, plain(), &step).is_err(),
                "{}",
                file.display()
            );
        }
        assert!(cache.complete().is_empty() && !cache.path("other").exists());
        Ok(())
    }
}
