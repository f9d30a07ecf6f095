// SPDX-License-Identifier: GPL-2.0
//! `odp-storm` moves data between on-demand regions while everything happens to their memory that a
//! kernel can do to memory, and accounts for every byte.
//!
//! Some threads own parts of the memory and move data between them through the NIC (`owner.rs`); others
//! take pages away and bring them back (`disturb.rs`), some of them late (`slow.rs`, `serve.rs`); other processes write to
//! this one's memory and are killed (`peer.rs`). What may happen to which memory, and what has to be there
//! afterwards, is said in `ground.rs`.

mod dice;
mod disturb;
mod field;
mod ground;
mod owner;
mod peer;
mod serve;
mod slow;

use std::{process::ExitCode, thread, time::Duration};

use anyhow::{anyhow, bail, ensure, Context as _, Result};
use clap::Parser;
use odp_fixture::{
    counters::Counters,
    env::{Env, Mode},
    footprint,
};
use rand::{Rng, SeedableRng};
use testkit::process;

use dice::Dice;
use disturb::{Disturbance, Disturber, Done, Evidence};
use field::Field;
use ground::Nature;
use owner::{Owner, Tally};
use slow::{Order, SlowFiles};

/// Moves data between on-demand regions while their memory is in a storm, and accounts for every byte.
///
/// Queue pairs write, read, send and add; meanwhile the pages are unmapped, protected, moved, thrown
/// away, copied for children, swapped out, migrated, compacted, made huge and split, or come late from a
/// file system or a userfaultfd, and processes that write to this one's memory are killed. For each
/// operation that ends well exactly its bytes have to be where they belong; it may end otherwise only where
/// pages were out of reach at that time, and with the status for that. What cannot be done on this system
/// (no swap, one NUMA node) is named at the end.
///
/// Exit status 0 if all that held. Otherwise the last line on standard error says what did not.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How long it lasts.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the random choices begin; a random seed if not given. It is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many threads move data, with two queue pairs each.
    #[arg(long, default_value_t = 4)]
    owners: usize,
    /// How many processes write to this one's memory, and are killed and started again.
    #[arg(long, default_value_t = 2)]
    peers: usize,
    /// Only these disturbances.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Disturbance>,
    /// Fail if something could not be done at all.
    #[arg(long)]
    all: bool,
    /// How long one operation may take, in seconds, before it counts as hung.
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// The RDMA device; the first there is if not given.
    #[arg(long)]
    device: Option<String>,
    /// The index of the address to speak from; the first that suits if not given.
    #[arg(long)]
    gid: Option<u8>,
    /// Play a part for another process.
    #[arg(long, hide = true)]
    role: Option<String>,
}

