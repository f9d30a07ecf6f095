// SPDX-License-Identifier: GPL-2.0
//! The cache outside the repository: artefacts keyed by their inputs, and its two locks.
//!
//! An artefact is a directory `KIND-KEY`. It is built under a temporary name and renamed when it
//! is complete, so one that exists is whole. Whatever an interrupted call left in `tmp/` or `run/`
//! is swept by the next one.
//!
//! - `build.lock`, exclusive, is held while artefacts are built: a second call waits.
//! - `use.lock`, shared, is held by every call once its artefacts are there. Old artefacts are
//!   removed only when it can be had exclusively, so nobody loses the image of a running VM.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::host;
use crate::process::Scratch;
use crate::series::Series;
use crate::ui;

/// The length of a key as text.
const KEY_DIGITS: usize = 16;

/// The file that names the state of the archive that a cache was built from.
pub(crate) const EPOCH: &str = "epoch";

/// What the names of the folders of VMs that stay begin with, in `run/`. They are not swept: how such a VM ended is
/// still to be told.
pub(crate) const STAYING: &str = "up-";

/// The line that each script has.
const LICENCE: &str = "# SPDX-License-Identifier: GPL-2.0\n";

/// The inputs of an artefact, boiled down to a short hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// Starts collecting inputs.
    pub(crate) fn builder() -> KeyBuilder {
        KeyBuilder(Sha256::new())
    }

    /// The hash as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Collects the inputs of an artefact.
pub(crate) struct KeyBuilder(Sha256);

