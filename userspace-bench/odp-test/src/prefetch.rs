// SPDX-License-Identifier: GPL-2.0
//! Advice about pages that will be needed (`ibv_advise_mr`).

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::env::{anonymous, Buffer, Env, Mode};
use odp_verbs::{Access, Advise, Error, Sge, PREFETCH_FLUSH};
use testkit::{memory::PAGE, patience, pattern::Pattern};

use crate::harness::{skip, Test};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("prefetch", prefetch),
    Test::on_demand("prefetch-write", prefetch_write),
    Test::on_demand("prefetch-no-fault", no_fault),
    Test::on_demand("prefetch-holes", holes),
    Test::on_demand("prefetch-several", several),
    Test::once("prefetch-refused", refused),
];

const SIZE: usize = 32 * PAGE;
/// What is asked for, and the pages that this touches.
const AT: usize = 4 * PAGE + 100;
const LEN: usize = 10 * PAGE;
const PAGES: std::ops::Range<usize> = 4 * PAGE..15 * PAGE;

/// Advises; a library that does not know how makes the test one that does not apply.
fn advise(env: &Env, advice: Advise, flags: u32, sges: &[Sge]) -> Result<()> {
    match env.domain.advise(advice, flags, sges) {
        Err(Error::Call {
            errno: libc::EOPNOTSUPP | libc::ENOSYS,
            ..
        }) => Err(skip("the device's library has no ibv_advise_mr")),
        result => Ok(result?),
    }
}

fn resident(buffer: &Buffer) -> Result<usize> {
    Ok(buffer
        .memory
        .resident(PAGES)?
        .into_iter()
        .filter(|&p| p)
        .count())
}

