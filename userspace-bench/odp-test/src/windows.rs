// SPDX-License-Identifier: GPL-2.0
//! Memory windows: a peer gets at what the window shows, with the rights that it gives, and at nothing else.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::{anonymous, Buffer, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::{
    Access, Binding, Completion, Op, ProtectionDomain, Remote, Status, Window,
    WindowType::{self, One, Two},
};
use testkit::{
    memory::{Backing, Protection, PAGE},
    patience,
    pattern::Pattern,
};

use crate::{
    harness::{Test, REMOTE_REFUSED},
    operations::extended,
};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("window-bounds", bounds),
    Test::data("window-zero-based", zero_based),
    Test::data("window-rights", rights),
    Test::data("window-rebind", rebind),
    Test::data("window-invalidate", invalidate),
    Test::data("window-invalidate-refused", invalidate_refused),
    Test::data("window-bind-refused", bind_refused),
    Test::data("window-flush", flush),
    Test::on_demand("window-munmap", munmap),
    Test::data("window-deregister", deregister),
    Test::data("window-deregister-race", deregister_race),
    Test::data("window-queue-pair-destroyed", queue_pair_destroyed),
];

const SIZE: usize = 8 * PAGE;
/// What a window shows: odd, across pages and packets.
const FIRST: usize = PAGE - 7;
const LEN: usize = 3 * PAGE + 100;
const END: usize = FIRST + LEN;
const BOTH: [WindowType; 2] = [One, Two];
/// What peers may do through most windows here.
const REMOTE: Access = Access::from_bits(Access::ALL.bits() & !Access::LOCAL_WRITE.bits());

/// Memory that windows may show.
fn with_windows(env: &Env, mode: Mode) -> Result<Buffer> {
    Ok(env.cover(mode, anonymous(SIZE)?, Access::ALL | Access::MW_BIND)?)
}

/// A part of `far`.
fn part(far: &Buffer, first: usize, len: usize, access: Access) -> Binding<'_> {
    Binding {
        region: &far.region,
        addr: far.iova + first as u64,
        len: len as u64,
        access,
    }
}

/// Binds `window` on the side of `link` that is addressed.
fn bind(env: &Env, link: &Loopback, window: &Window, binding: Binding<'_>) -> Result<Completion> {
    window.post_bind(&link.second, 9, binding)?;
    Ok(link.second.completions().wait(env.patience)?)
}

/// A link, and a window of `kind` that is bound for it.
fn bound(env: &Env, kind: WindowType, binding: Binding<'_>) -> Result<(Loopback, Window)> {
    let (link, window) = (env.rc()?, Window::new(&env.domain, kind)?);
    bind(env, &link, &window, binding)?.expect(&[Status::SUCCESS])?;
    Ok((link, window))
}

/// Invalidates a key on the side of `link` that is addressed.
fn invalidate_here(env: &Env, link: &Loopback, rkey: u32) -> Result<Completion> {
    link.second.post_send(8, Op::LocalInv(rkey), &[])?;
    Ok(link.second.completions().wait(env.patience)?)
}

/// What is inside can be written and read to the last byte; what is not entirely inside is refused, and
/// nothing of it is written.
fn bounds(env: &Env, mode: Mode) -> Result<()> {
    let far = with_windows(env, mode)?;
    let near = env.buffer(mode, SIZE)?;
    for kind in BOTH {
        let (link, window) = bound(env, kind, part(&far, FIRST, LEN, REMOTE))?;
        let remote = |at: usize| window.remote(far.iova + at as u64);
        for (seed, (at, len)) in [(FIRST, LEN), (FIRST, 1), (END - 1, 1), (2 * PAGE, 2000)]
            .into_iter()
            .enumerate()
        {
            let context = || format!("{kind:?}: {len} bytes at {at}");
            let pattern = Pattern::new(seed as u64);
            far.memory.write(0, &[0; SIZE]);
            near.fill(pattern, at, len);
            link.write(near.sge(at, len), remote(at))
                .with_context(context)?;
            far.check(pattern, at, len).with_context(context)?;
            far.check_zero(0, at).with_context(context)?;
            far.check_zero(at + len, SIZE - at - len)
                .with_context(context)?;
            near.memory.write(at, &vec![0; len]);
            link.read(remote(at), near.sge(at, len))
                .with_context(context)?;
            near.check(pattern, at, len).with_context(context)?;
        }
        far.fill(Pattern::new(9), 0, SIZE);
        for (at, len) in [
            (FIRST - 1, 1),
            (FIRST - 1, 2),
            (END, 1),
            (END - 1, 2),
            (FIRST - 1, LEN + 2),
            (0, 8),
            (SIZE - 8, 8),
        ] {
            // Type 2 goes with its queue pair, which a refusal ends.
            let (link, window) = bound(env, kind, part(&far, FIRST, LEN, REMOTE))?;
            let remote = window.remote(far.iova + at as u64);
            link.refused(Op::Write(remote), &[near.sge(0, len)], REMOTE_REFUSED)
                .with_context(|| format!("{kind:?}: WRITE of {len} bytes at {at}"))?;
            let (link, window) = bound(env, kind, part(&far, FIRST, LEN, REMOTE))?;
            let remote = window.remote(far.iova + at as u64);
            link.refused(Op::Read(remote), &[near.sge(0, len)], REMOTE_REFUSED)
                .with_context(|| format!("{kind:?}: READ of {len} bytes at {at}"))?;
        }
        far.check(Pattern::new(9), 0, SIZE)
            .context("after what was refused")?;
    }
    Ok(())
}

