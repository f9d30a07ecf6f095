// SPDX-License-Identifier: GPL-2.0
//! Persistent memory: files that are mapped directly (DAX), which only on-demand regions can cover; FLUSH to persistence
//! and to visibility, and what is there when the power was cut.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::Command,
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    counters,
    env::{Buffer, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::{Access, Op, Place};
use testkit::{
    memory::{Advice, Backing, Mapping, Protection, HUGE_PAGE, PAGE},
    pattern::{self, Pattern},
};

use crate::{
    harness::{skip, Test, REMOTE_REFUSED},
    machine::{page_states, PageState, Setting},
    operations::extended,
    write_backs::{known, WriteBacks},
};

/// The tests of this file, for a machine with persistent memory.
pub const TESTS: &[Test] = &[
    Test::on_demand("pmem-data", data).elsewhere(),
    Test::on_demand("pmem-flush-part", flush_part).elsewhere(),
    Test::on_demand("pmem-flush-whole", flush_whole).elsewhere(),
    Test::once("pmem-flush-beyond-4GiB", flush_far).elsewhere(),
    Test::on_demand("pmem-gone-before-flush", gone_before_flush).elsewhere(),
    Test::on_demand("pmem-file-changes", file_changes).elsewhere(),
    Test::on_demand("pmem-remount", remount).elsewhere(),
    Test::on_demand("pmem-ordinary-memory", ordinary_memory).elsewhere(),
    Test::on_demand("pmem-before-the-cut", before_the_cut).elsewhere(),
    Test::on_demand("pmem-after-the-cut", after_the_cut).elsewhere(),
];

const SIZE: usize = 64 * PAGE;
/// What the NIC writes: odd, and over pages' ends.
const AT: usize = 3 * PAGE - 7;
const LEN: usize = 20 * PAGE + 99;

/// What a region here allows.
fn access() -> Access {
    Access::ALL | Access::FLUSH_GLOBAL | Access::FLUSH_PERSISTENT
}

/// A mounted file system whose files are mapped directly.
struct Dax {
    device: String,
    dir: PathBuf,
}

impl Dax {
    /// The machine's.
    fn find() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
        let found = mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let is_direct = words.get(3)?.split(',').any(|o| o.starts_with("dax"));
            is_direct.then(|| Self {
                device: words[0].into(),
                dir: words[1].into(),
            })
        });
        // A VM that was to have some has failed to set it up.
        let wanted = fs::read_to_string("/proc/cmdline")?.contains("testbed.pmem");
        ensure!(
            found.is_some() || !wanted,
            "the file system on persistent memory is missing"
        );
        found.ok_or_else(|| skip("there is no file system on persistent memory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The file `name`, new and with `len` bytes, none of which has a block.
    fn file(&self, name: &str, len: usize) -> Result<File> {
        let path = self.path(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .with_context(|| format!("making {}", path.display()))?;
        file.set_len(len as u64)?;
        Ok(file)
    }

    /// Unmounts it, and mounts it again.
    fn again(&self) -> Result<()> {
        let dir = self.dir.as_os_str();
        let options = ["-t", "ext4", "-o", "dax=always", &self.device];
        for command in [
            Command::new("umount").arg(dir),
            Command::new("mount").args(options).arg(dir),
        ] {
            let output = command.output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "{command:?}: {}", said.trim());
        }
        Ok(())
    }
}

/// A file that is removed at the end.
struct Named(PathBuf);

impl Drop for Named {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A file of `len` bytes, whose name goes when the test ends.
fn file(dax: &Dax, name: &str, len: usize) -> Result<(File, Named)> {
    let name = format!("{name}.{}", std::process::id());
    Ok((dax.file(&name, len)?, Named(dax.path(&name))))
}

fn mapped(file: &File, len: usize) -> Result<Mapping> {
    let backing = Backing::Synchronous(file);
    Mapping::new(len, backing, Protection::ReadWrite).context("mapping the file directly")
}

/// A queue pair, what it writes from, and a file's memory that it writes to.
struct Scene {
    link: Loopback,
    near: Buffer,
    far: Buffer,
    file: File,
    _name: Named,
    dax: Dax,
}

impl Scene {
    fn new(env: &Env, mode: Mode, name: &str, len: usize) -> Result<Self> {
        let dax = Dax::find()?;
        let (file, _name) = file(&dax, name, len)?;
        Ok(Self {
            link: extended(env)?,
            near: env.buffer(Mode::Pinned, len.min(HUGE_PAGE))?,
            far: env.cover(mode, mapped(&file, len)?, access())?,
            file,
            _name,
            dax,
        })
    }

    /// The NIC writes what `pattern` has for the place.
    fn write(&self, pattern: Pattern, at: usize, len: usize) -> Result<()> {
        self.near.memory.write(0, &pattern.bytes(at as u64, len));
        let wrote = self.link.write(self.near.sge(0, len), self.far.remote(at));
        wrote.with_context(|| format!("writing {len} bytes at {at}"))
    }

    /// The NIC reads the place.
    fn read(&self, at: usize, len: usize) -> Result<Vec<u8>> {
        self.link.read(self.far.remote(at), self.near.sge(0, len))?;
        Ok(self.near.memory.bytes(0, len))
    }

    fn flush(&self, place: Place, at: usize, len: Option<usize>) -> Result<()> {
        let at = self.far.remote(at);
        let op = Op::FlushTo { place, at, len };
        self.link.ok(op, &[]).with_context(|| format!("{op:?}"))
    }

    /// FLUSH of the whole region.
    fn flush_all(&self) -> Result<()> {
        self.flush(Place::Persistent, 0, None)
    }

    /// The known frames of the pages of `range`, all of which the CPU has mapped.
    fn frames(&self, range: Range<usize>) -> Result<BTreeSet<u64>> {
        let pages = range.len() / PAGE;
        let frames = frames(&self.far.memory, range)?;
        ensure!(
            frames.len() == pages,
            "{} of {pages} pages are mapped",
            frames.len()
        );
        Ok(frames.into_iter().map(known).collect())
    }
}

/// The frames of the pages of `range` that the CPU has mapped.
fn frames(memory: &Mapping, range: Range<usize>) -> Result<BTreeSet<u64>> {
    let states = page_states(memory, range)?.into_iter();
    let frames = states.filter_map(|state| match state {
        PageState::Frame(frame) => Some(frame),
        _ => None,
    });
    Ok(frames.collect())
}

/// What a file has, by the file system.
fn contents(file: &File, at: usize, len: usize) -> io::Result<Vec<u8>> {
    let mut found = vec![0; len];
    file.read_exact_at(&mut found, at as u64)?;
    Ok(found)
}

/// Every operation moves its bytes, and every kind of FLUSH succeeds after it; what is around stays.
fn data(env: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(env, mode, "data", SIZE)?;
    let mut expected = vec![0; SIZE];
    let mut pattern = Pattern::new(1);
    for (seed, (place, part)) in [
        (Place::Persistent, Some((AT, LEN))),
        (Place::Visible, Some((AT + 1, 2))),
        (Place::Both, Some((0, SIZE))),
        (Place::Persistent, None),
        (Place::Visible, None),
        (Place::Both, None),
    ]
    .into_iter()
    .enumerate()
    {
        pattern = Pattern::new(10 + seed as u64);
        let at = AT + 777 * seed;
        scene.write(pattern, at, LEN)?;
        pattern.fill(at as u64, &mut expected[at..at + LEN]);
        let (at, len) = part.map_or((0, None), |(at, len)| (at, Some(len)));
        scene.flush(place, at, len)?;
        let found = contents(&scene.file, 0, SIZE)?;
        pattern::compare(&expected, &found).context("the file")?;
        pattern::compare(&expected, &scene.far.memory.bytes(0, SIZE)).context("the memory")?;
        pattern::compare(&expected, &scene.read(0, SIZE)?).context("what the NIC reads")?;
    }
    // A hole, and a page that the NIC has used.
    for at in [50 * PAGE + 8, AT + 7] {
        let value = pattern.bytes(at as u64 ^ 1, 8);
        let value: [u8; 8] = value.try_into().expect("eight bytes");
        let op = Op::AtomicWrite {
            at: scene.far.remote(at),
            value,
        };
        scene.link.ok(op, &[]).context("ATOMIC WRITE")?;
        expected[at..at + 8].copy_from_slice(&value);
        scene.flush(Place::Persistent, at, Some(8))?;
        let op = Op::FetchAdd {
            at: scene.far.remote(at + 8),
            add: 0x0123_4567_89ab_cdef,
        };
        scene
            .link
            .ok(op, &[scene.near.sge(0, 8)])
            .context("FETCH & ADD")?;
        let before: [u8; 8] = expected[at + 8..at + 16].try_into().expect("eight bytes");
        let sum = u64::from_ne_bytes(before).wrapping_add(0x0123_4567_89ab_cdef);
        expected[at + 8..at + 16].copy_from_slice(&sum.to_ne_bytes());
        scene.flush_all()?;
    }
    pattern::compare(&expected, &contents(&scene.file, 0, SIZE)?).context("after atomics")?;
    Ok(())
}

/// A FLUSH of a part writes back these bytes and no others, whether or not the NIC has used them; one to visibility writes
/// back nothing; one of what is not there is refused.
fn flush_part(env: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(env, mode, "part", SIZE)?;
    let backs = WriteBacks::begin()?;
    // The NIC has some of these pages, and the CPU has the others.
    let pattern = Pattern::new(3);
    scene.far.memory.write(0, &pattern.bytes(0, SIZE));
    scene.write(Pattern::new(4), AT, LEN)?;
    for (at, len) in [
        (AT, LEN),
        (0, 1),
        (PAGE - 1, 2),
        (40 * PAGE + 5, 9),
        (0, SIZE),
    ] {
        let flush = || scene.flush(Place::Persistent, at, Some(len));
        let ((), found) = backs.during(flush)?;
        let pages = at / PAGE * PAGE..(at + len).next_multiple_of(PAGE);
        let frames: BTreeSet<u64> = found.iter().flat_map(|back| back.frames()).collect();
        ensure!(
            frames == scene.frames(pages)?,
            "{len} bytes at {at}: pages {frames:x?} were written back"
        );
        let bytes: u64 = found.iter().map(|back| back.len).sum();
        let first = found.first().map(|back| back.offset());
        ensure!(
            bytes == len as u64 && first == Some(at % PAGE),
            "{len} bytes at {at}: {bytes} were written back, the first at {first:?} of its page"
        );
    }
    for len in [Some(LEN), None] {
        let ((), found) = backs.during(|| scene.flush(Place::Visible, AT, len))?;
        ensure!(
            found.is_empty(),
            "a FLUSH to visibility wrote back {} times",
            found.len()
        );
    }
    scene.far.memory.unmap(10 * PAGE..11 * PAGE)?;
    let op = Op::FlushTo {
        place: Place::Persistent,
        at: scene.far.remote(9 * PAGE),
        len: Some(2 * PAGE),
    };
    let refused = scene.link.refused(op, &[], REMOTE_REFUSED);
    refused.context("with a page that is not there")
}

/// A FLUSH of a whole region writes back all that is mapped of it: what the NIC has written, what only the process has, what
/// came along with a fault, huge pages; and none of it counts as used, or is brought in.
fn flush_whole(env: &Env, mode: Mode) -> Result<()> {
    const LEN: usize = 4 * HUGE_PAGE;
    let scene = Scene::new(env, mode, "whole", LEN)?;
    let backs = WriteBacks::begin()?;
    let memory = &scene.far.memory;
    // Where not all of a huge page can be mapped, small ones are. By the CPU alone; by the NIC; holes that were read, and
    // that nobody has been to.
    memory.unmap(511 * PAGE..HUGE_PAGE)?;
    for page in [0, 3, 200, 500] {
        memory.write(page * PAGE + 9, &Pattern::new(5).bytes(page as u64, 50));
    }
    scene.write(Pattern::new(6), 100 * PAGE + 1, 2 * PAGE)?;
    let _ = memory.bytes(300 * PAGE, 1);
    // All of two huge pages, one of which the NIC comes to.
    let rest = 2 * HUGE_PAGE..LEN;
    memory.write(
        rest.start,
        &Pattern::new(7).bytes(rest.start as u64, rest.len()),
    );
    scene.read(3 * HUGE_PAGE + 11 * PAGE, 1)?;
    let lkey = scene.far.region.lkey();
    let counted = || {
        let all = counters::of_region(env.context.name(), lkey);
        all.context("the region's counters")
    };
    let before = counted()?;
    let ((), found) = backs.frames_during(|| scene.flush_all())?;
    // The zero page is not of the file.
    let untouched = Mapping::anonymous(PAGE)?;
    let _ = untouched.bytes(0, 1);
    let zero = frames(&untouched, 0..PAGE)?;
    let mapped = frames(memory, 0..LEN)?;
    let expected: BTreeSet<u64> = mapped.difference(&zero).copied().map(known).collect();
    let all = 4 + 3 + rest.len() / PAGE;
    ensure!(
        expected.len() == all,
        "{} pages of the file are mapped, and not {all}",
        expected.len()
    );
    match mode {
        // The region has other files, too.
        Mode::Implicit => ensure!(
            found.is_superset(&expected),
            "{} of {} pages were written back",
            found.intersection(&expected).count(),
            expected.len()
        ),
        _ => ensure!(
            found == expected,
            "{} pages were written back, of {}",
            found.len(),
            expected.len()
        ),
    }
    let after = counted()?;
    ensure!(
        before == after,
        "the region's counters went from {before:?} to {after:?}"
    );
    let resident = page_states(memory, 600 * PAGE..700 * PAGE)?;
    ensure!(
        resident.iter().all(|state| *state == PageState::None),
        "pages were brought in"
    );
    Ok(())
}

/// Lengths that do not fit into 32 bits: a region of 4 GiB, and a larger one with something beyond these.
fn flush_far(env: &Env) -> Result<()> {
    const FOUR: usize = 4 << 30;
    for len in [FOUR, FOUR + HUGE_PAGE] {
        let scene = Scene::new(env, Mode::Explicit, "far", len)?;
        let backs = WriteBacks::begin()?;
        let places = [PAGE, FOUR / 2 + 5 * PAGE, len - 3 * PAGE];
        for at in places {
            scene.write(Pattern::new(8), at + 100, 64)?;
        }
        let ((), found) = backs.frames_during(|| scene.flush_all())?;
        let mut expected = BTreeSet::new();
        for at in places {
            expected.extend(scene.frames(at..at + PAGE)?);
        }
        ensure!(
            found.is_superset(&expected),
            "{found:x?} of {expected:x?} were written back, of {len:#x} bytes"
        );
        for at in places {
            let bytes = contents(&scene.file, at + 100, 64)?;
            Pattern::new(8).check(at as u64 + 100, &bytes)?;
        }
    }
    Ok(())
}

/// What the NIC wrote through a translation that goes is written back then, as a later FLUSH would not find it; what it only
/// read is not, nor is it a second time.
fn gone_before_flush(env: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(env, mode, "gone", SIZE)?;
    let backs = WriteBacks::begin()?;
    let memory = &scene.far.memory;
    scene.far.memory.write(0, &Pattern::new(9).bytes(0, SIZE));
    let pattern = Pattern::new(11);
    for (ending, what) in ["unmapped", "thrown away", "made read-only"]
        .into_iter()
        .enumerate()
    {
        let base = 16 * ending * PAGE;
        let (written, read) = (base..base + 4 * PAGE, base + 8 * PAGE..base + 12 * PAGE);
        scene.write(pattern, written.start + 3, 4 * PAGE - 9)?;
        scene.read(read.start, read.len())?;
        let expected = scene.frames(written.clone())?;
        let others = scene.frames(read)?;
        let part = base..base + 16 * PAGE;
        let ((), found) = backs.frames_during(|| {
            match ending {
                0 => memory.unmap(part)?,
                1 => memory.advise(part, Advice::DontNeed)?,
                _ => memory.protect(part, Protection::Read)?,
            }
            Ok(())
        })?;
        ensure!(
            found.is_superset(&expected),
            "{what}: {found:x?} of {expected:x?} were written back"
        );
        ensure!(
            found.is_disjoint(&others),
            "{what}: what was only read was written back"
        );
        scene.flush_all().with_context(|| what.to_owned())?;
        let bytes = contents(&scene.file, written.start + 3, 4 * PAGE - 9)?;
        pattern.check(written.start as u64 + 3, &bytes)?;
    }
    // And what goes with the region.
    if mode == Mode::Explicit {
        let at = 60 * PAGE;
        scene.write(pattern, at, PAGE)?;
        let expected = scene.frames(at..at + PAGE)?;
        let (region, memory) = (scene.far.region, scene.far.memory);
        let (memory, found) = backs.frames_during(|| {
            drop(region);
            Ok(memory)
        })?;
        ensure!(
            found.is_superset(&expected),
            "deregistered: {found:x?} of {expected:x?} were written back"
        );
        drop(memory);
    }
    Ok(())
}

/// The file changes under the region: truncated, with a hole punched into it, and its blocks given to another file. The NIC
/// writes to what the file has, and to nothing else.
fn file_changes(env: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(env, mode, "changes", SIZE)?;
    let pattern = Pattern::new(12);
    scene.write(pattern, 0, SIZE)?;
    let _ballast = leave(&scene.dax, 8 << 20)?;
    scene.flush_all()?;

    // A hole: what was there is gone, and a new block takes what is written now.
    let hole = 8 * PAGE..24 * PAGE;
    punch(&scene.file, hole.clone())?;
    pattern::check_zero(&scene.read(hole.start, hole.len())?).context("the hole")?;
    let other = Pattern::new(13);
    scene.write(other, hole.start + 5, 3 * PAGE)?;
    scene.flush(Place::Persistent, hole.start + 5, Some(3 * PAGE))?;
    let mut expected = pattern.bytes(0, SIZE);
    expected[hole.clone()].fill(0);
    let changed = hole.start + 5..hole.start + 5 + 3 * PAGE;
    other.fill(changed.start as u64, &mut expected[changed]);
    pattern::compare(&expected, &contents(&scene.file, 0, SIZE)?).context("with a hole")?;

    // What is cut off is another file's: all that the device has left.
    let left = 32 * PAGE;
    // Making the hole has taken the whole file out of the page table.
    let tail = scene.read(left, SIZE - left)?;
    pattern::compare(&pattern.bytes(left as u64, tail.len()), &tail).context("behind the hole")?;
    let freed = scene.frames(left..SIZE)?;
    scene.file.set_len(left as u64)?;
    let reused = fill_device(&scene, &freed)?;
    let near = scene.near.sge(0, 64);
    for at in [left, left + 5 * PAGE, SIZE - PAGE] {
        let refused =
            extended(env)?.refused(Op::Write(scene.far.remote(at)), &[near], REMOTE_REFUSED);
        refused.with_context(|| format!("a write beyond the end, at {at}"))?;
    }
    reused.check().context("the file that has the blocks now")?;
    // The rest of the region goes on.
    scene.link.ok(Op::Write(scene.far.remote(0)), &[near])?;
    scene.flush_all().context("of what is left")?;
    reused.check().context("after the FLUSH")
}

/// Gives the blocks of `range` of a file back, which reads as zero then.
fn punch(file: &File, range: Range<usize>) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (at, len) = (range.start as libc::off_t, range.len() as libc::off_t);
    // SAFETY: A descriptor that is open, and numbers.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, at, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("punching a hole"),
    }
}

