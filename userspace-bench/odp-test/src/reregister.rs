// SPDX-License-Identifier: GPL-2.0
//! `ibv_rereg_mr`: a region gets other memory, another protection domain, other rights; or stays as it is.

use std::sync::Arc;

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::env::{anonymous, register, Buffer, Env, Mode};
use odp_verbs::{
    Access, Binding, Change, CompletionQueue, Endpoint, Op, ProtectionDomain, QpConfig, QueuePair,
    Region, Span, Status, Transport, Window, WindowType,
};
use testkit::{
    memory::{Mapping, PAGE},
    pattern::Pattern,
};

use crate::harness::{Test, LOCAL_REFUSED, REMOTE_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("rereg-translation", translation),
    Test::on_demand("rereg-kind", kind),
    Test::data("rereg-domain", domain),
    Test::data("rereg-access", access),
    Test::data("rereg-all", all),
    Test::data("rereg-refused", refused),
    Test::data("rereg-window", window),
    Test::data("rereg-window-race", window_race),
    Test::on_demand("rereg-in-traffic", in_traffic),
];

const SIZE: usize = 4 * PAGE;
const AT: usize = PAGE - 9;
const LEN: usize = 2 * PAGE + 5;

fn span(memory: &Mapping) -> Span {
    Span {
        addr: memory.at(0),
        len: memory.len(),
        iova: memory.at(0),
    }
}

const WHOLE: Span = Span {
    addr: 0,
    len: usize::MAX,
    iova: 0,
};

/// Changes `region`, of which only memory of mappings is used afterwards.
fn rereg(region: &mut Region, change: Change<'_>) -> odp_verbs::Result<()> {
    // SAFETY: the tests use spans of their own mappings, and the whole address space for those only.
    unsafe { region.reregister(change) }
}

/// That `region` is good for `memory`, from both sides.
fn works(env: &Env, near: &Buffer, region: &Region, memory: &Mapping, seed: u64) -> Result<()> {
    let (link, pattern) = (env.rc()?, Pattern::new(seed));
    near.fill(pattern, AT, LEN);
    link.write(near.sge(AT, LEN), region.remote(memory.at(AT)))
        .context("WRITE to it")?;
    pattern
        .check(AT as u64, &memory.bytes(AT, LEN))
        .context("WRITE to it")?;
    near.memory.write(AT, &[0; LEN]);
    link.write(region.sge(memory.at(AT), LEN), near.remote(AT))
        .context("WRITE from it")?;
    near.check(pattern, AT, LEN).context("WRITE from it")?;
    Ok(())
}

/// That the key of `region` leads to nothing at `memory`, from either side.
fn nothing(env: &Env, near: &Buffer, region: &Region, memory: &Mapping) -> Result<()> {
    let before = memory.bytes(AT, LEN);
    let op = Op::Write(region.remote(memory.at(AT)));
    env.rc()?
        .refused(op, &[near.sge(AT, LEN)], REMOTE_REFUSED)
        .context("WRITE to it")?;
    let own = [region.sge(memory.at(AT), LEN)];
    env.rc()?
        .refused(Op::Write(near.remote(AT)), &own, LOCAL_REFUSED)
        .context("WRITE from it")?;
    ensure!(before == memory.bytes(AT, LEN), "it was written");
    Ok(())
}

