// SPDX-License-Identifier: GPL-2.0
//! What it costs to register memory and to deregister it.

use std::{rc::Rc, sync::Arc, time::Instant};

use anyhow::Result;
use odp_results::run::Unit;

use super::{
    lane::Lane,
    pages::{available, meminfo, Kind, Order},
    setting::{lacking, Bench},
    target::Target,
    Case,
};
use crate::{
    env::{Buffer, Mode},
    memory::{Mapping, PAGE},
    verbs::Region,
};

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
                cases.push(Case::new(name, move |bench| sized(bench, mode, size)));
            }
        }
    }
    cases.push(Case::new("registration/implicit", implicit));
    cases.push(Case::new("registration/memory", memory));
    cases
}

/// A size as part of a name.
pub(super) fn label(size: usize) -> String {
    Unit::Bytes
        .show(size as f64)
        .replace(' ', "")
        .replace(".00", "")
        .replace(".0", "")
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
    // Pinning gigabytes takes seconds, and neighbours differ little.
    let large = mode == Mode::Pinned && size > 64 << 20;
    let rounds = bench.times(if large { 10 } else { 30 });
    let [up, down] = calls(bench, mode, size, rounds)?;
    let name = |what: &str| format!("registration/{mode}/{what}/{}", label(size));
    bench.record(name("register"), Unit::Nanoseconds, Some(size), up);
    bench.record(name("deregister"), Unit::Nanoseconds, Some(size), down);
    Ok(())
}

fn implicit(bench: &Bench) -> Result<()> {
    bench.alone()?;
    bench.needs(Mode::Implicit)?;
    let [up, down] = calls(bench, Mode::Implicit, PAGE, bench.times(30))?;
    bench.times_of("registration/implicit/register", up);
    bench.times_of("registration/implicit/deregister", down);
    Ok(())
}

/// The times of so many registrations of `size` untouched bytes, and of their ends.
fn calls(bench: &Bench, mode: Mode, size: usize, rounds: usize) -> Result<[Vec<f64>; 2]> {
    let mut memory = Kind::Small.map(size)?;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let begun = Instant::now();
        let mut region = bench.register(mode, &memory)?;
        times[0].push(begun.elapsed().as_nanos() as f64);
        if round == 0 {
            (memory, region) = used(bench, memory, region)?;
        }
        let begun = Instant::now();
        region.deregister()?;
        times[1].push(begun.elapsed().as_nanos() as f64);
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
        samples.push(after.saturating_sub(before) as f64 / REGIONS as f64);
        drop(regions);
    }
    let name = format!("registration/memory/{}", label(SIZE));
    bench.record(name, Unit::Bytes, Some(SIZE), samples);
    Ok(())
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
    fn labels_are_short() {
        assert_eq!(SIZES.map(label)[..4], ["4KiB", "64KiB", "1MiB", "16MiB"]);
        assert_eq!(
            SIZES.map(label)[4..],
            ["256MiB", "4GiB", "64GiB", "1TiB", "16TiB"]
        );
    }
}
