// SPDX-License-Identifier: GPL-2.0
//! Queue pairs that are reset after a failure and used again; and what is changed while it is used, or by several threads at
//! once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::env::{Env, Mode};
use odp_verbs::{
    ring::ReceiveRing, uverbs, Access, CompletionQueue, Op, QpConfig, SharedReceiveQueue, Status,
    Transport,
};
use testkit::{
    memory::{Advice, PAGE},
    pattern::Pattern,
    userfault::Userfault,
};

use crate::harness::{only_on_soft_roce, Test, REMOTE_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("reset-after-failure", reset),
    Test::data("reset-with-requests", reset_with_requests),
    Test::on_demand("changed-while-it-waits", changed_while_it_waits),
    Test::on_demand("changed-at-once", changed_at_once),
    Test::once("resized-at-once", resized_at_once),
    Test::data("resized-unmapped", resized_unmapped),
];

/// A READ that fails after its first packets; then the same queue pairs do each kind of operation.
fn reset(env: &Env, mode: Mode) -> Result<()> {
    const ROUNDS: u64 = 40;
    let (near, far) = (env.buffer(mode, 8 * PAGE)?, env.buffer(mode, 8 * PAGE)?);
    far.memory.unmap(4 * PAGE..5 * PAGE)?;
    let mut link = env.rc()?;
    let mut sum = 0;
    for round in 0..ROUNDS {
        let context = || format!("round {round}");
        let (from, own) = (far.remote(100), near.sge(100, 6 * PAGE));
        link.refused(Op::Read(from), &[own], REMOTE_REFUSED)
            .with_context(context)?;
        link.restore(env).with_context(context)?;
        let at = far.remote(6 * PAGE);
        let pattern = Pattern::new(round);
        near.fill(pattern, 0, PAGE);
        match round % 4 {
            0 => {
                let own = [near.sge(0, 8)];
                link.ok(Op::FetchAdd { at, add: round + 1 }, &own)?;
                let (before, after) = (near.memory.word(0), far.memory.word(6 * PAGE));
                ensure!(
                    (before, after) == (sum, sum + round + 1),
                    "round {round}: FETCH_ADD of {} to {sum} gave {before} and left {after}",
                    round + 1
                );
                sum = after;
            }
            1 => {
                link.write(near.sge(0, 3000), far.remote(7 * PAGE + 5))?;
                far.check_from(pattern, 0, 7 * PAGE + 5, 3000)
                    .with_context(context)?;
            }
            2 => {
                let to = [far.sge(7 * PAGE + 5, 3000)];
                link.send(Op::Send, &[near.sge(0, 3000)], &to)?;
                far.check_from(pattern, 0, 7 * PAGE + 5, 3000)
                    .with_context(context)?;
            }
            _ => {
                far.fill(pattern, 7 * PAGE, 3000);
                link.read(far.remote(7 * PAGE), near.sge(0, 3000))?;
                near.check_from(pattern, 7 * PAGE, 0, 3000)
                    .with_context(context)?;
            }
        }
    }
    Ok(())
}

/// Requests that wait for a receive when their queue pair is reset. Nothing is left of them: the peer allows READs
/// only, and would refuse whatever else came.
fn reset_with_requests(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, PAGE)?, env.buffer(mode, PAGE)?);
    let config = QpConfig {
        rights: Access::REMOTE_READ,
        ..QpConfig::new(Transport::Rc)
    };
    let mut link = env.pair(config)?;
    for (round, waiting) in [1, 5, 60, 2].into_iter().enumerate() {
        let context = || format!("round {round}, {waiting} requests that wait");
        for id in 0..waiting {
            link.first
                .post_send(id, Op::Send, &[near.sge(0, 64)])
                .with_context(context)?;
        }
        link.restore(env).with_context(context)?;
        let pattern = Pattern::new(50 + round as u64);
        far.fill(pattern, 0, 64);
        for at in [64, 1000] {
            link.read(far.remote(0), near.sge(at, 64))
                .with_context(context)?;
            near.check_from(pattern, 0, at, 64).with_context(context)?;
        }
        ensure!(
            link.second.completions().poll()?.is_none(),
            "{}: something was received",
            context()
        );
    }
    Ok(())
}

/// Serves the faults of `faults` with zeroes until `over`.
fn serve(faults: &Userfault, over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        if let Some(page) = faults.next_within(Duration::from_millis(20))? {
            faults.give(page, &[0; PAGE])?;
        }
    }
    Ok(())
}

/// Sets itself when it is dropped: however a test ends, its threads do, too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A message that waits for a page is received when it comes, though the queue pair is being changed at that moment.
fn changed_while_it_waits(env: &Env, mode: Mode) -> Result<()> {
    const MESSAGES: usize = 20;
    let link = env.pair(QpConfig::new(Transport::Uc))?;
    let (near, far) = (env.buffer(mode, PAGE)?, env.buffer(mode, MESSAGES * PAGE)?);
    let faults = Userfault::new(&far.memory, 0..MESSAGES * PAGE)?;
    let pattern = Pattern::new(71);
    near.fill(pattern, 0, 100);
    let over = AtomicBool::new(false);
    thread::scope(|threads| {
        let _over = Over(&over);
        let changing = threads.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                link.second.take_reads(16)?;
            }
            Ok(())
        });
        for message in 0..MESSAGES {
            let at = message * PAGE;
            link.second.post_recv(2, &[far.sge(at, 100)])?;
            link.first.post_send(1, Op::Send, &[near.sge(0, 100)])?;
            let sent = link.first.completions().wait(env.patience)?;
            sent.expect(&[Status::SUCCESS])?;
            // Nobody else asks for it.
            let asked = faults.wait()?;
            ensure!(asked == far.memory.at(at), "another page is asked for");
            faults.give(asked, &[0; PAGE])?;
            let received = link.second.completions().wait(env.patience);
            let received = received.with_context(|| format!("message {message}"))?;
            received.expect(&[Status::SUCCESS])?;
            far.check_from(pattern, 0, at, 100)?;
        }
        over.store(true, Ordering::Relaxed);
        changing.join().expect("it does not panic")
    })
}

