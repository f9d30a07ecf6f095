// SPDX-License-Identifier: GPL-2.0
//! Mirrors that begin and end at odd times, and outlive what they mirror.

use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::atomic::AtomicBool;
use std::thread;

use anyhow::{anyhow, ensure, Context, Result};

use super::scene::{Scene, CPU, DEVICE};
use crate::abi::EVENT_CLEAR;
use crate::device::{refused, Device, Want};
use crate::memory::{check_zero, Advice, Area, Pattern, Protection, PAGE};
use crate::process::{goes_on, pair, within, Child, Stop, PATIENCE};
use crate::system::module_users;
use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "life/exit-with-mirrors",
        run: exit,
    },
    Case {
        name: "life/killed-with-mirrors",
        run: killed,
    },
    Case {
        name: "life/outlives-its-process",
        run: outlives,
    },
    Case {
        name: "life/used-by-another-process",
        run: another_process,
    },
    Case {
        name: "life/exec",
        run: exec,
    },
    Case {
        name: "life/opened-and-closed-under-invalidations",
        run: open_and_close,
    },
    Case {
        name: "life/many",
        run: many,
    },
    Case {
        name: "life/unload-is-refused",
        run: unload,
    },
];

/// All files of the children are closed after them.
fn all_closed(before: u64) -> Result<()> {
    let closed = within(
        PATIENCE,
        || matches!(module_users(), Ok(now) if now == before),
    );
    ensure!(closed, "a file of a process that is gone is still open");
    Ok(())
}

fn exit() -> Result<()> {
    let before = module_users()?;
    for _ in 0..20 {
        let child = Child::fork(|| {
            let scenes = (0..5).map(|_| Scene::new(64)).collect::<Result<Vec<_>>>()?;
            for scene in &scenes {
                scene.write(0..64, DEVICE)?;
            }
            // Ends with all of it in use.
            std::mem::forget(scenes);
            Ok(())
        })?;
        child.succeeds()?;
    }
    all_closed(before)
}

fn killed() -> Result<()> {
    let before = module_users()?;
    for round in 0..10 {
        let (ours, theirs) = pair()?;
        let child = Child::fork(|| {
            let scene = Scene::new(64)?;
            thread::scope(|scope| {
                for page in 0..4 {
                    let scene = &scene;
                    scope.spawn(move || loop {
                        let _ = scene.write(page..page + 4, DEVICE);
                        let _ = scene.area.advise(page..page + 2, Advice::DontNeed);
                    });
                }
                theirs.tell()
            })
        })?;
        ours.wait()?;
        thread::sleep(std::time::Duration::from_millis(round * 7));
        child.kill();
        child.ends()?;
    }
    all_closed(before)
}

/// The descriptor outlives the process whose memory it mirrors.
fn outlives() -> Result<()> {
    let (ours, theirs) = pair()?;
    let (heir_side, from_heir) = pair()?;
    let owner = Child::fork(|| {
        let scene = Scene::new(64)?;
        scene.write(0..32, DEVICE)?;
        let heir = Child::fork(|| {
            // The parent's memory, as long as there is a parent.
            scene.check(0..32, DEVICE)?;
            heir_side.tell()?;
            heir_side.wait()?;
            refused_as_gone(&scene)?;
            heir_side.tell()
        })?;
        theirs.wait()?;
        std::mem::forget(heir);
        Ok(())
    })?;
    from_heir.wait()?;
    ours.tell()?;
    owner.succeeds()?;
    from_heir.tell()?;
    from_heir.wait().context("the heir's accesses")
}

fn refused_as_gone(scene: &Scene) -> Result<()> {
    // Pages that were translated, one that was not, one of no chunk.
    scene.refuses_read(0, libc::ESRCH)?;
    scene.refuses_write(5, libc::ESRCH)?;
    scene.refuses_read(63, libc::ESRCH)?;
    for want in [Want::Snapshot, Want::Read, Want::Write] {
        let result = scene.device.prefetch(scene.area.va(0), PAGE as u64, want);
        refused("prefetching", result, libc::ESRCH)?;
    }
    let present = scene.present(0..64)?;
    ensure!(present == 0, "{present} pages of a process that is gone");
    Ok(())
}

