// SPDX-License-Identifier: GPL-2.0
//! Throughput while pages are taken away, and how long it takes to recover.

use std::{
    ops::Range,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use odp_results::run::Unit;

use super::{
    pages::{Kind, PER_HUGE},
    problem::wrong,
    setting::Bench,
    storm::Recovery,
    target::{Connection, Target},
    Case, Cost,
};
use odp_fixture::env::{Buffer, Mode};
use odp_verbs::Op;
use testkit::{
    memory::{Advice, HUGE_PAGE, PAGE},
    pattern::{check_zero, Pattern},
};

/// Which pages are taken away while the NIC writes to the first huge page's worth of a region.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// None.
    Nothing,
    /// Others of the same region.
    Others,
    /// The very ones.
    Same,
}

impl Taken {
    const ALL: [Self; 3] = [Self::Nothing, Self::Others, Self::Same];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Others => "other-pages",
            Self::Same => "same-pages",
        }
    }

    fn range(self) -> Option<std::ops::Range<usize>> {
        match self {
            Self::Nothing => None,
            Self::Others => Some(HUGE_PAGE..2 * HUGE_PAGE),
            Self::Same => Some(0..HUGE_PAGE),
        }
    }
}

/// Twenty episodes.
const COST: Cost = Cost {
    accesses: 2000.0,
    faults: (20 * WINDOWS * WINDOW) as f64,
    bytes: (20 * WINDOWS * WINDOW * PAGE) as f64,
    ..Cost::NOTHING
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in Mode::ON_DEMAND {
        for taken in Taken::ALL {
            let name = format!("churn/{mode}/{}", taken.name());
            let inner = name.clone();
            let run = move |bench: &Bench| churn(bench, &inner, mode, taken);
            cases.push(Case::new(name, COST, run));
        }
    }
    cases
}

/// A sample of the throughput is that of so many writes of a page.
const WINDOW: usize = 64;

/// So many samples are taken before the recovery from what took pages away meanwhile.
const WINDOWS: usize = 5;

/// Writes of whole pages, while a thread throws pages away and the CPU touches them again.
fn churn(bench: &Bench, name: &str, mode: Mode, taken: Taken) -> Result<()> {
    bench.alone()?;
    bench.needs(mode)?;
    bench.allows_message(PAGE)?;
    let target = bench.cover(mode, Kind::Small.map(2 * HUGE_PAGE)?)?;
    let near = bench.buffer(Mode::Pinned, HUGE_PAGE)?;
    let pattern = Pattern::new(1);
    near.fill(pattern, 0, HUGE_PAGE);
    let writer = Writer {
        link: bench.link(64)?,
        near: &near,
        far: &target,
    };
    writer.windows(0..PER_HUGE / WINDOW)?;
    let recovery = Recovery::new(bench)?;
    let (mut rates, mut recoveries) = (Vec::new(), Vec::new());
    for episode in 0..bench.times(20) {
        let windows = episode * WINDOWS..(episode + 1) * WINDOWS;
        rates.extend(disturbed(&writer, taken, windows)?);
        check(&target, pattern, taken)?;
        recoveries.push(recovery.time(&Target::Here(bench, target.clone()))?);
        // Where the recovery wrote its own.
        writer.page(0)?;
    }
    bench.record(name, Unit::BytesPerSecond, Some(PAGE), rates);
    bench.times_of(format!("{name}/recovery"), recoveries);
    Ok(())
}

/// The throughput of `windows` while pages are `taken` away.
fn disturbed(writer: &Writer<'_>, taken: Taken, windows: Range<usize>) -> Result<Vec<f64>> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (memory, stop) = (writer.far, &stop);
        let (pending, begun) = mpsc::channel();
        let taker = scope.spawn(move || take(memory, taken, stop, pending));
        // However few writes there are, pages have been taken before them. The taker says nothing, but lets go.
        let _ = begun.recv();
        let rates = writer.windows(windows);
        stop.store(true, Ordering::Relaxed);
        taker.join().expect("the taker does not panic")?;
        rates
    })
}

/// Takes the pages away until it is told to stop. Lets go of `pending` when it has done so once, or will not.
fn take(target: &Buffer, taken: Taken, stop: &AtomicBool, pending: Sender<()>) -> Result<()> {
    let Some(range) = taken.range() else {
        return Ok(());
    };
    let mut pending = Some(pending);
    while !stop.load(Ordering::Relaxed) {
        target.memory.advise(range.clone(), Advice::DontNeed)?;
        // Something to take away the next time, and a pause in which the NIC may fault.
        if taken == Taken::Others {
            for at in range.clone().step_by(PAGE) {
                target.memory.write(at + PAGE - 8, &[1]);
            }
        }
        drop(pending.take());
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

/// Writes page after page.
struct Writer<'a> {
    link: Connection<'a>,
    near: &'a Buffer,
    far: &'a Buffer,
}

impl Writer<'_> {
    /// The throughput of each of `windows`, in bytes a second.
    fn windows(&self, windows: Range<usize>) -> Result<Vec<f64>> {
        windows.map(|window| self.window(window)).collect()
    }

    fn window(&self, window: usize) -> Result<f64> {
        let begun = Instant::now();
        for page in 0..WINDOW {
            self.page((window * WINDOW + page) % PER_HUGE)?;
        }
        Ok((WINDOW * PAGE) as f64 / begun.elapsed().as_secs_f64())
    }

    fn page(&self, page: usize) -> Result<()> {
        let at = page * PAGE;
        let to = Op::Write(self.far.remote(at));
        Ok(self.link.ok(to, &[self.near.sge(at, PAGE)])?)
    }
}

/// What a NIC writes at once at least, so that it is there as a whole or not at all.
const GRAIN: usize = 64;

/// Each page holds what was written to it; where pages were taken away meanwhile, each piece of one holds
/// that or nothing.
fn check(target: &Buffer, pattern: Pattern, taken: Taken) -> Result<()> {
    for at in (0..HUGE_PAGE).step_by(GRAIN) {
        let bytes = target.memory.bytes(at, GRAIN);
        if taken == Taken::Same && check_zero(&bytes).is_ok() {
            continue;
        }
        pattern
            .check(at as u64, &bytes)
            .map_err(|mismatch| wrong(at, mismatch))?;
    }
    Ok(())
}
