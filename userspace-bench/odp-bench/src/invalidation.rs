// SPDX-License-Identifier: GPL-2.0
//! What a region adds to the system calls that take pages away.
//!
//! Each round prepares memory, has the NIC write to it where there is a region, and then times the system
//! call. After it the NIC is used again: it has to see what the CPU sees.

use std::{fs, rc::Rc, time::Duration, time::Instant};

use anyhow::{bail, Context, Result};
use odp_results::run::Unit;

use super::{
    advice::is_no_advice,
    lane::Lane,
    pages::{populate, Kind, Order, Pattern},
    problem::{lacking, wrong},
    setting::Bench,
    target::Target,
    Case, Cost,
};
use odp_fixture::env::{Buffer, Mode};
use odp_verbs::{Advise, PREFETCH_FLUSH};
use testkit::{
    memory::{Advice, Backing, Mapping, Protection, PAGE},
    process::{fork, End, Gate},
};

const SIZE: usize = 8 << 20;

/// How pages are taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Unmap,
    DontNeed,
    Protect,
    CopyOnWrite,
    SwapOut,
}

impl Event {
    const ALL: [Self; 5] = [
        Self::Unmap,
        Self::DontNeed,
        Self::Protect,
        Self::CopyOnWrite,
        Self::SwapOut,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Unmap => "munmap",
            Self::DontNeed => "dontneed",
            Self::Protect => "mprotect",
            Self::CopyOnWrite => "copy-on-write",
            Self::SwapOut => "swap-out",
        }
    }
}

/// Twenty rounds of all pages with either kind of region, and of none.
const COST: Cost = Cost {
    accesses: (40 * SIZE / PAGE) as f64,
    faults: (60 * SIZE / PAGE) as f64,
    ..Cost::NOTHING
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for event in Event::ALL {
        for kind in [Kind::Small, Kind::Thp] {
            let name = format!("invalidation/{}/{kind}", event.name());
            let inner = name.clone();
            let run = move |bench: &Bench| invalidation(bench, &inner, event, kind);
            cases.push(Case::new(name, COST, run));
        }
    }
    cases
}

/// Memory without a region, and memory with one, in turns.
fn invalidation(bench: &Bench, name: &str, event: Event, kind: Kind) -> Result<()> {
    if event == Event::SwapOut && !swap_is_on()? {
        return Err(lacking("no swap device"));
    }
    bench.alone()?;
    let mut lane = Lane::new(bench, SIZE / PAGE)?;
    lane.warm_up()?;
    let alone = kind.map(SIZE)?;
    let mut regions = Vec::new();
    for mode in bench.modes(name, &Mode::ON_DEMAND) {
        regions.push((mode, bench.cover(mode, kind.map(SIZE)?)?, Vec::new()));
    }
    let sink = bench.buffer(Mode::Pinned, PAGE)?;
    let mut without = Vec::new();
    let mut again = Vec::new();
    for round in 0..bench.times(20) {
        for turn in turns(round, 1 + regions.len()) {
            let Some(region) = turn.checked_sub(1) else {
                prepare(&alone, kind)?;
                without.push(happen(event, &alone, || Ok(()))?);
                restore(event, &alone)?;
                continue;
            };
            let (_, target, with) = &mut regions[region];
            prepare(&target.memory, kind)?;
            hand_over(bench, &mut lane, target)?;
            // Copy on write takes pages only from a NIC that has read them since the fork.
            let time = happen(event, &target.memory, || {
                read_again(bench, &lane, target, &sink)
            });
            with.push(time?);
            check_kept(bench, event, &lane, target)?;
            restore(event, &target.memory)?;
            again.push(seen_again(bench, &mut lane, target)?);
        }
    }
    let size = Some(SIZE);
    let record = |what: &str, times| {
        bench.record(format!("{name}/{what}"), Unit::Nanoseconds, size, times);
    };
    record("no-region", without);
    for (mode, _, times) in regions {
        record(&mode.to_string(), times);
    }
    bench.times_of(format!("{name}/first-access-after"), again);
    Ok(())
}

/// The order in which `count` take their turns in a round: each begins as often as the others.
fn turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (round + turn) % count)
}

fn swap_is_on() -> Result<bool> {
    let text = fs::read_to_string("/proc/swaps").context("reading /proc/swaps")?;
    Ok(text.lines().count() > 1)
}

/// Every page is there anew, and used by the CPU.
fn prepare(memory: &Mapping, kind: Kind) -> Result<()> {
    // Of huge pages that were shared or swapped only small ones are left.
    memory.advise(0..SIZE, Advice::DontNeed)?;
    kind.advise(memory)?;
    populate(memory);
    kind.confirm(memory)
}

