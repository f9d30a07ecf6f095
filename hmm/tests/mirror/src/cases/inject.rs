// SPDX-License-Identifier: GPL-2.0
//! Every allocation fails once: the call fails with ENOMEM or does without, and all is well after.
//!
//! `fail-nth` makes the n-th allocation of this thread fail, of those that hmm's modules have a part
//! in. For each of a mirror's operations n goes up until the operation has no n-th allocation.

use std::cell::Cell;
use std::io;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};

use super::scene::{Scene, CPU, DEVICE};
use crate::device::{Device, Want};
use crate::memory::{Advice, Area, HUGE, PAGE};
use crate::process::Child;
use crate::system::{debugfs, get, huge_pages_on_request, module_code, set};
use crate::{Case, Skip};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "inject/open",
        run: open,
    },
    Case {
        name: "inject/access",
        run: access,
    },
    Case {
        name: "inject/prefetch",
        run: prefetch,
    },
    Case {
        name: "inject/huge-pages",
        run: huge,
    },
    Case {
        name: "inject/zap-and-close",
        run: zap,
    },
];

const NTH: &str = "/proc/thread-self/fail-nth";
/// More allocations than any of the operations makes.
const MOST: usize = 2000;

/// Lets allocations of every kind fail, quietly, if a function of hmm's modules is among the callers.
fn prepare() -> Result<()> {
    if !Path::new(NTH).exists() {
        return Err(
            Skip("this kernel has no fault injection (CONFIG_FAULT_INJECTION)".into()).into(),
        );
    }
    let (debugfs, code) = (debugfs()?, module_code()?);
    let mut kinds = 0;
    for kind in ["failslab", "fail_page_alloc"] {
        let dir = debugfs.join(kind);
        if !dir.exists() {
            continue;
        }
        kinds += 1;
        let set = |name: &str, value: &str| set(&dir.join(name).display().to_string(), value);
        set("verbose", "0")?;
        set("task-filter", "Y")?;
        set("ignore-gfp-wait", "N")?;
        set("require-start", &code.start.to_string())?;
        set("require-end", &code.end.to_string())?;
        set("stacktrace-depth", "32")?;
        if kind == "fail_page_alloc" {
            set("ignore-gfp-highmem", "N")?;
            set("min-order", "0")?;
        }
    }
    match kinds {
        0 => Err(Skip("neither failslab nor fail_page_alloc in debugfs".into()).into()),
        _ => Ok(()),
    }
}

/// What `act` returned, and whether the `n`-th allocation was made, and failed.
fn failing<T>(n: usize, act: impl FnOnce() -> io::Result<T>) -> Result<(io::Result<T>, bool)> {
    set(NTH, &n.to_string())?;
    let result = act();
    let left = get(NTH)?;
    set(NTH, "0")?;
    let left: usize = left.parse().with_context(|| format!("{NTH}: {left}"))?;
    Ok((result, left == 0))
}

/// Runs `act` on what `make` makes, with each of its allocations failing in turn; then `check` with
/// nothing failing.
fn each<S, T>(
    what: &str,
    make: impl Fn() -> Result<S>,
    act: impl Fn(&S) -> io::Result<T>,
    check: impl Fn(&S) -> Result<()>,
) -> Result<()> {
    let mut refused = 0;
    for n in 1..MOST {
        let subject = make()?;
        let (result, hit) = failing(n, || act(&subject))?;
        match result {
            Ok(_) => {}
            Err(error) if hit && error.raw_os_error() == Some(libc::ENOMEM) => refused += 1,
            Err(error) => bail!("{what}, allocation {n}: {error}"),
        }
        check(&subject).with_context(|| format!("{what}, after allocation {n} failed"))?;
        if !hit {
            ensure!(n > 1, "{what}: no allocation at all");
            println!("      {what}: {} allocations, {refused} refused", n - 1);
            return Ok(());
        }
    }
    bail!("{what}: there is no end of allocations")
}

fn open() -> Result<()> {
    prepare()?;
    let area = Area::filled(16, CPU)?;
    each(
        "opening",
        Device::open,
        |device| device.become_mirror(area.start(), area.len() as u64, 1),
        |device| {
            match device.become_mirror(area.start(), area.len() as u64, 1) {
                Err(error) if error.raw_os_error() != Some(libc::EBUSY) => bail!("{error}"),
                _ => {}
            }
            Ok(CPU.check(0, &device.read(area.start(), area.len())?)?)
        },
    )
}

