// SPDX-License-Identifier: GPL-2.0
//! The driver's counters: that each moves by exactly what has happened, for the region and for the device.
//!
//! Nobody else uses the device meanwhile. The other end of each transfer is pinned, so that it counts nothing.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    counters::{self, Values},
    env::{anonymous, Buffer, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::{Access, Advise, Op, PREFETCH_FLUSH};
use testkit::{
    memory::{Advice, Protection, HUGE_PAGE, PAGE},
    patience,
    pattern::Pattern,
};

use crate::{
    harness::{skip, Test, REMOTE_REFUSED},
    userfault::Handler,
};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("counters-faults", faults),
    Test::on_demand("counters-resident", resident),
    Test::on_demand("counters-huge", huge),
    Test::on_demand("counters-invalidation", invalidation),
    Test::on_demand("counters-failed", failed),
    Test::on_demand("counters-waits", waits),
    Test::on_demand("counters-prefetch", prefetch),
    Test::on_demand("counters-chunks", chunks),
    Test::on_demand("counters-memory", memory),
    Test::once("counters-of-device", of_device),
];

/// For how long the kernel may show a device's counters as they were, and more.
const REMEMBERED: Duration = Duration::from_millis(30);

/// These change when the reaper comes, which is some time after the last page of a chunk has gone.
const REAPERS: &[&str] = &["chunks_alive", "chunks_reaped"];

/// How long page faults took.
const TIME: &str = "page_fault_nanoseconds";
/// The counter of how long somebody had to be waited for.
const WAIT_TIME: &str = "page_fault_wait_nanoseconds";

/// How much memory the translations take.
const MEMORY: &str = "memory_bytes";

/// What is expected of the counters: by how much each has grown. Those not named have not moved.
type Grown = &'static [(&'static str, u64)];

/// Memory under test and its region's counters.
struct Watched<'e> {
    env: &'e Env,
    near: Buffer,
    far: Buffer,
    link: Loopback,
    region: Values,
    device: Values,
}

impl<'e> Watched<'e> {
    fn new(env: &'e Env, far: Buffer) -> Result<Self> {
        let near = env.buffer(Mode::Pinned, 2 * PAGE)?;
        near.fill(Pattern::new(1), 0, near.memory.len());
        let mut watched = Self {
            env,
            near,
            link: env.rc()?,
            region: Values::new(),
            device: Values::new(),
            far,
        };
        (watched.region, watched.device) = watched.read()?;
        Ok(watched)
    }

    fn read(&self) -> Result<(Values, Values)> {
        let name = self.env.context.name();
        let region = counters::of_region(name, self.far.region.lkey())
            .ok_or_else(|| skip("the driver has no counters of on-demand regions"))?;
        thread::sleep(REMEMBERED);
        let device = counters::of_device(name).context("the device's counters")?;
        Ok((region, device))
    }

    /// Writes a few bytes to `offset`, with the right outcome.
    fn touch(&self, offset: usize) -> Result<()> {
        const LEN: usize = 100;
        let link = self
            .link
            .write(self.near.sge(0, LEN), self.far.remote(offset));
        link.with_context(|| format!("WRITE to offset {offset:#x}"))?;
        let data = Pattern::new(1);
        Ok(self.far.check_from(data, 0, offset, LEN)?)
    }

    /// Checks that since the last call the counters of the region and those of the device have grown by
    /// this, and by nothing else.
    fn have_grown(&mut self, what: &str, grown: Grown) -> Result<()> {
        let (region, device) = self.read()?;
        for (whose, before, now) in [
            ("region", &self.region, &region),
            ("device", &self.device, &device),
        ] {
            let expected: BTreeMap<&str, u64> = grown.iter().copied().collect();
            for name in expected.keys() {
                ensure!(now.contains_key(*name), "the {whose} has no counter {name}");
            }
            for (name, now) in now {
                let before = before.get(name).copied().unwrap_or(0);
                let expected = expected.get(name.as_str()).copied().unwrap_or(0);
                ensure!(
                    [TIME, WAIT_TIME, MEMORY].contains(&name.as_str())
                        || REAPERS.contains(&name.as_str())
                        || *now == before + expected,
                    "{what}: {name} of the {whose} went from {before} to {now}, not by {expected}"
                );
            }
        }
        let faults = grown.iter().any(|(name, _)| *name == "page_faults");
        let took = |values: &Values| values.get(TIME).copied().unwrap_or(0);
        ensure!(
            (took(&region) > took(&self.region)) == faults,
            "{what}: the time of faults grew without one, or did not grow with one"
        );
        let waits = grown.iter().any(|(name, _)| *name == "page_fault_waits");
        let waited = |values: &Values| values.get(WAIT_TIME).copied().unwrap_or(0);
        ensure!(
            (waited(&region) > waited(&self.region)) == waits,
            "{what}: the time of waiting grew without it, or did not grow with it"
        );
        (self.region, self.device) = (region, device);
        Ok(())
    }
}