/// A file that leaves `left` bytes of the device to others.
fn leave(dax: &Dax, left: u64) -> Result<(File, Named, Setting)> {
    use std::os::fd::AsRawFd as _;
    let (file, name) = file(dax, "ballast", 0)?;
    // What the file system keeps for itself is nobody's.
    let keeps = Setting::new("/sys/fs/ext4/pmem0/reserved_clusters", "0")?;
    // SAFETY: zeroes are valid for integers.
    let mut state: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: A descriptor that is open, and room for the answer.
    let asked = unsafe { libc::fstatvfs(file.as_raw_fd(), &raw mut state) };
    ensure!(asked == 0, io::Error::last_os_error());
    let len = (state.f_bfree * state.f_frsize).saturating_sub(left);
    // SAFETY: As above, and numbers.
    let made = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len as libc::off_t) };
    ensure!(made == 0, io::Error::last_os_error());
    Ok((file, name, keeps))
}

/// A file that has blocks which another one had.
struct Reused {
    file: File,
    len: usize,
    _name: Named,
}

impl Reused {
    const PATTERN: Pattern = Pattern::new(14);

    /// It has what was written to it.
    fn check(&self) -> Result<()> {
        for at in (0..self.len).step_by(HUGE_PAGE) {
            let bytes = contents(&self.file, at, HUGE_PAGE.min(self.len - at))?;
            Self::PATTERN.check(at as u64, &bytes)?;
        }
        Ok(())
    }
}

