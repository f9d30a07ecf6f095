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
use dice::Dice;
use keeper::Progress;
use known::Known;
use worker::Worker;

/// Asks an RDMA device for what it should not grant, and checks each answer.
///
/// The requests are registrations, changes of registrations, prefetches, memory windows and work
/// requests, about half of them wrong in one way or several. Most go to the kernel directly, as
/// libibverbs would not let all of them through. Every answer, every completion status and every byte
/// of the memory is compared with what it has to be. Meanwhile another process has traffic of its own,
/// which must not be disturbed; afterwards nothing may be left behind: no region, no descriptor, no
/// kernel memory, no use of the driver's modules.
///
/// With --waiting, it does something else: queue pairs, prefetches and windows wait for pages of a file
/// whose server withholds them, and meanwhile what waits is destroyed, reset, deregistered, killed, or the
/// page comes after all. Each has to be gone at once, and nothing may have happened that may not.
///
/// Exit status 0 if all that held. Otherwise the last line on standard error says what did not, and
/// with which request.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many requests to make.
    #[arg(long, default_value_t = 20_000)]
    requests: u64,
    /// Instead, how often to take something down that waits for a page that never comes, at least.
    #[arg(long, conflicts_with = "requests")]
    waiting: Option<u64>,
    /// Where the random choices begin; a random seed if not given. It is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// The RDMA device; the first there is if not given.
    #[arg(long)]
    device: Option<String>,
    /// The index of the address to speak from; the first that suits if not given.
    #[arg(long)]
    gid: Option<u8>,
    /// How long one request, or what has to come of an end, may take, in seconds, before it counts as hung.
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// Print every request, or all who wait, before it is made, to find the one that the kernel does not survive.
    #[arg(long)]
    verbose: bool,
    /// Play a part for another process.
    #[arg(long, hide = true)]
    role: Option<String>,
}

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
