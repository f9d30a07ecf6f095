// SPDX-License-Identifier: GPL-2.0
//! What a prefetch in the background is for goes before it is done: the region, the process. (The device
//! and the modules are taken away by `prefetch-removal.sh` of the testbed.)

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::env::{anonymous, Buffer, Env, Mode};
use odp_verbs::{Access, Advise, Error};
use testkit::{
    memory::{Advice, PAGE},
    patience,
    pattern::Pattern,
    process::{self, Helper, Parent},
};

use crate::harness::{self, skip, Options, Test};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::once("prefetch-deregister", deregister),
    Test::once("prefetch-exit", exit),
];

/// The part of a process that has prefetches in the background.
pub const ROLE: &str = "prefetcher";

/// Takes long enough to be brought in that nobody is done with it by chance.
const SIZE: usize = 128 << 20;
/// More than the driver keeps: those beyond are dropped.
const PREFETCHES: usize = 100;
/// Waiting for all of it to be brought in as often as it was asked for would take far longer.
const PROMPT: Duration = Duration::from_secs(20);

/// Untouched memory with prefetches of all of it in the background.
fn prefetched(env: &Env) -> Result<Buffer> {
    let memory = anonymous(SIZE)?;
    memory.advise(0..SIZE, Advice::NoHugePage)?;
    let far = env.cover(Mode::Explicit, memory, Access::ALL)?;
    for n in 0..PREFETCHES {
        // Not all of them the same, so that each has something to do.
        let at = n * 37 % 64 * (SIZE / 128);
        match env
            .domain
            .advise(Advise::PrefetchWrite, 0, &[far.sge(at, SIZE / 2)])
        {
            Err(Error::Call {
                errno: libc::EOPNOTSUPP | libc::ENOSYS,
                ..
            }) => return Err(skip("the device's library has no ibv_advise_mr")),
            result => result.with_context(|| format!("prefetch {n}"))?,
        }
    }
    Ok(far)
}

/// The device works as ever.
pub fn works(env: &Env) -> Result<()> {
    let (near, far) = (
        env.buffer(Mode::Explicit, PAGE)?,
        env.buffer(Mode::Explicit, 2 * PAGE)?,
    );
    let pattern = Pattern::new(1);
    near.fill(pattern, 7, 2000);
    env.rc()?.write(near.sge(7, 2000), far.remote(PAGE - 9))?;
    far.check_from(pattern, 7, PAGE - 9, 2000)?;
    Ok(())
}

fn deregister(env: &Env) -> Result<()> {
    for round in 0..6 {
        let far = prefetched(env)?;
        let (near, link) = (env.buffer(Mode::Pinned, PAGE)?, env.rc()?);
        let pattern = Pattern::new(round);
        near.fill(pattern, 0, PAGE);
        // What the NIC writes meanwhile is there.
        link.write(near.sge(0, PAGE), far.remote(SIZE - 2 * PAGE))?;
        far.check_from(pattern, 0, SIZE - 2 * PAGE, PAGE)?;
        let Buffer { region, memory, .. } = far;
        let start = Instant::now();
        drop(region);
        let took = start.elapsed();
        ensure!(
            took < patience::scaled(PROMPT),
            "deregistration took {took:?}"
        );
        drop(memory);
        works(env).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// Plays [`ROLE`]: says when the prefetches are queued, and waits to be killed or told to end.
pub fn play(options: &Options) -> Result<()> {
    process::defer_to_kernel();
    let parent = Parent::new();
    let env = options.open()?;
    let _far = prefetched(&env)?;
    parent.tell(&"queued")?;
    let end: String = parent.hear()?;
    ensure!(end == "end", "told {end}");
    Ok(())
}

fn exit(env: &Env) -> Result<()> {
    for round in 0..6 {
        let mut helper = Helper::spawn(harness::role(env, ROLE))?;
        let said: String = match helper.hear(Duration::from_secs(30)) {
            Ok(said) => said,
            Err(error) => bail!("the process with prefetches: {error}"),
        };
        ensure!(said == "queued", "the process says {said}");
        let start = Instant::now();
        if round % 2 == 0 {
            helper.kill()?;
        } else {
            helper.tell(&"end")?;
            helper.finish(PROMPT)?;
        }
        let took = start.elapsed();
        ensure!(took < patience::scaled(PROMPT), "its end took {took:?}");
        works(env).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}