/// A file of all that is left on the device, which has all that was `freed`.
fn fill_device(scene: &Scene, freed: &BTreeSet<u64>) -> Result<Reused> {
    // What was freed belongs to nobody before the journal says so.
    scene.file.sync_all()?;
    let (file, _name) = file(&scene.dax, "reused", 0)?;
    let mut len = 0;
    let full = loop {
        match file.write_at(&Reused::PATTERN.bytes(len as u64, HUGE_PAGE), len as u64) {
            Ok(count) => len += count,
            Err(error) => break error,
        }
    };
    ensure!(full.raw_os_error() == Some(libc::ENOSPC), "{full}");
    file.sync_all()?;
    let memory = mapped(&file, len)?;
    for at in (0..len).step_by(PAGE) {
        let _ = memory.bytes(at, 1);
    }
    let found = frames(&memory, 0..len / PAGE * PAGE)?;
    let found: BTreeSet<u64> = found.into_iter().map(known).collect();
    let missing = freed.difference(&found).count();
    if missing > 0 {
        bail!("{missing} of {} blocks are nobody's", freed.len());
    }
    Ok(Reused { file, len, _name })
}

/// What was written and flushed is in the file when its file system is mounted again, and a region of it as before.
fn remount(env: &Env, mode: Mode) -> Result<()> {
    let mut expected = vec![0; SIZE];
    let name = format!("remount.{}", std::process::id());
    let dax = Dax::find()?;
    drop(dax.file(&name, SIZE)?);
    let path = dax.path(&name);
    let _name = Named(path.clone());
    for round in 0..3 {
        {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let far = env.cover(mode, mapped(&file, SIZE)?, access())?;
            let near = env.buffer(Mode::Pinned, SIZE)?;
            let link = extended(env)?;
            link.read(far.remote(0), near.sge(0, SIZE))?;
            pattern::compare(&expected, &near.memory.bytes(0, SIZE))
                .with_context(|| format!("what the NIC reads in round {round}"))?;
            let pattern = Pattern::new(20 + round);
            let at = AT + 1000 * round as usize;
            near.fill(pattern, at, LEN);
            link.write(near.sge(at, LEN), far.remote(at))?;
            pattern.fill(at as u64, &mut expected[at..at + LEN]);
            let op = Op::FlushTo {
                place: Place::Persistent,
                at: far.remote(0),
                len: None,
            };
            link.ok(op, &[])?;
        }
        dax.again()?;
        pattern::compare(&expected, &fs::read(&path)?)
            .with_context(|| format!("the file after round {round}"))?;
    }
    Ok(())
}