/// Other memory, and less of it.
fn translation(env: &Env, mode: Mode) -> Result<()> {
    let (old, new) = (anonymous(SIZE)?, anonymous(SIZE)?);
    let near = env.buffer(mode, SIZE)?;
    let mut region = env.register(mode, &old, Access::ALL)?;
    works(env, &near, &region, &old, 1)?;
    let (lkey, rkey) = (region.lkey(), region.rkey());
    rereg(
        &mut region,
        Change {
            span: Some(span(&new)),
            ..Change::default()
        },
    )?;
    works(env, &near, &region, &new, 2)?;
    nothing(env, &near, &region, &old).context("the memory before")?;
    if (lkey, rkey) != (region.lkey(), region.rkey()) {
        let op = Op::Write(odp_verbs::Remote {
            addr: old.at(AT),
            rkey,
        });
        env.rc()?
            .refused(op, &[near.sge(0, 8)], REMOTE_REFUSED)
            .context("the key before")?;
    }
    let part = Span {
        addr: new.at(PAGE + 5),
        len: 3000,
        iova: new.at(2 * PAGE + 5),
    };
    rereg(
        &mut region,
        Change {
            span: Some(part),
            ..Change::default()
        },
    )
    .context("a part at another iova")?;
    let pattern = Pattern::new(3);
    near.fill(pattern, 0, part.len);
    new.write(0, &[0; SIZE]);
    env.rc()?
        .write(near.sge(0, part.len), region.remote(part.iova))?;
    pattern.check(0, &new.bytes(PAGE + 5, part.len))?;
    for addr in [part.iova - 1, part.iova + part.len as u64] {
        env.rc()?
            .refused(
                Op::Write(region.remote(addr)),
                &[near.sge(0, 1)],
                REMOTE_REFUSED,
            )
            .context("beside the part")?;
    }
    Ok(())
}

/// From pinned to on demand and back, from a range to all there is and back.
fn kind(env: &Env, mode: Mode) -> Result<()> {
    let memory = anonymous(SIZE)?;
    let near = env.buffer(mode, SIZE)?;
    let mut region = env.register(Mode::Pinned, &memory, Access::ALL)?;
    for (seed, to) in [mode, Mode::Pinned, Mode::Explicit, Mode::Implicit, mode]
        .into_iter()
        .enumerate()
    {
        let to_span = match to {
            Mode::Implicit => WHOLE,
            _ => span(&memory),
        };
        rereg(
            &mut region,
            Change {
                span: Some(to_span),
                access: Some(Access::ALL | to.flag()),
                ..Change::default()
            },
        )
        .with_context(|| format!("to {to}"))?;
        works(env, &near, &region, &memory, seed as u64).with_context(|| format!("as {to}"))?;
        let elsewhere = anonymous(SIZE)?;
        if to == Mode::Implicit {
            works(env, &near, &region, &elsewhere, 50).context("all there is")?;
        } else {
            nothing(env, &near, &region, &elsewhere).with_context(|| format!("as {to}"))?;
        }
    }
    Ok(())
}

/// Two connected queue pairs, the second in `domain`.
fn pair_with(env: &Env, domain: &Arc<ProtectionDomain>) -> Result<(QueuePair, QueuePair)> {
    let new = |domain: &Arc<ProtectionDomain>| -> Result<QueuePair> {
        let queue = CompletionQueue::new(&env.context, 64)?;
        let config = QpConfig::new(Transport::Rc);
        Ok(QueuePair::new(domain, &queue, env.gid, config)?)
    };
    let (first, second) = (new(&env.domain)?, new(domain)?);
    let ends: [Endpoint; 2] = [first.endpoint()?, second.endpoint()?];
    first.connect(&ends[1], env.mtu)?;
    second.connect(&ends[0], env.mtu)?;
    Ok((first, second))
}

/// What a WRITE to `region` ends with, through a queue pair of `domain` on the far side.
fn write_through(
    env: &Env,
    domain: &Arc<ProtectionDomain>,
    near: &Buffer,
    region: &Region,
    memory: &Mapping,
) -> Result<Status> {
    let (first, _second) = pair_with(env, domain)?;
    first.post_send(
        1,
        Op::Write(region.remote(memory.at(AT))),
        &[near.sge(AT, LEN)],
    )?;
    Ok(first.completions().wait(env.patience)?.status)
}