/// The NIC gets translations for all pages, and writes to some.
fn hand_over(bench: &Bench, lane: &mut Lane<'_>, target: &Rc<Buffer>) -> Result<()> {
    let piece = target.sge(0, SIZE);
    let target = Target::Here(bench, target.clone());
    let advised = bench
        .domain
        .advise(Advise::PrefetchWrite, PREFETCH_FLUSH, &[piece]);
    lane.renew();
    if advised.is_err() {
        // Where there is no advice, faults do.
        lane.sweep(&target, &Pattern::Sequential.order(0, SIZE / PAGE))?;
    }
    lane.sweep(&target, &written())?;
    Ok(())
}

/// The pages that the NIC writes to before each event.
fn written() -> Order {
    Order::every(16, SIZE / PAGE)
}

/// The NIC gets translations for reading: without accesses, or where there is no advice, by one to each page.
fn read_again(bench: &Bench, lane: &Lane<'_>, target: &Rc<Buffer>, sink: &Buffer) -> Result<()> {
    let piece = target.sge(0, SIZE);
    let advised = bench
        .domain
        .advise(Advise::Prefetch, PREFETCH_FLUSH, &[piece]);
    match advised {
        Err(error) if is_no_advice(error.errno()) => {
            let target = Target::Here(bench, target.clone());
            (0..SIZE / PAGE).try_for_each(|page| lane.read(&target, page, sink))
        }
        advised => Ok(advised?),
    }
}

/// Lets it happen to all of `memory`; how long it took, in nanoseconds. Before copy on write, `shared` runs
/// while another process has the same pages.
fn happen(event: Event, memory: &Mapping, shared: impl FnOnce() -> Result<()>) -> Result<f64> {
    let all = 0..SIZE;
    if event == Event::CopyOnWrite {
        return copy_on_write(memory, shared);
    }
    let begun = Instant::now();
    match event {
        Event::Unmap => memory.unmap(all)?,
        Event::DontNeed => memory.advise(all, Advice::DontNeed)?,
        Event::Protect => memory.protect(all, Protection::Read)?,
        Event::SwapOut => memory.advise(all, Advice::PageOut)?,
        Event::CopyOnWrite => unreachable!("handled above"),
    }
    Ok(begun.elapsed().as_nanos() as f64)
}

/// The CPU writes to every page while a copy of this process shares them.
fn copy_on_write(memory: &Mapping, shared: impl FnOnce() -> Result<()>) -> Result<f64> {
    let gate = Gate::new()?;
    let other = fork(|| i32::from(gate.wait().is_err()))?;
    shared()?;
    let begun = Instant::now();
    for page in 0..SIZE / PAGE {
        memory.write(page * PAGE + PAGE - 8, &(page as u64).to_ne_bytes());
    }
    let time = begun.elapsed().as_nanos() as f64;
    gate.open()?;
    match other.finish(Duration::from_secs(30))? {
        End::Status(0) => Ok(time),
        end => bail!("the process that shared the pages ended with {end:?}"),
    }
}

/// What the NIC wrote before is there, or gone, as it has to be.
fn check_kept(bench: &Bench, event: Event, lane: &Lane<'_>, target: &Rc<Buffer>) -> Result<()> {
    match event {
        // There is nothing to look at.
        Event::Unmap => Ok(()),
        Event::DontNeed => target
            .check_zero(0, SIZE)
            .map_err(|mismatch| wrong(0, mismatch)),
        _ => lane.check(&Target::Here(bench, target.clone()), &written()),
    }
}

/// The memory can be used again.
fn restore(event: Event, memory: &Mapping) -> Result<()> {
    let all = 0..SIZE;
    match event {
        Event::Unmap => memory.map(all, Backing::Anonymous, Protection::ReadWrite)?,
        Event::Protect => memory.protect(all, Protection::ReadWrite)?,
        _ => {}
    }
    Ok(())
}

/// The time of the NIC's first access after an invalidation; what it writes has to be where the CPU sees it.
fn seen_again(bench: &Bench, lane: &mut Lane<'_>, target: &Rc<Buffer>) -> Result<f64> {
    let target = Target::Here(bench, target.clone());
    lane.renew();
    let order = Order::every(64, SIZE / PAGE);
    let times = lane.sweep(&target, &order)?;
    lane.check(&target, &order)?;
    Ok(times[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_begins_as_often_as_the_others() {
        let order = |round| turns(round, 3).collect::<Vec<_>>();
        assert_eq!(
            [order(0), order(1), order(5)],
            [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
        );
    }
}