/// A FLUSH of memory that is not persistent: of a range it is as it was, of a region there is nothing to write back.
fn ordinary_memory(env: &Env, mode: Mode) -> Result<()> {
    Dax::find()?;
    let (link, near) = (extended(env)?, env.buffer(Mode::Pinned, SIZE)?);
    let far = env.cover(mode, Mapping::anonymous(SIZE)?, access())?;
    let backs = WriteBacks::begin()?;
    let pattern = Pattern::new(30);
    near.fill(pattern, AT, LEN);
    link.write(near.sge(AT, LEN), far.remote(AT))?;
    let flush = |at, len| {
        let (place, at) = (Place::Persistent, far.remote(at));
        backs.during(|| Ok(link.ok(Op::FlushTo { place, at, len }, &[])?))
    };
    let ((), found) = flush(AT, Some(LEN))?;
    let bytes: u64 = found.iter().map(|back| back.len).sum();
    ensure!(
        bytes == LEN as u64,
        "{bytes} of {LEN} bytes were written back"
    );
    let ((), found) = flush(0, None)?;
    ensure!(
        found.is_empty(),
        "{} pages that are not persistent were written back",
        found.len()
    );
    // Nor when it goes.
    let ((), found) = backs.during(|| Ok(far.memory.unmap(0..SIZE)?))?;
    ensure!(found.is_empty(), "what is not persistent was written back");
    Ok(())
}

