// SPDX-License-Identifier: GPL-2.0
//! Access to memory that the NIC has translations for, against pinned memory.

use anyhow::Result;
use odp_results::run::Unit;

use super::{
    act::{Act, Piece},
    batch::Batch,
    lane::LEN,
    pages::Kind,
    registration::label,
    setting::Bench,
    target::Target,
    Case, Cost,
};
use odp_fixture::env::Mode;
use odp_verbs::Op;
use testkit::{memory::PAGE, pattern::Pattern};

const MODES: [Mode; 3] = [Mode::Pinned, Mode::Explicit, Mode::Implicit];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("warm/write", Cost::of_accesses(6300.0), |bench| {
            one_by_one(bench, Direction::Write)
        }),
        Case::new("warm/read", Cost::of_accesses(6300.0), |bench| {
            one_by_one(bench, Direction::Read)
        }),
        Case::new("warm/write-4-qps", Cost::of_accesses(60_000.0), |bench| {
            together(bench, 4)
        }),
    ];
    for size in [4 << 10, 64 << 10, 1 << 20] {
        let name = format!("warm/write-{}", label(size));
        let cost = Cost::of_bytes(3.0 * (messages(size) * size) as f64);
        cases.push(Case::new(name, cost, move |bench| large(bench, size)));
    }
    cases
}

#[derive(Clone, Copy)]
enum Direction {
    Write,
    Read,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// One 64-byte access after the other, the modes in turns.
fn one_by_one(bench: &Bench, direction: Direction) -> Result<()> {
    let name = format!("warm/{}", direction.name());
    let link = bench.link(64)?;
    let near = bench.buffer(Mode::Pinned, PAGE)?;
    let here = Target::Here(bench, near.clone());
    let mut lanes = lanes(bench, &name, PAGE)?;
    let (rounds, warm_up, at) = (bench.times(2000), bench.warm_up(100), bench.place(7));
    let (sge, pieces) = (near.sge(at, LEN), vec![Piece::at(at, LEN)]);
    let count = lanes.len();
    for round in 0..warm_up + rounds {
        for turn in 0..count {
            let (_, far, times) = &mut lanes[(round + turn) % count];
            let seed = (round * count + turn) as u64;
            let (from, to, op) = match direction {
                Direction::Write => (&here, &*far, Op::Write(far.remote(at))),
                Direction::Read => (&*far, &here, Op::Read(far.remote(at))),
            };
            from.does(Act::Fill(seed, pieces.clone()))?;
            let time = bench.timed(&link, op, &[sge])?;
            to.does(Act::Check(seed, pieces.clone()))?;
            if round >= warm_up {
                times.push(time);
            }
        }
    }
    for (mode, _, times) in lanes {
        bench.times_of(format!("{name}/{mode}"), times);
    }
    Ok(())
}

/// A target for each mode that there is, and its samples.
fn lanes<'a>(
    bench: &'a Bench,
    name: &str,
    len: usize,
) -> Result<Vec<(Mode, Target<'a>, Vec<f64>)>> {
    let modes = bench.modes(name, &MODES).into_iter();
    modes
        .map(|mode| Ok((mode, bench.target(mode, Kind::Small, len)?, Vec::new())))
        .collect()
}

/// How many messages of `size` bytes are measured.
fn messages(size: usize) -> usize {
    ((400 << 10) / (size >> 3)).max(30)
}

/// Large messages, one after the other, the modes in turns.
fn large(bench: &Bench, size: usize) -> Result<()> {
    bench.allows_message(size)?;
    let link = bench.link(64)?;
    let near = bench.buffer(Mode::Pinned, size)?;
    let mut lanes = lanes(bench, &format!("warm/write-{}", label(size)), size)?;
    let (rounds, count) = (bench.times(messages(size)), lanes.len());
    let warm_up = bench.warm_up(2);
    for round in 0..warm_up + rounds {
        let seed = round as u64;
        near.fill(Pattern::new(seed), 0, size);
        for turn in 0..count {
            let (_, far, times) = &mut lanes[(round + turn) % count];
            let time = bench.timed(&link, Op::Write(far.remote(0)), &[near.sge(0, size)])?;
            far.does(Act::Check(seed, vec![Piece::at(0, size)]))?;
            if round >= warm_up {
                times.push(time);
            }
        }
    }
    for (mode, _, times) in lanes {
        let name = format!("warm/large-write/{mode}/{}", label(size));
        bench.record(name, Unit::Nanoseconds, Some(size), times);
    }
    Ok(())
}

/// How many requests each queue pair has under way.
const DEPTH: usize = 16;

/// Several queue pairs on one region at once, the modes in turns. A sample is the time for each access.
fn together(bench: &Bench, qps: usize) -> Result<()> {
    let name = format!("warm/write-{qps}-qps");
    let accesses = qps * DEPTH;
    let batch = Batch::new(bench, qps, accesses)?;
    let mut lanes = lanes(bench, &name, accesses * PAGE)?;
    let (rounds, warm_up, count) = (bench.times(300), bench.warm_up(10), lanes.len());
    for round in 0..warm_up + rounds {
        for turn in 0..count {
            let (_, far, times) = &mut lanes[(round + turn) % count];
            let time = batch.run((round * count + turn) as u64, far)?;
            if round >= warm_up {
                times.push(time / accesses as f64);
            }
        }
    }
    for (mode, _, times) in lanes {
        bench.times_of(format!("{name}/{mode}"), times);
    }
    Ok(())
}