/// Addresses that count from the window's first byte.
fn zero_based(env: &Env, mode: Mode) -> Result<()> {
    let (far, near) = (with_windows(env, mode)?, env.buffer(mode, SIZE)?);
    let binding = part(&far, FIRST, LEN, REMOTE | Access::ZERO_BASED);
    let (link, window) = bound(env, Two, binding)?;
    let pattern = Pattern::new(1);
    near.fill(pattern, 0, LEN);
    link.write(near.sge(0, LEN), window.remote(0))?;
    far.check_from(pattern, 0, FIRST, LEN)?;
    far.check_zero(0, FIRST).context("before the window")?;
    far.check_zero(END, SIZE - END)
        .context("after the window")?;
    for at in [LEN as u64, far.iova + FIRST as u64, u64::MAX] {
        let (link, window) = bound(env, Two, binding)?;
        let op = Op::Write(window.remote(at));
        link.refused(op, &[near.sge(0, 1)], REMOTE_REFUSED)
            .with_context(|| format!("at {at:#x}"))?;
    }
    far.check_zero(END, SIZE - END)
        .context("after the window")?;
    Ok(())
}

type MakeOp = fn(Remote) -> Op;

/// The window's rights count, not the region's; a window can give what the region's own key does not.
fn rights(env: &Env, mode: Mode) -> Result<()> {
    let near = env.buffer(mode, PAGE)?;
    let own = [near.sge(0, 8)];
    let local = Access::LOCAL_WRITE | Access::MW_BIND;
    for (kind, access) in [
        (One, Access::ALL | Access::MW_BIND),
        (Two, Access::ALL | Access::MW_BIND),
        (One, local),
        (Two, local),
    ] {
        let far = env.cover(mode, anonymous(SIZE)?, access)?;
        far.fill(Pattern::new(2), 0, SIZE);
        let at = far.iova + PAGE as u64;
        let remote = |window: &Window| window.remote(at);
        let ops: [(Access, MakeOp); 3] = [
            (Access::REMOTE_READ, Op::Read),
            (Access::REMOTE_WRITE, Op::Write),
            (Access::REMOTE_ATOMIC, |at| Op::FetchAdd { at, add: 0 }),
        ];
        for (given, _) in ops {
            for (needed, op) in ops {
                let (link, window) = bound(env, kind, part(&far, FIRST, LEN, given))?;
                let context = || format!("{kind:?} for {given:?}: {needed:?}");
                let op = op(remote(&window));
                if given == needed {
                    near.fill(Pattern::new(2), PAGE - 8, 8);
                    near.memory.write(0, &Pattern::new(2).bytes(PAGE as u64, 8));
                    link.ok(op, &own).with_context(context)?;
                } else {
                    link.refused(op, &own, REMOTE_REFUSED)
                        .with_context(context)?;
                }
            }
        }
        far.check(Pattern::new(2), 0, SIZE)?;
        if access == local {
            let op = Op::Read(far.remote(PAGE));
            env.rc()?
                .refused(op, &own, REMOTE_REFUSED)
                .context("through the region's own key")?;
        }
    }
    Ok(())
}

