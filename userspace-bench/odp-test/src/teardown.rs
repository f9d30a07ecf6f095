// SPDX-License-Identifier: GPL-2.0
//! Everything that hangs together is taken down in any order, with work under way. What is refused because
//! something else still needs it can be had later.

use std::{thread, time::Duration};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::{anonymous, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::{
    ring::with_queues, Access, Binding, CompletionQueue, Op, QpConfig, QueuePair, Region, Status,
    Transport, Window, WindowType,
};
use testkit::{
    memory::{Mapping, PAGE},
    process,
};

use crate::{harness::Test, operations::unless_extended};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("teardown-order", any_order),
    Test::once("teardown-queues-without-end", queues_without_end),
];

const SIZE: usize = 64 * PAGE;

/// Something that can be destroyed.
enum Thing {
    Region(Region),
    Window(Window),
    QueuePair(QueuePair),
}

impl Thing {
    /// Destroys it, or gives it back.
    fn destroy(self) -> Result<Option<Self>> {
        match self {
            Self::Region(region) => match region.try_deregister() {
                Ok(()) => Ok(None),
                Err((region, error)) => {
                    ensure!(error.errno().is_some_and(|e| e > 0), "{error}");
                    Ok(Some(Self::Region(region)))
                }
            },
            Self::Window(window) => window.deallocate().map(|()| None).map_err(Into::into),
            Self::QueuePair(queue_pair) => {
                drop(queue_pair);
                Ok(None)
            }
        }
    }
}

/// Two regions, two windows and two queue pairs; each order once in a while.
fn any_order(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (anonymous(SIZE)?, anonymous(SIZE)?);
    let mut number: u64 = 1;
    for round in 0..40 {
        let mut things = things(env, mode, &near, &far)?;
        for last in (1..things.len()).rev() {
            // The shuffle of Fisher and Yates, with the generator of MMIX.
            number = number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            things.swap(last, (number >> 33) as usize % (last + 1));
        }
        let mut rounds = 0;
        while !things.is_empty() {
            let mut left = Vec::new();
            for thing in things {
                left.extend(thing.destroy().with_context(|| format!("round {round}"))?);
            }
            things = left;
            rounds += 1;
            ensure!(
                rounds <= 2,
                "round {round}: {} cannot be destroyed",
                things.len()
            );
        }
    }
    Ok(())
}

/// All of it, with requests under way from one region to the other and through a window.
fn things(env: &Env, mode: Mode, near: &Mapping, far: &Mapping) -> Result<Vec<Thing>> {
    let region = |memory| env.register(mode, memory, Access::ALL | Access::MW_BIND);
    let (source, target) = (region(near)?, region(far)?);
    let Loopback { first, second, .. } = env.rc()?;
    let windows = [WindowType::One, WindowType::Two]
        .into_iter()
        .map(|kind| -> Result<Window> {
            let window = Window::new(&env.domain, kind)?;
            let binding = Binding {
                region: &target,
                addr: far.at(PAGE),
                len: (SIZE - PAGE) as u64,
                access: Access::REMOTE_WRITE,
            };
            window.post_bind(&second, 1, binding)?;
            second
                .completions()
                .wait(env.patience)?
                .expect(&[Status::SUCCESS])?;
            Ok(window)
        })
        .collect::<Result<Vec<_>>>()?;
    for id in 0..30 {
        let at = far.at(PAGE + id * 4093);
        let remote = match id % 3 {
            0 => target.remote(at),
            n => windows[n - 1].remote(at),
        };
        let sge = source.sge(near.at(id * 4091), 2 * PAGE);
        first.post_send(id as u64, Op::Write(remote), &[sge])?;
    }
    let mut things = vec![
        Thing::Region(source),
        Thing::Region(target),
        Thing::QueuePair(first),
        Thing::QueuePair(second),
    ];
    things.extend(windows.into_iter().map(Thing::Window));
    Ok(things)
}

/// What becomes of a queue pair before it is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Failed,
    Reset,
}

/// Another process goes on posting to the queues of a queue pair. The kernel does not wait for it to end.
fn queues_without_end(env: &Env) -> Result<()> {
    let (near, far) = (
        env.buffer(Mode::Explicit, PAGE)?,
        env.buffer(Mode::Explicit, PAGE)?,
    );
    let link = env.rc()?;
    let config = QpConfig {
        extended: true,
        ..QpConfig::new(Transport::Rc)
    };
    for round in 0..12 {
        for before in [Before::Nothing, Before::Failed, Before::Reset] {
            let context = || format!("round {round}, {before:?}");
            let reported = CompletionQueue::new(&env.context, 2 * config.depth)?;
            let made = with_queues(|| QueuePair::new(&env.domain, &reported, env.gid, config));
            let (mut queue_pair, queues) = made.map_err(unless_extended)?;
            queue_pair.connect(&queue_pair.endpoint()?, env.mtu)?;
            let both = before == Before::Nothing;
            // SAFETY: the copy has the queues for as long as it lives.
            let posts = process::fork(|| unsafe { queues.stay_full(both) })?;
            while !queues.is_full(&queue_pair) {
                thread::sleep(Duration::from_millis(1));
            }
            match before {
                Before::Nothing => {}
                Before::Failed => queue_pair.fail()?,
                Before::Reset => queue_pair.reset()?,
            }
            drop(queue_pair);
            drop(posts);
            link.write(near.sge(0, 64), far.remote(0))
                .with_context(context)?;
        }
    }
    Ok(())
}
