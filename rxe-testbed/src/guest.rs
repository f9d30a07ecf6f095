// SPDX-License-Identifier: GPL-2.0
//! The guest: a small Debian root with rdma-core, as a disk image, and the initramfs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::archive;
use crate::cache::{mark_used, Cache, Key};
use crate::chroot::{Bind, Chroot};
use crate::host;
use crate::kernel::Kernel;
use crate::process;
use crate::ui::{self, Step};

const PACKAGES: &[&str] = &[
    "e2fsprogs",
    "ethtool",
    "ibverbs-providers",
    "ibverbs-utils",
    "iproute2",
    "kmod",
    "libfabric-bin",
    "perftest",
    "procps",
    "python3-jsonschema",
    "python3-pyverbs",
    "python3-scapy",
    "rdma-core",
    "rdmacm-utils",
    "strace",
];

const MAKE_IMAGE: &str = include_str!("../scripts/make-image.sh");
const MAKE_INITRAMFS: &str = include_str!("../scripts/make-initramfs.sh");
const INIT: &str = include_str!("../guest/init.sh");

/// How many guests with more packages than every one has stay in the cache.
const KEPT: usize = 3;

/// The files that a VM boots from.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// The root file system; never written to.
    pub(crate) image: PathBuf,
    /// The initramfs.
    pub(crate) initramfs: PathBuf,
    /// The root as a directory.
    pub(crate) root: PathBuf,
    /// The Debian suite of the root.
    pub(crate) suite: String,
}

impl Guest {
    /// Gives the guest's files, building what is missing. It has `more` packages than every guest.
    pub(crate) fn ensure(
        cache: &Cache,
        chroot: &Chroot,
        kernel: &Kernel,
        epoch: &str,
        more: &[String],
    ) -> Result<Self> {
        let contents = Contents::new(more);
        let (root, suite) = root(cache, epoch, &contents)?;
        let image = image(cache, chroot, kernel, &root, &contents)?;
        let initramfs = initramfs(cache, chroot, kernel)?;
        Ok(Self {
            image,
            initramfs,
            root,
            suite,
        })
    }

    /// A root of the same suite and day with `more` packages, which the cache keeps as `kind`.
    pub(crate) fn root_with(
        &self,
        cache: &Cache,
        kind: &'static str,
        more: &[String],
    ) -> Result<PathBuf> {
        let _building = cache.lock_build()?;
        let contents = Contents {
            root: kind,
            kept: 1,
            ..Contents::new(more)
        };
        // The root's name ends in its own key, in which the day is.
        let name = self.root.file_name().unwrap_or_default();
        let key = Key::builder()
            .add("root", name.as_encoded_bytes())
            .add("packages", contents.packages.join(","))
            .finish();
        bootstrap(cache, &self.suite, &key, &contents)
    }

    /// The root as a directory, if `ensure` would have nothing to build.
    pub(crate) fn root_at_hand(cache: &Cache, kernel: &Kernel, epoch: &str) -> Option<PathBuf> {
        let (root, _) = existing_root(cache, epoch, &Contents::new(&[]))?;
        let is_there = |kind: &str, key: &Key| cache.artefact(&kernel.own(kind), key).exists();
        let all = is_there("image", &image_key(kernel, &root))
            && is_there("initramfs", &initramfs_key(kernel));
        all.then_some(root)
    }
}

/// What a guest consists of, and what it is called in the cache. Guests with more packages than every one has do not
/// take the place of those without.
struct Contents {
    packages: Vec<String>,
    root: &'static str,
    image: &'static str,
    /// How many of the kind the cache keeps.
    kept: usize,
}

impl Contents {
    fn new(more: &[String]) -> Self {
        let mut packages: Vec<String> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
        let mut more: Vec<String> = more.to_vec();
        more.retain(|name| !packages.contains(name));
        more.sort();
        more.dedup();
        let (root, image, kept) = match more.is_empty() {
            true => ("guestroot", "image", 1),
            false => ("guestroot-more", "image-more", KEPT),
        };
        packages.extend(more);
        Self {
            packages,
            root,
            image,
            kept,
        }
    }
}

fn root_key(suite: &str, epoch: &str, contents: &Contents) -> Key {
    Key::builder()
        .add("packages", contents.packages.join(","))
        .add("sources", archive::guest_sources(suite).join("\n"))
        .add("epoch", epoch)
        .finish()
}

/// The key of an image. The root's name ends in its own key: where the cache is, is nothing to the image.
fn image_key(kernel: &Kernel, root: &Path) -> Key {
    let name = root.file_name().unwrap_or_default();
    Key::builder()
        .add("root", name.as_encoded_bytes())
        .add("kernel", kernel.key().as_str())
        .add_script("script", MAKE_IMAGE)
        .finish()
}

