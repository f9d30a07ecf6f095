// SPDX-License-Identifier: GPL-2.0
//! What it costs to register memory and to deregister it.

use std::{rc::Rc, sync::Arc, time::Instant};

use anyhow::Result;
use odp_results::run::Unit;

use super::{
    lane::Lane,
    pages::{available, meminfo, Kind, Order},
    problem::lacking,
    setting::Bench,
    target::Target,
    Case, Cost,
};
use odp_fixture::env::{Buffer, Mode};
use odp_verbs::Region;
use testkit::memory::{Advice, Mapping, PAGE};

/// The sizes, in bytes.
const SIZES: [usize; 9] = [
    4 << 10,
    64 << 10,
    1 << 20,
    16 << 20,
    256 << 20,
    4 << 30,
    64 << 30,
    1 << 40,
    16 << 40,
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in [Mode::Pinned, Mode::Explicit] {
        for size in SIZES {
            // Nobody has so much memory to pin.
            if mode == Mode::Explicit || size <= 4 << 30 {
                let name = format!("registration/{mode}/{}", label(size));
                let cost = match mode {
                    // Pinning brings the pages in, each time.
                    Mode::Pinned => Cost::of_faults(ROUNDS as f64 * (size / PAGE) as f64 / 3.0),
                    _ => Cost::of_accesses(200.0),
                };
                cases.push(Case::new(name, cost, move |bench| sized(bench, mode, size)));
            }
        }
    }
    cases.push(Case::new(
        "registration/implicit",
        Cost::of_accesses(200.0),
        implicit,
    ));
    cases.push(Case::new(
        "registration/memory",
        Cost::of_accesses(5000.0),
        memory,
    ));
    cases
}

/// A size as part of a name: in the largest unit of which it is a whole number, so that no two have the same.
pub(super) fn label(size: usize) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let shifts = (0..UNITS.len()).rev();
    let divides = |unit: &usize| size > 0 && size % (1 << (10 * unit)) == 0;
    let unit = shifts.into_iter().find(divides).unwrap_or(0);
    format!("{}{}", size >> (10 * unit), UNITS[unit])
}

fn sized(bench: &Bench, mode: Mode, size: usize) -> Result<()> {
    bench.alone()?;
    bench.needs(mode)?;
    let free = available()?;
    if mode == Mode::Pinned && size as u64 > free / 2 {
        return Err(lacking(format!(
            "{} of memory are free, too little to pin {}",
            Unit::Bytes.show(free as f64),
            label(size)
        )));
    }
    let times = calls(bench, mode, size, bench.times(ROUNDS))?;
    for (state, [up, down]) in times {
        let name = |what: &str| {
            format!(
                "registration/{mode}/{what}{}/{}",
                state.suffix(),
                label(size)
            )
        };
        bench.record(name("register"), Unit::Nanoseconds, Some(size), up);
        bench.record(name("deregister"), Unit::Nanoseconds, Some(size), down);
    }
    Ok(())
}

/// How often a region is registered, also a large one that takes seconds: of fewer than 15 independent samples none can
/// stand out among all metrics.
const ROUNDS: usize = 30;

fn implicit(bench: &Bench) -> Result<()> {
    bench.alone()?;
    bench.needs(Mode::Implicit)?;
    for (_, [up, down]) in calls(bench, Mode::Implicit, PAGE, bench.times(ROUNDS))? {
        bench.times_of("registration/implicit/register", up);
        bench.times_of("registration/implicit/deregister", down);
    }
    Ok(())
}

/// What memory is like before it is registered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has no pages.
    Untouched,
    /// It has all of them. Only pinning cares.
    Resident,
}

impl State {
    /// Those that make a difference to `mode`, in the order in which one comes after the other.
    fn of(mode: Mode) -> &'static [Self] {
        match mode {
            Mode::Pinned => &[Self::Untouched, Self::Resident],
            _ => &[Self::Untouched],
        }
    }

    /// What it adds to a metric's name.
    fn suffix(self) -> &'static str {
        match self {
            Self::Untouched => "",
            Self::Resident => "-resident",
        }
    }
}

