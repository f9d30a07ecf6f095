// SPDX-License-Identifier: GPL-2.0
//! What both walks cost, and what an invalidation and a mirror do.
//!
//! Ours and C's take turns, A B B A, and the medians are compared: what counts is the ratio, as the
//! times are those of whatever machine this is. Even the ratio is a matter of chance where others use the
//! machine, too, so no time is ever a failure. On a machine whose clock counts instructions, one turn is
//! enough, and the figures are the same each time: these, and numbers of bytes, are held to their goals.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use serde::Serialize;

use crate::abi::{OURS_FLAT, OURS_RUNS, SNAPSHOT, THEIRS, THEIRS_UNLOCKED, WRITE};
use crate::arena::{Span, PAGE};
use crate::machine::Machine;
use crate::memory;
use crate::oracle::Oracle;

mod held;

const MIB: u64 = (1 << 20) / PAGE;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    /// Time, on whatever machine this is.
    Nanoseconds,
    /// Instructions for a page, or for the entry.
    Instructions,
    /// Memory.
    Bytes,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    name: String,
    unit: Unit,
    ours: f64,
    /// The same of what it is compared with; the goal itself for a number of bytes.
    theirs: f64,
    ratio: f64,
    /// What the ratio should not exceed, if there is such a thing.
    goal: Option<f64>,
    /// Whether it does not.
    met: Option<bool>,
}

impl Figure {
    fn new(name: impl Into<String>, unit: Unit, ours: f64, theirs: f64, goal: Option<f64>) -> Self {
        let ratio = ours / theirs;
        Self {
            name: name.into(),
            unit,
            ours,
            theirs,
            ratio,
            goal,
            met: goal.map(|goal| ratio <= goal),
        }
    }

    /// How many bytes there are of the `goal`.
    fn bytes(name: impl Into<String>, bytes: f64, goal: f64) -> Self {
        Self::new(name, Unit::Bytes, bytes, goal, Some(1.0))
    }

    fn verdict(&self) -> &'static str {
        match self.met {
            None => "",
            Some(true) => "met",
            Some(false) => "missed",
        }
    }

    /// Too much, and not by chance. What a fault costs depends a little on what was freed before, and on
    /// whether the pages come in the order of their frames; the kernel counts memory in batches.
    fn is_far_off(&self) -> bool {
        const SLACK: f64 = 1.15;
        let exact = self.unit != Unit::Nanoseconds;
        exact && self.goal.is_some_and(|goal| self.ratio > goal * SLACK)
    }
}

/// How to measure.
#[derive(Clone, Copy)]
struct Method {
    oracle_rounds: u32,
    /// So many rounds of turns in any case,
    least: u32,
    /// and more for as long as this.
    budget: Duration,
    /// Nanoseconds of the machine's clock for each instruction, if it counts these.
    instruction: Option<u32>,
}

impl Method {
    fn new(instruction: Option<u32>) -> Self {
        match instruction {
            Some(_) => Self {
                oracle_rounds: 100,
                least: 1,
                budget: Duration::ZERO,
                instruction,
            },
            None => Self {
                oracle_rounds: 2_000,
                least: 8,
                budget: Duration::from_secs(3),
                instruction,
            },
        }
    }

    /// A time as it is, or as instructions for each of `pages`.
    fn figure(&self, name: String, times: (f64, f64), pages: u64, goal: Option<f64>) -> Figure {
        let (unit, size) = match self.instruction {
            Some(nanoseconds) => (Unit::Instructions, f64::from(nanoseconds) * pages as f64),
            None => (Unit::Nanoseconds, 1.0),
        };
        Figure::new(name, unit, times.0 / size, times.1 / size, goal)
    }

    /// The median times of both sides over rounds of A B B A.
    fn in_turns(
        &self,
        mut ours: impl FnMut() -> Result<u64>,
        mut theirs: impl FnMut() -> Result<u64>,
    ) -> Result<(f64, f64)> {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let begun = Instant::now();
        let mut rounds = 0;
        while rounds < self.least || begun.elapsed() < self.budget {
            a.push(ours()?);
            b.push(theirs()?);
            b.push(theirs()?);
            a.push(ours()?);
            rounds += 1;
        }
        Ok((median(a), median(b)))
    }
}

/// Measures everything; whether, if it is to be checked, no exact figure is far off.
///
/// `instruction` is how many nanoseconds the machine's clock goes on with each instruction, if it does.
pub(crate) fn run(json: Option<&Path>, check: bool, instruction: Option<u32>) -> Result<bool> {
    memory::check_free().context("the arena's addresses are in use")?;
    let _machine = Machine::for_measuring()?;
    let oracle = Oracle::open()?;
    let method = Method::new(instruction);
    let mut figures = Vec::new();
    snapshots(&oracle, &method, &mut figures).context("snapshots")?;
    faults(&oracle, &method, &mut figures).context("faults")?;
    let rounds = method.oracle_rounds;
    let (ours, theirs) = oracle.zap(rounds).context("invalidations")?;
    let each = |total: u64| total as f64 / f64::from(rounds);
    let name = "invalidation of a 2 MiB entry".to_owned();
    figures.push(method.figure(name, (each(ours), each(theirs)), 1, Some(0.05)));
    if instruction.is_none() {
        held::measure(&mut figures).context("memory")?;
    } else {
        println!("instructions for a page, or for the entry:");
    }
    print!("{}", table(&figures));
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    let far_off = figures.iter().filter(|figure| figure.is_far_off());
    let names: Vec<_> = far_off.map(|figure| figure.name.as_str()).collect();
    if check && !names.is_empty() {
        println!(
            "further from the goal than chance explains: {}",
            names.join("; ")
        );
        return Ok(false);
    }
    Ok(true)
}

fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<58}{:>14}{:>14}{:>9}{:>7}\n",
        "", "ours", "C", "ratio", "goal"
    );
    for figure in figures {
        let goal = figure.goal.map_or(String::new(), |goal| format!("{goal}"));
        text.push_str(&format!(
            "{:<58}{:>14.*}{:>14.*}{:>9.3}{goal:>7}  {}\n",
            figure.name,
            decimals(figure.ours),
            figure.ours,
            decimals(figure.theirs),
            figure.theirs,
            figure.ratio,
            figure.verdict()
        ));
    }
    text
}

/// Small numbers with two places.
fn decimals(number: f64) -> usize {
    if number < 100.0 {
        2
    } else {
        0
    }
}

/// Private memory that lies anywhere, for as long as it lives.
struct Block(Span);

impl Block {
    fn new(pages: u64, huge: bool) -> Result<Self> {
        let span = Span::for_measuring(pages).context("more than there is room for")?;
        memory::map_private(span)?;
        let block = Self(span);
        let advice = if huge {
            libc::MADV_HUGEPAGE
        } else {
            libc::MADV_NOHUGEPAGE
        };
        memory::advise(span, advice)?;
        Ok(block)
    }

    fn populated(pages: u64, huge: bool) -> Result<Self> {
        let block = Self::new(pages, huge)?;
        memory::populate(block.0, true)?;
        Ok(block)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Err(error) = memory::unmap(self.0) {
            eprintln!("hmm-diff: {error}");
        }
    }
}

/// As much of `mib` as the machine can spare.
fn affordable(mib: u64) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let free = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    let free = free.context("no MemAvailable")? >> 10;
    Ok(mib.min(free * 3 / 4) & !1)
}

fn median(mut times: Vec<u64>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2] as f64
}

/// What is looked at.
#[derive(Clone, Copy)]
enum Memory {
    /// 4 KiB pages that were brought in one after the other: many lie side by side in physical memory.
    Small,
    /// 4 KiB pages of which hardly any does: what a machine that has run for long gives.
    Scattered,
    Huge,
}

impl Memory {
    fn block(self, mib: u64) -> Result<Block> {
        match self {
            Memory::Small => Block::populated(mib * MIB, false),
            Memory::Scattered => {
                let block = Block::new(mib * MIB, false)?;
                memory::touch_scattered(block.0);
                Ok(block)
            }
            Memory::Huge => Block::populated(mib * MIB, true),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Memory::Small => "4 KiB pages",
            Memory::Scattered => "scattered 4 KiB pages",
            Memory::Huge => "THP",
        }
    }
}

fn snapshots(oracle: &Oracle, method: &Method, figures: &mut Vec<Figure>) -> Result<()> {
    // Scattered pages are runs of one page each, which take four times the room of C's words; and of huge
    // pages one word a page cannot be cheaper than one word a page.
    let kinds = [
        (Memory::Small, 256, [Some(0.5), Some(0.5)]),
        (Memory::Scattered, 256, [Some(1.0), Some(0.5)]),
        (Memory::Huge, 1024, [Some(0.02), None]),
    ];
    for (kind, mib, goals) in kinds {
        let mib = affordable(mib)?;
        let block = kind.block(mib)?;
        let pages = block.0.pages();
        let walk = |side| {
            let (time, found) = oracle.walk(block.0, side, SNAPSHOT)?;
            ensure!(found == pages, "{found} pages of {pages} found");
            Ok(time)
        };
        let forms = [(OURS_RUNS, "runs"), (OURS_FLAT, "flat")];
        for ((side, form), goal) in forms.into_iter().zip(goals) {
            let times = method.in_turns(|| walk(side), || walk(THEIRS))?;
            let name = format!("snapshot of {mib} MiB of {}, {form}", kind.name());
            figures.push(method.figure(name.clone(), times, pages, goal));
            if oracle.has_unlocked()? {
                let times = method.in_turns(|| walk(side), || walk(THEIRS_UNLOCKED))?;
                figures.push(method.figure(unlocked(&name), times, pages, goal));
            }
        }
    }
    Ok(())
}

/// The name of the same figure against C's walk that takes the mmap lock itself.
fn unlocked(name: &str) -> String {
    format!("{name}, C unlocked")
}

fn faults(oracle: &Oracle, method: &Method, figures: &mut Vec<Figure>) -> Result<()> {
    const SIZE: u64 = 64;
    let walk = |side| {
        let block = Block::new(SIZE * MIB, false)?;
        let (time, found) = oracle.walk(block.0, side, WRITE)?;
        ensure!(found == SIZE * MIB, "{found} pages found");
        Ok(time)
    };
    let touch = || {
        let block = Block::new(SIZE * MIB, false)?;
        let begun = Instant::now();
        memory::touch(block.0);
        Ok(begun.elapsed().as_nanos() as u64)
    };
    for (side, form) in [(OURS_RUNS, "runs"), (OURS_FLAT, "flat")] {
        let name = format!("fault of {SIZE} MiB untouched, {form}");
        let times = method.in_turns(|| walk(side), || walk(THEIRS))?;
        figures.push(method.figure(name.clone(), times, SIZE * MIB, Some(1.0)));
        if oracle.has_unlocked()? {
            let times = method.in_turns(|| walk(side), || walk(THEIRS_UNLOCKED))?;
            figures.push(method.figure(unlocked(&name), times, SIZE * MIB, Some(1.0)));
        }
        let times = method.in_turns(|| walk(side), touch)?;
        let name = format!("{name}, against the CPU's touch");
        figures.push(method.figure(name, times, SIZE * MIB, Some(1.3)));
    }
    if figures.iter().any(|figure| !figure.ratio.is_finite()) {
        bail!("a time of nothing");
    }
    Ok(())
}
