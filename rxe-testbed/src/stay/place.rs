// SPDX-License-Identifier: GPL-2.0
//! What is known of a VM that stays, in a folder of its own in the cache: `run/up-NAME`.
//!
//! Whoever keeps the VM holds the folder's lock. So one that runs is told from one that is gone, whatever has become of
//! the number of its process.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{de::DeserializeOwned, Deserialize, Serialize};

use crate::cache::{self, Cache, STAYING};
use crate::process;
use crate::reach::Forward;

/// What a VM is called if nobody says otherwise.
pub(crate) const USUAL: &str = "testbed";

/// How often, and after what time each, a lock that is held is tried again: others hold it for a moment to see whether
/// it is.
const TRIES: u32 = 20;
const NAP: Duration = Duration::from_millis(20);

/// A VM that is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The process that keeps it.
    pub(crate) pid: i32,
    /// What runs in it, for people.
    pub(crate) what: String,
    /// The words of the command that logs in.
    pub(crate) login: Vec<String>,
    /// Its ports.
    pub(crate) forwards: Vec<Forward>,
    /// The folder of the host that it has.
    pub(crate) share: Option<PathBuf>,
    /// Where a debugger is listened for.
    pub(crate) gdb: Option<u16>,
}

/// How a VM ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// Why, if nobody asked for it.
    pub(crate) why: Option<String>,
    /// What the kernel complained of.
    pub(crate) complaints: Vec<String>,
}

/// What is found in a place.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// A VM that is not up yet.
    Coming,
    /// One that is.
    Up(Box<State>),
    /// One that has ended.
    Gone(Ended),
}

/// The folder of a VM, whether or not it is there.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    name: String,
    dir: PathBuf,
}

/// The right to a place. What is there goes with it, unless it is told how the VM ended.
pub(crate) struct Claim {
    place: Place,
    stays: bool,
    _lock: Flock<File>,
}