const FAULT_ALONE: Grown = &[
    ("page_faults", 1),
    ("page_faults_handled", 1),
    ("pages_mapped", 1),
];

fn faults(env: &Env, mode: Mode) -> Result<()> {
    let far = env.buffer(mode, 64 * PAGE)?;
    // Nor mTHP.
    far.memory.advise(0..64 * PAGE, Advice::NoHugePage)?;
    let mut watched = Watched::new(env, far)?;
    watched.touch(8 * PAGE + 10)?;
    watched.have_grown(
        "the first page",
        &[
            ("page_faults", 1),
            ("page_faults_handled", 1),
            ("pages_mapped", 1),
            ("chunks", 1),
        ],
    )?;
    watched.touch(8 * PAGE + 3000)?;
    watched.have_grown("the same page again", &[])?;
    watched.touch(40 * PAGE)?;
    watched.have_grown("another page", FAULT_ALONE)?;
    watched.touch(20 * PAGE - 50)?;
    watched.have_grown(
        "two pages in one packet",
        &[
            ("page_faults", 1),
            ("page_faults_handled", 1),
            ("pages_mapped", 2),
        ],
    )
}

/// Pages that the CPU has come along when the NIC goes through them in order: each counts once.
fn resident(env: &Env, mode: Mode) -> Result<()> {
    const PAGES: usize = 64;
    // What comes along lies in the aligned block around a page: nothing else there is resident.
    let far = env.buffer(mode, 3 * PAGES * PAGE)?;
    let first = far.memory.addr().next_multiple_of((PAGES * PAGE) as u64) - far.memory.addr();
    let first = first as usize;
    far.fill(Pattern::new(7), first, PAGES * PAGE);
    let mut watched = Watched::new(env, far)?;
    for page in 0..PAGES {
        watched.touch(first + page * PAGE)?;
    }
    let (region, device) = watched.read()?;
    for (before, now) in [(&watched.region, &region), (&watched.device, &device)] {
        let grown = |name: &str| now[name] - before.get(name).copied().unwrap_or(0);
        let (faults, mapped) = (grown("page_faults"), grown("pages_mapped"));
        let around = grown("pages_mapped_around");
        ensure!(mapped == PAGES as u64, "{mapped} pages are mapped");
        ensure!(
            faults < mapped && around == mapped - faults,
            "{around} pages came along with {faults} faults that mapped {mapped}"
        );
    }
    (watched.region, watched.device) = (region, device);
    watched.touch(first + 5 * PAGE)?;
    watched.have_grown("a page that came along", &[])
}

fn huge(env: &Env, mode: Mode) -> Result<()> {
    let memory = anonymous(HUGE_PAGE)?;
    memory.advise(0..HUGE_PAGE, Advice::HugePage)?;
    memory.write(0, &[1]);
    if memory.advise(0..HUGE_PAGE, Advice::Collapse).is_err() {
        return Err(skip("no huge page can be had"));
    }
    let mut watched = Watched::new(env, env.cover(mode, memory, Access::ALL)?)?;
    watched.touch(300 * PAGE + 123)?;
    watched.have_grown(
        "a huge page",
        &[
            ("page_faults", 1),
            ("page_faults_handled", 1),
            ("pages_mapped", 512),
            ("pages_mapped_around", 511),
            ("chunks", 1),
        ],
    )?;
    watched.touch(7)?;
    watched.have_grown("its first page", &[])?;
    watched.far.memory.advise(0..HUGE_PAGE, Advice::DontNeed)?;
    watched.have_grown(
        "the huge page thrown away",
        &[("invalidations", 1), ("page_invalidations", 512)],
    )
}

