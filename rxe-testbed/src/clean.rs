// SPDX-License-Identifier: GPL-2.0
//! `clean`: what can be rebuilt from what was downloaded, or the whole cache.

use anyhow::{bail, Result};

use crate::cache::Cache;
use crate::host;

/// What is rebuilt without the network: our modules and programs, images, logs, results.
const REBUILT: &[&str] = &[
    "modules",
    "programs",
    "selftests",
    "image",
    "initramfs",
    "stage-build",
    "stage-clippy",
    "target",
    "logs",
    "results",
    "run",
    "tmp",
    "kvm-verdict",
    "programs-failed",
];

/// What takes downloads.
const DOWNLOADED: &[&str] = &[
    "chroot",
    "kernel",
    "guestroot",
    "ucx",
    "kernels.json",
    "kernel-version.json",
    "epoch",
];

/// Cleans the cache, `all` of it or only what is quickly rebuilt.
pub(crate) fn run(all: bool) -> Result<u8> {
    let cache = Cache::open()?;
    let _building = cache.lock_build()?;
    let Some(_unused) = cache.try_lock_unused()? else {
        bail!("a VM is running on the cache: end it first");
    };
    let downloaded = if all { DOWNLOADED } else { &[] };
    let before = host::free_space(&cache.path(""))?;
    for kind in REBUILT.iter().chain(downloaded) {
        for path in cache.all_of(kind) {
            host::remove_tree(&path);
        }
    }
    let freed = host::free_space(&cache.path(""))?.saturating_sub(before);
    println!("freed {} in {}", host::gib(freed), cache.path("").display());
    Ok(0)
}
