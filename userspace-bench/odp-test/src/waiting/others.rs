// SPDX-License-Identifier: GPL-2.0
//! Somebody else, another user for instance: what one process waits for is nothing that another one waits for.
//! And a completion queue that overflows, which keeps nobody from going either.

use std::{thread, time::Duration};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    env::{Env, Mode},
    waiting::{Ending, Kind},
};
use odp_verbs::{
    Access, Advise, CompletionQueue, Op, QpConfig, QueuePair, Transport, PREFETCH_FLUSH,
};
use testkit::{
    memory::PAGE,
    patience,
    pattern::Pattern,
    process::{self, Helper, Parent},
    slow_file::SlowFile,
};

use super::{
    victim::{gone, role, Victim},
    withheld, ASKED, PROMPT,
};
use crate::{
    harness::{Options, Test},
    prefetch_pending,
};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::once("waiting.cq-overflow", cq_overflow),
    Test::once("waiting.prefetch-of-others", prefetch_of_others),
    Test::once("waiting.many", many),
];

/// Two users, neither of whom may do what others may not.
pub const ONE: u32 = 65_001;
pub const ANOTHER: u32 = 65_002;

/// The part of a process that has nothing to wait for.
const BESIDE: &str = "beside";
/// The part of one whose completion queue overflows; the mode follows.
const OVERFLOWS: &str = "overflows.";

/// Plays one of these parts.
pub fn play(options: &Options, role: &str) -> Result<()> {
    process::defer_to_kernel();
    match role.strip_prefix(OVERFLOWS) {
        Some(mode) => overflow(options, mode.parse().map_err(anyhow::Error::msg)?),
        None if role == BESIDE => beside(options),
        None => bail!("there is no part called {role}"),
    }
}

/// Prefetches that do not get their pages: more than run at once, and more than the driver keeps.
const PREFETCHES: [usize; 2] = [8, 200];

/// Another user prefetches, and deregisters; then the region goes that has all the prefetches.
fn prefetch_of_others(env: &Env) -> Result<()> {
    for count in PREFETCHES {
        prefetches_of_others(env, count).with_context(|| format!("{count} prefetches"))?;
    }
    prefetch_pending::works(env)
}

fn prefetches_of_others(env: &Env, count: usize) -> Result<()> {
    let (file, plan) = withheld(Kind::Prefetch, 1, count)?;
    let mut victim = Victim::start(env, Some(ONE), &plan)?;
    let result = next_to(env, &file).and_then(|()| {
        victim.ends(Ending::Deregister)?;
        victim.ends(Ending::Exit)
    });
    file.give_up();
    result
}

/// How many queue pairs of one user wait at once; fewer where everything takes longer.
const MANY: usize = 128;

/// Another user writes, registers, prefetches, deregisters and exits.
fn many(env: &Env) -> Result<()> {
    waiting(env, Kind::WriteTarget, MANY)?;
    waiting(env, Kind::WriteSource, MANY)
}

fn waiting(env: &Env, kind: Kind, count: usize) -> Result<()> {
    let count = count / patience::factor() as usize;
    let (file, plan) = withheld(kind, count, 1)?;
    let victim = Victim::start(env, Some(ONE), &plan)?;
    let result = next_to(env, &file);
    file.give_up();
    drop(victim);
    result.with_context(|| format!("{count} times {kind:?}"))?;
    prefetch_pending::works(env)
}

/// What another user does while pages of `file` are waited for ends promptly.
pub fn next_to(env: &Env, file: &SlowFile) -> Result<()> {
    file.wait_until_any_asked(ASKED)?;
    // Time for the rest to be waited for, as far as the driver lets it.
    thread::sleep(Duration::from_secs(1));
    let mut other = Helper::spawn(role(env, BESIDE, Some(ANOTHER)))?;
    for step in STEPS {
        let did: String = other
            .hear(PROMPT)
            .with_context(|| format!("another user's {step}"))?;
        ensure!(did == step, "another user did {did} instead of {step}");
    }
    other.tell(&"exit")?;
    gone(&mut other).context("another user's exit")
}

