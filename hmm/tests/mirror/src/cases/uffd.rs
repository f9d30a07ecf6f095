// SPDX-License-Identifier: GPL-2.0
//! A device's fault that a userfaultfd has to serve: it waits, and nobody else does.

use std::thread;
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};
use testkit::process::End;
use testkit::userfaultfd::{Message, Mode, Userfaultfd};

use super::scene::{Scene, CPU, DEVICE};
use crate::device::{refused, Want};
use crate::memory::{check_zero, memory_file, Area, Protection, PAGE};
use crate::process::{pair, Child, PATIENCE};
use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "uffd/missing",
        run: missing,
    },
    Case {
        name: "uffd/the-mmap-lock-is-free",
        run: lock_is_free,
    },
    Case {
        name: "uffd/several-at-once",
        run: several,
    },
    Case {
        name: "uffd/prefetch",
        run: prefetch,
    },
    Case {
        name: "uffd/write-protected",
        run: write_protected,
    },
    Case {
        name: "uffd/minor",
        run: minor,
    },
    Case {
        name: "uffd/closed-while-one-waits",
        run: closed,
    },
    Case {
        name: "uffd/killed-while-one-waits",
        run: killed,
    },
    Case {
        name: "uffd/owner-killed-while-another-waits",
        run: owner_killed,
    },
    Case {
        name: "uffd/unmapped-while-one-waits",
        run: unmapped,
    },
];

const PAGES: usize = 16;

/// Untouched memory that a userfaultfd serves.
fn scene() -> Result<(Scene, Userfaultfd)> {
    let scene = Scene::of(Area::new(PAGES)?)?;
    let server = Userfaultfd::new()?;
    serve(&server, &scene.area, Mode::Missing)?;
    Ok((scene, server))
}

/// Registers all of `area` with it, for faults of `mode`.
fn serve(server: &Userfaultfd, area: &Area, mode: Mode) -> Result<()> {
    server.register(area.start(), area.len() as u64, mode)
}

/// The next fault, which must be of `mode`.
fn next(server: &Userfaultfd, mode: Mode) -> Result<Message> {
    let message = server.next(PATIENCE)?;
    ensure!(message.mode == mode, "a fault of kind {:?}", message.mode);
    Ok(message)
}

/// Gives the page the bytes that the CPU would have written.
fn give(scene: &Scene, server: &Userfaultfd, va: u64) -> Result<()> {
    server.give(va, &CPU.bytes(va - scene.area.start(), PAGE))
}

fn joined<T>(handle: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a thread panicked"))?
}

fn missing() -> Result<()> {
    let (scene, server) = scene()?;
    thread::scope(|scope| {
        let served = scope.spawn(|| {
            for _ in 0..PAGES {
                let message = next(&server, Mode::Missing)?;
                // The device has to wait for it.
                thread::sleep(Duration::from_millis(50));
                give(&scene, &server, message.va)?;
            }
            Ok(())
        });
        for page in 0..PAGES / 2 {
            scene.check(page..page + 1, CPU)?;
        }
        // Several in one access, for a write.
        scene.write(PAGES / 2..PAGES, DEVICE)?;
        joined(served)
    })?;
    scene.area.check(0..PAGES / 2, CPU)?;
    scene.area.check(PAGES / 2..PAGES, DEVICE)
}

/// While a fault waits, the process maps and unmaps memory as it likes.
fn lock_is_free() -> Result<()> {
    let (scene, server) = scene()?;
    thread::scope(|scope| {
        let device = scope.spawn(|| scene.check(3..4, CPU));
        let message = next(&server, Mode::Missing)?;
        let others = scope.spawn(|| {
            for _ in 0..100 {
                let area = Area::filled(4, DEVICE)?;
                area.protect(0..2, Protection::Read)?;
                area.unmap(1..3)?;
            }
            // Also in the chunk whose fault waits.
            scene.area.protect(8..12, Protection::Read)?;
            scene.area.unmap(12..14)
        });
        let result = joined(others);
        // Only now is the page given: had the others waited for that, they would wait forever.
        give(&scene, &server, message.va)?;
        joined(device)?;
        result
    })?;
    scene.refuses_read(12, libc::EFAULT)
}

/// All have to wait at the same time, or the second fault would never be reported.
fn several() -> Result<()> {
    let (scene, server) = scene()?;
    const THREADS: usize = 4;
    thread::scope(|scope| {
        let scene = &scene;
        let devices: Vec<_> = (0..THREADS)
            .map(|page| scope.spawn(move || scene.check(page * 2..page * 2 + 1, CPU)))
            .collect();
        let messages: Result<Vec<_>> = devices
            .iter()
            .map(|_| next(&server, Mode::Missing))
            .collect();
        for message in messages?.iter().rev() {
            give(scene, &server, message.va)?;
        }
        devices.into_iter().try_for_each(joined)
    })
}

