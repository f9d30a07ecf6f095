// SPDX-License-Identifier: GPL-2.0
//! Files that are particular about who touches their pages, or when: the NIC gets from them what the process
//! would get that registered the memory.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io,
    mem::MaybeUninit,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, PermissionsExt as _},
    },
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    env::{Env, Mode},
    waiting::{Ending, Kind, FILE},
};
use odp_verbs::{Access, Op};
use testkit::{
    memory::{Backing, Mapping, Protection, PAGE},
    pattern::Pattern,
    process::{self, supervise, End, Helper, Parent},
    slow_file::{self, SlowFile},
};

use super::{
    victim::{gone, role, Plan, Victim},
    ASKED, PROMPT,
};
use crate::{
    harness::{Options, Test, REMOTE_REFUSED},
    machine::Disk,
    prefetch_pending,
};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::once("waiting.stopped-disk", stopped_disk),
    Test::on_demand("waiting.reserved-blocks", reserved_blocks),
    Test::on_demand("waiting.fuse-in-namespace", fuse_in_namespace),
];

/// What the parts of these tests begin with; the mode follows the part.
pub const ROLES: &str = "files.";
const NAMESPACE: &str = "namespace";
const RESERVED: &str = "reserved";

/// A user who may not do what others may not.
const USER: u32 = 65_001;

/// Plays one of these parts.
pub fn play(options: &Options, role: &str) -> Result<()> {
    let (part, mode) = role.split_once('.').context("a part and a mode")?;
    let mode = mode.parse().map_err(anyhow::Error::msg)?;
    match part {
        NAMESPACE => use_in_namespace(options, mode),
        RESERVED => write_to_hole(options, mode),
        _ => bail!("there is no part called {part}"),
    }
}

fn command(env: &Env, part: &str, mode: Mode) -> std::process::Command {
    role(env, &format!("{ROLES}{part}.{mode}"), Some(USER))
}

/// The pages of a disk's image, and the size of a file on it.
const IMAGE: usize = 8192;

/// A file on a disk that does not answer for a while: a disk whose image is such a file.
fn stopped_disk(env: &Env) -> Result<()> {
    for kind in [Kind::WriteTarget, Kind::WriteSource, Kind::Prefetch] {
        for ending in [Ending::ResetSecond, Ending::FailSecond, Ending::Deregister] {
            let context = || format!("{kind:?}, {ending:?}");
            stop_disk(env, kind, ending).with_context(context)?;
        }
    }
    prefetch_pending::works(env)
}

fn stop_disk(env: &Env, kind: Kind, ending: Ending) -> Result<()> {
    let ending = match (kind, ending) {
        (Kind::WriteSource, Ending::ResetSecond) => Ending::ResetFirst,
        (Kind::WriteSource, Ending::FailSecond) => Ending::FailFirst,
        _ => ending,
    };
    if !ending.concerns(kind) {
        return Ok(());
    }
    let image = SlowFile::new(IMAGE, Pattern::new(0)).context("a file system of one's own")?;
    let disk = Disk::over(&image.path())?;
    let plan = Plan::new(kind, disk.path("data"));
    let data = disk.file("data")?;
    data.write_all_at(&FILE.bytes(0, plan.pages() * PAGE), 0)?;
    data.sync_all()?;
    drop(data);
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    image.hold(0..IMAGE);
    let victim = Victim::start(env, None, &plan);
    let result = victim.and_then(|mut victim| {
        let result = image.wait_until_any_asked(ASKED).map_err(Into::into);
        let result = result.and_then(|()| {
            thread::sleep(Duration::from_millis(100));
            victim.ends(ending)?;
            victim.ends(Ending::Nothing)
        });
        // The disk is as good as ever afterwards, and can be taken away.
        image.release();
        result.and_then(|()| victim.ends(Ending::Exit))
    });
    image.release();
    drop(disk);
    result
}

/// What is free on the file system of `path`: blocks for the superuser, and blocks for all.
fn free(path: &Path) -> Result<(u64, u64)> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is a C string, and there is room for the result; both outlive the call.
    let r = unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) };
    ensure!(r == 0, "statvfs: {}", io::Error::last_os_error());
    // SAFETY: plain integers, initialised with zeroes and then by the call.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.f_bfree, stat.f_bavail))
}

/// Writes to `file` until there are no blocks left but those that are kept for the superuser.
fn fill(file: &File, path: &Path) -> Result<()> {
    let mut at = 0;
    loop {
        let available = free(path)?.1;
        if available == 0 {
            file.sync_all()?;
            if free(path)?.1 == 0 {
                return Ok(());
            }
        }
        let len = if available > 256 { 128 << 10 } else { 1 << 10 };
        file.write_all_at(&Pattern::new(0).bytes(at, len), at)?;
        at += len as u64;
    }
}

/// The pages of a file without blocks.
const HOLE: usize = 16;

