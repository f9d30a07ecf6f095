// SPDX-License-Identifier: GPL-2.0
//! The kernel: its packages and its source tree; and the debug kernel that is built from the same
//! source. Which one it is, is decided in `series`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::cache::{Cache, Key};
use crate::chroot::{Bind, Chroot};
use crate::host;
use crate::memory::Memory;
use crate::process;
use crate::series::{self, Chosen, Series, Supply, Version};
use crate::ui::{self, Step};

/// The Debian flavour: `cloud-amd64` has no soft-RoCE.
const FLAVOUR: &str = "amd64";

/// The debug kernel's flavour.
const DEBUG_FLAVOUR: &str = "debug";

/// The compilers as the chroot has them: Debian's own for Debian's kernel, and the one that the
/// debug kernel brings along.
const STOCK_COMPILER: &str = "x86_64-linux-gnu-gcc-14";
const DEBUG_COMPILER: &str = "/build/kernel/clang/usr/bin/clang-19";

/// How many times longer than on the stock kernel things may take on the debug kernel.
const DEBUG_PATIENCE: u32 = 6;

/// Free space that one kernel with its source takes, and compiling the debug kernel.
const SPACE_STOCK: u64 = 4 << 30;
const SPACE_DEBUG: u64 = 6 << 30;

/// What is remembered of the archive's kernels.
pub(crate) const MEMORY: &str = "kernels.json";

const RESOLVE: &str = include_str!("../scripts/resolve-kernel.sh");
const PREPARE: &str = include_str!("../scripts/prepare-kernel.sh");
const BUILD_DEBUG: &str = include_str!("../scripts/build-debug-kernel.sh");
const DEBUG_CONFIG: &str = include_str!("../scripts/debug.config");

/// The build of the kernel that a VM boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Variant {
    /// Debian's own
    Stock,
    /// One from the same source with the kernel's checks: KASAN, lockdep, kmemleak, ...
    Debug,
}

impl Variant {
    /// The time limit for what may take `time` on the stock kernel.
    pub(crate) fn patience(self, time: Duration) -> Duration {
        match self {
            Self::Stock => time,
            Self::Debug => time * DEBUG_PATIENCE,
        }
    }

    /// What the kernel's command line has more than that of the stock kernel.
    pub(crate) fn command_line(self) -> String {
        match self {
            Self::Stock => String::new(),
            // Every bad access is told, not only the first; and programs in the guest wait longer.
            Self::Debug => format!(" kasan_multi_shot testbed.patience={DEBUG_PATIENCE}"),
        }
    }
}

/// The kernel that is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    /// The series, if not the newest.
    pub(crate) series: Option<Series>,
    /// The build of it.
    pub(crate) variant: Variant,
}

/// A kernel with its modules and its prepared source tree.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// Which one it is.
    pub(crate) version: Version,
    /// Which build of it.
    pub(crate) variant: Variant,
    dir: PathBuf,
    key: Key,
}

impl Kernel {
    /// Gives the kernel, downloading and preparing it if need be.
    pub(crate) fn ensure(
        cache: &Cache,
        chroot: &Chroot,
        epoch: &str,
        choice: Choice,
    ) -> Result<Self> {
        let stock = Self::stock(cache, chroot, epoch, choice.series)?;
        match choice.variant {
            Variant::Stock => Ok(stock),
            Variant::Debug => stock.debug(cache, chroot),
        }
    }

    fn stock(cache: &Cache, chroot: &Chroot, epoch: &str, series: Option<Series>) -> Result<Self> {
        let place = |version: &Version| place(cache, chroot, version);
        let is_prepared = |version: &Version| place(version).exists();
        let now = seconds()?;
        let before = Memory::read(&cache.path(MEMORY));
        let ask = || ask_archive(cache, chroot);
        let (mut memory, chosen) = before
            .clone()
            .choose(now, epoch, series, is_prepared, ask)?;
        let prepared = chosen.and_then(|Chosen { version, remark }| {
            if let Some(remark) = remark {
                ui::note(&remark);
            }
            let result = Self::prepare(cache, chroot, &version).map(|()| version.clone());
            result.or_else(|error| {
                let instead = memory.put_off(now, &version, series, is_prepared);
                let instead = instead.ok_or_else(|| error.context(failing(&version)))?;
                ui::note(&staying(&version, &instead));
                Ok(instead)
            })
        });
        if let Ok(version) = &prepared {
            memory.known.has_worked(version);
        }
        if memory != before {
            memory.write(&cache.path(MEMORY))?;
        }
        let version = prepared?;
        Ok(Self {
            dir: place(&version),
            key: key(chroot, &version),
            variant: Variant::Stock,
            version,
        })
    }

    fn prepare(cache: &Cache, chroot: &Chroot, version: &Version) -> Result<()> {
        let kind = own("kernel", version.series, Variant::Stock);
        let prepared = cache.ensure(&kind, &key(chroot, version), |target| {
            host::check_space(&cache.path(""), SPACE_STOCK)?;
            let step = Step::start(format!("preparing the kernel {}", version.release));
            let jobs = host::processors().to_string();
            let binds = [Bind::write(target, "/build/kernel")];
            let series = version.series.to_string();
            let arguments = [&*series, &version.release, &version.package, &jobs];
            let command = chroot.script(&binds, PREPARE, &arguments);
            process::run_logged(command, &cache.log("kernel"), &step)?;
            step.done();
            Ok(())
        });
        prepared.map(drop)
    }