fn invalidation(env: &Env, mode: Mode) -> Result<()> {
    const PAGES: usize = 16;
    let mut watched = Watched::new(env, env.buffer(mode, 64 * PAGE)?)?;
    for page in (0..PAGES).step_by(2) {
        watched.touch(page * PAGE)?;
    }
    (watched.region, watched.device) = watched.read()?;
    let memory = &watched.far.memory;
    memory.advise(0..5 * PAGE, Advice::DontNeed)?;
    watched.have_grown(
        "pages 0, 2 and 4",
        &[("invalidations", 1), ("page_invalidations", 3)],
    )?;
    let memory = &watched.far.memory;
    memory.advise(32 * PAGE..33 * PAGE, Advice::DontNeed)?;
    watched.have_grown("a page that the NIC has not used", &[("invalidations", 1)])?;
    let memory = &watched.far.memory;
    memory.unmap(6 * PAGE..8 * PAGE)?;
    watched.have_grown(
        "munmap of pages 6 and 7",
        &[("invalidations", 1), ("page_invalidations", 1)],
    )?;
    let memory = &watched.far.memory;
    memory.protect(8 * PAGE..9 * PAGE, Protection::Read)?;
    watched.have_grown(
        "mprotect of page 8",
        &[("invalidations", 1), ("page_invalidations", 1)],
    )?;
    watched.touch(2 * PAGE)?;
    watched.have_grown("page 2 once more", FAULT_ALONE)
}

fn failed(env: &Env, mode: Mode) -> Result<()> {
    let far = env.buffer(mode, 64 * PAGE)?;
    far.memory.unmap(10 * PAGE..11 * PAGE)?;
    let mut watched = Watched::new(env, far)?;
    watched.touch(0)?;
    (watched.region, watched.device) = watched.read()?;
    let (near, far) = (watched.near.sge(0, 8), watched.far.remote(10 * PAGE));
    watched
        .link
        .refused(Op::Write(far), &[near], REMOTE_REFUSED)?;
    watched.have_grown("a hole", &[("page_faults", 1), ("page_faults_failed", 1)])
}

fn prefetch(env: &Env, mode: Mode) -> Result<()> {
    let mut watched = Watched::new(env, env.buffer(mode, 64 * PAGE)?)?;
    let sge = watched.far.sge(3 * PAGE + 5, 9 * PAGE);
    let domain = &env.domain;
    domain.advise(Advise::PrefetchWrite, PREFETCH_FLUSH, &[sge])?;
    watched.have_grown(
        "nine pages, not aligned",
        &[("pages_prefetched", 10), ("chunks", 1)],
    )?;
    watched.touch(7 * PAGE)?;
    watched.have_grown("a page that was prefetched", &[])
}

fn chunks(env: &Env, mode: Mode) -> Result<()> {
    const CHUNK: usize = 128 << 20;
    let far = env.buffer(mode, 3 * CHUNK)?;
    far.memory.advise(0..3 * CHUNK, Advice::NoHugePage)?;
    let mut watched = Watched::new(env, far)?;
    watched.touch(CHUNK - PAGE)?;
    watched.touch(2 * CHUNK + 5 * PAGE)?;
    watched.have_grown(
        "two pages far from each other",
        &[
            ("page_faults", 2),
            ("page_faults_handled", 2),
            ("pages_mapped", 2),
            ("chunks", 2),
        ],
    )?;
    let (name, lkey) = (env.context.name(), watched.far.region.lkey());
    let details = counters::details(name, lkey).context("rdma resource show mr")?;
    ensure!(
        details["drv_odp"] == mode.to_string(),
        "the region is described as {details}"
    );
    Ok(())
}

