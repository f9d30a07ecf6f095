// SPDX-License-Identifier: GPL-2.0
//! `IBV_ACCESS_HUGETLB`: the application's word that its memory consists of huge pages.

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::env::{anonymous, Env, Mode};
use odp_verbs::{Access, Span};
use testkit::{
    memory::{Advice, Backing, Mapping, Protection, HUGE_PAGE, PAGE},
    pattern::Pattern,
};

use crate::harness::{skip, Test};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::once("hugetlb", accepted),
    Test::once("hugetlb-mapped-anew", mapped_anew),
    Test::once("hugetlb-refused", refused),
];

/// How many huge pages a test takes from the pool.
const PAGES: usize = 3;

fn reserved() -> Result<Mapping> {
    Mapping::new(PAGES * HUGE_PAGE, Backing::HugeTlb, Protection::ReadWrite)
        .map_err(|e| skip(format!("no huge pages in the pool: {e}")))
}

/// All of the memory or an odd part of it, on demand and pinned.
fn accepted(env: &Env) -> Result<()> {
    let odd = PAGE + 77..PAGES * HUGE_PAGE - 4099;
    for (range, mode) in [
        (0..PAGES * HUGE_PAGE, Access::ON_DEMAND),
        (odd.clone(), Access::ON_DEMAND),
        (odd, Access::NONE),
    ] {
        let context = || format!("{range:x?}, {mode:?}");
        let memory = reserved()?;
        let access = Access::ALL | Access::HUGETLB | mode;
        let region = env
            .domain
            .register(&memory, range.clone(), access)
            .with_context(context)?;
        let near = env.buffer(Mode::Explicit, 1 << 20)?;
        let link = env.rc()?;
        for (seed, at) in [range.start, HUGE_PAGE - 9999, range.end - 30_001]
            .into_iter()
            .enumerate()
        {
            let (pattern, len) = (Pattern::new(seed as u64), 30_001);
            near.fill(pattern, at % PAGE, len);
            link.write(near.sge(at % PAGE, len), region.remote(memory.at(at)))
                .with_context(context)?;
            pattern
                .check((at % PAGE) as u64, &memory.bytes(at, len))
                .with_context(context)?;
            near.memory.write(at % PAGE, &vec![0; len]);
            link.write(region.sge(memory.at(at), len), near.remote(at % PAGE))
                .with_context(context)?;
            near.check(pattern, at % PAGE, len).with_context(context)?;
        }
    }
    Ok(())
}

/// What takes the place of the huge pages later is used as it is.
fn mapped_anew(env: &Env) -> Result<()> {
    let access = Access::ALL | Access::HUGETLB;
    let (far, near) = (
        env.cover(Mode::Explicit, reserved()?, access)?,
        env.buffer(Mode::Explicit, 1 << 20)?,
    );
    let (link, at, len) = (env.rc()?, HUGE_PAGE - 5000, 12_345);
    for (seed, replace) in [false, true].into_iter().enumerate() {
        if replace {
            let second = HUGE_PAGE..2 * HUGE_PAGE;
            far.memory
                .map(second, Backing::Anonymous, Protection::ReadWrite)?;
        }
        let pattern = Pattern::new(seed as u64);
        near.fill(pattern, 3, len);
        link.write(near.sge(3, len), far.remote(at))?;
        far.check_from(pattern, 3, at, len)
            .with_context(|| format!("replaced: {replace}"))?;
    }
    Ok(())
}

/// Anything else, and anything else in a part of it, is refused with the errno of a bad argument.
fn refused(env: &Env) -> Result<()> {
    let half = reserved()?;
    half.map(
        HUGE_PAGE..2 * HUGE_PAGE,
        Backing::Anonymous,
        Protection::ReadWrite,
    )?;
    let hole = reserved()?;
    hole.unmap(2 * HUGE_PAGE..3 * HUGE_PAGE)?;
    let transparent = anonymous(PAGES * HUGE_PAGE)?;
    transparent.advise(0..PAGES * HUGE_PAGE, Advice::HugePage)?;
    transparent.write(0, &[1]);
    for (what, memory) in [
        ("small pages", &anonymous(PAGES * HUGE_PAGE)?),
        ("transparent huge pages", &transparent),
        ("a part of small pages", &half),
        ("a hole", &hole),
    ] {
        let all = Span {
            addr: memory.at(0),
            len: memory.len(),
            iova: memory.at(0),
        };
        invalid(env, what, all, Access::ON_DEMAND)?;
        invalid(env, &format!("{what}, pinned"), all, Access::NONE)?;
    }
    let whole = Span {
        addr: 0,
        len: usize::MAX,
        iova: 0,
    };
    invalid(env, "the whole address space", whole, Access::ON_DEMAND)?;
    // The parts beside what is wrong are as good as before.
    let access = Access::ALL | Access::ON_DEMAND | Access::HUGETLB;
    env.domain
        .register(&half, 0..HUGE_PAGE, access)
        .context("the huge page before the small ones")?;
    Ok(())
}

fn invalid(env: &Env, what: &str, span: Span, mode: Access) -> Result<()> {
    let access = Access::ALL | Access::HUGETLB | mode;
    // SAFETY: if the span is registered after all, nothing is done with the key.
    match unsafe { env.domain.register_raw(span, access) } {
        Ok(_) => bail!("registered: {what}"),
        Err(error) => {
            ensure!(error.errno() == Some(libc::EINVAL), "{what}: {error}");
            Ok(())
        }
    }
}