fn whole(scene: &Scene) -> Result<()> {
    let pages = scene.area.pages();
    scene.write(0..pages, DEVICE)?;
    scene.check(0..pages, DEVICE)?;
    scene.area.check(0..pages, DEVICE)
}

fn access() -> Result<()> {
    prepare()?;
    let bytes = DEVICE.bytes(0, 16 * PAGE);
    each(
        "reading",
        || Scene::new(16),
        |scene| scene.read(0..16),
        whole,
    )?;
    // For so many, a fault allocates room for what it finds.
    each(
        "reading many pages",
        || Scene::new(100),
        |scene| scene.read(0..100),
        whole,
    )?;
    each(
        "writing untouched memory",
        || Scene::of(Area::new(16)?),
        |scene| scene.device.write(scene.area.start(), &bytes),
        whole,
    )?;
    each(
        "writing after a fork",
        || {
            let scene = Scene::new(16)?;
            scene.write(0..16, CPU)?;
            // Shares the pages until it is dropped.
            let child = Child::fork(|| loop {
                std::thread::park();
            })?;
            Ok((scene, child))
        },
        |(scene, _)| scene.device.write(scene.area.start(), &bytes),
        |(scene, _)| whole(scene),
    )?;
    // So far apart that each level of the page table is missing.
    let far = Area::reserve(4 << 40)?;
    let (device, next) = (Device::mirror(&far)?, Cell::new(far.start()));
    each(
        "writing where there is no page table",
        || Ok(next.replace(next.get() + (1 << 30) + HUGE as u64)),
        |va| device.write(*va, &bytes),
        |va| {
            device.write(*va, &bytes)?;
            Ok(DEVICE.check(0, &device.read(*va, bytes.len())?)?)
        },
    )
}

fn prefetch() -> Result<()> {
    prepare()?;
    for (what, want) in [
        ("prefetching what is there", Want::Snapshot),
        ("prefetching for reading", Want::Read),
        ("prefetching for writing", Want::Write),
    ] {
        each(
            what,
            || Scene::new(16),
            |scene| {
                let len = scene.area.len() as u64;
                scene.device.prefetch(scene.area.start(), len, want)
            },
            whole,
        )?;
    }
    Ok(())
}

/// A huge entry that is split has to find room at once, or goes.
fn huge() -> Result<()> {
    prepare()?;
    huge_pages_on_request()?;
    const PMD_PAGES: usize = HUGE / PAGE;
    each(
        "freeing a page of a huge one",
        || {
            let scene = Scene::of(Area::huge(1, CPU)?)?;
            scene.write(0..PMD_PAGES, CPU)?;
            Ok(scene)
        },
        |scene| {
            let advised = scene.area.advise(9..10, Advice::DontNeed);
            advised.map_err(|error| match error.downcast::<io::Error>() {
                Ok(error) => error,
                Err(error) => io::Error::other(error),
            })
        },
        |scene| {
            scene.check(0..9, CPU)?;
            scene.check(10..PMD_PAGES, CPU)?;
            whole(scene)
        },
    )
}

/// Taking away and closing cannot fail.
fn zap() -> Result<()> {
    prepare()?;
    for n in 1..20 {
        let scene = Scene::new(16)?;
        scene.write(0..16, DEVICE)?;
        let (result, _) = failing(n, || {
            let _ = scene.area.advise(4..8, Advice::DontNeed);
            Ok(())
        })?;
        result?;
        // The advice itself may have failed, and then nothing is gone.
        DEVICE.check_or_zero(4 * PAGE as u64, &scene.read(4..8)?)?;
        scene.check(0..4, DEVICE)?;
        scene.check(8..16, DEVICE)?;
        let Scene { area, device } = scene;
        let before = crate::system::module_users()?;
        let (closed, _) = failing(n, || {
            drop(device);
            Ok(())
        })?;
        closed?;
        let after = crate::system::module_users()?;
        ensure!(after + 1 == before, "a file was not closed");
        drop(area);
    }
    Ok(())
}