fn initramfs_key(kernel: &Kernel) -> Key {
    Key::builder()
        .add("kernel", kernel.key().as_str())
        .add_script("script", MAKE_INITRAMFS)
        .add_script("init", INIT)
        .finish()
}

/// The root that was built, of the best suite if there are two.
fn existing_root(cache: &Cache, epoch: &str, contents: &Contents) -> Option<(PathBuf, String)> {
    archive::GUEST_SUITES.iter().find_map(|suite| {
        let root = cache.artefact(contents.root, &root_key(suite, epoch, contents));
        root.exists().then(|| (root, (*suite).into()))
    })
}

/// The root of the best suite that can be had. One that was built before wins over a better one
/// that could not be built then: nothing changes without `build --update`.
fn root(cache: &Cache, epoch: &str, contents: &Contents) -> Result<(PathBuf, String)> {
    if let Some(existing) = existing_root(cache, epoch, contents) {
        mark_used(&existing.0);
        return Ok(existing);
    }
    let mut problem = None;
    for suite in archive::GUEST_SUITES {
        if let Some(error) = &problem {
            ui::note(&format!("falling back to {suite} for the guest: {error:#}"));
        }
        let key = root_key(suite, epoch, contents);
        match bootstrap(cache, suite, &key, contents) {
            Ok(root) => return Ok((root, (*suite).into())),
            Err(error) => problem = Some(error),
        }
    }
    Err(problem.unwrap_or_else(|| anyhow::anyhow!("no suite for the guest")))
        .context("building the guest")
}

fn bootstrap(cache: &Cache, suite: &str, key: &Key, contents: &Contents) -> Result<PathBuf> {
    cache.ensure_among(contents.kept, contents.root, key, |target| {
        let step = Step::start(format!("building the guest's root ({suite}, rdma-core)"));
        host::ensure_packages(&cache.log("apt"))?;
        let packages: Vec<&str> = contents.packages.iter().map(String::as_str).collect();
        let command = archive::mmdebstrap(
            &packages,
            suite,
            target,
            &archive::guest_sources(suite),
            false,
        );
        process::run_logged(command, &cache.log("guestroot"), &step)?;
        step.done();
        Ok(())
    })
}

/// The disk image with the root and the kernel's own modules.
fn image(
    cache: &Cache,
    chroot: &Chroot,
    kernel: &Kernel,
    root: &Path,
    contents: &Contents,
) -> Result<PathBuf> {
    let kind = kernel.own(contents.image);
    let key = image_key(kernel, root);
    let dir = cache.ensure_among(contents.kept, &kind, &key, |target| {
        let step = Step::start("building the guest's disk image");
        let release = &*kernel.version.release;
        let modules = kernel.modules();
        let inside = format!("/build/root/usr/lib/modules/{release}");
        let binds = [
            Bind::write(root, "/build/root"),
            Bind::read(&modules, &inside),
            Bind::write(target, "/build/out"),
        ];
        let command = chroot.script(&binds, MAKE_IMAGE, &["/build/root", "/build/out/root.img"]);
        process::run_logged(command, &cache.log("image"), &step)
            .context("building the disk image")?;
        step.done();
        Ok(())
    })?;
    Ok(dir.join("root.img"))
}

fn initramfs(cache: &Cache, chroot: &Chroot, kernel: &Kernel) -> Result<PathBuf> {
    let dir = cache.ensure(&kernel.own("initramfs"), &initramfs_key(kernel), |target| {
        let step = Step::start("building the initramfs");
        std::fs::write(target.join("init"), INIT).context("writing the initramfs's init")?;
        let binds = [
            Bind::read(kernel.dir(), "/build/kernel"),
            Bind::write(target, "/build/out"),
        ];
        let arguments = [&*kernel.version.release, "/build/out/initramfs.cpio"];
        let command = chroot.script(&binds, MAKE_INITRAMFS, &arguments);
        process::run_logged(command, &cache.log("initramfs"), &step)
            .context("building the initramfs")?;
        step.done();
        Ok(())
    })?;
    Ok(dir.join("initramfs.cpio"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_with_more_is_another_one() {
        let key = |more: &[&str]| {
            let more: Vec<String> = more.iter().map(|name| (*name).to_owned()).collect();
            let contents = Contents::new(&more);
            (contents.root, root_key("forky", "1", &contents))
        };
        let plain = key(&[]);
        assert_eq!(plain.0, "guestroot");
        assert_eq!(key(&["strace"]), plain);
        assert_eq!(key(&["gdb", "perf", "gdb"]), key(&["perf", "gdb"]));
        assert_ne!(key(&["gdb"]).0, plain.0);
        assert_ne!(key(&["gdb"]), key(&["perf"]));
        assert_eq!(Contents::new(&["gdb".into()]).kept, KEPT);
    }
}