/// The domain that it leaves has no right to it any more and can be freed; the one that it enters has.
fn domain(env: &Env, mode: Mode) -> Result<()> {
    let memory = anonymous(SIZE)?;
    let near = env.buffer(mode, SIZE)?;
    let first = ProtectionDomain::new(&env.context)?;
    let second = ProtectionDomain::new(&env.context)?;
    let mut region = register(&first, mode, &memory, Access::ALL)?;
    near.fill(Pattern::new(1), AT, LEN);
    let status = write_through(env, &first, &near, &region, &memory)?;
    ensure!(status == Status::SUCCESS, "before: {status}");
    rereg(
        &mut region,
        Change {
            domain: Some(&second),
            ..Change::default()
        },
    )?;
    memory.write(AT, &[0; LEN]);
    let status = write_through(env, &first, &near, &region, &memory)?;
    ensure!(
        REMOTE_REFUSED.contains(&status),
        "through the domain before: {status}"
    );
    ensure!(memory.bytes(AT, LEN) == [0; LEN], "it was written");
    let status = write_through(env, &second, &near, &region, &memory)?;
    ensure!(
        status == Status::SUCCESS,
        "through the new domain: {status}"
    );
    Pattern::new(1).check(AT as u64, &memory.bytes(AT, LEN))?;
    match first.free() {
        Some(freed) => freed.context("freeing the domain before")?,
        None => bail!("something still holds the domain before"),
    }
    region.deregister()?;
    second.free().context("the new domain is free")??;
    Ok(())
}

/// Rights taken and given, among them that to write at all.
fn access(env: &Env, mode: Mode) -> Result<()> {
    let memory = anonymous(SIZE)?;
    let near = env.buffer(mode, SIZE)?;
    let mut region = env.register(mode, &memory, Access::ALL)?;
    let to = |region: &mut Region, access: Access| {
        rereg(
            region,
            Change {
                access: Some(access | mode.flag()),
                ..Change::default()
            },
        )
    };
    works(env, &near, &region, &memory, 1)?;
    to(&mut region, Access::READ_ONLY)?;
    let write = |region: &Region| Op::Write(region.remote(memory.at(AT)));
    env.rc()?
        .refused(write(&region), &[near.sge(AT, LEN)], REMOTE_REFUSED)
        .context("WRITE when for reading")?;
    env.rc()?
        .read(region.remote(memory.at(AT)), near.sge(AT, LEN))
        .context("READ when for reading")?;
    near.check(Pattern::new(1), AT, LEN)?;
    to(&mut region, Access::ALL).context("all rights again")?;
    works(env, &near, &region, &memory, 2)?;

    if mode != Mode::Pinned {
        // One that was never for writing.
        let mut region = env.register(mode, &memory, Access::READ_ONLY)?;
        env.rc()?
            .read(region.remote(memory.at(AT)), near.sge(AT, LEN))?;
        to(&mut region, Access::ALL).context("to writing")?;
        works(env, &near, &region, &memory, 3).context("to writing")?;
    }
    Ok(())
}

/// Everything at once.
fn all(env: &Env, mode: Mode) -> Result<()> {
    let (old, new) = (anonymous(SIZE)?, anonymous(SIZE)?);
    let near = env.buffer(mode, SIZE)?;
    let domain = ProtectionDomain::new(&env.context)?;
    let mut region = register(&domain, mode, &old, Access::READ_ONLY)?;
    rereg(
        &mut region,
        Change {
            span: Some(span(&new)),
            domain: Some(&env.domain),
            access: Some(Access::ALL | mode.flag()),
        },
    )?;
    works(env, &near, &region, &new, 1)?;
    nothing(env, &near, &region, &old)?;
    domain.free().context("the domain before is free")??;
    Ok(())
}

