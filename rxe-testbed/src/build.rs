// SPDX-License-Identifier: GPL-2.0
//! Everything that a VM needs, in the order in which it is built.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::{self, Cache, UseLock, EPOCH};
use crate::cargo::Cargo;
use crate::chroot::Chroot;
use crate::guest::Guest;
use crate::host;
use crate::kernel::{self, Choice, Kernel, Variant};
use crate::modules::Modules;
use crate::programs::Programs;
use crate::repository::Repository;
use crate::series::{self, Series};

/// Free space that a build from nothing needs, and what one VM and a rebuild need later.
const SPACE_FIRST: u64 = 8 << 30;
const SPACE_LATER: u64 = 1 << 30;

/// The free space that the next build needs.
pub(crate) fn space_needed(cache: &Cache) -> u64 {
    if cache.artefacts("chroot").is_empty() {
        SPACE_FIRST
    } else {
        SPACE_LATER
    }
}

/// What is asked of a build.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The kernel.
    pub(crate) kernel: Choice,
    /// The repository's modules.
    pub(crate) modules: bool,
    /// userspace-bench's programs. Without them a failure to build them is only a remark.
    pub(crate) programs: bool,
    /// Debian packages that the guest has beyond those that every guest has.
    pub(crate) packages: Vec<String>,
}

impl Wanted {
    /// Debian's own kernel of `series`, with our modules, and a guest like every other.
    pub(crate) fn stock(series: Option<Series>) -> Self {
        Self {
            kernel: Choice {
                series,
                variant: Variant::Stock,
            },
            modules: true,
            programs: false,
            packages: Vec::new(),
        }
    }
}

/// All artefacts of a VM.
pub(crate) struct World {
    pub(crate) cache: Cache,
    pub(crate) repository: Repository,
    pub(crate) chroot: Chroot,
    pub(crate) kernel: Kernel,
    pub(crate) guest: Guest,
    /// Our modules, if they were wanted.
    pub(crate) modules: Option<Modules>,
    /// Our programs for the guest.
    pub(crate) programs: Programs,
    /// Nobody removes the artefacts while they are held here.
    _in_use: UseLock,
}

impl World {
    /// Compiles our modules; gives the directory where Kbuild left what it made, for those who need more than the modules.
    pub(crate) fn compile(&self) -> Result<PathBuf> {
        self.our_modules()?
            .compile(&self.cache, &self.repository, &self.chroot, &self.kernel)
    }

    /// Our modules, which have to be among what was wanted.
    pub(crate) fn our_modules(&self) -> Result<&Modules> {
        self.modules
            .as_ref()
            .context("our modules were not asked for")
    }

    /// The chroot's cargo.
    pub(crate) fn cargo(&self) -> Cargo<'_> {
        Cargo {
            cache: &self.cache,
            repository: &self.repository,
            chroot: &self.chroot,
        }
    }
}

/// Builds what is missing.
pub(crate) fn ensure(wanted: Wanted) -> Result<World> {
    if let Some(series) = wanted.kernel.series {
        series::check_age(series)?;
    }
    let cache = Cache::open()?;
    let repository = Repository::find()?;
    let _building = cache.lock_build()?;
    let (chroot, epoch) = prepare(&cache, &repository)?;
    let kernel = Kernel::ensure(&cache, &chroot, &epoch, wanted.kernel)?;
    let guest = Guest::ensure(&cache, &chroot, &kernel, &epoch, &wanted.packages)?;
    let modules = wanted
        .modules
        .then(|| Modules::ensure(&cache, &repository, &chroot, &kernel))
        .transpose()?;
    let programs = Programs::ensure(&cache, &repository, &chroot, wanted.programs)?;
    // Before the build lock is given up, so that there is no moment in between.
    let in_use = cache.lock_use()?;
    Ok(World {
        cache,
        repository,
        chroot,
        kernel,
        guest,
        modules,
        programs,
        _in_use: in_use,
    })
}

/// The chroot and the epoch, for whoever holds the build lock.
pub(crate) fn prepare(cache: &Cache, repository: &Repository) -> Result<(Chroot, String)> {
    let epoch = epoch(cache)?;
    if cache.artefacts("chroot").is_empty() {
        host::check_distribution()?;
    }
    host::check_space(&cache.path(""), space_needed(cache))?;
    let chroot = Chroot::ensure(cache, repository, &epoch)?;
    Ok((chroot, epoch))
}

/// What is in the cache of all that a VM takes.
#[derive(Clone, Debug)]
pub(crate) struct AtHand {
    pub(crate) kernel: Kernel,
    /// The guest's root, as a directory.
    pub(crate) guest: PathBuf,
    /// Our modules, of the sources as they are.
    pub(crate) modules: bool,
    /// Our programs, of the sources as they are.
    pub(crate) programs: Option<Programs>,
}

/// What could be booted without building anything; nothing if something is missing that every VM takes.
pub(crate) fn at_hand(
    cache: &Cache,
    repository: &Repository,
    series: Option<Series>,
) -> Option<AtHand> {
    let epoch = std::fs::read_to_string(cache.path(EPOCH)).ok()?;
    let epoch = epoch.trim();
    let chroot = Chroot::at_hand(cache, repository, epoch)?;
    let kernel = kernel::at_hand(cache, &chroot, series)?;
    Some(AtHand {
        guest: Guest::root_at_hand(cache, &kernel, epoch)?,
        modules: Modules::is_at_hand(cache, repository, &kernel),
        programs: Programs::at_hand(cache, repository, &chroot),
        kernel,
    })
}

/// A name for the state of the archive that this cache was built from. `build --update` begins a
/// new one, and with it everything is built anew.
fn epoch(cache: &Cache) -> Result<String> {
    let path = cache.path(EPOCH);
    if let Ok(epoch) = std::fs::read_to_string(&path) {
        return Ok(epoch.trim().to_owned());
    }
    new_epoch(cache)
}

/// Begins a new state of the archive.
pub(crate) fn new_epoch(cache: &Cache) -> Result<String> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .context("the clock is before 1970")?;
    let epoch = now.as_secs().to_string();
    cache::write_atomically(&cache.path(EPOCH), epoch.as_bytes())?;
    Ok(epoch)
}
