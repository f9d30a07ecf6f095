// SPDX-License-Identifier: GPL-2.0
//! Many queue pairs that fault at once, and how long it takes to recover.

use std::rc::Rc;

use anyhow::{bail, Result};

use super::{
    act::{Act, Piece},
    batch::Batch,
    lane::LEN,
    pages::Kind,
    problem::lacking,
    setting::Bench,
    target::{Connection, Target},
    Case, Cost,
};
use odp_fixture::env::{Buffer, Mode};
use odp_verbs::Op;
use testkit::{memory::PAGE, pattern::Pattern};

const QPS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// How many requests each queue pair has under way, each for a page of its own.
const DEPTH: usize = 8;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in Mode::ON_DEMAND {
        for qps in QPS {
            let name = format!("storm/{mode}/{qps}-qps");
            let inner = name.clone();
            let cost = Cost {
                accesses: 20.0 * 50.0,
                faults: (20 * qps * DEPTH) as f64,
                ..Cost::NOTHING
            };
            cases.push(Case::new(name, cost, move |bench| {
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
    let recovery = Recovery::new(bench)?;
    let (mut times, mut recoveries) = (Vec::new(), Vec::new());
    for round in 0..bench.times(20) {
        target.does(Act::Discard)?;
        times.push(batch.run(round as u64 + 1, &target)? / pages as f64);
        recoveries.push(recovery.time(&target)?);
    }
    bench.times_of(format!("{name}/per-fault"), times);
    bench.times_of(format!("{name}/recovery"), recoveries);
    Ok(())
}

/// What shows how long it takes until accesses are as fast again as to pinned memory.
pub(super) struct Recovery<'a> {
    bench: &'a Bench,
    link: Connection<'a>,
    near: Rc<Buffer>,
    pinned: Target<'a>,
    at: usize,
}

impl<'a> Recovery<'a> {
    const SEED: u64 = 77;

    pub(super) fn new(bench: &'a Bench) -> Result<Self> {
        let near = bench.buffer(Mode::Pinned, PAGE)?;
        let at = bench.place(3);
        near.fill(Pattern::new(Self::SEED), at, LEN);
        Ok(Self {
            bench,
            link: bench.link(64)?,
            near,
            pinned: bench.target(Mode::Pinned, Kind::Small, PAGE)?,
            at,
        })
    }

    fn write(&self, far: &Target<'_>) -> Result<f64> {
        let from = self.near.sge(self.at, LEN);
        self.bench
            .timed(&self.link, Op::Write(far.remote(self.at)), &[from])
    }

    /// How long it takes from now on, in nanoseconds: until eight accesses to `target` in a row took at most twice
    /// the median of those to pinned memory, which take turns with them.
    pub(super) fn time(&self, target: &Target<'_>) -> Result<f64> {
        const CALM: usize = 8;
        const ATTEMPTS: usize = 2000;
        let mut calm = 0;
        let mut times = Vec::new();
        let mut usual = Vec::new();
        while calm < CALM && times.len() < ATTEMPTS {
            usual.push(self.write(&self.pinned)?);
            usual.sort_by(f64::total_cmp);
            let time = self.write(target)?;
            times.push(time);
            calm = match time <= 2.0 * usual[usual.len() / 2] {
                true => calm + 1,
                false => 0,
            };
        }
        let pieces = vec![Piece::at(self.at, LEN)];
        target.does(Act::Check(Self::SEED, pieces))?;
        if calm < CALM {
            bail!(
                "after {ATTEMPTS} accesses they still take more than twice as long as to pinned memory"
            );
        }
        // Without the accesses that showed that it was over.
        times.truncate(times.len() - CALM);
        Ok(times.iter().sum())
    }
}