/// The times of registrations, and those of their ends.
type Calls = [Vec<f64>; 2];

/// The times of so many registrations of `size` bytes, and of their ends, in each state that makes a difference.
fn calls(bench: &Bench, mode: Mode, size: usize, rounds: usize) -> Result<Vec<(State, Calls)>> {
    let mut memory = Kind::Small.map(size)?;
    let states = State::of(mode).iter();
    let mut times: Vec<(State, Calls)> = states.map(|state| (*state, Calls::default())).collect();
    for round in 0..rounds {
        for (state, [up, down]) in &mut times {
            // What was pinned before is resident.
            if *state == State::Untouched {
                memory.advise(0..memory.len(), Advice::DontNeed)?;
            }
            let begun = Instant::now();
            let mut region = bench.register(mode, &memory)?;
            up.push(begun.elapsed().as_nanos() as f64);
            if round == 0 && *state == State::Untouched {
                (memory, region) = used(bench, memory, region)?;
            }
            let begun = Instant::now();
            region.deregister()?;
            down.push(begun.elapsed().as_nanos() as f64);
        }
    }
    Ok(times)
}

/// Writes to both ends of a region: one that was never used may not even work.
fn used(bench: &Bench, memory: Mapping, region: Region) -> Result<(Mapping, Region)> {
    let buffer = Rc::new(Buffer {
        iova: memory.addr(),
        region: region.into(),
        memory,
    });
    let lane = Lane::new(bench, 2)?;
    let target = Target::Here(bench, buffer.clone());
    let last = buffer.memory.len() / PAGE - 1;
    let ends = Order::every(last.max(1), last + 1);
    lane.sweep(&target, &ends)?;
    lane.check(&target, &ends)?;
    drop(target);
    let buffer = Rc::into_inner(buffer).expect("nobody else has it");
    let region = Arc::into_inner(buffer.region).expect("nobody else has it");
    Ok((buffer.memory, region))
}

/// The kernel memory that an untouched region of 1 GiB takes: what the slab allocator and vmalloc have more
/// of with many such regions, for each of them.
fn memory(bench: &Bench) -> Result<()> {
    const SIZE: usize = 1 << 30;
    const REGIONS: usize = 128;
    bench.alone()?;
    bench.needs(Mode::Explicit)?;
    let memory = Kind::Small.map(SIZE)?;
    let mut samples = Vec::new();
    for _ in 0..bench.times(20) {
        let before = kernel_memory()?;
        let regions = (0..REGIONS)
            .map(|_| bench.register(Mode::Explicit, &memory))
            .collect::<Result<Vec<_>>>()?;
        let after = kernel_memory()?;
        samples.push(growth(before, after) / REGIONS as f64);
        drop(regions);
    }
    let name = format!("registration/memory/{}", label(SIZE));
    bench.record(name, Unit::Bytes, Some(SIZE), samples);
    Ok(())
}

/// What there is more of; less than nothing where something else was given back meanwhile. To take that for nothing
/// would leave only the errors upwards.
fn growth(before: u64, after: u64) -> f64 {
    after as f64 - before as f64
}

fn kernel_memory() -> Result<u64> {
    // Not SReclaimable, which is the caches of file systems.
    let kib = ["SUnreclaim", "VmallocUsed", "Percpu"]
        .iter()
        .map(|name| Ok(meminfo(name)?.unwrap_or(0)))
        .sum::<Result<u64>>()?;
    Ok(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_goes_both_ways() {
        assert_eq!([growth(8192, 4096), growth(4096, 8192)], [-4096.0, 4096.0]);
    }

    #[test]
    fn labels_are_short() {
        assert_eq!(SIZES.map(label)[..4], ["4KiB", "64KiB", "1MiB", "16MiB"]);
        assert_eq!(
            [0, 1, 1024, 1025, 1075, 2100].map(label),
            ["0B", "1B", "1KiB", "1025B", "1075B", "2100B"]
        );
        assert_eq!(
            SIZES.map(label)[4..],
            ["256MiB", "4GiB", "64GiB", "1TiB", "16TiB"]
        );
    }
}
