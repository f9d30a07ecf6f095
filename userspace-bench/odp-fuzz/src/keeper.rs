// SPDX-License-Identifier: GPL-2.0
//! The process that watches: that the one that asks gets on, that its neighbour is not disturbed, and
//! that nothing is left when it is gone.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    footprint::{self, Footprint},
    traffic,
};
use serde::{Deserialize, Serialize};
use testkit::process::{self, End, Helper, Parent};

use crate::{arguments::Arguments, waiting};

/// What the process that asks has to say.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// It has come as far as this request.
    At(u64),
    /// It has made all of them; how often work ended with which status.
    Done(BTreeMap<String, u64>),
}

/// The asking process's side of that.
pub struct Progress {
    parent: Parent,
    last: Instant,
    descriptors: usize,
}

impl Progress {
    /// At the beginning.
    pub fn new() -> Self {
        Self {
            parent: Parent::new(),
            last: Instant::now(),
            descriptors: 0,
        }
    }

    /// Says, now and then, how far it has come.
    pub fn tell(&mut self, number: u64) -> Result<()> {
        // All that is opened once is open by then.
        const SETTLED: u64 = 2000;
        if number == SETTLED {
            self.descriptors = descriptors()?;
        }
        if self.last.elapsed() > Duration::from_millis(500) {
            self.parent.tell(&Message::At(number))?;
            self.last = Instant::now();
        }
        Ok(())
    }

    /// Says that all is done.
    pub fn done(self, tally: &BTreeMap<String, u64>) -> Result<()> {
        let found = descriptors()?;
        ensure!(
            self.descriptors == 0 || found <= self.descriptors,
            "{found} descriptors are open, {} were after the first requests",
            self.descriptors
        );
        self.parent.tell(&Message::Done(tally.clone()))?;
        Ok(())
    }
}

fn descriptors() -> Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

/// Starts the other two and watches them.
pub fn keep(arguments: &Arguments) -> Result<()> {
    ensure!(
        Path::new("/sys/module/mlx_odp").exists(),
        "the driver is not that of hmm-odp, and the kernel's own does not survive some of these requests: \
         load mlx_odp and its rdma_rxe"
    );
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    let work = match arguments.waiting {
        Some(cases) => Work::Waits(cases),
        None => Work::Requests(arguments.requests),
    };
    println!("odp-fuzz: {work}, --seed {seed}");
    // What is made once and kept is made now.
    work.few()
        .run(arguments, seed ^ OTHER)
        .context("the first few")?;
    let before = Footprint::take();
    let neighbour = traffic::start(role(arguments, traffic::ROLE)).context("the neighbour")?;
    let started = Instant::now();
    let tally = work.run(arguments, seed)?;
    let took = started.elapsed();
    let report = traffic::stop(neighbour).context("the neighbour")?;
    if let Some(error) = report.error {
        bail!("the neighbour was disturbed: {error}");
    }
    // Some objects may stay in the allocator's hands for a while, and other processes have theirs.
    let slack = (work.size() / 100).max(1000);
    footprint::settle(&before, slack).context("left behind")?;
    let ends: Vec<_> = tally.iter().map(|(s, n)| format!("{n} {s}")).collect();
    println!(
        "odp-fuzz: all as it should be in {:.0} s; {}: {}; {} rounds next door",
        took.as_secs_f64(),
        work.counted(),
        ends.join(", "),
        report.rounds
    );
    Ok(())
}

/// What is done beforehand has a seed of its own.
const OTHER: u64 = 1 << 40;

/// What there is to do.
#[derive(Clone, Copy)]
enum Work {
    /// So many requests.
    Requests(u64),
    /// So many cases of somebody who waits for a page.
    Waits(u64),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests(count) => write!(f, "{count} requests"),
            Self::Waits(count) => write!(f, "{count} waits for a page"),
        }
    }
}

impl Work {
    /// What is enough for everything to have been there once.
    fn few(self) -> Self {
        match self {
            Self::Requests(count) => Self::Requests(count.min(2000)),
            Self::Waits(count) => Self::Waits(count.min(100)),
        }
    }

    fn size(self) -> u64 {
        match self {
            Self::Requests(count) | Self::Waits(count) => count,
        }
    }

    /// What [`Work::run`] counts.
    fn counted(self) -> &'static str {
        match self {
            Self::Requests(_) => "ends of work",
            Self::Waits(_) => "what ended meanwhile",
        }
    }

    fn run(self, arguments: &Arguments, seed: u64) -> Result<BTreeMap<String, u64>> {
        match self {
            Self::Requests(count) => ask(arguments, seed, count),
            Self::Waits(count) => waiting::all(arguments, seed, count),
        }
    }
}

fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |n| n.as_nanos() as u64 & 0xffff_ffff)
}

/// The command that plays a part.
pub fn role(arguments: &Arguments, role: &str) -> Command {
    let mut command = process::this_program();
    if let Some(device) = &arguments.device {
        command.args(["--device", device]);
    }
    if let Some(gid) = arguments.gid {
        command.args(["--gid", &gid.to_string()]);
    }
    command.args(["--role", role]);
    command.args(["--patience", &arguments.patience.to_string()]);
    if arguments.verbose {
        command.arg("--verbose");
    }
    command
}

/// Has `requests` made in a process of their own.
fn ask(arguments: &Arguments, seed: u64, requests: u64) -> Result<BTreeMap<String, u64>> {
    let mut command = role(arguments, "ask");
    command.args(["--seed", &seed.to_string()]);
    command.args(["--requests", &requests.to_string()]);
    let mut asker = Helper::spawn(command)?;
    // One that finds a fault says so itself and ends.
    let limit = Duration::from_secs(arguments.patience) + Duration::from_secs(30);
    let mut at = 0;
    loop {
        match asker.hear(limit) {
            Ok(Message::At(number)) => at = number,
            Ok(Message::Done(tally)) => {
                let end = asker.finish(limit)?;
                ensure!(
                    end == End::Status(0),
                    "seed {seed}: not gone after all its requests ({end:?})"
                );
                return Ok(tally);
            }
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                let stack = footprint::stacks(asker.id());
                bail!("seed {seed}: hung soon after request {at}; it is in\n{stack}");
            }
            Err(error) => bail!("seed {seed}, soon after request {at}: {error}"),
        }
    }
}
