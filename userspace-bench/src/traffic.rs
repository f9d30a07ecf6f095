// SPDX-License-Identifier: GPL-2.0
//! A process that minds its own business: checked traffic on its own queue pairs, until it is
//! told to stop. What others do to their memory must not show here.

use std::{
    io,
    process::Command,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    env::{Buffer, Env, Mode},
    loopback::Loopback,
    memory::{Advice, PAGE},
    pattern::Pattern,
    process::{Helper, Parent},
};

/// What the process did until it was told to stop.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// How many rounds of a write and a read were right.
    pub rounds: u64,
    /// What went wrong, if something did.
    pub error: Option<String>,
}

/// The arguments that make this program play the part.
pub const ROLE: &str = "traffic";

/// Where in its memory the process works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// One packet at the start of a page.
    Aligned,
    /// Several packets at an odd address.
    Odd,
}

/// Starts the process, by `command` with what makes it play its part, and waits until its first
/// round is over.
pub fn start(command: Command) -> io::Result<Helper> {
    let mut helper = Helper::spawn(command)?;
    let first: Report = helper.hear(Duration::from_secs(10))?;
    match first.error {
        Some(error) => Err(io::Error::other(error)),
        None => Ok(helper),
    }
}

/// Tells the process to stop and hears what it has to report.
pub fn stop(mut helper: Helper) -> io::Result<Report> {
    helper.tell(&"stop")?;
    let report = helper.hear(Duration::from_secs(20))?;
    helper.finish(Duration::from_secs(5))?;
    Ok(report)
}

/// Plays the part.
pub fn play(env: &Env, mode: Mode, placement: Placement) -> anyhow::Result<()> {
    let parent = Parent::new();
    let mut rounds = 0;
    let mut traffic = || -> anyhow::Result<()> {
        let lane = Lane::new(env, mode, placement)?;
        lane.round(rounds)?;
        rounds += 1;
        parent.tell(&Report {
            rounds,
            error: None,
        })?;
        while !parent.speaks()? {
            lane.round(rounds)?;
            rounds += 1;
        }
        Ok(())
    };
    let error = traffic().err().map(|e| format!("round {rounds}: {e:#}"));
    parent.tell(&Report { rounds, error })?;
    Ok(())
}

/// One pair of queue pairs with memory of its own.
#[derive(Debug)]
pub struct Lane {
    link: Loopback,
    near: Buffer,
    far: Buffer,
    offset: usize,
    len: usize,
}

impl Lane {
    /// A new one.
    pub fn new(env: &Env, mode: Mode, placement: Placement) -> anyhow::Result<Self> {
        let (offset, len) = match placement {
            Placement::Aligned => (0, env.mtu.bytes().min(PAGE)),
            Placement::Odd => (4091, 2 * PAGE + 13),
        };
        let near = env.buffer(mode, 4 * PAGE)?;
        let far = env.buffer(mode, 4 * PAGE)?;
        Ok(Self {
            link: env.rc()?,
            near,
            far,
            offset,
            len,
        })
    }

    /// Writes, throws the local pages away, reads back and compares; pages fault again every time.
    pub fn round(&self, seed: u64) -> anyhow::Result<()> {
        let Self {
            link,
            near,
            far,
            offset,
            len,
        } = self;
        let pattern = Pattern::new(seed);
        near.fill(pattern, *offset, *len);
        link.write(near.sge(*offset, *len), far.remote(*offset))?;
        near.memory.advise(0..4 * PAGE, Advice::DontNeed)?;
        link.read(far.remote(*offset), near.sge(*offset, *len))?;
        near.check(pattern, *offset, *len)?;
        Ok(())
    }

    /// Rounds for as long as `time` lasts; how many there were.
    pub fn run(&self, time: Duration) -> anyhow::Result<u64> {
        let start = Instant::now();
        let mut rounds = 0;
        while start.elapsed() < time {
            self.round(rounds)?;
            rounds += 1;
        }
        Ok(rounds)
    }
}