/// A window of type 1 wanders; the key before leads nowhere. Bound to nothing, it shows nothing.
fn rebind(env: &Env, mode: Mode) -> Result<()> {
    let (far, near) = (with_windows(env, mode)?, env.buffer(mode, PAGE)?);
    let (mut link, window) = bound(env, One, part(&far, 0, PAGE, REMOTE))?;
    let own = [near.sge(0, 100)];
    for page in 1..6 {
        let old = window.remote(far.iova + (page * PAGE) as u64);
        let binding = part(&far, page * PAGE, PAGE, REMOTE);
        bind(env, &link, &window, binding)?.expect(&[Status::SUCCESS])?;
        ensure!(old.rkey != window.rkey(), "the key is the one before");
        let pattern = Pattern::new(page as u64);
        near.fill(pattern, 0, 100);
        link.write(own[0], window.remote(old.addr))?;
        far.check_from(pattern, 0, page * PAGE, 100)?;
        link.refused(Op::Write(old), &own, REMOTE_REFUSED)
            .context("the key before")?;
        link = env.rc()?;
        let before = window.remote(far.iova + (page * PAGE - 100) as u64);
        link.refused(Op::Write(before), &own, REMOTE_REFUSED)
            .context("what it showed before")?;
        link = env.rc()?;
    }
    bind(env, &link, &window, part(&far, 0, 0, REMOTE))?.expect(&[Status::SUCCESS])?;
    let op = Op::Write(window.remote(far.iova + 5 * PAGE as u64));
    link.refused(op, &own, REMOTE_REFUSED)
        .context("bound to nothing")?;
    Ok(())
}

/// By its owner and by the peer; bound again, it has another key.
fn invalidate(env: &Env, mode: Mode) -> Result<()> {
    let (far, near) = (with_windows(env, mode)?, env.buffer(mode, SIZE)?);
    let own = [near.sge(0, 300)];
    near.fill(Pattern::new(3), 0, 300);
    for by_peer in [false, true] {
        let context = || format!("by the peer: {by_peer}");
        let (link, window) = bound(env, Two, part(&far, FIRST, LEN, REMOTE))?;
        for round in 0..3 {
            far.memory.write(0, &[0; SIZE]);
            let at = window.remote(far.iova + FIRST as u64);
            link.write(own[0], at).with_context(context)?;
            far.check_from(Pattern::new(3), 0, FIRST, 300)
                .with_context(context)?;
            if by_peer {
                let op = Op::SendInv(window.rkey());
                let told = link.send(op, &[near.sge(0, 10)], &[near.sge(PAGE, 10)])?;
                // Soft-RoCE sets another flag than the library knows, so the application is not told.
                ensure!(
                    told.invalidated.is_none_or(|key| key == window.rkey()),
                    "told of {:x?}",
                    told.invalidated
                );
            } else {
                invalidate_here(env, &link, window.rkey())?.expect(&[Status::SUCCESS])?;
            }
            if round < 2 {
                let before = window.rkey();
                let next = part(&far, FIRST, LEN, REMOTE);
                bind(env, &link, &window, next)?.expect(&[Status::SUCCESS])?;
                ensure!(before != window.rkey(), "the key is the one before");
            }
        }
        far.memory.write(0, &[0; SIZE]);
        let op = Op::Write(window.remote(far.iova + FIRST as u64));
        link.refused(op, &own, REMOTE_REFUSED)
            .with_context(context)?;
        far.check_zero(0, SIZE).with_context(context)?;
    }
    Ok(())
}

/// Windows that are not bound, of type 1, or of another queue pair.
fn invalidate_refused(env: &Env, mode: Mode) -> Result<()> {
    let (far, near) = (with_windows(env, mode)?, env.buffer(mode, PAGE)?);
    let unbound = Window::new(&env.domain, Two)?;
    let link = env.rc()?;
    for _ in 0..2 {
        invalidate_here(env, &link, unbound.rkey())?
            .expect(&[Status::SUCCESS])
            .context("one that is not bound stays as it is")?;
    }
    bind(env, &link, &unbound, part(&far, 0, PAGE, REMOTE))?
        .expect(&[Status::SUCCESS])
        .context("bound after that")?;

    let binding = part(&far, FIRST, LEN, REMOTE);
    for (kind, what) in [(One, "of type 1"), (Two, "of another queue pair")] {
        let (link, window) = bound(env, kind, binding)?;
        let other = env.rc()?;
        invalidate_here(env, &other, window.rkey())?
            .expect(&[Status::LOC_QP_OP_ERR])
            .context(what)?;
        let other = env.rc()?;
        other.second.post_recv(1, &[])?;
        let sent = other.run(Op::SendInv(window.rkey()), &[near.sge(0, 1)])?;
        ensure!(sent.status != Status::SUCCESS, "{what}, by a peer");
        link.write(near.sge(0, 9), window.remote(binding.addr))
            .with_context(|| format!("{what}: it is still bound"))?;
    }
    let (link, window) = bound(env, Two, binding)?;
    invalidate_here(env, &link, window.rkey() ^ 1)?
        .expect(&[Status::LOC_QP_OP_ERR])
        .context("another key of the same window")?;
    Ok(())
}

