// SPDX-License-Identifier: GPL-2.0
//! `clean`: what can be rebuilt from what was downloaded, or the whole cache. What nobody could download again stays.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{bail, Result};

use crate::cache::Cache;
use crate::host;
use crate::kernel;
use crate::memory::Memory;
use crate::qemu;
use crate::series::Version;
use crate::stay::place::{Found, Place};

/// What is rebuilt without the network: our modules and programs, images, logs, results.
const REBUILT: &[&str] = &[
    "modules",
    "modules-part",
    "programs",
    "selftests",
    "image",
    "image-more",
    "initramfs",
    "stage-build",
    "stage-clippy",
    "target",
    "logs",
    "results",
    "run",
    "tmp",
    qemu::VERDICT,
    "programs-failed",
];

/// What else goes with `--all` and has no key in its name; what has one goes whatever its kind. Measurements stay.
const REST: &[&str] = &["kernel-version.json"];

/// What the kernels are of no use without.
const BELOW_KERNELS: &[&str] = &["chroot", kernel::MEMORY, "epoch"];

/// Cleans the cache, `all` of it or only what is quickly rebuilt.
pub(crate) fn run(all: bool) -> Result<u8> {
    let cache = Cache::open()?;
    let _building = cache.lock_build()?;
    let Some(_unused) = cache.try_lock_unused()? else {
        bail!("{}", in_use(&cache)?);
    };
    let before = host::free_space(&cache.path(""))?;
    let kept = kept(&cache);
    for path in goes(&cache, all, &kept) {
        host::remove_tree(&path);
    }
    let freed = host::free_space(&cache.path(""))?.saturating_sub(before);
    println!("freed {} in {}", host::gib(freed), cache.path("").display());
    if all {
        for (version, path) in kept {
            println!(
                "kept Linux {}, which the archive has no more, and what it needs; `rm -r {}` removes it",
                version.release,
                path.display()
            );
        }
    }
    Ok(0)
}

/// What to tell who cleans a cache that is used: how to end the VMs that stay, if there are any.
fn in_use(cache: &Cache) -> Result<String> {
    let mut commands = Vec::new();
    for place in Place::all(cache) {
        if matches!(place.look()?, Found::Up(_)) {
            commands.push(format!("`cargo testbed down{}`", place.option()));
        }
    }
    Ok(match commands.is_empty() {
        true => "a VM is running on the cache: end it first".into(),
        false => format!(
            "a VM is running on the cache: {} ends it",
            commands.join(" or ")
        ),
    })
}

/// The kernels that could not be downloaded again, and where they are.
pub(crate) fn kept(cache: &Cache) -> Vec<(Version, PathBuf)> {
    let known = Memory::read(&cache.path(kernel::MEMORY)).known;
    let gone = known.irreplaceable().iter();
    gone.flat_map(|version| {
        let places = cache.artefacts(&format!("kernel-{}", version.series));
        places.into_iter().map(|place| (version.clone(), place))
    })
    .collect()
}

/// What is removed.
fn goes(cache: &Cache, all: bool, kept: &[(Version, PathBuf)]) -> Vec<PathBuf> {
    let of = |kinds: &[&str]| -> BTreeSet<PathBuf> {
        kinds.iter().flat_map(|kind| cache.all_of(kind)).collect()
    };
    let mut paths = of(REBUILT);
    if all {
        paths.extend(of(REST));
        paths.extend(cache.complete());
        let below = of(BELOW_KERNELS);
        match kept.is_empty() {
            true => paths.extend(below),
            false => paths.retain(|path| !below.contains(path)),
        }
    }
    paths.retain(|path| !kept.iter().any(|(_, place)| place == path));
    paths.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    /// A cache with two kernels, of which the archive has no more the series in `gone`.
    fn cache(gone: &str) -> Result<(tempfile::TempDir, Cache)> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::at(dir.path());
        for kind in [
            "chroot",
            "kernel-7.2",
            "kernel-7.3",
            "kernel-7.3-debug",
            "guestroot",
            "modules-7.3",
            "browser",
            "lintian",
            "qemu",
            "something-new",
        ] {
            std::fs::create_dir(cache.path(format!("{kind}-{KEY}")))?;
        }
        let memory = format!(
            r#"{{"known": {{"archive": [], "gone": [{gone}]}}, "epoch": "1", "ask_again_at": 0}}"#
        );
        std::fs::write(cache.path(kernel::MEMORY), memory)?;
        std::fs::write(cache.path("epoch"), "1")?;
        Ok((dir, cache))
    }

    fn left(cache: &Cache, all: bool) -> Result<Vec<String>> {
        for path in goes(cache, all, &kept(cache)) {
            host::remove_tree(&path);
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(cache.path(""))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            names.push(name.trim_end_matches(&format!("-{KEY}")).to_owned());
        }
        names.sort();
        Ok(names)
    }

    const GONE: &str = r#"{"series": "7.2", "release": "7.2.12-amd64", "package": "7.2.12-1"}"#;

    #[test]
    fn what_was_downloaded_stays() -> Result<()> {
        let (_dir, cache) = cache("")?;
        let kernels = [
            "kernel-7.2",
            "kernel-7.3",
            "kernel-7.3-debug",
            "kernels.json",
        ];
        let roots = ["browser", "chroot", "epoch", "guestroot"];
        let others = ["lintian", "qemu", "something-new"];
        let expected = [&roots[..], &kernels, &others].concat();
        assert_eq!(left(&cache, false)?, expected);
        assert!(left(&cache, true)?.is_empty());
        Ok(())
    }

    #[test]
    fn a_kernel_that_the_archive_has_no_more_stays_with_what_it_needs() -> Result<()> {
        let (_dir, cache) = cache(GONE)?;
        assert_eq!(
            left(&cache, true)?,
            ["chroot", "epoch", "kernel-7.2", "kernels.json"]
        );
        Ok(())
    }
}
