// SPDX-License-Identifier: GPL-2.0
//! One user with thousands of faults that wait, and another one who notices nothing of it: all goes on, and traffic
//! as fast as alone.
//!
//! The speed is that of single writes, by the median of many, so that what else the machine does in between does
//! not count; and it is compared with what it was before and is afterwards.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    env::{Buffer, Env, Mode},
    loopback::Loopback,
    waiting::Kind,
};
use serde::{Deserialize, Serialize};
use testkit::{
    memory::PAGE,
    patience,
    pattern::Pattern,
    process::{self, Helper, Parent},
};

use super::{
    others::{next_to, ANOTHER, ONE},
    victim::{gone, role, Victim},
    withheld, PROMPT,
};
use crate::{
    harness::{Options, Test},
    prefetch_pending,
};

/// The tests of this file.
pub const TESTS: &[Test] = &[Test::once("waiting.thousands", thousands)];

/// The part of the process whose speed is told.
pub const ROLE: &str = "speed";

/// Faults that wait; fewer where everything takes longer. Responders are asked again and again by their requesters, more
/// of them than a work queue of the kernel's has workers; requesters wait without a word, and more of them cost nothing
/// but the time to make their queue pairs.
const RESPONDERS: usize = 2_100;
const REQUESTERS: usize = 300;

/// How fast the other user's traffic has to be at least, in parts of what it is alone.
const LEAST: f64 = 0.8;
/// How often that is measured until it is. Those who have begun to wait just now ask often at first.
const TRIES: usize = 8;
/// Of how many measurements the median counts.
const MEASUREMENTS: usize = 5;
/// How many writes each of them is the median of.
const WRITES: usize = 300;
/// How long a write is.
const LEN: usize = 64;

/// How long a write takes, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Speed {
    pinned: f64,
    on_demand: f64,
}

impl Speed {
    /// The median of each.
    fn median(of: &[Self]) -> Self {
        Self {
            pinned: median(of.iter().map(|one| one.pinned).collect()),
            on_demand: median(of.iter().map(|one| one.on_demand).collect()),
        }
    }

    /// How fast it is in parts of what it was `alone`: of both kinds of memory the slower one.
    fn share_of(self, alone: Self) -> f64 {
        (alone.pinned / self.pinned).min(alone.on_demand / self.on_demand)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn thousands(env: &Env) -> Result<()> {
    let mut other = Helper::spawn(role(env, ROLE, Some(ANOTHER)))?;
    let before = measure(&mut other)?;
    let waits = |kind, count: usize| -> Result<_> {
        let (file, plan) = withheld(kind, count / patience::factor() as usize, 1)?;
        let victim = Victim::start(env, Some(ONE), &plan)?;
        Ok((file, victim))
    };
    let requesters = waits(Kind::WriteSource, REQUESTERS)?;
    let responders = waits(Kind::WriteTarget, RESPONDERS)?;
    // Those who came first have the user's share of the workers.
    let went_on = next_to(env, &requesters.0);
    let during = went_on.and_then(|()| while_they_wait(&mut other, &before));
    responders.0.give_up();
    requesters.0.give_up();
    drop((responders, requesters));
    let (during, after) = (during?, measure(&mut other)?);
    let alone = Speed::median(&[before, after].concat());
    let share = during.share_of(alone);
    ensure!(
        share >= LEAST,
        "another user's writes are {share:.2} times as fast as alone: {during:?} instead of {alone:?} nanoseconds"
    );
    other.tell(&false)?;
    gone(&mut other)?;
    prefetch_pending::works(env)
}

/// The best of several tries.
fn while_they_wait(other: &mut Helper, before: &[Speed]) -> Result<Speed> {
    let alone = Speed::median(before);
    let mut best = Speed::median(&measure(other)?);
    for _ in 1..TRIES {
        if best.share_of(alone) >= LEAST {
            break;
        }
        thread::sleep(Duration::from_secs(1));
        let again = Speed::median(&measure(other)?);
        if again.share_of(alone) > best.share_of(alone) {
            best = again;
        }
    }
    Ok(best)
}

fn measure(other: &mut Helper) -> Result<Vec<Speed>> {
    let measured = (0..MEASUREMENTS).map(|_| {
        other.tell(&true)?;
        let speed: Result<Speed, String> = other.hear(PROMPT).context("another user's writes")?;
        speed.map_err(anyhow::Error::msg)
    });
    measured.collect()
}

/// Plays [`ROLE`]: measures for as long as it is told to.
pub fn play(options: &Options) -> Result<()> {
    process::defer_to_kernel();
    let parent = Parent::new();
    let env = options.open()?;
    let (near, link) = (env.buffer(Mode::Pinned, PAGE)?, env.rc()?);
    near.fill(PATTERN, 0, PAGE);
    let (pinned, on_demand) = (
        env.buffer(Mode::Pinned, PAGE)?,
        env.buffer(Mode::Explicit, PAGE)?,
    );
    while parent.hear()? {
        let speed = one(&link, &near, &pinned, &on_demand);
        parent.tell(&speed.map_err(|error| format!("{error:#}")))?;
    }
    Ok(())
}

const PATTERN: Pattern = Pattern::new(43);

/// Writes in turns to both kinds of memory.
fn one(link: &Loopback, near: &Buffer, pinned: &Buffer, on_demand: &Buffer) -> Result<Speed> {
    let mut times = [const { Vec::new() }; 2];
    for n in 0..WRITES {
        for (times, far) in times.iter_mut().zip([pinned, on_demand]) {
            let at = n * LEN % PAGE;
            let start = Instant::now();
            link.write(near.sge(at, LEN), far.remote(at))?;
            times.push(start.elapsed().as_nanos() as f64);
        }
    }
    for far in [pinned, on_demand] {
        far.check(PATTERN, 0, PAGE)?;
    }
    let [pinned, on_demand] = times.map(median);
    if pinned == 0.0 || on_demand == 0.0 {
        bail!("the clock stands still");
    }
    Ok(Speed { pinned, on_demand })
}
