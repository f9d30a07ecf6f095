// SPDX-License-Identifier: GPL-2.0
//! Other processes that write to this one's memory, and are killed in the middle of it.
//!
//! A peer says which version of its slot it is about to write before it does. When it is dead, every byte
//! of the slot has to be of that version or of the one before, which it knew to be complete.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::env::{Buffer, Env, Mode};
use odp_verbs::{CompletionQueue, Endpoint, Op, QpConfig, QueuePair, Remote, Status, Transport};
use rand::Rng;
use serde::{Deserialize, Serialize};
use testkit::{
    memory::{Advice, PAGE},
    pattern::Pattern,
    process::{self, Helper, Parent},
};

use crate::{dice::Dice, field::Field};

/// How much a peer writes at once, from an odd address on.
const LEN: usize = 5 * PAGE + 77;
const START: usize = 13;
/// The memory of a peer's slot.
const ROOM: usize = 8 * PAGE;

/// What a peer is to do.
#[derive(Serialize, Deserialize)]
struct Task {
    endpoint: Endpoint,
    slot: Remote,
    seed: u64,
}

/// The content of a slot, version by version.
fn version(seed: u64, version: u64) -> Pattern {
    Pattern::new((seed << 32) | version)
}

/// The part of a peer: writes version after version, until it is killed.
pub fn play(env: &Env) -> Result<()> {
    let parent = Parent::new();
    let queue = CompletionQueue::new(&env.context, 64)?;
    let qp = QueuePair::new(&env.domain, &queue, env.gid, QpConfig::new(Transport::Rc))?;
    parent.tell(&qp.endpoint()?)?;
    let task: Task = parent.hear()?;
    qp.connect(&task.endpoint, env.mtu)?;
    let mode = if task.seed % 2 == 0 {
        Mode::Explicit
    } else {
        Mode::Implicit
    };
    let near = env.buffer(mode, ROOM)?;
    for number in 1.. {
        let pattern = version(task.seed, number);
        near.fill(pattern, START, LEN);
        parent.tell(&number)?;
        let sge = near.sge(START, LEN);
        qp.post_send(number, Op::Write(task.slot), &[sge])?;
        queue.wait(env.patience)?.expect(&[Status::SUCCESS])?;
        near.memory.advise(0..ROOM, Advice::DontNeed)?;
        qp.post_send(number, Op::Read(task.slot), &[sge])?;
        queue.wait(env.patience)?.expect(&[Status::SUCCESS])?;
        near.check(pattern, START, LEN)?;
    }
    Ok(())
}

/// A peer that is alive, and the queue pair that it is connected to.
struct Peer {
    helper: Helper,
    _qp: QueuePair,
    number: usize,
    seed: u64,
    until: Instant,
}

/// Has `count` peers, kills each after a while and starts another, until the storm is over; how many
/// were killed.
pub fn host(env: &Env, field: &Field, count: usize, mut dice: Dice) -> Result<u64> {
    // Memory of their own, that is swapped out and copied for children like that of the owners.
    let pools = Mode::ON_DEMAND.map(|mode| env.buffer(mode, count.max(1) * ROOM));
    let [explicit, implicit] = pools;
    let pools = [explicit?, implicit?];
    let mut peers = Vec::new();
    let mut killed = 0;
    while !field.is_over() {
        for number in 0..count {
            if peers.iter().all(|p: &Peer| p.number != number) {
                killed += 1;
                peers.push(start(env, &pools, number, killed, &mut dice)?);
            }
        }
        for pool in &pools {
            // If it cannot be done now, it will be done later.
            let _ = pool.memory.advise(0..pool.memory.len(), Advice::PageOut);
        }
        thread::sleep(Duration::from_millis(20));
        while let Some(at) = peers.iter().position(|p| p.until < Instant::now()) {
            end(env, &pools, peers.swap_remove(at))?;
        }
    }
    for peer in peers {
        end(env, &pools, peer)?;
    }
    Ok(killed)
}

fn start(
    env: &Env,
    pools: &[Buffer; 2],
    number: usize,
    seed: u64,
    dice: &mut Dice,
) -> Result<Peer> {
    let patience = env.patience;
    let mut command = process::this_program();
    command.args(["--device", env.context.name()]);
    command.args(["--gid", &env.gid.index.to_string(), "--role", "peer"]);
    command.args(["--patience", &patience.as_secs().to_string()]);
    let mut helper = Helper::spawn(command)?;
    let endpoint: Endpoint = helper.hear(patience).context("a new peer")?;
    let queue = CompletionQueue::new(&env.context, 64)?;
    let qp = QueuePair::new(&env.domain, &queue, env.gid, QpConfig::new(Transport::Rc))?;
    qp.connect(&endpoint, env.mtu)?;
    let pool = &pools[seed as usize % 2];
    // What an earlier peer has left there is of no interest.
    pool.memory.write(number * ROOM, &[0; ROOM]);
    helper.tell(&Task {
        endpoint: qp.endpoint()?,
        slot: pool.remote(number * ROOM + START),
        seed,
    })?;
    Ok(Peer {
        helper,
        _qp: qp,
        number,
        seed,
        until: Instant::now() + Duration::from_millis(dice.random_range(200..1500)),
    })
}

/// Kills a peer and looks at what it has left.
fn end(env: &Env, pools: &[Buffer; 2], mut peer: Peer) -> Result<()> {
    // One that has found something has ended by itself.
    let error = peer.helper.has_ended()?;
    if let Some(end) = error {
        bail!("peer {} ended by itself ({end:?})", peer.number);
    }
    peer.helper.kill()?;
    // What it said last is still in the pipe.
    let mut last = 0;
    while let Ok(number) = peer.helper.hear::<u64>(env.patience) {
        ensure!(number == last + 1, "version {number} after {last}");
        last = number;
    }
    let pool = &pools[peer.seed as usize % 2];
    let base = peer.number * ROOM;
    let found = pool.memory.bytes(base, ROOM);
    let (new, old) = (
        version(peer.seed, last).bytes(START as u64, LEN),
        match last {
            0 | 1 => vec![0; LEN],
            _ => version(peer.seed, last - 1).bytes(START as u64, LEN),
        },
    );
    for (at, byte) in found.iter().enumerate() {
        let inside = at.checked_sub(START).filter(|at| *at < LEN);
        let right = match inside {
            Some(at) => *byte == new[at] || *byte == old[at],
            None => *byte == 0,
        };
        ensure!(
            right,
            "byte {at:#x} of the slot of peer {} is {byte:#04x}, neither of version {last} nor of the \
             one before",
            peer.number
        );
    }
    Ok(())
}