impl KeyBuilder {
    /// Adds one named input. Lengths are part of the hash, so `ab` + `c` is not `a` + `bc`.
    pub(crate) fn add(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds the text of a script. The line with its licence says nothing to what it makes.
    pub(crate) fn add_script(self, name: &str, text: &str) -> Self {
        self.add(name, text.replacen(LICENCE, "", 1))
    }

    /// Adds the names and contents of all files under `root`, except under `skip`.
    pub(crate) fn add_tree(mut self, name: &str, root: &Path, skip: &[&str]) -> Result<Self> {
        for path in files_under(root, skip)? {
            let content =
                std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let relative = path.strip_prefix(root).unwrap_or(&path);
            self = self.add(&format!("{name}/{}", relative.display()), content);
        }
        Ok(self)
    }

    /// The key of everything that was added.
    pub(crate) fn finish(self) -> Key {
        let mut text = String::new();
        for byte in &self.0.finalize()[..KEY_DIGITS / 2] {
            let _ = write!(text, "{byte:02x}");
        }
        Key(text)
    }
}

/// All regular files under `root` in a stable order; names in `skip` are left out at every level.
/// A missing root has no files.
pub(crate) fn files_under(root: &Path, skip: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.is_file() {
            files.push(path);
        } else if metadata.is_dir() {
            let entries =
                std::fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))?;
            for entry in entries {
                let entry = entry?;
                if !skip.iter().any(|name| entry.file_name() == *name) {
                    open.push(entry.path());
                }
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The cache directory.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// Held while artefacts are built.
pub(crate) struct BuildLock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Held while artefacts are used.
pub(crate) struct UseLock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

impl Cache {
    /// Where the cache is: `$HMM_ODP_CACHE`, `$XDG_CACHE_HOME/hmm-odp` or `~/.cache/hmm-odp`.
    pub(crate) fn place() -> Result<PathBuf> {
        location(|name| std::env::var_os(name).map(PathBuf::from))
            .context("no place for the cache: set HMM_ODP_CACHE or HOME")
    }

    /// Opens the cache, and makes it if it is not there.
    pub(crate) fn open() -> Result<Self> {
        let root = Self::place()?;
        for dir in ["tmp", "run", "logs", "results"] {
            let path = root.join(dir);
            std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        let root = root
            .canonicalize()
            .with_context(|| format!("resolving {}", root.display()))?;
        Ok(Self { root })
    }

    /// A cache at this place, of which nothing is made yet.
    pub(crate) fn at(root: &Path) -> Self {
        let root = root.to_owned();
        Self { root }
    }

    /// A path in the cache.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// The log file of a step.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// Takes the build lock, waiting for another call if there is one, and sweeps its leftovers.
    pub(crate) fn lock_build(&self) -> Result<BuildLock> {
        let lock = self.flock("build.lock", FlockArg::LockExclusiveNonblock)?;
        let lock = match lock {
            Some(lock) => lock,
            None => {
                ui::note("another `cargo testbed` is building; waiting for it");
                self.flock("build.lock", FlockArg::LockExclusive)?
                    .context("the build lock")?
            }
        };
        self.sweep();
        Ok(BuildLock(lock))
    }

    /// Marks the artefacts as in use.
    pub(crate) fn lock_use(&self) -> Result<UseLock> {
        let lock = self.flock("use.lock", FlockArg::LockShared)?;
        Ok(UseLock(lock.context("the lock on the artefacts")?))
    }

    /// The exclusive right to the artefacts, unless someone uses them.
    pub(crate) fn try_lock_unused(&self) -> Result<Option<UseLock>> {
        Ok(self
            .flock("use.lock", FlockArg::LockExclusiveNonblock)?
            .map(UseLock))
    }

    fn flock(&self, name: &str, how: FlockArg) -> Result<Option<Flock<File>>> {
        let path = self.root.join(name);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        match Flock::lock(file, how) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", path.display())),
        }
    }

    /// Removes what interrupted calls left behind. Only the holder of the build lock may.
    fn sweep(&self) {
        for entry in entries(&self.root.join("tmp")) {
            host::remove_tree(&entry);
        }
        for entry in entries(&self.root.join("run")) {
            if staying(&entry).is_none() && !owner_is_alive(&entry) {
                host::remove_tree(&entry);
            }
        }
    }

    /// The names of VMs that stay, or have stayed.
    pub(crate) fn staying(&self) -> Vec<String> {
        let entries = entries(&self.root.join("run"));
        entries.iter().filter_map(|path| staying(path)).collect()
    }

    /// Where the artefact of this kind and key is, whether or not it exists.
    pub(crate) fn artefact(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(format!("{kind}-{}", key.as_str()))
    }

    /// Gives the artefact's directory; `build` fills it if it does not exist yet.
    pub(crate) fn ensure(
        &self,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        self.ensure_among(1, kind, key, build)
    }

    /// The same for a kind of which the `kept` stay that were used last.
    pub(crate) fn ensure_among(
        &self,
        kept: usize,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let finished = self.artefact(kind, key);
        if finished.exists() {
            mark_used(&finished);
            return Ok(finished);
        }
        let temporary = self
            .root
            .join("tmp")
            .join(format!("{kind}-{}", key.as_str()));
        std::fs::create_dir(&temporary)
            .with_context(|| format!("making {}", temporary.display()))?;
        if let Err(error) = build(&temporary) {
            host::remove_tree(&temporary);
            return Err(error);
        }
        std::fs::rename(&temporary, &finished)
            .with_context(|| format!("moving {} into place", finished.display()))?;
        mark_used(&finished);
        self.remove_others(kept, kind, &finished)?;
        Ok(finished)
    }

    /// Removes the older artefacts of a kind until `kept` are left, unless someone may be using one.
    fn remove_others(&self, kept: usize, kind: &str, newest: &Path) -> Result<()> {
        let Some(_unused) = self.try_lock_unused()? else {
            return Ok(());
        };
        let mut others = self.artefacts(kind);
        others.retain(|path| path != newest);
        others.sort_by_key(|path| std::cmp::Reverse(last_used(path)));
        for path in others.iter().skip(kept - 1) {
            host::remove_tree(path);
        }
        Ok(())
    }

    /// The existing artefacts of a kind.
    pub(crate) fn artefacts(&self, kind: &str) -> Vec<PathBuf> {
        let is_one = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| is_artefact(name, kind))
        };
        entries(&self.root).into_iter().filter(is_one).collect()
    }

    /// All artefacts, of every kind.
    pub(crate) fn complete(&self) -> Vec<PathBuf> {
        let is_one = |path: &PathBuf| kind_of(path).is_some();
        entries(&self.root).into_iter().filter(is_one).collect()
    }

