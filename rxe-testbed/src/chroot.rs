// SPDX-License-Identifier: GPL-2.0
//! The build chroot: Debian with the compilers, the kernel tools and QEMU.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::archive;
use crate::cache::{Cache, Key};
use crate::host;
use crate::process;
use crate::repository::Repository;
use crate::ui::Step;

/// What the kernel's modules, the initramfs, the disk image and the VM need.
const PACKAGES: &[&str] = &[
    "bc",
    "bindgen",
    "bison",
    "busybox-static",
    "ca-certificates",
    "cargo",
    "cpio",
    "e2fsprogs",
    "flex",
    "gcc-14",
    "kmod",
    "libclang-19-dev",
    "libelf-dev",
    "libssl-dev",
    "make",
    "pahole",
    "pkg-config",
    "python3",
    "qemu-system-x86",
    "rust-clippy",
    "rust-src",
    "rustc",
    "rustfmt",
    "xz-utils",
];

const ENTER: &str = include_str!("../scripts/enter-chroot.sh");
const UNPACK: &str = include_str!("../scripts/unpack-packages.sh");

/// Variables of the host that programs in the chroot may need to reach the network.
const PASSED_ON: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// The build chroot.
#[derive(Clone, Debug)]
pub(crate) struct Chroot {
    root: PathBuf,
    key: Key,
}

/// A directory of the host that a command in the chroot sees.
#[derive(Clone, Copy)]
pub(crate) struct Bind<'a> {
    host: &'a Path,
    inside: &'a str,
    mode: &'static str,
}

impl<'a> Bind<'a> {
    /// The command may only read it.
    pub(crate) fn read(host: &'a Path, inside: &'a str) -> Self {
        let mode = "ro";
        Self { host, inside, mode }
    }

    /// The command may change it.
    pub(crate) fn write(host: &'a Path, inside: &'a str) -> Self {
        let mode = "rw";
        Self { host, inside, mode }
    }
}

impl Chroot {
    /// Gives the chroot, building it if there is none for these packages and this `epoch`.
    pub(crate) fn ensure(cache: &Cache, repository: &Repository, epoch: &str) -> Result<Self> {
        let packages = packages(repository);
        let sources = archive::build_sources();
        let key = key(&packages, &sources, epoch);
        let root = cache.ensure("chroot", &key, |target| {
            let step = Step::start("building the Debian chroot with the compilers and QEMU");
            host::ensure_packages(&cache.log("apt"))?;
            host::check_namespaces()?;
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            let command =
                archive::mmdebstrap(&packages, archive::BUILD_SUITE, target, &sources, true);
            process::run_logged(command, &cache.log("chroot"), &step)
                .context("building the chroot")?;
            step.done();
            Ok(())
        })?;
        Ok(Self { root, key })
    }

    /// The chroot that `ensure` would give, if it is there.
    pub(crate) fn at_hand(cache: &Cache, repository: &Repository, epoch: &str) -> Option<Self> {
        let key = key(&packages(repository), &archive::build_sources(), epoch);
        let root = cache.artefact("chroot", &key);
        root.exists().then_some(Self { root, key })
    }

    /// Makes in `target` another root of the same suite and day, with nothing but `packages` and apt's lists.
    pub(crate) fn bare(
        &self,
        target: &Path,
        packages: &[&str],
        log: &Path,
        step: &Step,
    ) -> Result<Self> {
        let sources = archive::build_sources();
        let command = archive::mmdebstrap(packages, archive::BUILD_SUITE, target, &sources, true);
        process::run_logged(command, log, step)?;
        Ok(Self {
            root: target.to_owned(),
            key: self.key_beside(packages),
        })
    }

    /// Such a root that the cache keeps as `kind`.
    pub(crate) fn beside(&self, cache: &Cache, kind: &str, packages: &[&str]) -> Result<Self> {
        let _building = cache.lock_build()?;
        let key = self.key_beside(packages);
        let root = cache.ensure(kind, &key, |target| {
            let step = Step::start(format!("building a root with {}", packages.join(", ")));
            self.bare(target, packages, &cache.log(kind), &step)?;
            step.done();
            Ok(())
        })?;
        Ok(Self { root, key })
    }

    /// The files of `packages` of the chroot's suite, which are not installed there. The cache keeps them as `kind`.
    pub(crate) fn unpacked(&self, cache: &Cache, kind: &str, packages: &[&str]) -> Result<PathBuf> {
        let _building = cache.lock_build()?;
        let key = Key::builder()
            .add("chroot", self.key.as_str())
            .add_script("script", UNPACK)
            .add("packages", packages.join(","))
            .finish();
        cache.ensure(kind, &key, |target| {
            let step = Step::start(format!("downloading {kind}"));
            let binds = [Bind::write(target, "/build/out")];
            let command = self.script(&binds, UNPACK, packages);
            process::run_logged(command, &cache.log(kind), &step)
                .with_context(|| format!("downloading {kind}"))?;
            step.done();
            Ok(())
        })
    }

    fn key_beside(&self, packages: &[&str]) -> Key {
        Key::builder()
            .add("beside", self.key.as_str())
            .add("packages", packages.join(","))
            .finish()
    }

    /// The chroot's key: part of the key of all that is built with its tools.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// A file of the chroot as the host sees it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// A command that runs in the chroot and sees the given directories of the host.
    pub(crate) fn command(&self, binds: &[Bind<'_>], program: &[&str]) -> Command {
        let mut command = host::namespace();
        command
            .args(["/bin/sh", "-c", ENTER, "enter-chroot.sh"])
            .arg(&self.root);
        for bind in binds {
            let host = bind.host.display();
            command.arg(format!("{host}:{}:{}", bind.inside, bind.mode));
        }
        command.args(["--", "/usr/bin/env", "-i"]);
        command.args([
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "LANG=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]);
        for name in PASSED_ON {
            if let Ok(value) = std::env::var(name) {
                command.arg(format!("{name}={value}"));
            }
        }
        command.args(program);
        command
    }

    /// A command that runs a shell script of this crate in the chroot.
    pub(crate) fn script(&self, binds: &[Bind<'_>], script: &str, arguments: &[&str]) -> Command {
        let mut program = vec!["/bin/bash", "-c", script, "script"];
        program.extend(arguments);
        self.command(binds, &program)
    }
}

fn key(packages: &[String], sources: &[String], epoch: &str) -> Key {
    Key::builder()
        .add("packages", packages.join(","))
        .add("sources", sources.join("\n"))
        .add("epoch", epoch)
        .finish()
}

/// All packages of the chroot: ours and those that userspace-bench lists for itself.
fn packages(repository: &Repository) -> Vec<String> {
    let list = repository.path("userspace-bench/debian-packages.txt");
    let more = std::fs::read_to_string(list).unwrap_or_default();
    let mut packages: Vec<String> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
    packages.extend(package_list(&more));
    packages.sort();
    packages.dedup();
    packages
}

/// One package a line; `#` begins a comment.
fn package_list(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lists_may_have_comments() {
        let text = "# for bindgen\nlibclang-19-dev # of trixie\n\n  clang\n";
        assert_eq!(package_list(text), ["libclang-19-dev", "clang"]);
    }
}