/// Bindings that show what they must not, or of what they must not.
fn bind_refused(env: &Env, mode: Mode) -> Result<()> {
    let far = with_windows(env, mode)?;
    let without = env.cover(mode, anonymous(SIZE)?, Access::ALL)?;
    let read_only = env.cover(
        mode,
        anonymous(SIZE)?,
        Access::REMOTE_READ | Access::MW_BIND,
    )?;
    let stranger = Env::open(Some(env.context.name()), Some(env.gid.index))?;
    let strangers = with_windows(&stranger, mode)?;
    let good = part(&far, FIRST, LEN, REMOTE);
    let wraps = Binding {
        len: u64::MAX - 8,
        ..good
    };
    let mut bad = vec![
        (
            "a region without the right",
            part(&without, 0, PAGE, REMOTE),
        ),
        (
            "writing to what is read only",
            part(&read_only, 0, PAGE, Access::REMOTE_WRITE),
        ),
        (
            "atomics on what is read only",
            part(&read_only, 0, PAGE, Access::REMOTE_ATOMIC),
        ),
        (
            "a region of somebody else",
            part(&strangers, 0, PAGE, REMOTE),
        ),
        ("a length that wraps around", wraps),
        (
            "a length that wraps around, from 0",
            Binding {
                access: REMOTE | Access::ZERO_BASED,
                ..wraps
            },
        ),
    ];
    if mode != Mode::Implicit {
        bad.push(("a byte too many", part(&far, 1, SIZE, REMOTE)));
        bad.push(("what follows", part(&far, SIZE, 1, REMOTE)));
        bad.push((
            "what follows, from 0",
            part(&far, SIZE, 1, REMOTE | Access::ZERO_BASED),
        ));
    }
    for (what, binding) in bad {
        let (link, window) = (env.rc()?, Window::new(&env.domain, Two)?);
        bind(env, &link, &window, binding)?
            .expect(&[Status::MW_BIND_ERR])
            .context(what)?;
    }
    let (link, window) = bound(env, Two, good)?;
    bind(env, &link, &window, good)?
        .expect(&[Status::MW_BIND_ERR])
        .context("bound without being invalidated")?;
    let (link, window) = (env.rc()?, Window::new(&env.domain, Two)?);
    bind(env, &link, &window, part(&far, 0, 0, REMOTE))?
        .expect(&[Status::MW_BIND_ERR])
        .context("type 2 to nothing")?;
    let domain = ProtectionDomain::new(&env.context)?;
    for kind in BOTH {
        let (link, window) = (env.rc()?, Window::new(&domain, kind)?);
        match bind(env, &link, &window, good) {
            // The library may look at the domains already.
            Err(error) => ensure!(kind == One, "{error:#}"),
            Ok(end) => drop(
                end.expect(&[Status::MW_BIND_ERR])
                    .with_context(|| format!("{kind:?} of another domain"))?,
            ),
        }
    }
    Ok(())
}

/// A flush through a window reaches what the window shows.
fn flush(env: &Env, mode: Mode) -> Result<()> {
    let access = Access::ALL | Access::MW_BIND | Access::FLUSH_GLOBAL;
    let far = env.cover(mode, anonymous(SIZE)?, access)?;
    far.fill(Pattern::new(6), 0, SIZE);
    let given = Access::REMOTE_WRITE | Access::FLUSH_GLOBAL;
    for (at, len, right) in [
        (FIRST, LEN, true),
        (END - 1, 1, true),
        (FIRST - 1, 2, false),
        (END - 1, 2, false),
        (0, 8, false),
    ] {
        let (link, window) = (extended(env)?, Window::new(&env.domain, Two)?);
        let binding = part(&far, FIRST, LEN, given);
        bind(env, &link, &window, binding)?.expect(&[Status::SUCCESS])?;
        let at = window.remote(far.iova + at as u64);
        let op = Op::Flush { at, len };
        let expected: &[Status] = match right {
            true => &[Status::SUCCESS],
            false => REMOTE_REFUSED,
        };
        link.refused(op, &[], expected)
            .with_context(|| format!("{len} bytes at {at:x?}"))?;
    }
    far.check(Pattern::new(6), 0, SIZE)?;
    Ok(())
}

