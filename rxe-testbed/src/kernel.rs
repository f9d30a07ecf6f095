// SPDX-License-Identifier: GPL-2.0
//! The kernel: which one (decided here and nowhere else), its packages, its source tree; and the
//! debug kernel that is built from the same source.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use crate::cache::{self, Cache, Key};
use crate::chroot::{Bind, Chroot};
use crate::host;
use crate::process;
use crate::ui::{self, Step};

/// The kernel series. `HMM_ODP_KERNEL_SERIES` names another one for a try.
const SERIES: &str = "7.2";

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

/// How long a resolved version is taken for the newest one.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// When to ask again after the archive could not be asked.
const RETRY: Duration = Duration::from_secs(60 * 60);

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
    /// The name of something in the cache that each variant has its own of.
    pub(crate) fn own(self, name: &str) -> String {
        match self {
            Self::Stock => name.into(),
            Self::Debug => format!("{name}-debug"),
        }
    }

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

/// Which kernel is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// As in `linux-source-7.2`.
    pub(crate) series: String,
    /// As `uname -r` says it: `7.2.12+deb13-amd64`.
    pub(crate) release: String,
    /// The packages' version: `7.2.12-1~bpo13+1`.
    pub(crate) package: String,
}

/// What is remembered between calls.
#[derive(Debug, Serialize, Deserialize)]
struct Resolution {
    version: Version,
    epoch: String,
    resolved_at: u64,
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
        variant: Variant,
    ) -> Result<Self> {
        let stock = Self::stock(cache, chroot, epoch)?;
        match variant {
            Variant::Stock => Ok(stock),
            Variant::Debug => stock.debug(cache, chroot),
        }
    }

    fn stock(cache: &Cache, chroot: &Chroot, epoch: &str) -> Result<Self> {
        let key_of = |version: &Version| key(chroot, version);
        let prepared = |version: &Version| cache.artefact("kernel", &key_of(version)).exists();
        let version = resolve(cache, chroot, epoch, prepared)?;
        let key = key_of(&version);
        let dir = cache.ensure("kernel", &key, |target| {
            let step = Step::start(format!("preparing the kernel {}", version.release));
            let jobs = host::processors().to_string();
            let binds = [Bind::write(target, "/build/kernel")];
            let arguments = [&*version.series, &version.release, &version.package, &jobs];
            let command = chroot.script(&binds, PREPARE, &arguments);
            process::run_logged(command, &cache.log("kernel"), &step)
                .with_context(|| format!("preparing the kernel {}", version.release))?;
            step.done();
            Ok(())
        })?;
        let variant = Variant::Stock;
        Ok(Self {
            version,
            variant,
            dir,
            key,
        })
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
            .add("script", BUILD_DEBUG)
            .add("config", DEBUG_CONFIG)
            .finish();
        let dir = cache.ensure(&variant.own("kernel"), &key, |target| {
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

fn series() -> String {
    std::env::var("HMM_ODP_KERNEL_SERIES")
        .ok()
        .filter(|series| !series.is_empty())
        .unwrap_or_else(|| SERIES.into())
}

fn key(chroot: &Chroot, version: &Version) -> Key {
    Key::builder()
        .add("release", &version.release)
        .add("package", &version.package)
        .add("script", PREPARE)
        .add("chroot", chroot.key().as_str())
        .finish()
}

/// The newest patch release of the series. As long as the last answer's kernel is there, it is
/// asked for at most once a day, and the last answer stands when asking fails.
fn resolve(
    cache: &Cache,
    chroot: &Chroot,
    epoch: &str,
    prepared: impl Fn(&Version) -> bool,
) -> Result<Version> {
    let path = cache.path("kernel-version.json");
    let known = std::fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Resolution>(&bytes).ok())
        .filter(|known| known.version.series == series() && known.epoch == epoch)
        .filter(|known| prepared(&known.version));
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs();
    let (version, resolved_at) = match known {
        Some(known) if now.saturating_sub(known.resolved_at) < FRESH.as_secs() => {
            return Ok(known.version);
        }
        Some(known) => match ask_archive(cache, chroot) {
            Ok(version) => (version, now),
            Err(error) => {
                ui::note(&format!(
                    "cannot look for a newer kernel, staying with {}: {}",
                    known.version.release,
                    error.root_cause()
                ));
                (known.version, now + RETRY.as_secs() - FRESH.as_secs())
            }
        },
        None => (ask_archive(cache, chroot)?, now),
    };
    let resolution = Resolution {
        version: version.clone(),
        epoch: epoch.into(),
        resolved_at,
    };
    cache::write_atomically(&path, &serde_json::to_vec_pretty(&resolution)?)?;
    Ok(version)
}

/// Reads the archive's package lists. Lists that came with the chroot a moment ago are good enough.
fn ask_archive(cache: &Cache, chroot: &Chroot) -> Result<Version> {
    let series = series();
    let step = Step::start(format!(
        "looking for the newest {series} kernel in the archive"
    ));
    let lists = chroot.path("/var/lib/apt/lists");
    let age = std::fs::metadata(lists)
        .and_then(|metadata| metadata.modified())
        .ok()
        .and_then(|time| time.elapsed().ok());
    let update = age.is_none_or(|age| age > Duration::from_secs(60 * 60));
    let update = if update { "yes" } else { "no" };
    let command = chroot.script(&[], RESOLVE, &[&series, FLAVOUR, update]);
    let log = cache.log("kernel-version");
    process::run_logged(command, &log, &step).context("reading the archive's package lists")?;
    let version = newest(&process::read_lossy(&log)?, &series, FLAVOUR)?;
    step.done();
    Ok(version)
}

/// Picks the newest release for which the archive has the headers and the source of one version.
fn newest(index: &str, series: &str, flavour: &str) -> Result<Version> {
    let entries = stanzas(index);
    let source = format!("linux-source-{series}");
    let prefix = format!("linux-headers-{series}.");
    let mut candidates: Vec<Version> = entries
        .iter()
        .filter(|(name, _)| name.starts_with(&prefix) && name.ends_with(flavour))
        .filter(|(_, version)| entries.contains(&(source.clone(), version.clone())))
        .map(|(name, version)| Version {
            series: series.into(),
            release: name.trim_start_matches("linux-headers-").into(),
            package: version.clone(),
        })
        .collect();
    candidates.sort_by(|a, b| {
        by_numbers(&a.release, &b.release).then(by_numbers(&a.package, &b.package))
    });
    match candidates.pop() {
        Some(version) => Ok(version),
        None => bail!(
            "the Debian archive has no kernel of series {series} (any more): set \
             HMM_ODP_KERNEL_SERIES to a newer series, or change SERIES in \
             rxe-testbed/src/kernel.rs"
        ),
    }
}

/// The (package, version) pairs of a Debian package index.
fn stanzas(index: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut package = None;
    for line in index.lines() {
        if let Some(name) = line.strip_prefix("Package: ") {
            package = Some(name.trim().to_owned());
        } else if let Some(version) = line.strip_prefix("Version: ") {
            if let Some(package) = package.take() {
                found.push((package, version.trim().to_owned()));
            }
        }
    }
    found
}

/// Compares the numbers in two version strings: 7.2.9 is older than 7.2.12.
fn by_numbers(a: &str, b: &str) -> Ordering {
    fn numbers(text: &str) -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect()
    }
    numbers(a).cmp(&numbers(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "\
Package: linux-source-7.2
Version: 7.2.12-1~bpo13+1
Depends: xz-utils

Package: linux-source-7.2
Version: 7.2.9-1~bpo13+1

Package: linux-headers-7.2.9+deb13-amd64
Source: linux
Version: 7.2.9-1~bpo13+1

Package: linux-headers-7.2.12+deb13-amd64
Version: 7.2.12-1~bpo13+1

Package: linux-headers-7.2.13+deb13-amd64
Version: 7.2.13-1~bpo13+1
";

    #[test]
    fn the_newest_complete_release_is_taken() -> Result<()> {
        let version = newest(INDEX, "7.2", "amd64")?;
        assert_eq!(version.release, "7.2.12+deb13-amd64");
        assert_eq!(version.package, "7.2.12-1~bpo13+1");
        Ok(())
    }

    #[test]
    fn a_series_that_is_gone_says_what_to_do() {
        let message = newest(INDEX, "7.1", "amd64").unwrap_err().to_string();
        assert!(message.contains("HMM_ODP_KERNEL_SERIES"), "{message}");
    }

    #[test]
    fn the_debug_kernel_has_a_name_of_its_own() {
        assert_eq!(debug_release("7.2.12+deb13-amd64"), "7.2.12+deb13-debug");
        assert_eq!(Variant::Stock.own("image"), "image");
        assert_eq!(Variant::Debug.own("image"), "image-debug");
    }

    #[test]
    fn patch_releases_compare_as_numbers() {
        assert_eq!(by_numbers("7.2.9+deb13", "7.2.12+deb13"), Ordering::Less);
        assert_eq!(by_numbers("7.2.12", "7.2.12"), Ordering::Equal);
    }
}