    /// Of each kind the artefact that was used last, unless that was before the `epoch`, a time in seconds since 1970, when
    /// the archive had another state.
    pub(crate) fn current(&self, epoch: u64) -> Vec<PathBuf> {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch);
        let mut newest: BTreeMap<String, (SystemTime, PathBuf)> = BTreeMap::new();
        for path in self.complete() {
            let Some((kind, used)) = kind_of(&path).zip(last_used(&path)) else {
                continue;
            };
            let is_newer = newest.get(&kind).is_none_or(|(other, _)| *other < used);
            if used >= epoch && is_newer {
                newest.insert(kind, (used, path));
            }
        }
        newest.into_values().map(|(_, path)| path).collect()
    }

    /// Everything of a kind: with a key or without, of any kernel.
    pub(crate) fn all_of(&self, kind: &str) -> Vec<PathBuf> {
        let is_one = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| is_of_kind(name, kind))
        };
        entries(&self.root).into_iter().filter(is_one).collect()
    }

    /// A scratch directory for one VM or one step.
    pub(crate) fn scratch(&self) -> Result<Scratch> {
        Scratch::new(&self.root.join("run"))
    }
}

/// Remembers that an artefact is used now. In a cache that cannot be written nothing is removed either.
pub(crate) fn mark_used(artefact: &Path) {
    let marked = File::open(artefact).and_then(|dir| dir.set_modified(SystemTime::now()));
    drop(marked);
}

fn last_used(artefact: &Path) -> Option<SystemTime> {
    std::fs::metadata(artefact).ok()?.modified().ok()
}

/// Writes a small file so that it is either the old or the new one, never half of it.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file without a directory")?;
    let mut file = tempfile::NamedTempFile::new_in(dir)
        .with_context(|| format!("writing in {}", dir.display()))?;
    file.write_all(content)
        .with_context(|| format!("writing {}", path.display()))?;
    file.persist(path)
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(())
}

