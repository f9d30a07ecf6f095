// SPDX-License-Identifier: GPL-2.0
//! `cargo testbed image`: a disk image that boots by itself, in any QEMU or libvirt, with `rxe0` up on our driver. It is
//! the guest as every VM of the testbed has it, with what an ordinary machine has besides: systemd, a network, an ssh
//! server, a boot loader.

mod key;
mod out;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::archive;
use crate::build::{self, Wanted, World};
use crate::chroot::Bind;
use crate::cli::ImageArguments;
use crate::host;
use crate::login;
use crate::process::{self, Scratch};
use crate::series::Series;
use crate::session::{self, Text};
use crate::ui::Step;
use out::Out;

/// What it has and not every guest, besides what it takes to log in.
const PACKAGES: &[&str] = &[
    "initramfs-tools",
    "systemd-resolved",
    "systemd-sysv",
    "zstd",
];

/// What the cache calls a root with these.
const ROOT: &str = "guestroot-image";

/// What makes a disk of a root, with the libraries that the chroot has not.
const TOOLS: &[&str] = &[
    "fdisk",
    "grub-common",
    "grub-pc-bin",
    "libdevmapper1.02.1",
    "libfdisk1",
    "qemu-utils",
];

/// What the cache calls these.
const TOOLS_KIND: &str = "imagetools";

const FILL_ROOT: &str = include_str!("../scripts/fill-root.sh");
const MAKE_DISK: &str = include_str!("../scripts/make-disk.sh");

/// The size of the disk in GiB. What is not used takes no room in the file.
const DISK: u32 = 8;

/// Free space in the cache that making one takes.
const SPACE: u64 = 3 << 30;

/// The machine's name, which is also that of its file system.
const NAME: &str = "hmm-odp";

/// What is said to who logs in.
const MOTD: &str = "
rxe0 is soft-RoCE on the driver of hmm-odp. Its GID is index 1, its address 10.77.0.1.
  rxe-driver stock|ours|none      another driver
  odp-demo, odp-test, odp-bench   show what it does, test it, measure it

";

/// Files that are the same in each.
const TEXTS: &[(&str, &str)] = &[
    ("boot/grub/grub.cfg", include_str!("../image/grub.cfg")),
    ("etc/fstab", include_str!("../image/fstab")),
    (
        "etc/initramfs-tools/modules",
        include_str!("../image/initramfs-modules"),
    ),
    ("etc/initramfs-tools/conf.d/modules", "MODULES=list\n"),
    (
        "etc/systemd/network/ethernet.network",
        include_str!("../image/ethernet.network"),
    ),
    (
        "etc/systemd/system/rxe.service",
        include_str!("../image/rxe.service"),
    ),
    (
        "etc/systemd/system/sshd-keygen.service.d/image.conf",
        include_str!("../image/sshd-keygen.conf"),
    ),
    (
        "etc/systemd/system.conf.d/image.conf",
        include_str!("../image/system.conf"),
    ),
    (
        "etc/sysctl.d/hmm-odp.conf",
        include_str!("../image/sysctl.conf"),
    ),
    ("etc/motd", MOTD),
    ("etc/hosts", "127.0.0.1 localhost\n10.77.0.1 hmm-odp\n"),
    // On a console nobody is asked for a name: who has that has the disk.
    ("etc/credstore/agetty.autologin", "root\n"),
];

/// Makes one, and says where it is.
pub(crate) fn run(arguments: &ImageArguments, series: Option<Series>) -> Result<u8> {
    let out = Out::check(&arguments.out, arguments.force)?;
    let keys = key::read(&arguments.key)?;
    let world = build::ensure(Wanted {
        programs: true,
        ..Wanted::stock(series)
    })?;
    world.our_modules()?.expect_all()?;
    let scratch = world.cache.scratch()?;
    let made = make(&world, &scratch, &keys);
    // Not all files in it may be this user's.
    host::remove_tree(&scratch.path().join("root"));
    let size = out.take(&made?)?;
    println!("{} ({})", arguments.out.display(), host::gib(size));
    Ok(0)
}

/// Makes one in `scratch`, with which one can log in with one of the `keys`; gives its file.
fn make(world: &World, scratch: &Scratch, keys: &str) -> Result<PathBuf> {
    host::check_space(&world.cache.path(""), SPACE)?;
    let root = root(world)?;
    let tools = world
        .chroot
        .unpacked(&world.cache, TOOLS_KIND, TOOLS)
        .context("downloading what makes a disk")?;
    fill(world, scratch.path(), &root, keys)?;
    let step = Step::start("making the disk image");
    let binds = [
        Bind::read(&tools, "/build/tools"),
        Bind::write(scratch.path(), "/build/out"),
    ];
    let size = DISK.to_string();
    let command = world.chroot.script(&binds, MAKE_DISK, &[NAME, &size]);
    process::run_logged(command, &world.cache.log("disk"), &step)
        .context("making the disk image")?;
    step.done();
    Ok(scratch.path().join("disk.qcow2"))
}

/// The root with the packages that it has.
pub(crate) fn root(world: &World) -> Result<PathBuf> {
    let own: Vec<String> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
    let packages = login::with_packages(&own);
    world.guest.root_with(&world.cache, ROOT, &packages)
}

/// Makes the root of one in `folder`.
fn fill(world: &World, folder: &Path, root: &Path, keys: &str) -> Result<()> {
    let step = Step::start("filling the image's root");
    let archive = folder.join("session.tar");
    session::write_archive(&archive, world, true, &texts(&world.guest.suite, keys), &[])?;
    let modules = world.kernel.modules();
    let binds = [
        Bind::read(root, "/build/root"),
        Bind::read(&modules, "/build/modules"),
        Bind::write(folder, "/build/out"),
    ];
    let release = &*world.kernel.version.release;
    let command = world.chroot.script(&binds, FILL_ROOT, &[release]);
    process::run_logged(command, &world.cache.log("fill-root"), &step)
        .context("filling the image's root")?;
    step.done();
    Ok(())
}

/// The files that an image has and no other guest.
fn texts(suite: &str, keys: &str) -> Vec<Text> {
    let text = |guest, text: &str| Text {
        guest,
        text: text.to_owned(),
        mode: 0o644,
    };
    let mut all: Vec<Text> = TEXTS
        .iter()
        .map(|(guest, content)| text(guest, content))
        .collect();
    all.push(text("etc/hostname", &format!("{NAME}\n")));
    let sources = archive::public_sources(suite).join("\n");
    all.push(text("etc/apt/sources.list", &format!("{sources}\n")));
    if !keys.is_empty() {
        all.push(text("etc/credstore/ssh.authorized_keys.root", keys));
    }
    all
}
