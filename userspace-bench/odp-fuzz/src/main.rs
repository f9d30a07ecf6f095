// SPDX-License-Identifier: GPL-2.0
//! `odp-fuzz` asks a device for what it should not grant: registrations, changes of them, prefetches,
//! memory windows and work requests with wrong keys, sizes, flags and addresses, among others that are
//! right. It knows for each what has to come of it, down to the bytes, and holds the device to that.
//!
//! Three processes: one that asks; one that minds its own business on the same device and must not be
//! disturbed; and one that watches both, and looks afterwards whether anything was left behind.
//!
//! The other thing that it can do to a driver is to have it wait for pages that never come, and to take down what
//! waits (`waiting.rs`).

mod advice;
mod arena;
mod arguments;
mod dice;
mod keeper;
mod known;
mod predict;
mod registration;
mod waiting;
mod windows;
mod work;
mod worker;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use odp_fixture::{
    env::{Env, Mode},
    traffic::{self, Placement},
};
use rand::{Rng, SeedableRng};
use testkit::process;

use arena::Arena;
use arguments::Arguments;
use dice::Dice;
use keeper::Progress;
use known::Known;
use worker::Worker;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::defer_to_kernel();
    let result = match arguments.role.as_deref() {
        Some(traffic::ROLE) => Env::open(arguments.device.as_deref(), arguments.gid)
            .map_err(Into::into)
            .and_then(|env| traffic::play(&env, Mode::Explicit, Placement::Odd)),
        Some(waiting::ROLE) => waiting::play(&arguments),
        Some(_) => ask(&arguments),
        None => keeper::keep(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("odp-fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The part of the process that asks.
fn ask(arguments: &Arguments) -> Result<()> {
    let seed = arguments.seed.unwrap_or_default();
    let mut env = Env::open(arguments.device.as_deref(), arguments.gid)?;
    env.patience = Duration::from_secs(arguments.patience);
    let known = Known::new(env)?;
    let mut fuzz = Fuzz {
        arena: Arena::new()?,
        worker: Worker::new(&known)?,
        known,
        dice: Dice::seed_from_u64(seed),
    };
    let mut progress = Progress::new();
    for number in 0..arguments.requests {
        let told = fuzz
            .request()
            .and_then(|told| {
                if number % 512 == 0 {
                    fuzz.check_memory()?;
                }
                Ok(told)
            })
            .with_context(|| format!("seed {seed}, request {number}"))?;
        if arguments.verbose {
            eprintln!("{number}: {told}");
        }
        progress.tell(number)?;
    }
    fuzz.check_memory().context("at the end")?;
    progress.done(fuzz.worker.tally())
}

/// All that a request may be about.
struct Fuzz {
    arena: Arena,
    known: Known,
    dice: Dice,
    worker: Worker,
}

impl Fuzz {
    /// Makes one request and checks the answer; says what it was.
    fn request(&mut self) -> Result<String> {
        let Self {
            arena,
            known,
            dice,
            worker,
        } = self;
        match dice.random_range(0..100) {
            0..24 => registration::register(known, arena, dice),
            24..32 => registration::reregister(known, arena, dice),
            32..48 => registration::deregister(known, dice),
            48..63 => advice::advise(known, arena, dice),
            63..66 => {
                arena.change(dice)?;
                Ok("a change of the memory".into())
            }
            66..72 => windows::request(known, dice),
            _ => worker.request(known, arena, dice),
        }
    }

    fn check_memory(&self) -> Result<()> {
        self.arena
            .check()
            .map_err(|(page, mismatch)| anyhow::anyhow!("page {page} of the memory: {mismatch}"))
    }
}