/// What is refused leaves the region as it was.
fn refused(env: &Env, mode: Mode) -> Result<()> {
    let memory = anonymous(SIZE)?;
    let near = env.buffer(mode, SIZE)?;
    let mut region = env.register(mode, &memory, Access::ALL)?;
    let good = span(&memory);
    let span = |span: Span| Change {
        span: Some(span),
        ..Change::default()
    };
    let access = |access: Access| Change {
        access: Some(access),
        ..Change::default()
    };
    let mut bad = vec![
        ("nothing", Change::default()),
        ("no bytes", span(Span { len: 0, ..good })),
        (
            "a length that wraps around",
            span(Span {
                len: usize::MAX - PAGE,
                ..good
            }),
        ),
        (
            "the kernel's addresses",
            span(Span {
                addr: 0xffff_8000_0000_0000,
                iova: 0xffff_8000_0000_0000,
                ..good
            }),
        ),
        (
            "addresses that disagree in the page",
            span(Span {
                iova: good.iova + 1,
                ..good
            }),
        ),
        (
            "remote write without local write",
            access(Access::REMOTE_WRITE | mode.flag()),
        ),
        (
            "an unknown right",
            access(Access::ALL | mode.flag() | Access::from_bits(1 << 18)),
        ),
        (
            "huge pages that are none",
            access(Access::ALL | mode.flag() | Access::HUGETLB),
        ),
    ];
    if mode == Mode::Pinned {
        bad.push((
            "nothing there",
            span(Span {
                addr: good.addr + (1 << 29),
                iova: good.iova + (1 << 29),
                ..good
            }),
        ));
    }
    for (round, (what, change)) in bad.into_iter().enumerate() {
        let keys = (region.lkey(), region.rkey());
        match rereg(&mut region, change) {
            Ok(()) => bail!("reregistered: {what}"),
            Err(error) => ensure!(error.errno().is_some(), "{what}: {error}"),
        }
        ensure!(keys == (region.lkey(), region.rkey()), "{what}: other keys");
        works(env, &near, &region, &memory, round as u64)
            .with_context(|| format!("after {what}"))?;
    }
    region.deregister()?;
    Ok(())
}

/// A region with a window on it stays as it is.
fn window(env: &Env, mode: Mode) -> Result<()> {
    let (memory, other) = (anonymous(SIZE)?, anonymous(SIZE)?);
    let near = env.buffer(mode, SIZE)?;
    let mut region = env.register(mode, &memory, Access::ALL | Access::MW_BIND)?;
    let (link, window) = (env.rc()?, Window::new(&env.domain, WindowType::One)?);
    window.post_bind(
        &link.second,
        1,
        Binding {
            region: &region,
            addr: memory.at(0),
            len: SIZE as u64,
            access: Access::REMOTE_READ | Access::REMOTE_WRITE,
        },
    )?;
    link.second
        .completions()
        .wait(env.patience)?
        .expect(&[Status::SUCCESS])?;
    let change = Change {
        span: Some(span(&other)),
        ..Change::default()
    };
    ensure!(
        rereg(&mut region, change).is_err(),
        "reregistered under a window"
    );
    link.write(near.sge(0, 9), window.remote(memory.at(0)))
        .context("through the window")?;
    works(env, &near, &region, &memory, 1)?;
    window.deallocate()?;
    rereg(&mut region, change).context("without the window")?;
    works(env, &near, &region, &other, 2)
}

/// Bindings and reregistrations at the same time: a reregistration that is refused for a window is not noticed by
/// who writes to the region, and of a region that was replaced nothing is left.
fn window_race(env: &Env, mode: Mode) -> Result<()> {
    let memories = [anonymous(SIZE)?, anonymous(SIZE)?];
    let near = env.buffer(mode, SIZE)?;
    let domain = ProtectionDomain::new(&env.context)?;
    let rights = Access::ALL | Access::MW_BIND;
    let mut region = register(&domain, mode, &memories[0], rights)?;
    let mut at = 0;
    for round in 0..48 {
        let (from, to) = (&memories[at], &memories[1 - at]);
        let replace = round % 4 != 3;
        let change = match replace {
            true => Change {
                span: Some(span(to)),
                ..Change::default()
            },
            false => Change {
                access: Some(rights | mode.flag()),
                ..Change::default()
            },
        };
        near.fill(Pattern::new(round), AT, LEN);
        let changed = race(env, &domain, &near, (&mut region, from), change, round)
            .with_context(|| format!("round {round}"))?;
        if replace && changed {
            at = 1 - at;
        } else {
            Pattern::new(round)
                .check(AT as u64, &from.bytes(AT, LEN))
                .with_context(|| format!("round {round}"))?;
        }
    }
    region.deregister()?;
    let freed = domain.free().context("a test's object is left")?;
    freed.context("a region is left in the domain")
}