impl Arguments {
    fn env(&self) -> Result<Env> {
        let mut env = Env::open(self.device.as_deref(), self.gid)?;
        env.patience = Duration::from_secs(self.patience);
        Ok(env)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::defer_to_kernel();
    let result = match arguments.role.as_deref() {
        Some(slow::ROLE) => slow::play(),
        Some(_) => arguments.env().and_then(|env| peer::play(&env)),
        None => rage(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("odp-storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn rage(arguments: &Arguments) -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = arguments
        .seed
        .unwrap_or_else(|| now.map_or(0, |n| n.as_nanos() as u64 & 0xffff_ffff));
    println!(
        "odp-storm: {} s, {} owners, {} peers, --seed {seed}",
        arguments.seconds, arguments.owners, arguments.peers
    );
    // For the first on-demand region mlx5_ib makes objects of its own, which stay.
    drop(arguments.env()?.buffer(Mode::Explicit, 4096)?);
    let before = footprint::Footprint::take();
    storm(arguments, seed).with_context(|| format!("seed {seed}"))?;
    // Far more than that comes and goes.
    footprint::settle(&before, 5000).context("left behind")
}

fn storm(arguments: &Arguments, seed: u64) -> Result<()> {
    let env = arguments.env()?;
    let field = Field::new(&env, SlowFiles::new(seed, arguments.seconds)?)?;
    let (done, evidence) = (Done::new(), Evidence::take());
    let kinds = match arguments.only.is_empty() {
        true => Disturbance::ALL.to_vec(),
        false => arguments.only.clone(),
    };
    let mut dice = Dice::seed_from_u64(seed);
    let mut dice = || Dice::seed_from_u64(dice.random());
    let (owners, disturbers) = {
        let count = arguments.owners;
        let owners = (0..count).map(|n| Owner::new(&env, &field, n, count, dice()));
        let owners: Vec<_> = owners.collect::<Result<_>>()?;
        let disturbers = (0..3).map(|_| Disturber::new(&field, &done, kinds.clone(), dice()));
        (owners, disturbers.collect::<Result<Vec<_>>>()?)
    };
    let (tally, killed) = run(arguments, (&env, &field), owners, disturbers, dice)?;
    field.sums.check(&field.grounds[0])?;
    report(&tally, killed, &env);
    verdict(arguments, &kinds, &done, &evidence, &tally)
}

/// Lets all of them run until the storm is over; what the owners have done, and how many peers were killed.
fn run(
    arguments: &Arguments,
    (env, field): (&Env, &Field),
    owners: Vec<Owner<'_>>,
    disturbers: Vec<Disturber<'_>>,
    mut dice: impl FnMut() -> Dice,
) -> Result<(Tally, u64)> {
    thread::scope(|threads| {
        let owners: Vec<_> = owners
            .into_iter()
            .map(|owner| threads.spawn(|| ending(field, owner.run())))
            .collect();
        let others: Vec<_> = disturbers
            .into_iter()
            .map(|disturber| threads.spawn(|| ending(field, disturber.run())))
            .collect();
        let (peers, hub_dice) = (arguments.peers, dice());
        let hub = threads.spawn(move || ending(field, peer::host(env, field, peers, hub_dice)));
        let served = field.grounds.iter().filter(|g| g.nature == Nature::Served);
        let servers: Vec<_> = served
            .map(|ground| (ground, dice()))
            .map(|(ground, dice)| {
                threads.spawn(move || ending(field, serve::serve(ground, field, dice)))
            })
            .collect();
        field.wait(Duration::from_secs(arguments.seconds));
        let hurried = field.slow.ask(&Order::Hurry);
        field.end();
        // All of them, before anything is said: some wait for pages that others bring.
        let owners: Vec<_> = owners.into_iter().map(join).collect();
        let others: Vec<_> = others.into_iter().map(join).collect();
        let killed = join(hub);
        field.close();
        let servers: Vec<_> = servers.into_iter().map(join).collect();
        let tally = all_well(owners, others.into_iter().chain(servers))?;
        hurried?;
        Ok((tally, killed.context("a peer")?))
    })
}

/// What the owners have done, if nothing has gone wrong, with the `others` neither.
fn all_well(owners: Vec<Result<Tally>>, others: impl Iterator<Item = Result<()>>) -> Result<Tally> {
    let mut tally = Tally::default();
    for (number, owner) in owners.into_iter().enumerate() {
        tally = tally.plus(owner.with_context(|| format!("owner {number}"))?);
    }
    for other in others {
        other.context("a disturber, or who serves a userfaultfd")?;
    }
    Ok(tally)
}

/// Ends the storm for all if one has found something.
fn ending<T>(field: &Field, result: Result<T>) -> Result<T> {
    if result.is_err() {
        field.end();
    }
    result
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}

fn report(tally: &Tally, killed: u64, env: &Env) {
    println!(
        "odp-storm: {} operations, {} MiB, {} of them while nothing happened to their pages:",
        tally.operations(),
        tally.bytes >> 20,
        tally.exact
    );
    for ((nature, status), count) in &tally.ends {
        println!("  to {nature} memory: {count} {status}");
    }
    println!("  {killed} processes killed");
    let counters = Counters::of_process(env.context.name(), std::process::id());
    println!("  {counters:?}");
}

/// Says what happened to the memory, and fails if what has to have happened has not.
fn verdict(
    arguments: &Arguments,
    kinds: &[Disturbance],
    done: &Done,
    before: &Evidence,
    tally: &Tally,
) -> Result<()> {
    let mut missing = Vec::new();
    for kind in kinds {
        let times = done.times(*kind);
        println!("  {kind:?}: {times} times");
        if times == 0 {
            missing.push(format!("{kind:?}"));
        }
    }
    for (what, pages) in Evidence::take().since(before) {
        println!("  {what}: {pages}");
        if pages == 0 {
            missing.push(what.into());
        }
    }
    ensure!(tally.operations() > 0, "no operation ended");
    if missing.is_empty() {
        return Ok(());
    }
    println!("odp-storm: did not happen here: {}", missing.join(", "));
    if arguments.all {
        bail!("did not happen: {}", missing.join(", "));
    }
    Ok(())
}