/// Waits until all of the pages are there.
fn appear(buffer: &Buffer) -> Result<()> {
    let limit = patience::scaled(Duration::from_secs(5));
    let start = Instant::now();
    while resident(buffer)? < PAGES.len() / PAGE {
        if start.elapsed() > limit {
            bail!(
                "{} of {} pages are there after {} s",
                resident(buffer)?,
                PAGES.len() / PAGE,
                limit.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The memory works as ever.
fn works(env: &Env, mode: Mode, far: &Buffer) -> Result<()> {
    let (near, link, pattern) = (env.buffer(mode, SIZE)?, env.rc()?, Pattern::new(1));
    near.fill(pattern, AT, LEN);
    link.write(near.sge(AT, LEN), far.remote(AT))?;
    far.check(pattern, AT, LEN)?;
    link.read(far.remote(AT), near.sge(AT, LEN))?;
    near.check(pattern, AT, LEN)?;
    Ok(())
}

fn prefetch(env: &Env, mode: Mode) -> Result<()> {
    fetch(env, mode, Advise::Prefetch)
}

fn prefetch_write(env: &Env, mode: Mode) -> Result<()> {
    fetch(env, mode, Advise::PrefetchWrite)
}

fn fetch(env: &Env, mode: Mode, advice: Advise) -> Result<()> {
    for flags in [PREFETCH_FLUSH, 0] {
        let context = || format!("flags {flags}");
        let far = env.buffer(mode, SIZE)?;
        advise(env, advice, flags, &[far.sge(AT, LEN)]).with_context(context)?;
        if flags == PREFETCH_FLUSH {
            let (there, all) = (resident(&far)?, PAGES.len() / PAGE);
            ensure!(
                there == all,
                "{there} of {all} pages are there after a prefetch with flush"
            );
        }
        appear(&far).with_context(context)?;
        works(env, mode, &far).with_context(context)?;
    }
    Ok(())
}

/// Without faults, what is not mapped is passed over: before, between and after pages that are. With
/// faults it is an error.
fn holes(env: &Env, mode: Mode) -> Result<()> {
    let far = env.buffer(mode, SIZE)?;
    far.memory.unmap(0..6 * PAGE)?;
    far.memory.unmap(9 * PAGE..11 * PAGE)?;
    far.memory.unmap(14 * PAGE..SIZE)?;
    far.memory.write(7 * PAGE, b"here");
    let sges = [far.sge(0, SIZE)];
    advise(env, Advise::PrefetchNoFault, PREFETCH_FLUSH, &sges).context("without faults")?;
    match env.domain.advise(Advise::Prefetch, PREFETCH_FLUSH, &sges) {
        Err(Error::Call { errno, .. }) if errno == libc::EFAULT => Ok(()),
        other => bail!("with faults: {other:?}, expected EFAULT"),
    }
}

/// Nothing is faulted in: an untouched page stays so.
fn no_fault(env: &Env, mode: Mode) -> Result<()> {
    for flags in [PREFETCH_FLUSH, 0] {
        let far = env.buffer(mode, SIZE)?;
        // Pages that are not there may be refused or passed over.
        match advise(env, Advise::PrefetchNoFault, flags, &[far.sge(AT, LEN)]) {
            Err(error) if error.is::<crate::harness::Skip>() => return Err(error),
            _ => thread::sleep(Duration::from_millis(20)),
        }
        let there = resident(&far)?;
        ensure!(there == 0, "{there} pages were faulted in");
        far.fill(Pattern::new(2), 0, SIZE);
        advise(env, Advise::PrefetchNoFault, flags, &[far.sge(AT, LEN)])
            .context("pages present")?;
        works(env, mode, &far)?;
    }
    Ok(())
}

fn several(env: &Env, mode: Mode) -> Result<()> {
    let (a, b) = (env.buffer(mode, SIZE)?, env.buffer(mode, SIZE)?);
    let sges = [a.sge(AT, LEN), b.sge(AT, LEN), a.sge(0, 1)];
    advise(env, Advise::PrefetchWrite, PREFETCH_FLUSH, &sges)?;
    let there = (resident(&a)?, resident(&b)?, a.memory.resident(0..PAGE)?[0]);
    let all = PAGES.len() / PAGE;
    ensure!(
        there == (all, all, true),
        "{there:?} pages are there, expected {all} of each"
    );
    works(env, mode, &a)?;
    works(env, mode, &b)
}

fn refused(env: &Env) -> Result<()> {
    let far = env.buffer(Mode::Explicit, SIZE)?;
    let pinned = env.buffer(Mode::Pinned, PAGE)?;
    let read_only = env.cover(Mode::Explicit, anonymous(PAGE)?, Access::READ_ONLY)?;
    let good = far.sge(0, PAGE);
    advise(env, Advise::Prefetch, PREFETCH_FLUSH, &[good])?;
    let hole = env.buffer(Mode::Explicit, SIZE)?;
    hole.memory.unmap(0..SIZE)?;
    let wrong_key = Sge {
        lkey: good.lkey ^ 0xff00,
        ..good
    };
    for (what, advice, flags, sge) in [
        (
            "a key that does not exist",
            Advise::Prefetch,
            PREFETCH_FLUSH,
            wrong_key,
        ),
        (
            "a key that does not exist, later",
            Advise::Prefetch,
            0,
            wrong_key,
        ),
        (
            "a range beyond the end",
            Advise::Prefetch,
            PREFETCH_FLUSH,
            far.sge(SIZE - 1, 2),
        ),
        (
            "a pinned region",
            Advise::Prefetch,
            PREFETCH_FLUSH,
            pinned.sge(0, 8),
        ),
        ("flags that do not exist", Advise::Prefetch, 0x10, good),
        (
            "writes to a region for reading",
            Advise::PrefetchWrite,
            PREFETCH_FLUSH,
            read_only.sge(0, 8),
        ),
        (
            "addresses with nothing mapped",
            Advise::Prefetch,
            PREFETCH_FLUSH,
            hole.sge(0, 8),
        ),
    ] {
        match env.domain.advise(advice, flags, &[sge]) {
            Ok(()) => bail!("accepted: {what}"),
            Err(error) => ensure!(error.errno().is_some_and(|e| e > 0), "{what}: {error}"),
        }
    }
    works(env, Mode::Explicit, &far)
}