impl Place {
    /// That of the VM `name`.
    pub(crate) fn of(cache: &Cache, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dir: cache.path(format!("run/{STAYING}{name}")),
        }
    }

    /// All places where something is.
    pub(crate) fn all(cache: &Cache) -> Vec<Self> {
        let mut names = cache.staying();
        names.sort();
        names.iter().map(|name| Self::of(cache, name)).collect()
    }

    /// What the VM is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What its kernel's log is called among the cache's.
    pub(crate) fn kernel_log(&self) -> String {
        format!("last-kernel-up-{}", self.name)
    }

    /// The file that is made to have the VM end.
    pub(crate) fn request(&self) -> PathBuf {
        self.path("end")
    }

    /// How this VM is named to `up` and the others: not at all if it has the usual name.
    pub(crate) fn option(&self) -> String {
        match self.name.as_str() {
            USUAL => String::new(),
            name => format!(" --name {name}"),
        }
    }

    /// Takes it, after a VM that is gone as well.
    pub(crate) fn claim(&self) -> Result<Claim> {
        for _ in 0..TRIES {
            if let Some(lock) = self.try_lock()? {
                let claim = Claim {
                    place: self.clone(),
                    stays: false,
                    _lock: lock,
                };
                self.clear()?;
                process::goes_on_interrupt(&self.dir);
                return Ok(claim);
            }
            std::thread::sleep(NAP);
        }
        bail!("{}", self.runs_already());
    }

    /// What to tell who wants another one here.
    pub(crate) fn runs_already(&self) -> String {
        let option = self.option();
        format!(
            "the VM `{}` runs already: `cargo testbed ssh{option}` logs in, `cargo testbed down{option}` ends it; \
             `cargo testbed up --name NAME` boots another one",
            self.name
        )
    }

    /// Looks what is there.
    pub(crate) fn look(&self) -> Result<Found> {
        for _ in 0..TRIES {
            if !self.dir.exists() {
                return Ok(Found::Nothing);
            }
            if self.try_lock()?.is_none() {
                return Ok(match read(&self.path("state"))? {
                    Some(state) => Found::Up(Box::new(state)),
                    None => Found::Coming,
                });
            }
            if let Some(ended) = read(&self.path("ended"))? {
                return Ok(Found::Gone(ended));
            }
            if self.path("state").exists() {
                let why = "it was killed, or this machine has been started anew since";
                return Ok(Found::Gone(Ended {
                    why: Some(why.into()),
                    complaints: Vec::new(),
                }));
            }
            // It is just being made, or was killed then.
            std::thread::sleep(NAP);
        }
        self.forget()?;
        Ok(Found::Nothing)
    }

    /// How the VM ended, once it is gone, unless that takes longer than `limit`.
    pub(crate) fn wait_until_gone(&self, limit: Duration) -> Result<Option<Ended>> {
        let started = Instant::now();
        loop {
            match self.look()? {
                Found::Gone(ended) => return Ok(Some(ended)),
                Found::Nothing => return Ok(Some(Ended::default())),
                _ if started.elapsed() > limit => return Ok(None),
                Found::Up(_) | Found::Coming => std::thread::sleep(NAP),
            }
        }
    }

    /// Removes what a VM has left that is gone.
    pub(crate) fn forget(&self) -> Result<()> {
        if self.dir.exists() {
            if let Some(_lock) = self.try_lock()? {
                remove(&self.dir)?;
            }
        }
        Ok(())
    }

    /// The lock, unless somebody has it.
    fn try_lock(&self) -> Result<Option<Flock<File>>> {
        let path = self.path("lock");
        loop {
            let mut dir = std::fs::DirBuilder::new();
            let made = dir.recursive(true).mode(0o700).create(&self.dir);
            made.with_context(|| format!("making {}", self.dir.display()))?;
            let mut options = OpenOptions::new();
            let options = options.create(true).truncate(false).write(true);
            let file = match options.open(&path) {
                Ok(file) => file,
                // Somebody has just removed the folder.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("opening {}", path.display()))
                }
            };
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                return Ok(None);
            };
            if is_at(&lock, &path) {
                return Ok(Some(lock));
            }
        }
    }

    /// Removes all but the lock.
    fn clear(&self) -> Result<()> {
        let entries = std::fs::read_dir(&self.dir);
        let entries = entries.with_context(|| format!("reading {}", self.dir.display()))?;
        for entry in entries.flatten() {
            if entry.file_name() != "lock" {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

impl Claim {
    /// Where the files of this VM go.
    pub(crate) fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// Says that the VM is up.
    pub(crate) fn up(&self, state: &State) -> Result<()> {
        write(&self.place.path("state"), state)
    }

    /// Says how the VM ended, and gives up the place.
    pub(crate) fn ended(mut self, ended: &Ended) -> Result<()> {
        self.stays = true;
        write(&self.place.path("ended"), ended)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        process::stays_on_interrupt(&self.place.dir);
        if !self.stays {
            let _ = remove(&self.place.dir);
        }
    }
}

/// Whether a file that was opened at `path` is still the one there.
fn is_at(file: &File, path: &Path) -> bool {
    let opened = file.metadata().map(|file| (file.dev(), file.ino()));
    let there = std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((opened, there), (Ok(opened), Ok(there)) if opened == there)
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    removed.with_context(|| format!("removing {}", path.display()))
}

fn write(path: &Path, what: &impl Serialize) -> Result<()> {
    cache::write_atomically(path, &serde_json::to_vec_pretty(what)?)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Ok(text) = std::fs::read(path) else {
        return Ok(None);
    };
    let what = serde_json::from_slice(&text);
    what.map(Some)
        .with_context(|| format!("{}, which another version wrote", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            pid: 1,
            what: "Linux".into(),
            login: vec!["ssh".into()],
            forwards: Vec::new(),
            share: None,
            gdb: None,
        }
    }

    fn place() -> Result<(tempfile::TempDir, Place)> {
        let dir = tempfile::tempdir()?;
        let place = Place::of(&Cache::at(dir.path()), "mine");
        Ok((dir, place))
    }

    #[test]
    fn a_vm_comes_is_up_and_ends() -> Result<()> {
        let (_dir, place) = place()?;
        assert!(matches!(place.look()?, Found::Nothing));
        let claim = place.claim()?;
        assert!(matches!(place.look()?, Found::Coming));
        claim.up(&state())?;
        assert!(matches!(place.look()?, Found::Up(found) if found.what == "Linux"));
        let refused = place.claim().err().context("two in one place")?;
        assert!(
            refused.to_string().contains("down --name mine"),
            "{refused}"
        );
        claim.ended(&Ended::default())?;
        assert!(matches!(
            place.look()?,
            Found::Gone(Ended { why: None, .. })
        ));
        place.forget()?;
        assert!(matches!(place.look()?, Found::Nothing));
        Ok(())
    }

    #[test]
    fn one_that_was_killed_is_gone_and_its_place_can_be_had() -> Result<()> {
        let (_dir, place) = place()?;
        std::fs::create_dir_all(&place.dir)?;
        write(&place.path("state"), &state())?;
        std::fs::write(place.path("key"), "secret")?;
        let killed = |ended: &Ended| ended.why.as_ref().is_some_and(|why| why.contains("killed"));
        assert!(matches!(place.look()?, Found::Gone(ended) if killed(&ended)));
        let claim = place.claim()?;
        assert!(!place.path("key").exists() && !place.path("state").exists());
        drop(claim);
        assert!(!place.dir.exists());
        Ok(())
    }

    #[test]
    fn places_are_found_by_their_names() -> Result<()> {
        let (dir, place) = place()?;
        let cache = Cache::at(dir.path());
        assert!(Place::all(&cache).is_empty());
        let _claim = place.claim()?;
        let all = Place::all(&cache);
        assert_eq!(all.iter().map(Place::name).collect::<Vec<_>>(), ["mine"]);
        assert_eq!(place.option(), " --name mine");
        assert_eq!(Place::of(&cache, USUAL).option(), "");
        Ok(())
    }
}