/// A page is taken away while somebody has to be waited for: the NIC has let go of the request, and comes back to
/// it once.
fn waits(env: &Env, mode: Mode) -> Result<()> {
    let mut watched = Watched::new(env, env.buffer(mode, 64 * PAGE)?)?;
    let handler = Handler::new(&watched.far.memory, 9 * PAGE)?;
    thread::scope(|threads| {
        let memory = &watched.far.memory;
        let taker = threads.spawn(|| {
            handler.wait()?;
            memory.advise(9 * PAGE..10 * PAGE, Advice::DontNeed)?;
            handler.give(&Pattern::new(2).bytes(0, PAGE))
        });
        let touched = watched.touch(9 * PAGE + 8);
        let taken = taker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        touched.and(taken)
    })?;
    watched.have_grown(
        "a page that somebody had to be waited for",
        &[
            ("page_faults", 1),
            ("page_faults_handled", 1),
            ("page_fault_waits", 1),
            ("pages_mapped", 1),
            ("invalidations", 1),
            ("chunks", 1),
        ],
    )
}

/// Translations of single pages take memory by units of 2 MiB, and give it back.
fn memory(env: &Env, mode: Mode) -> Result<()> {
    /// A word for each page of a unit.
    const UNIT: u64 = 4096;
    let far = env.buffer(mode, 4 * HUGE_PAGE)?;
    let all = 0..far.memory.len();
    far.memory.advise(all.clone(), Advice::NoHugePage)?;
    let first = far.memory.addr().next_multiple_of(HUGE_PAGE as u64) - far.memory.addr();
    let (first, second) = (first as usize, first as usize + HUGE_PAGE);
    let watched = Watched::new(env, far)?;
    let memory = |values: &Values| {
        let value = values.get(MEMORY).copied();
        value.with_context(|| format!("there is no counter {MEMORY}"))
    };
    let before = memory(&watched.device)?;
    let read = || -> Result<(u64, u64)> {
        let (region, device) = watched.read()?;
        Ok((memory(&region)?, memory(&device)?))
    };
    let taken = || -> Result<u64> {
        let (region, device) = read()?;
        ensure!(
            device == before + region,
            "the region takes {region} bytes, the device went from {before} to {device}"
        );
        Ok(region)
    };
    ensure!(taken()? == 0, "a region takes memory before it is used");
    watched.touch(first + PAGE)?;
    let one = taken()?;
    ensure!(
        (UNIT + 1..2 * UNIT).contains(&one),
        "a page takes {one} bytes"
    );
    watched.touch(first + 3 * PAGE)?;
    let same = taken()?;
    ensure!(same == one, "{same} bytes after another page, {one} before");
    watched.touch(second + 5 * PAGE)?;
    let two = taken()?;
    ensure!(two == one + UNIT, "{two} bytes in two units, {one} in one");
    let mapping = &watched.far.memory;
    mapping.advise(second..second + HUGE_PAGE, Advice::DontNeed)?;
    let back = taken()?;
    ensure!(
        back == one,
        "{back} bytes without the second unit, not {one}"
    );
    mapping.advise(all, Advice::DontNeed)?;
    let (start, limit) = (Instant::now(), patience::scaled(Duration::from_secs(30)));
    // The reaper may come between the two readings.
    loop {
        let (left, _) = read()?;
        if left == 0 {
            break;
        }
        ensure!(
            start.elapsed() < limit,
            "{left} bytes are left when nothing is mapped"
        );
    }
    ensure!(taken()? == 0, "there is memory of no chunk");
    Ok(())
}

/// Netlink says what sysfs does. What has happened stays when the region goes, what there is goes with it.
fn of_device(env: &Env) -> Result<()> {
    let name = env.context.name();
    let watched = Watched::new(env, env.buffer(Mode::Explicit, 64 * PAGE)?)?;
    watched.touch(0)?;
    let (region, with) = watched.read()?;
    let link = counters::of_link(name);
    ensure!(link == with, "netlink has {link:?}, sysfs {with:?}");
    drop(watched);
    thread::sleep(REMEMBERED);
    let without = counters::of_device(name)?;
    for (counter, with) in with {
        let now = without.get(&counter).copied().unwrap_or(0);
        let right = match counter.as_str() {
            "chunks_alive" => now + 1 == with,
            MEMORY => now + region[MEMORY] == with && region[MEMORY] > 0,
            "pages_reaped" => now >= with,
            _ => now == with,
        };
        ensure!(
            right,
            "{counter} was {with} with the region, and is {now} without it"
        );
    }
    Ok(())
}