/// The pages that a window shows are taken away and given again.
fn munmap(env: &Env, mode: Mode) -> Result<()> {
    let (far, near) = (with_windows(env, mode)?, env.buffer(mode, SIZE)?);
    let binding = part(&far, FIRST, LEN, REMOTE);
    let (link, window) = bound(env, One, binding)?;
    near.fill(Pattern::new(4), 0, LEN);
    link.write(near.sge(0, LEN), window.remote(binding.addr))?;
    far.check_from(Pattern::new(4), 0, FIRST, LEN)?;
    far.memory.unmap(2 * PAGE..3 * PAGE)?;
    let gone = window.remote(far.iova + 2 * PAGE as u64 + 1);
    link.refused(Op::Write(gone), &[near.sge(0, 100)], REMOTE_REFUSED)?;
    far.memory.map(
        2 * PAGE..3 * PAGE,
        Backing::Anonymous,
        Protection::ReadWrite,
    )?;
    env.rc()?.write(near.sge(0, 100), gone)?;
    far.check_from(Pattern::new(4), 0, 2 * PAGE + 1, 100)?;
    Ok(())
}

/// A region with a window stays, and can go when the window is gone.
fn deregister(env: &Env, mode: Mode) -> Result<()> {
    let near = env.buffer(mode, PAGE)?;
    for kind in BOTH {
        let memory = anonymous(SIZE)?;
        let region = env.register(mode, &memory, Access::ALL | Access::MW_BIND)?;
        let binding = Binding {
            region: &region,
            addr: memory.at(FIRST),
            len: LEN as u64,
            access: REMOTE,
        };
        let (link, window) = bound(env, kind, binding)?;
        let (region, refused) = match region.try_deregister() {
            Ok(()) => anyhow::bail!("{kind:?}: deregistered under a window"),
            Err(back) => back,
        };
        ensure!(refused.errno().is_some(), "{refused}");
        link.write(near.sge(0, 99), window.remote(memory.at(FIRST)))
            .with_context(|| format!("{kind:?}, still there"))?;
        window.deallocate()?;
        region
            .deregister()
            .with_context(|| format!("{kind:?}, without its window"))?;
    }
    Ok(())
}

/// A binding and a deregistration at the same time: one of the two is refused, and nothing hangs.
fn deregister_race(env: &Env, mode: Mode) -> Result<()> {
    let memory = anonymous(SIZE)?;
    let access = Access::ALL | Access::MW_BIND;
    for round in 0..60 {
        let region = env.register(mode, &memory, access)?;
        let kind = BOTH[round % 2];
        let (link, window) = (env.rc()?, Window::new(&env.domain, kind)?);
        window.post_bind(
            &link.second,
            1,
            Binding {
                region: &region,
                addr: memory.at(FIRST),
                len: LEN as u64,
                access: REMOTE,
            },
        )?;
        let gone = region.try_deregister();
        let end = link.second.completions().wait(env.patience)?;
        end.expect(&[Status::SUCCESS, Status::MW_BIND_ERR])?;
        if gone.is_ok() {
            // Whether the binding was in time or not: there is no region under it any more.
            let near = env.buffer(mode, PAGE)?;
            let link = env.rc()?;
            let op = Op::Write(window.remote(memory.at(FIRST)));
            link.refused(op, &[near.sge(0, 8)], REMOTE_REFUSED)
                .with_context(|| format!("round {round}"))?;
        }
        window.deallocate()?;
        if let Err((region, _)) = gone {
            region.deregister()?;
        }
    }
    Ok(())
}

/// A queue pair goes at once, whatever windows it has; they can be bound again through another.
fn queue_pair_destroyed(env: &Env, mode: Mode) -> Result<()> {
    let (far, near) = (with_windows(env, mode)?, env.buffer(mode, PAGE)?);
    let binding = part(&far, FIRST, LEN, REMOTE);
    let (link, window) = bound(env, Two, binding)?;
    let start = Instant::now();
    drop(link);
    // Soft-RoCE's own driver waits for 50 s and complains.
    ensure!(
        start.elapsed() < patience::scaled(Duration::from_secs(40)),
        "it took {:?}",
        start.elapsed()
    );
    let link = env.rc()?;
    let op = Op::Write(window.remote(binding.addr));
    link.refused(op, &[near.sge(0, 9)], REMOTE_REFUSED)
        .context("the window of a queue pair that is gone")?;
    let link = env.rc()?;
    bind(env, &link, &window, binding)?
        .expect(&[Status::SUCCESS])
        .context("through another")?;
    near.fill(Pattern::new(5), 0, 500);
    link.write(near.sge(0, 500), window.remote(binding.addr))?;
    far.check_from(Pattern::new(5), 0, FIRST, 500)?;
    Ok(())
}
