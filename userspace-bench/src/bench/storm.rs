// SPDX-License-Identifier: GPL-2.0
//! Many queue pairs that fault at once, and how long it takes to recover.

use anyhow::{bail, Result};

use super::{
    batch::Batch,
    lane::LEN,
    pages::Kind,
    setting::{lacking, Bench},
    target::{Act, Piece, Target},
    Case,
};
use crate::{env::Mode, memory::PAGE, pattern::Pattern, verbs::Op};

const QPS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// How many requests each queue pair has under way, each for a page of its own.
const DEPTH: usize = 8;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in Mode::ON_DEMAND {
        for qps in QPS {
            let name = format!("storm/{mode}/{qps}-qps");
            let inner = name.clone();
            cases.push(Case::new(name, move |bench| {
                storm(bench, &inner, mode, qps)
            }));
        }
    }
    cases
}

/// Each round takes all pages away and then has each queue pair write to pages of its own at once. Samples:
/// the time of a round, for each fault, and how long it takes to recover.
fn storm(bench: &Bench, name: &str, mode: Mode, qps: usize) -> Result<()> {
    bench.needs(mode)?;
    let pages = qps * DEPTH;
    let batch = Batch::new(bench, qps, pages)
        .map_err(|error| lacking(format!("{qps} connections cannot be had: {error:#}")))?;
    let target = bench.target(mode, Kind::Small, pages * PAGE)?;
    let mut times = Vec::new();
    for round in 0..bench.times(20) {
        target.does(Act::Discard)?;
        times.push(batch.run(round as u64 + 1, &target)? / pages as f64);
    }
    bench.times_of(format!("{name}/per-fault"), times);
    recovery(bench, &format!("{name}/recovery"), &target)
}

/// How long it takes from now on until accesses to `target` are as fast as to pinned memory: until eight in a
/// row took at most twice the median of those.
pub(super) fn recovery(bench: &Bench, name: &str, target: &Target<'_>) -> Result<()> {
    const CALM: usize = 8;
    const ATTEMPTS: usize = 2000;
    const SEED: u64 = 77;
    let link = bench.link(64)?;
    let near = bench.buffer(Mode::Pinned, PAGE)?;
    let pinned = bench.target(Mode::Pinned, Kind::Small, PAGE)?;
    let at = bench.place(3);
    near.fill(Pattern::new(SEED), at, LEN);
    let write =
        |far: &Target<'_>| bench.timed(&link, Op::Write(far.remote(at)), &[near.sge(at, LEN)]);
    let mut calm = 0;
    let mut times = Vec::new();
    let mut usual = Vec::new();
    while calm < CALM && times.len() < ATTEMPTS {
        usual.push(write(&pinned)?);
        usual.sort_by(f64::total_cmp);
        let time = write(target)?;
        times.push(time);
        calm = match time <= 2.0 * usual[usual.len() / 2] {
            true => calm + 1,
            false => 0,
        };
    }
    target.does(Act::Check(SEED, vec![Piece::at(at, LEN)]))?;
    if calm < CALM {
        bail!(
            "after {ATTEMPTS} accesses they still take more than twice as long as to pinned memory"
        );
    }
    // Without the accesses that showed that it was over.
    times.truncate(times.len() - CALM);
    bench.times_of(name, vec![times.iter().sum()]);
    Ok(())
}
