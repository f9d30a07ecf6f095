// SPDX-License-Identifier: GPL-2.0
//! The driver's limits, whatever they are: debugfs says what the module was loaded with.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    counters::{self, Values},
    env::{anonymous, Buffer, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::{Access, Advise, Op, Status};
use testkit::{
    memory::{Advice, HUGE_PAGE, PAGE},
    patience,
    pattern::Pattern,
};

use crate::{
    harness::{skip, Test},
    machine::Setting,
    userfault::Handler,
};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("limits-fault-around", fault_around),
    Test::once("limits-look-around", look_around),
    Test::once("limits-large-folio", large_folio),
    Test::on_demand("limits-chunk-size", chunk_size),
    Test::on_demand("limits-fault-workers", fault_workers),
    Test::once("limits-prefetch-workers", prefetch_workers),
    Test::once("limits-region-memory", region_memory),
];

/// Time enough for what is not to happen.
const WHILE: Duration = Duration::from_millis(300);

/// What the module's parameter `name` is.
fn parameter(name: &str) -> Result<usize> {
    let file = "/sys/kernel/debug/mlx_odp/parameters";
    let text =
        fs::read_to_string(file).map_err(|_| skip("the driver does not say its parameters"))?;
    let values = text.lines().filter_map(|line| line.split_once(' '));
    let value = values.filter(|(n, _)| *n == name).map(|(_, v)| v).next();
    let value = value.with_context(|| format!("no parameter is called {name}"))?;
    Ok(value.parse()?)
}

/// The counters of the region behind `buffer`.
fn counted(env: &Env, buffer: &Buffer) -> Result<Values> {
    let values = counters::of_region(env.context.name(), buffer.region.lkey());
    values.context("the region's counters")
}