/// Makes `change` of a region that shows `memory`, while it is written to and a window is bound to it after
/// `round` modulo 8 other requests. Says whether it was made.
fn race(
    env: &Env,
    domain: &Arc<ProtectionDomain>,
    near: &Buffer,
    (region, memory): (&mut Region, &Mapping),
    change: Change<'_>,
    round: u64,
) -> Result<bool> {
    const WRITES: u64 = 12;
    let (writer, _target) = pair_with(env, domain)?;
    let (_other, binder) = pair_with(env, domain)?;
    let window = Window::new(
        domain,
        [WindowType::One, WindowType::Two][round as usize % 2],
    )?;
    let to = region.remote(memory.at(AT));
    for id in 0..WRITES {
        writer.post_send(id, Op::Write(to), &[near.sge(AT, LEN)])?;
    }
    let before = round % 8;
    for id in 0..before {
        binder.post_send(id, Op::Write(near.remote(0)), &[])?;
    }
    window.post_bind(
        &binder,
        before,
        Binding {
            region,
            addr: memory.at(0),
            len: SIZE as u64,
            access: Access::REMOTE_READ,
        },
    )?;
    let changed = match rereg(region, change) {
        Ok(()) => true,
        Err(error) if error.errno() == Some(libc::EBUSY) => false,
        Err(error) => return Err(error.into()),
    };
    let mut bound = false;
    for _ in 0..=before {
        // Refused with others before it, it is flushed.
        let end = binder.completions().wait(env.patience)?.expect(&[
            Status::SUCCESS,
            Status::MW_BIND_ERR,
            Status::WR_FLUSH_ERR,
        ])?;
        bound = end.status == Status::SUCCESS;
    }
    let replaced = changed && change.span.is_some();
    ensure!(!(bound && replaced), "a window on a region that is gone");
    let expected: &[Status] = match replaced {
        true => &[
            Status::SUCCESS,
            Status::REM_ACCESS_ERR,
            Status::WR_FLUSH_ERR,
        ],
        false => &[Status::SUCCESS],
    };
    for _ in 0..WRITES {
        writer
            .completions()
            .wait(env.patience)?
            .expect(expected)
            .with_context(|| format!("changed: {changed}, bound: {bound}"))?;
    }
    window.deallocate()?;
    Ok(changed)
}

/// While a peer writes: each request goes to the old memory or to the new, whole, or is refused.
fn in_traffic(env: &Env, mode: Mode) -> Result<()> {
    let memories = [anonymous(SIZE)?, anonymous(SIZE)?];
    let near = env.buffer(mode, SIZE)?;
    let mut region = env.register(mode, &memories[0], Access::ALL)?;
    for round in 0..20 {
        let (from, to) = (&memories[round % 2], &memories[(round + 1) % 2]);
        let (link, pattern) = (env.rc()?, Pattern::new(round as u64));
        near.fill(pattern, AT, LEN);
        for id in 0..24 {
            let op = Op::Write(region.remote(from.at(AT)));
            link.first.post_send(id, op, &[near.sge(AT, LEN)])?;
        }
        let change = Change {
            span: Some(span(to)),
            ..Change::default()
        };
        rereg(&mut region, change)?;
        let mut done = 0;
        for _ in 0..24 {
            let end = link.first.completions().wait(env.patience)?;
            end.expect(&[
                Status::SUCCESS,
                Status::REM_ACCESS_ERR,
                Status::WR_FLUSH_ERR,
            ])?;
            done += usize::from(end.status == Status::SUCCESS);
        }
        if done > 0 {
            pattern
                .check(AT as u64, &from.bytes(AT, LEN))
                .with_context(|| format!("round {round}"))?;
        }
        works(env, &near, &region, to, 100 + round as u64)
            .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}