    /// The debug kernel, built from the source of this one if need be.
    fn debug(&self, cache: &Cache, chroot: &Chroot) -> Result<Self> {
        let variant = Variant::Debug;
        let version = Version {
            release: debug_release(&self.version.release),
            ..self.version.clone()
        };
        let key = Key::builder()
            .add("stock", self.key.as_str())
            .add("release", &version.release)
            .add_script("script", BUILD_DEBUG)
            .add_script("config", DEBUG_CONFIG)
            .finish();
        let dir = cache.ensure(&own("kernel", version.series, variant), &key, |target| {
            host::check_space(&cache.path(""), SPACE_DEBUG)?;
            let step = Step::start(format!(
                "compiling the debug kernel {} (a quarter of an hour on two processors)",
                version.release
            ));
            let jobs = host::processors().to_string();
            let binds = [
                Bind::read(&self.dir, "/build/stock"),
                Bind::write(target, "/build/kernel"),
            ];
            let arguments = [&*version.release, &jobs, DEBUG_CONFIG];
            let command = chroot.script(&binds, BUILD_DEBUG, &arguments);
            process::run_logged(command, &cache.log("kernel-debug"), &step)
                .context("building the debug kernel")?;
            step.done();
            Ok(())
        })?;
        Ok(Self {
            version,
            variant,
            dir,
            key,
        })
    }

    /// The name of something in the cache that each kernel has its own of.
    pub(crate) fn own(&self, name: &str) -> String {
        own(name, self.version.series, self.variant)
    }

    /// The kernel's key: part of the key of all that is built for it.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The directory that commands in the chroot see as `/build/kernel`.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The C compiler that the kernel was built with, as commands in the chroot name it.
    pub(crate) fn compiler(&self) -> &'static str {
        match self.variant {
            Variant::Stock => STOCK_COMPILER,
            Variant::Debug => DEBUG_COMPILER,
        }
    }

    /// The kernel's own modules with depmod's index: `lib/modules/RELEASE` of the guest.
    pub(crate) fn modules(&self) -> PathBuf {
        self.dir
            .join("pkg/usr/lib/modules")
            .join(&self.version.release)
    }

    /// The kernel image.
    pub(crate) fn image(&self) -> PathBuf {
        self.modules().join("vmlinuz")
    }
}

/// A release's name with the debug kernel's flavour instead of Debian's.
fn debug_release(release: &str) -> String {
    let base = release.strip_suffix(FLAVOUR).unwrap_or(release);
    format!("{base}{DEBUG_FLAVOUR}")
}

fn own(name: &str, series: Series, variant: Variant) -> String {
    match variant {
        Variant::Stock => format!("{name}-{series}"),
        Variant::Debug => format!("{name}-{series}-debug"),
    }
}

fn key(chroot: &Chroot, version: &Version) -> Key {
    Key::builder()
        .add("release", &version.release)
        .add("package", &version.package)
        .add_script("script", PREPARE)
        .add("chroot", chroot.key().as_str())
        .finish()
}

/// Where the kernel is, or would be.
fn place(cache: &Cache, chroot: &Chroot, version: &Version) -> PathBuf {
    let kind = own("kernel", version.series, Variant::Stock);
    cache.artefact(&kind, &key(chroot, version))
}

/// The kernel that would be taken now, if that is known and it is there: for those who may build nothing.
pub(crate) fn at_hand(cache: &Cache, chroot: &Chroot, series: Option<Series>) -> Option<Kernel> {
    let is_prepared = |version: &Version| place(cache, chroot, version).exists();
    let known = Memory::read(&cache.path(MEMORY)).known;
    let version = known.choose_prepared(series, is_prepared)?;
    Some(Kernel {
        dir: place(cache, chroot, &version),
        key: key(chroot, &version),
        variant: Variant::Stock,
        version,
    })
}

/// Which kernels there are. The archive is asked as it is when one of them is wanted.
pub(crate) fn supply(cache: &Cache, chroot: &Chroot, epoch: &str) -> Result<Vec<Supply>> {
    let is_prepared = |version: &Version| place(cache, chroot, version).exists();
    let before = Memory::read(&cache.path(MEMORY));
    let ask = || ask_archive(cache, chroot);
    let (memory, _) = before
        .clone()
        .choose(seconds()?, epoch, None, is_prepared, ask)?;
    if memory != before {
        memory.write(&cache.path(MEMORY))?;
    }
    Ok(memory.known.supply(is_prepared))
}

fn failing(version: &Version) -> String {
    format!("preparing the kernel {}", version.release)
}

fn staying(wanted: &Version, instead: &Version) -> String {
    format!(
        "the kernel {} cannot be prepared, staying with {}",
        wanted.release, instead.release
    )
}

fn seconds() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now.context("the clock is before 1970")?.as_secs())
}

/// Reads the archive's package lists. Lists that came with the chroot a moment ago are good enough.
fn ask_archive(cache: &Cache, chroot: &Chroot) -> Result<Vec<Version>> {
    let step = Step::start("looking for the newest kernels in the archive");
    let lists = chroot.path("/var/lib/apt/lists");
    let age = std::fs::metadata(lists)
        .and_then(|metadata| metadata.modified())
        .ok()
        .and_then(|time| time.elapsed().ok());
    let update = age.is_none_or(|age| age > Duration::from_secs(60 * 60));
    let update = if update { "yes" } else { "no" };
    let command = chroot.script(&[], RESOLVE, &[FLAVOUR, update]);
    let log = cache.log("kernel-version");
    process::run_logged(command, &log, &step).context("reading the archive's package lists")?;
    let versions = series::available(&process::read_lossy(&log)?, FLAVOUR);
    step.done();
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_has_things_of_its_own() {
        assert_eq!(debug_release("7.2.12+deb13-amd64"), "7.2.12+deb13-debug");
        let series = Series::newest();
        let stock = own("image", series, Variant::Stock);
        assert_eq!(stock, format!("image-{series}"));
        let debug = own("image", series, Variant::Debug);
        assert_eq!(debug, format!("image-{series}-debug"));
    }
}