/// An empty variable is as good as none.
fn location(env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name| env(name).filter(|path| !path.as_os_str().is_empty());
    set("HMM_ODP_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("hmm-odp")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/hmm-odp")))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir)
        .map(|found| found.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// The kind of what is named `KIND-KEY`.
pub(crate) fn kind_of(path: &Path) -> Option<String> {
    let (kind, key) = path.file_name()?.to_str()?.rsplit_once('-')?;
    is_key(key).then(|| kind.to_owned())
}

/// Whether a name is `KIND-KEY`: `kernel-version.json` is no kernel.
fn is_artefact(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(is_key)
}

/// Whether a name is `KIND`, `KIND-SERIES`, either with `-debug`, and each with or without `-KEY`.
fn is_of_kind(name: &str, kind: &str) -> bool {
    let Some(mut rest) = name.strip_prefix(kind) else {
        return false;
    };
    if let Some((before, key)) = rest.rsplit_once('-') {
        if is_key(key) {
            rest = before;
        }
    }
    let rest = rest.strip_suffix("-debug").unwrap_or(rest);
    rest.is_empty()
        || rest
            .strip_prefix('-')
            .is_some_and(|series| series.parse::<Series>().is_ok())
}

fn is_key(text: &str) -> bool {
    text.len() == KEY_DIGITS && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// The name of the VM that stays whose folder this is.
fn staying(dir: &Path) -> Option<String> {
    let name = dir.file_name()?.to_str()?;
    name.strip_prefix(STAYING).map(str::to_owned)
}

/// Scratch directories are named after the process that made them.
fn owner_is_alive(dir: &Path) -> bool {
    dir.file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.split_once('-'))
        .is_some_and(|(pid, _)| Path::new("/proc").join(pid).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_every_part_and_its_borders() {
        let key = |a: &str, b: &str| Key::builder().add("x", a).add("y", b).finish();
        assert_eq!(key("ab", "c"), key("ab", "c"));
        assert_ne!(key("ab", "c"), key("a", "bc"));
        assert_eq!(key("ab", "c").as_str().len(), 16);
    }

    #[test]
    fn keys_of_scripts_follow_all_but_the_licence() {
        let key = |text: &str| Key::builder().add_script("s", text).finish();
        assert_eq!(
            key(&format!("#!/bin/sh\n{LICENCE}a\n")),
            key("#!/bin/sh\na\n")
        );
        assert_ne!(key("#!/bin/sh\nb\n"), key("#!/bin/sh\na\n"));
    }

    #[test]
    fn keys_of_trees_follow_contents_and_names() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let key = || -> Result<Key> {
            Ok(Key::builder()
                .add_tree("t", dir.path(), &["skipped"])?
                .finish())
        };
        std::fs::write(dir.path().join("a"), "1")?;
        let first = key()?;
        std::fs::write(dir.path().join("skipped"), "1")?;
        assert_eq!(first, key()?);
        std::fs::write(dir.path().join("a"), "2")?;
        assert_ne!(first, key()?);
        Ok(())
    }

    #[test]
    fn those_that_were_used_last_stay() -> Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("tmp"))?;
        let cache = Cache::at(dir.path());
        let use_one = |name: &str, kept: usize| -> Result<PathBuf> {
            let key = Key::builder().add("name", name).finish();
            let used = cache.ensure_among(kept, "guest", &key, |_| Ok(()))?;
            // Clocks of file systems may stand still for some milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(20));
            Ok(used)
        };
        let [a, b, c] = [use_one("a", 3)?, use_one("b", 3)?, use_one("c", 3)?];
        use_one("a", 3)?;
        let d = use_one("d", 3)?;
        assert!(a.exists() && !b.exists() && c.exists() && d.exists());
        let e = use_one("e", 1)?;
        assert_eq!(cache.artefacts("guest"), [e]);
        Ok(())
    }

    #[test]
    fn one_of_each_kind_is_current() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::at(dir.path());
        let make = |name: &str, used: u64| -> Result<PathBuf> {
            let path = cache.path(name);
            std::fs::create_dir(&path)?;
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(used);
            File::open(&path)?.set_modified(time)?;
            Ok(path)
        };
        let key = |digit: &str| digit.repeat(KEY_DIGITS);
        make(&format!("kernel-7.3-{}", key("0")), 20)?;
        let kernel = make(&format!("kernel-7.3-{}", key("1")), 30)?;
        let debug = make(&format!("kernel-7.3-debug-{}", key("0")), 10)?;
        make(&format!("image-7.2-{}", key("0")), 9)?;
        make("logs", 40)?;
        assert_eq!(cache.current(10), [kernel, debug]);
        Ok(())
    }

    #[test]
    fn only_keyed_names_are_artefacts() {
        assert!(is_artefact("kernel-0123456789abcdef", "kernel"));
        assert!(!is_artefact("kernel-version.json", "kernel"));
        assert!(!is_artefact("kernel-0123456789abcdef", "guest"));
    }

    #[test]
    fn a_kind_is_of_all_kernels() {
        for name in [
            "kernel",
            "kernel-0123456789abcdef",
            "kernel-7.2-0123456789abcdef",
            "kernel-7.3-debug-0123456789abcdef",
            "kernel-debug-0123456789abcdef",
            "kernel-7.3",
            "kernel-7.3-debug",
        ] {
            assert!(is_of_kind(name, "kernel"), "{name}");
        }
        for name in ["kernel-version.json", "kernels", "kernel-x", "guest-7.3"] {
            assert!(!is_of_kind(name, "kernel"), "{name}");
        }
    }

    #[test]
    fn the_environment_decides_the_place() {
        let place = |pairs: &'static [(&str, &str)]| {
            location(|name| {
                let found = pairs.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| PathBuf::from(value))
            })
        };
        assert_eq!(place(&[("HOME", "/h")]), Some("/h/.cache/hmm-odp".into()));
        let both = &[("HOME", "/h"), ("HMM_ODP_CACHE", "/c")];
        assert_eq!(place(both), Some("/c".into()));
        let empty = &[("HOME", "/h"), ("HMM_ODP_CACHE", "")];
        assert_eq!(place(empty), Some("/h/.cache/hmm-odp".into()));
        assert_eq!(place(&[]), None);
    }
}