/// A prefetch waits as an access does; one that asks for nothing new does not.
fn prefetch() -> Result<()> {
    let (scene, server) = scene()?;
    let (start, len) = (scene.area.va(0), scene.area.len() as u64);
    let added = scene.device.prefetch(start, len, Want::Snapshot)?;
    ensure!(added == 0, "{added} pages of untouched memory");
    thread::scope(|scope| {
        let served = scope.spawn(|| {
            for _ in 0..PAGES {
                let message = next(&server, Mode::Missing)?;
                give(&scene, &server, message.va)?;
            }
            Ok(())
        });
        scene.device.prefetch(start, len, Want::Read)?;
        joined(served)
    })?;
    scene.check_warm(0..PAGES, CPU)
}

fn write_protected() -> Result<()> {
    let area = Area::filled(PAGES, CPU)?;
    let server = Userfaultfd::new()?;
    serve(&server, &area, Mode::WriteProtected)?;
    let scene = Scene::of(area)?;
    scene.write(0..PAGES, CPU)?;
    server.protect(scene.area.start(), scene.area.len() as u64)?;
    scene.check(0..PAGES, CPU)?;
    thread::scope(|scope| {
        let device = scope.spawn(|| scene.write(5..6, DEVICE));
        let message = next(&server, Mode::WriteProtected)?;
        ensure!(message.va == scene.area.va(5), "a fault elsewhere");
        scene
            .area
            .check(5..6, CPU)
            .context("before it is allowed")?;
        server.unprotect(message.va)?;
        joined(device)
    })?;
    scene.area.check(5..6, DEVICE)?;
    scene.area.check(6..PAGES, CPU)
}

/// The file has the page, the process does not map it yet.
fn minor() -> Result<()> {
    let file = memory_file(PAGES * PAGE)?;
    let other = Area::of_file(&file, PAGES)?;
    other.fill(CPU);
    let server = Userfaultfd::new()?;
    let area = Area::of_file(&file, PAGES)?;
    serve(&server, &area, Mode::Minor)?;
    let scene = Scene::of(area)?;
    thread::scope(|scope| {
        let device = scope.spawn(|| scene.check(2..3, CPU));
        let message = next(&server, Mode::Minor)?;
        server.go_on(message.va)?;
        joined(device)
    })?;
    other.check(0..PAGES, CPU)
}

/// Without a server the memory is like any other.
fn closed() -> Result<()> {
    let (scene, server) = scene()?;
    thread::scope(|scope| {
        let device = scope.spawn(|| Ok(scene.read(3..4)?));
        next(&server, Mode::Missing)?;
        drop(server);
        anyhow::Ok(check_zero(&joined(device)?)?)
    })?;
    scene.write(0..PAGES, DEVICE)?;
    scene.area.check(0..PAGES, DEVICE)
}

/// A process whose thread waits for nobody ends when it is killed.
fn killed() -> Result<()> {
    let (ours, theirs) = pair()?;
    let child = Child::fork(|| {
        let (scene, server) = scene()?;
        thread::scope(|scope| {
            scope.spawn(|| scene.read(3..4));
            scope.spawn(|| scene.write(4..5, DEVICE));
            next(&server, Mode::Missing)?;
            next(&server, Mode::Missing)?;
            theirs.tell()?;
            theirs.wait()
        })
    })?;
    ours.wait()?;
    child.kill();
    let end = child.ends()?;
    ensure!(matches!(end, End::Signal(_)), "it ended with {end:?}");
    Ok(())
}

/// The one who waits is not the one whose memory it is.
fn owner_killed() -> Result<()> {
    let (to_owner, owner_side) = pair()?;
    let (device_side, from_device) = pair()?;
    let owner = Child::fork(|| {
        let (scene, server) = scene()?;
        let device = Child::fork(|| {
            // Its own copy of the server's descriptor must not keep the server alive.
            // SAFETY: The value is not used in this process.
            unsafe { libc::close(server.fd()) };
            let result = scene.read(3..4);
            let fine = match &result {
                Ok(bytes) => check_zero(bytes).is_ok(),
                Err(_) => refused("reading", result, libc::ESRCH).is_ok(),
            };
            ensure!(fine, "something else than zeroes or ESRCH");
            device_side.tell()
        })?;
        next(&server, Mode::Missing)?;
        owner_side.tell()?;
        owner_side.wait()?;
        device.succeeds()
    })?;
    to_owner.wait()?;
    owner.kill();
    owner.ends()?;
    from_device
        .wait()
        .context("the device still waits for the owner's server")
}

/// The page goes while its fault waits.
fn unmapped() -> Result<()> {
    let (scene, server) = scene()?;
    thread::scope(|scope| {
        let device = scope.spawn(|| refused("reading", scene.read(3..4), libc::EFAULT));
        next(&server, Mode::Missing)?;
        scene.area.unmap(0..PAGES)?;
        // Unmapping wakes nobody, but the end of the server does.
        drop(server);
        joined(device)
    })
}