/// Threads that change one queue pair at once, while messages arrive there that wait for pages: it can be used
/// afterwards.
fn changed_at_once(env: &Env, mode: Mode) -> Result<()> {
    const PAGES: usize = 16;
    let mut link = env.pair(QpConfig {
        rnr_retries: 1,
        ..QpConfig::new(Transport::Uc)
    })?;
    let (near, far) = (env.buffer(mode, PAGE)?, env.buffer(mode, PAGES * PAGE)?);
    let faults = Userfault::new(&far.memory, 0..PAGES * PAGE)?;
    let over = AtomicBool::new(false);
    let (first, second) = (&link.first, &link.second);
    let peer = first.endpoint()?;
    let until = Instant::now() + Duration::from_millis(1500);
    let lasts = || Instant::now() < until;
    thread::scope(|threads| {
        let _over = Over(&over);
        let serving = threads.spawn(|| serve(&faults, &over));
        let changing: Vec<_> = (0..2)
            .map(|_| {
                threads.spawn(|| {
                    while lasts() {
                        let _ = second.take_reads(16);
                        let _ = second.discard();
                        let _ = second.connect(&peer, env.mtu);
                        let _ = second.take_reads(128);
                    }
                })
            })
            .collect();
        let reading = threads.spawn(|| {
            while lasts() {
                let _ = second.take_reads(1);
            }
        });
        while lasts() {
            for page in 0..PAGES {
                let _ = second.post_recv(2, &[far.sge(page * PAGE, 100)]);
                let _ = first.post_send(1, Op::Send, &[near.sge(0, 100)]);
            }
            thread::sleep(Duration::from_millis(1));
            while first.completions().poll()?.is_some() {}
            while second.completions().poll()?.is_some() {}
            far.memory.advise(0..PAGES * PAGE, Advice::DontNeed)?;
        }
        for thread in changing.into_iter().chain([reading]) {
            thread.join().expect("it does not panic");
        }
        over.store(true, Ordering::Relaxed);
        serving.join().expect("it does not panic")
    })?;
    drop(faults);
    let pattern = Pattern::new(72);
    near.fill(pattern, 0, 100);
    link.restore(env)?;
    let to = [far.sge(0, 100)];
    link.send(Op::Send, &[near.sge(0, 100)], &to)?;
    Ok(far.check_from(pattern, 0, 0, 100)?)
}

/// Threads that give queues other sizes, and ask for them: whoever looks into a queue finds one.
fn resized_at_once(env: &Env) -> Result<()> {
    let receives = SharedReceiveQueue::new(&env.domain, 16, 1)?;
    let completions = CompletionQueue::new(&env.context, 16)?;
    let file = env.context.command_file();
    let until = Instant::now() + Duration::from_millis(1000);
    let resized = |threads_own: u32| -> Result<()> {
        let mut size = 20 + threads_own;
        while Instant::now() < until {
            size = size % 500 + 20;
            let made = uverbs::resize_receives(file, receives.handle(), size);
            ensure!(made.is_ok(), "receives for {size}: {made:?}");
            let room = uverbs::room_for_receives(file, receives.handle());
            ensure!(room.is_ok_and(|room| room >= 16), "{room:?}");
            let made = uverbs::resize_completions(file, completions.handle(), size);
            ensure!(made.is_ok(), "completions for {size}: {made:?}");
        }
        Ok(())
    };
    thread::scope(|threads| {
        let all: Vec<_> = (0..3)
            .map(|own| threads.spawn(move || resized(own)))
            .collect();
        all.into_iter()
            .try_for_each(|thread| thread.join().expect("it does not panic"))
    })
}

/// Receives of a queue that the application cannot map any more, since it was resized, are looked at like others.
fn resized_unmapped(env: &Env, mode: Mode) -> Result<()> {
    only_on_soft_roce(
        env,
        "its queues are no memory of the kernel's that is mapped",
    )?;
    let (near, far) = (env.buffer(mode, PAGE)?, env.buffer(mode, PAGE)?);
    near.fill(Pattern::new(73), 0, PAGE);
    let receives = ReceiveRing::of(|| SharedReceiveQueue::new(&env.domain, 4, 1))?;
    let config = QpConfig::new(Transport::Rc);
    let link = env.pair_with_receives(config, Some(receives.queue()))?;
    receives.queue().post_recv(2, &[far.sge(0, 64)])?;
    receives.claim(1000);
    let file = env.context.command_file();
    let resized = uverbs::resize_receives(file, receives.queue().handle(), 100);
    ensure!(resized.is_ok(), "the kernel answers {resized:?}");
    link.refused(Op::Send, &[near.sge(0, 32)], &[Status::REM_OP_ERR])?;
    Ok(far.check_zero(0, PAGE)?)
}