/// The blocks that are kept for the superuser are not for the NIC of somebody else.
fn reserved_blocks(env: &Env, mode: Mode) -> Result<()> {
    let disk = Disk::new(32 << 20)?;
    let (hole, filler) = (disk.file("hole")?, disk.file("filler")?);
    hole.set_len((HOLE * PAGE) as u64)?;
    hole.set_permissions(fs::Permissions::from_mode(0o666))?;
    hole.sync_all()?;
    let path = disk.path("hole");
    fill(&filler, &path)?;
    let before = free(&path)?;
    ensure!(before.0 > 100, "there are no blocks for the superuser");
    let mut helper = Helper::spawn(command(env, RESERVED, mode))?;
    helper.tell(&path)?;
    let error: Option<String> = helper.hear(PROMPT)?;
    if let Some(error) = error {
        bail!("{error}");
    }
    gone(&mut helper)?;
    hole.sync_all()?;
    let after = free(&path)?;
    ensure!(before == after, "{before:?} blocks became {after:?}");
    Ok(())
}

/// Plays [`RESERVED`]: tries to have the NIC write where this user may not.
fn write_to_hole(options: &Options, mode: Mode) -> Result<()> {
    process::defer_to_kernel();
    let parent = Parent::new();
    let env = options.open()?;
    let path: std::path::PathBuf = parent.hear()?;
    let result = refused(&env, mode, &path);
    parent.tell(&result.err().map(|error| format!("{error:#}")))?;
    Ok(())
}

fn refused(env: &Env, mode: Mode, path: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let written = file.write_at(b"mine", 0).map_err(|e| e.raw_os_error());
    ensure!(
        written == Err(Some(libc::ENOSPC)),
        "the file system is not full to this user: {written:?}"
    );
    let memory = Mapping::new(HOLE * PAGE, Backing::Shared(&file), Protection::ReadWrite)?;
    let (near, far) = (
        env.buffer(Mode::Pinned, PAGE)?,
        env.cover(mode, memory, Access::ALL)?,
    );
    near.fill(Pattern::new(1), 0, PAGE);
    let link = env.rc()?;
    let write = Op::Write(far.remote(3 * PAGE + 5));
    link.refused(write, &[near.sge(0, 1000)], REMOTE_REFUSED)
        .context("the NIC's WRITE to a hole")?;
    // What there is can be read.
    far.check_zero(0, HOLE * PAGE)?;
    Ok(())
}

/// A file system that somebody has mounted in a namespace of his own is there for his NIC.
fn fuse_in_namespace(env: &Env, mode: Mode) -> Result<()> {
    // Makes the device, where it is not there.
    drop(SlowFile::new(1, FILE).context("a file system of one's own")?);
    // As udev has it.
    fs::set_permissions(slow_file::DEVICE, fs::Permissions::from_mode(0o666))?;
    let finished = supervise(command(env, NAMESPACE, mode), 2 * PROMPT)?;
    ensure!(
        finished.end == End::Status(0),
        "{:?} {}",
        finished.end,
        finished.stderr.trim()
    );
    Ok(())
}

/// Plays [`NAMESPACE`].
fn use_in_namespace(options: &Options, mode: Mode) -> Result<()> {
    enter_namespace().context("a namespace of one's own")?;
    process::defer_to_kernel();
    let env = options.open()?;
    let file = SlowFile::new(4, FILE).context("a file system of one's own")?;
    // Before anything can be stuck that is taken down here.
    let result = read_and_write(&env, mode, &file);
    file.give_up();
    result
}

fn read_and_write(env: &Env, mode: Mode, file: &SlowFile) -> Result<()> {
    let memory = Mapping::new(
        4 * PAGE,
        Backing::Shared(&file.open()?),
        Protection::ReadWrite,
    )?;
    let (near, far) = (
        env.buffer(Mode::Pinned, 2 * PAGE)?,
        env.cover(mode, memory, Access::ALL)?,
    );
    // The process itself can.
    far.check(FILE, 0, PAGE)?;
    let (at, len, given) = (2 * PAGE - 7, PAGE, Pattern::new(1));
    let link = env.rc()?;
    link.read(far.remote(at), near.sge(5, len))
        .context("READ")?;
    near.check_from(FILE, at, 5, len)?;
    near.fill(given, 0, len);
    link.write(near.sge(0, len), far.remote(at))
        .context("WRITE")?;
    far.check_from(given, 0, at, len)?;
    far.check(FILE, 0, at)?;
    far.check(FILE, at + len, 4 * PAGE - at - len)?;
    Ok(())
}

/// Makes this process, which has to be one of a single thread, the superuser of a namespace of its own.
fn enter_namespace() -> Result<()> {
    // SAFETY: changes nothing but what this process is to others.
    let r = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) };
    ensure!(r == 0, "unshare: {}", io::Error::last_os_error());
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {USER} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {USER} 1"))?;
    Ok(())
}