/// What is there after the power was cut.
fn cut_path(dax: &Dax, mode: Mode) -> PathBuf {
    dax.path(&format!("cut.{mode}"))
}

const FLUSHED: Pattern = Pattern::new(40);

/// Where the NIC writes, and flushes, before the power is cut: parts, and then the whole region.
const PARTS: [(usize, usize); 3] = [(AT, LEN), (40 * PAGE - 1, 2), (63 * PAGE + 5, 4091)];
const WHOLE: [(usize, usize); 2] = [(30 * PAGE + 77, 3000), (50 * PAGE - 9, 2 * PAGE)];
/// Where it writes at once.
const WORD: usize = 60 * PAGE + 8;

/// Writes and flushes, and leaves the rest to whoever cuts the power. The file's name and its length are made durable
/// as a program would do that; its blocks come with the NIC's faults.
fn before_the_cut(env: &Env, mode: Mode) -> Result<()> {
    let dax = Dax::find()?;
    let path = cut_path(&dax, mode);
    let name = path.file_name().and_then(|name| name.to_str());
    let file = dax.file(name.context("a name")?, SIZE)?;
    file.sync_all()?;
    File::open(&dax.dir)?.sync_all()?;
    let (link, near) = (extended(env)?, env.buffer(Mode::Pinned, SIZE)?);
    let far = env.cover(mode, mapped(&file, SIZE)?, access())?;
    let write = |(at, len): (usize, usize)| -> Result<()> {
        near.fill(FLUSHED, at, len);
        Ok(link.write(near.sge(at, len), far.remote(at))?)
    };
    let flush = |at: usize, len| -> Result<()> {
        let (place, at) = (Place::Persistent, far.remote(at));
        Ok(link.ok(Op::FlushTo { place, at, len }, &[])?)
    };
    for (at, len) in PARTS {
        write((at, len))?;
        flush(at, Some(len))?;
    }
    WHOLE.into_iter().try_for_each(write)?;
    // Not mapped any more when all is flushed.
    far.memory.unmap(50 * PAGE..51 * PAGE)?;
    flush(0, None)?;
    let value = FLUSHED.bytes(WORD as u64, 8);
    let op = Op::AtomicWrite {
        at: far.remote(WORD),
        value: value.try_into().expect("eight bytes"),
    };
    link.ok(op, &[])?;
    flush(WORD, Some(8))
}

/// What was flushed is there, around it nothing, and a region of it can be read and written.
fn after_the_cut(env: &Env, mode: Mode) -> Result<()> {
    let dax = Dax::find()?;
    let path = cut_path(&dax, mode);
    let found = fs::read(&path).with_context(|| path.display().to_string())?;
    let mut expected = vec![0; SIZE];
    for (at, len) in PARTS.into_iter().chain(WHOLE).chain([(WORD, 8)]) {
        FLUSHED.fill(at as u64, &mut expected[at..at + len]);
    }
    pattern::compare(&expected, &found).context("the file")?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let far = env.cover(mode, mapped(&file, SIZE)?, access())?;
    let (link, near) = (env.rc()?, env.buffer(Mode::Pinned, SIZE)?);
    link.read(far.remote(0), near.sge(0, SIZE))?;
    pattern::compare(&expected, &near.memory.bytes(0, SIZE)).context("what the NIC reads")?;
    Ok(())
}