/// A child uses its parent's mirror: what it sees and changes is the parent's memory.
fn another_process() -> Result<()> {
    let scene = Scene::new(16)?;
    let child = Child::fork(|| {
        scene.area.fill(Pattern::new(9));
        scene.check(0..16, CPU)?;
        scene.write(3..6, DEVICE)?;
        // A mirror of its own, of the same addresses.
        let own = Device::mirror(&scene.area)?;
        let bytes = own.read(scene.area.start(), scene.area.len())?;
        Ok(Pattern::new(9).check(0, &bytes)?)
    })?;
    child.succeeds()?;
    scene.area.check(0..3, CPU)?;
    scene.area.check(3..6, DEVICE)?;
    scene.area.check(6..16, CPU)
}

fn exec() -> Result<()> {
    let child = Child::fork(|| {
        let scene = Scene::new(16)?;
        scene.write(0..16, DEVICE)?;
        let fd = scene.device.fd();
        // SAFETY: Takes no pointers.
        ensure!(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } == 0, "fcntl");
        let mut program = Command::new("/proc/self/exe");
        let error = program.arg("--after-exec").arg(fd.to_string()).exec();
        Err(error).context("exec")
    })?;
    child.succeeds()
}

/// What runs after the exec: the address space that was mirrored is gone, though the process is not.
pub(crate) fn after_exec(fd: i32) -> ExitCode {
    let device = Device::inherited(fd);
    let test = || {
        let area = Area::filled(1, CPU)?;
        let read = device.read(area.start(), PAGE);
        // Addresses of the new program: inside or outside of the old mirror, nobody is there.
        refused("reading after exec", read, libc::ESRCH)?;
        ensure!(device.present(0, 1 << 46)? == 0, "pages of the old program");
        let again = device.become_mirror(area.start(), PAGE as u64, 1);
        refused("a second mirror", again, libc::EBUSY)
    };
    match test() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("after exec: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn open_and_close() -> Result<()> {
    let area = Area::filled(64, CPU)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (area, stop) = (&area, &stop);
        for number in 0..2 {
            scope.spawn(move || {
                while goes_on(stop) {
                    let _ = area.advise(8 * number..8 * number + 8, Advice::DontNeed);
                    let _ = area.protect(32..40, Protection::Read);
                    let _ = area.protect(32..40, Protection::ReadWrite);
                }
            });
        }
        let _stop = Stop(stop);
        for _ in 0..500 {
            let device = Device::mirror(area)?;
            device.prefetch(area.start(), area.len() as u64, Want::Read)?;
            let bytes = device.read(area.va(40), 24 * PAGE)?;
            CPU.check(40 * PAGE as u64, &bytes)?;
            CPU.check_or_zero(0, &device.read(area.va(0), 16 * PAGE)?)?;
        }
        Ok(())
    })
}

fn many() -> Result<()> {
    const MIRRORS: usize = 200;
    let area = Area::filled(16, CPU)?;
    let devices = (0..MIRRORS)
        .map(|_| Device::mirror(&area))
        .collect::<Result<Vec<_>>>()?;
    for device in &devices {
        CPU.check(0, &device.read(area.start(), area.len())?)?;
    }
    area.advise(4..5, Advice::DontNeed)?;
    area.write(4 * PAGE, &DEVICE.bytes(4 * PAGE as u64, PAGE));
    for device in &devices {
        ensure!(device.stats()?.events[EVENT_CLEAR] > 0, "not told");
        ensure!(device.present(area.va(0), area.len() as u64)? == 15, "kept");
        DEVICE.check(4 * PAGE as u64, &device.read(area.va(4), PAGE)?)?;
    }
    // In another order than they came in.
    let (first, second): (Vec<_>, Vec<_>) = devices
        .into_iter()
        .enumerate()
        .partition(|(number, _)| number % 3 == 0);
    drop(first);
    area.advise(4..5, Advice::DontNeed)?;
    for (_, device) in &second {
        check_zero(&device.read(area.va(4), PAGE)?)?;
    }
    Ok(())
}

/// The code that closes a file must still be there.
fn unload() -> Result<()> {
    let scene = Scene::new(4)?;
    scene.write(0..4, DEVICE)?;
    let name = CString::new("hmm_oracle")?;
    // SAFETY: The name is a string.
    let result = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    let error = std::io::Error::last_os_error();
    ensure!(result == -1, "the module is gone, though it is in use");
    let busy = [Some(libc::EAGAIN), Some(libc::EBUSY)];
    ensure!(busy.contains(&error.raw_os_error()), "unloading: {error}");
    scene.check(0..4, DEVICE)?;
    let used = module_users().map_err(|error| anyhow!("{error}"))?;
    ensure!(used > 0, "an open file is not counted");
    Ok(())
}