/// Waits until it has happened.
fn soon(what: &str, happened: impl Fn() -> Result<bool>) -> Result<()> {
    let (start, limit) = (Instant::now(), patience::scaled(Duration::from_secs(30)));
    while !happened()? {
        if start.elapsed() > limit {
            bail!("{what} has not ended after {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Resident pages come along as far as the window goes, and not at all without one.
fn fault_around(env: &Env, mode: Mode) -> Result<()> {
    const PAGES: usize = 128;
    let window = parameter("fault_around")?;
    let Counted { faults, around } = resident(env, mode, PAGES, 0..PAGES)?;
    ensure!(
        faults + around == PAGES as u64 && faults * (window as u64 + 1) >= PAGES as u64,
        "{faults} faults, and {around} pages that came along with a window of {window}"
    );
    ensure!(
        (around > 0) == (window > 0),
        "{around} pages came along with a window of {window}"
    );
    Ok(())
}

/// What resident pages took.
struct Counted {
    faults: u64,
    around: u64,
}

/// Writes to those of `pages` resident small pages that `order` says, and checks them all. Nothing else is resident in
/// their PMDs.
fn resident(
    env: &Env,
    mode: Mode,
    pages: usize,
    order: impl Iterator<Item = usize> + Clone,
) -> Result<Counted> {
    let (old, new) = (Pattern::new(1), Pattern::new(2));
    let len = (pages * PAGE).next_multiple_of(HUGE_PAGE);
    let (near, far) = (
        env.buffer(Mode::Pinned, PAGE)?,
        env.buffer(mode, len + HUGE_PAGE)?,
    );
    far.memory.advise(0..len + HUGE_PAGE, Advice::NoHugePage)?;
    let first = far.memory.addr().next_multiple_of(HUGE_PAGE as u64) - far.memory.addr();
    let first = first as usize;
    let at = |page: usize| first + page * PAGE;
    far.fill(old, at(0), pages * PAGE);
    // The region of the whole address space has been used before.
    let before = counted(env, &far)?;
    let link = env.rc()?;
    let mut written = vec![false; pages];
    for page in order {
        near.memory.write(0, &new.bytes(page as u64 * 100, 100));
        link.write(near.sge(0, 100), far.remote(at(page)))?;
        written[page] = true;
    }
    for (page, written) in written.into_iter().enumerate() {
        let (start, rest) = (at(page), at(page) + 100);
        match written {
            true => far.check_from(new, page * 100, start, 100)?,
            false => far.check_from(old, start, start, 100)?,
        }
        far.check_from(old, rest, rest, PAGE - 100)?;
    }
    let after = counted(env, &far)?;
    let grown = |name: &str| after[name] - before[name];
    Ok(Counted {
        faults: grown("page_faults"),
        around: grown("pages_mapped_around"),
    })
}

/// Resident pages come along however the NIC goes through them, and are not looked for where it uses none of them.
///
/// In regions of their own: what has come of it is remembered in each.
fn look_around(env: &Env) -> Result<()> {
    let mode = Mode::Explicit;
    const PAGES: usize = 2048;
    const BLOCK: usize = 32;
    if parameter("fault_around")? < BLOCK - 1 {
        return Err(skip("blocks are smaller with this fault_around"));
    }
    // One for each block, and some more if a look was in vain, as something else happened at that time.
    let few = (PAGES * 7 / 100) as u64;
    // A number that has no factor in common with how many there are visits each once.
    let random = (0..PAGES).map(|step| (step * 1237 + 501) % PAGES);
    let Counted { faults, around } = resident(env, mode, PAGES, random)?;
    ensure!(
        faults <= few && faults + around >= PAGES as u64,
        "at random: {faults} faults, {around} pages came along"
    );
    let backwards = (0..PAGES).rev();
    let Counted { faults, around } = resident(env, mode, PAGES, backwards)?;
    ensure!(
        faults <= few && faults + around >= PAGES as u64,
        "backwards: {faults} faults, {around} pages came along"
    );
    // Of 12,000 pages one in each block: after 4096 that came along it is tried only now and then.
    let (blocks, most) = (375, 6500);
    let sparse = (0..blocks).map(|step| (step * 7 + 3) % blocks * BLOCK + step % BLOCK);
    let Counted { faults, around } = resident(env, mode, blocks * BLOCK, sparse)?;
    ensure!(
        faults >= blocks as u64 && around < most,
        "one page of each block: {faults} faults, {around} pages came along"
    );
    Ok(())
}

/// All of a large folio that a fault brings in comes along (mTHP of 64 KiB).
fn large_folio(env: &Env) -> Result<()> {
    const FOLIO: usize = 16;
    const PAGES: usize = 256;
    if parameter("fault_around")? < FOLIO - 1 {
        return Err(skip("blocks are smaller with this fault_around"));
    }
    let all = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB";
    if !std::path::Path::new(all).exists() {
        return Err(skip("this kernel has no folios of 64 KiB for a process"));
    }
    let _always = Setting::new(
        "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled",
        "always",
    )?;
    // Not all of a PMD, which would be one huge page.
    let far = env.buffer(Mode::Explicit, HUGE_PAGE + PAGES * PAGE)?;
    let first = far.memory.addr().next_multiple_of(HUGE_PAGE as u64) - far.memory.addr();
    let first = first as usize;
    far.memory
        .unmap(first + PAGES * PAGE..HUGE_PAGE + PAGES * PAGE)?;
    let near = env.buffer(Mode::Pinned, PAGE)?;
    let (link, new) = (env.rc()?, Pattern::new(2));
    for step in 0..PAGES {
        let page = (step * 37 + 5) % PAGES;
        near.memory.write(0, &new.bytes(page as u64 * 100, 100));
        link.write(near.sge(0, 100), far.remote(first + page * PAGE))?;
    }
    for page in 0..PAGES {
        let start = first + page * PAGE;
        far.check_from(new, page * 100, start, 100)?;
        far.check_zero(start + 100, PAGE - 100)?;
    }
    let after = counted(env, &far)?;
    let (faults, around) = (after["page_faults"], after["pages_mapped_around"]);
    ensure!(
        faults + around >= PAGES as u64 && faults <= (PAGES / FOLIO * 2) as u64,
        "{faults} faults on {PAGES} pages, {around} came along"
    );
    Ok(())
}

/// A chunk covers what the parameter says.
fn chunk_size(env: &Env, mode: Mode) -> Result<()> {
    let chunk = parameter("chunk_size")? << 20;
    let near = env.buffer(Mode::Pinned, PAGE)?;
    let far = env.buffer(mode, 3 * chunk)?;
    far.memory.advise(0..3 * chunk, Advice::NoHugePage)?;
    // Chunks begin at multiples of their size.
    let first = far.memory.addr().next_multiple_of(chunk as u64) - far.memory.addr();
    let (first, link) = (first as usize, env.rc()?);
    for (offset, chunks) in [(0, 1), (chunk - PAGE, 1), (chunk, 2), (2 * chunk - PAGE, 2)] {
        link.write(near.sge(0, 100), far.remote(first + offset))?;
        let there = counted(env, &far)?["chunks_alive"];
        ensure!(
            there == chunks,
            "{there} chunks of {chunk:#x} bytes, not {chunks}, at {offset:#x}"
        );
    }
    Ok(())
}

/// What a handler gives, and what the NIC writes.
const GIVEN: Pattern = Pattern::new(4);
const WRITTEN: Pattern = Pattern::new(5);

/// A page of which no handler knows, and one more.
const FREE: usize = 40;

/// Handlers for the first pages of `far`, as many as there are turns, or for some if there are more turns
/// than can be tried.
fn handlers(far: &Buffer, turns: Option<usize>) -> Result<Vec<Handler>> {
    const SOME: usize = 4;
    let pages = 0..turns.map_or(SOME, |turns| turns.min(SOME));
    pages
        .map(|page| Handler::new(&far.memory, page * PAGE))
        .collect()
}

/// That so many pieces of work go on at once: one that has to wait for each of `handlers` leaves no turn if there
/// are as many `turns`, and before the last of them begins, one is left. `begin` begins to work on a page, `ended`
/// says how many have ended.
fn at_once(
    turns: Option<usize>,
    handlers: &[Handler],
    begin: impl Fn(usize) -> Result<()>,
    ended: impl Fn() -> Result<u64>,
) -> Result<()> {
    for (page, handler) in handlers.iter().enumerate() {
        if page + 1 == handlers.len() {
            begin(FREE)?;
            soon("what there is a turn for", || Ok(ended()? == 1))?;
        }
        begin(page)?;
        handler.wait()?;
    }
    begin(FREE + 1)?;
    if turns == Some(handlers.len()) {
        thread::sleep(WHILE);
        let ended = ended()?;
        ensure!(ended == 1, "{ended} ended, with all turns taken");
    } else {
        soon("what there is a turn for", || Ok(ended()? == 2))?;
    }
    for (page, handler) in handlers.iter().enumerate() {
        handler.give(&GIVEN.bytes((page * PAGE) as u64, PAGE))?;
    }
    let all = handlers.len() as u64 + 2;
    soon("what had to wait", || Ok(ended()? == all))
}

/// A counter of the device, as debugfs has it: at once.
fn of_device(env: &Env, name: &str) -> Result<u64> {
    let file = format!("/sys/kernel/debug/mlx_odp/{}/counters", env.context.name());
    let text = fs::read_to_string(file)?;
    let mut values = text.lines().filter_map(|line| line.split_once(' '));
    let value = values.find(|(n, _)| *n == name).map(|(_, v)| v);
    Ok(value.context("no such counter")?.parse()?)
}

/// So many faults of a user wait at once. One more waits for its turn, and what nobody has to be waited for
/// needs none.
fn fault_workers(env: &Env, mode: Mode) -> Result<()> {
    const AT: usize = 13;
    const LEN: usize = 100;
    /// Of more turns than that it is not tried that there are no more.
    const SOME: usize = 4;
    let turns = parameter("fault_workers")?;
    let limited = turns <= SOME;
    let near = env.buffer(Mode::Pinned, PAGE)?;
    near.fill(WRITTEN, 0, PAGE);
    let far = env.buffer(mode, 64 * PAGE)?;
    let waited_for = turns.min(SOME) + usize::from(limited);
    let handlers = (0..waited_for).map(|page| Handler::new(&far.memory, page * PAGE));
    let handlers = handlers.collect::<Result<Vec<_>>>()?;
    let links = (0..=waited_for).map(|_| Ok(env.rc()?));
    let links = links.collect::<Result<Vec<Loopback>>>()?;
    let write = |page: usize| Op::Write(far.remote(page * PAGE + AT));
    for (page, link) in links.iter().enumerate().take(waited_for) {
        link.first.post_send(1, write(page), &[near.sge(0, LEN)])?;
        if page < turns {
            handlers[page].wait()?;
        }
    }
    if limited {
        let asked = handlers[turns].asked_within(Some(WHILE))?;
        ensure!(!asked, "{waited_for} wait at once, and not {turns}");
    }
    links[waited_for].write(near.sge(0, LEN), far.remote(FREE * PAGE + AT))?;
    far.check_from(WRITTEN, 0, FREE * PAGE + AT, LEN)?;
    for (page, handler) in handlers.iter().enumerate() {
        if page >= turns {
            handler.wait()?;
        }
        handler.give(&GIVEN.bytes((page * PAGE) as u64, PAGE))?;
        let end = links[page].first.completions().wait(env.patience)?;
        end.expect(&[Status::SUCCESS])?;
        let (start, rest) = (page * PAGE, page * PAGE + AT + LEN);
        far.check_from(WRITTEN, 0, start + AT, LEN)?;
        far.check_from(GIVEN, start, start, AT)?;
        far.check_from(GIVEN, rest, rest, PAGE - AT - LEN)?;
    }
    Ok(())
}

/// So many prefetches run at once.
fn prefetch_workers(env: &Env) -> Result<()> {
    let turns = Some(parameter("prefetch_workers")?);
    let far = env.buffer(Mode::Explicit, 64 * PAGE)?;
    let handlers = handlers(&far, turns)?;
    let before = of_device(env, "pages_prefetched")?;
    let begin = |page: usize| -> Result<()> {
        let sge = far.sge(page * PAGE, PAGE);
        Ok(env.domain.advise(Advise::PrefetchWrite, 0, &[sge])?)
    };
    let ended = || -> Result<u64> { Ok(of_device(env, "pages_prefetched")? - before) };
    at_once(turns, &handlers, begin, ended)?;
    for page in 0..handlers.len() {
        far.check_from(GIVEN, page * PAGE, page * PAGE, PAGE)?;
    }
    Ok(())
}

/// The bytes that the translations of a region may take.
fn most_memory() -> Result<u64> {
    let said = parameter("region_memory")? as u64;
    if said > 0 {
        return Ok(said << 20);
    }
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    let kib: u64 = number.context("/proc/meminfo has no MemTotal")?.parse()?;
    Ok((kib << 10) / 128)
}

/// The translations take no more than they may, no access fails for that, and the data is right.
fn region_memory(env: &Env) -> Result<()> {
    /// What the translations of single pages take for each unit.
    const UNIT: u64 = 4096;
    const LEN: usize = 100;
    let most = most_memory()?;
    // Half as much again as there may be.
    let units = usize::try_from(most / UNIT / 2 * 3)?;
    let memory = anonymous(units * HUGE_PAGE)?;
    memory.advise(0..units * HUGE_PAGE, Advice::NoHugePage)?;
    let far = env.cover(Mode::Explicit, memory, Access::ALL)?;
    let near = env.buffer(Mode::Pinned, PAGE)?;
    let (link, pattern) = (env.rc()?, Pattern::new(6));
    for unit in 0..units {
        near.memory
            .write(0, &pattern.bytes((unit * LEN) as u64, LEN));
        link.write(near.sge(0, LEN), far.remote(unit * HUGE_PAGE + 50))?;
        if unit % (units / 64) == 0 {
            let now = of_device(env, "memory_bytes")?;
            // What a fault under way needs may come on top.
            ensure!(now <= most + 4 * UNIT, "{now} bytes of at most {most}");
        }
    }
    for unit in 0..units {
        far.check_from(pattern, unit * LEN, unit * HUGE_PAGE + 50, LEN)?;
    }
    let values = counted(env, &far)?;
    ensure!(
        values["chunks_reaped"] > 0 && values["page_faults_failed"] == 0,
        "{values:?} with {most} bytes at most"
    );
    Ok(())
}