/// What the process that has nothing to wait for does, in this order.
const STEPS: [&str; 6] = [
    "opening of the device",
    "write to pinned memory",
    "write to memory on demand",
    "deregistration",
    "prefetch",
    "deregistration with a prefetch",
];

/// How long a small message is.
const SMALL: usize = 64;

/// Plays [`BESIDE`]: says what it has done when it has.
fn beside(options: &Options) -> Result<()> {
    let parent = Parent::new();
    let env = options.open()?;
    let mut steps = STEPS.iter();
    let mut done = || {
        parent
            .tell(steps.next().context("no such step")?)
            .map_err(anyhow::Error::from)
    };
    let (near, link) = (env.buffer(Mode::Pinned, PAGE)?, env.rc()?);
    let pattern = Pattern::new(7);
    near.fill(pattern, 0, SMALL);
    done()?;
    let pinned = env.buffer(Mode::Pinned, 2 * PAGE)?;
    let on_demand = env.buffer(Mode::Explicit, 2 * PAGE)?;
    for far in [&pinned, &on_demand] {
        let at = PAGE - 11;
        link.write(near.sge(0, SMALL), far.remote(at))?;
        far.check_from(pattern, 0, at, SMALL)?;
        far.check_zero(0, at)?;
        far.check_zero(at + SMALL, 2 * PAGE - at - SMALL)?;
        done()?;
    }
    drop((pinned, on_demand));
    done()?;
    let far = env.buffer(Mode::Explicit, 8 * PAGE)?;
    let all = far.sge(0, 8 * PAGE);
    env.domain
        .advise(Advise::PrefetchWrite, PREFETCH_FLUSH, &[all])?;
    done()?;
    env.domain.advise(Advise::PrefetchWrite, 0, &[all])?;
    drop(far);
    done()?;
    let told: String = parent.hear()?;
    ensure!(told == "exit", "told {told}");
    // Without dropping anything.
    let _everything = env.cover(
        Mode::Explicit,
        odp_fixture::env::anonymous(PAGE)?,
        Access::ALL,
    )?;
    std::process::exit(0)
}

/// A process exits whose completion queue has overflowed. The device can be used as ever.
fn cq_overflow(env: &Env) -> Result<()> {
    for mode in [Mode::Pinned, Mode::Explicit] {
        let part = format!("{OVERFLOWS}{mode}");
        let mut helper = Helper::spawn(role(env, &part, None))?;
        let said: String = helper.hear(PROMPT)?;
        ensure!(said == "overflown", "it says {said}");
        helper.tell(&"exit")?;
        gone(&mut helper).with_context(|| format!("the exit, with {mode} memory"))?;
        prefetch_pending::works(&Env::open(Some(env.context.name()), Some(env.gid.index))?)?;
    }
    Ok(())
}

/// Plays [`OVERFLOWS`]: is sent more messages than its completion queue takes.
fn overflow(options: &Options, mode: Mode) -> Result<()> {
    const MESSAGES: u64 = 16;
    let parent = Parent::new();
    let env = options.open()?;
    let config = QpConfig::new(Transport::Rc);
    let new = |depth| -> Result<QueuePair> {
        let queue = CompletionQueue::new(&env.context, depth)?;
        Ok(QueuePair::new(&env.domain, &queue, env.gid, config)?)
    };
    let (first, second) = (new(64)?, new(1)?);
    first.connect(&second.endpoint()?, env.mtu)?;
    second.connect(&first.endpoint()?, env.mtu)?;
    let (near, far) = (env.buffer(Mode::Pinned, PAGE)?, env.buffer(mode, PAGE)?);
    for id in 0..MESSAGES {
        second.post_recv(id, &[])?;
        let op = Op::WriteImm(far.remote(0), id as u32);
        first.post_send(id, op, &[near.sge(0, SMALL)])?;
    }
    // Nobody says when it has overflown.
    thread::sleep(patience::scaled(Duration::from_millis(500)));
    parent.tell(&"overflown")?;
    let told: String = parent.hear()?;
    ensure!(told == "exit", "told {told}");
    // Without dropping anything.
    std::process::exit(0)
}
