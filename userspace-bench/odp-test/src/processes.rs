// SPDX-License-Identifier: GPL-2.0
//! Several processes at once: some lose their memory or their life, the others notice nothing.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    env::{Buffer, Env, Mode},
    loopback::Loopback,
    traffic::{self, Lane, Placement},
};
use odp_verbs::{
    Access, Advise, Binding, CompletionQueue, Endpoint, Op, QpConfig, QueuePair, Remote,
    SharedReceiveQueue, Status, Transport, Window, WindowType,
};
use serde::{Deserialize, Serialize};
use testkit::{
    memory::{Advice, Backing, Protection, PAGE},
    pattern::Pattern,
    process::{End, Helper, Parent},
};

use crate::{
    exec,
    harness::{self, Options, Test, REMOTE_REFUSED},
};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("neighbour", neighbour),
    Test::on_demand("several-processes", several),
    Test::on_demand("exit-in-traffic", exit_in_traffic),
];

/// Plays the part `role` of a test that another process runs.
pub fn play(options: &Options, role: &str) -> Result<()> {
    testkit::process::defer_to_kernel();
    let env = options.open()?;
    let (part, mode) = role
        .split_once('.')
        .context("a role is a part and a mode")?;
    let mode: Mode = mode.parse().map_err(anyhow::Error::msg)?;
    match part {
        traffic::ROLE => traffic::play(&env, mode, Placement::Odd),
        "worker" => work(&env, mode),
        "leaver" => leave(&env, mode),
        exec::CLOSES => exec::leave(&env, mode, false),
        exec::KEEPS => exec::leave(&env, mode, true),
        exec::FOLLOWS => exec::follow(&env, mode),
        _ => bail!("there is no part called {part}"),
    }
}

/// Refused accesses and lost memory here; traffic in another process.
fn neighbour(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, PAGE)?, env.buffer(mode, 4 * PAGE)?);
    let helper = traffic::start(harness::role(env, &format!("{}.{mode}", traffic::ROLE)))?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        let link = env.rc()?;
        link.write(near.sge(0, 512), far.remote(PAGE))?;
        far.memory.unmap(PAGE..2 * PAGE)?;
        link.refused(
            Op::Write(far.remote(PAGE)),
            &[near.sge(0, 512)],
            REMOTE_REFUSED,
        )?;
        far.memory
            .map(PAGE..2 * PAGE, Backing::Anonymous, Protection::ReadWrite)?;
    }
    let report = traffic::stop(helper)?;
    ensure!(
        report.error.is_none(),
        "the neighbour: {}",
        report.error.unwrap_or_default()
    );
    ensure!(
        report.rounds >= 5,
        "the neighbour did only {} rounds",
        report.rounds
    );
    Ok(())
}

/// How many processes work, and on how many queue pairs each.
const WORKERS: usize = 4;
const QPS: usize = 2;
/// How much of the hub's memory belongs to each queue pair, of which the data fills a part.
const SLOT: usize = 16 * PAGE;
const DATA: usize = 9 * PAGE + 123;

/// What the hub tells a worker: whom to connect to and where to work.
#[derive(Serialize, Deserialize)]
struct Assignment {
    peers: Vec<Endpoint>,
    slots: Vec<Remote>,
    seed: u64,
    /// Whether the worker unmaps and maps its own memory as it goes.
    churn: bool,
}

/// What a worker did.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    rounds: u64,
    error: Option<String>,
}

/// A worker as the hub sees it. The queue pairs are here to be connected to.
struct Worker {
    helper: Helper,
    _qps: Vec<QueuePair>,
}

/// The patterns of a worker's queue pairs: of no other one, and new each round.
fn pattern(seed: u64, qp: usize, round: u64) -> Pattern {
    Pattern::new(((seed * QPS as u64 + qp as u64) << 32) | round)
}

/// Four workers write to and read from this process's memory, each to and from its own slots. One
/// changes its own memory all the time, one is killed.
fn several(env: &Env, mode: Mode) -> Result<()> {
    let pool = env.buffer(mode, WORKERS * QPS * SLOT)?;
    let mut workers = (0..WORKERS)
        .map(|index| start_worker(env, mode, &pool, index))
        .collect::<Result<Vec<_>>>()?;
    thread::sleep(Duration::from_millis(1500));
    let mut victim = workers.remove(WORKERS - 1);
    victim.helper.kill().context("killing one")?;
    thread::sleep(Duration::from_millis(1500));
    for (index, mut worker) in workers.into_iter().enumerate() {
        let context = || format!("worker {index}");
        // One that has failed is gone, but has said why.
        let _ = worker.helper.tell(&"stop");
        let report: Report = worker
            .helper
            .hear(Duration::from_secs(30))
            .with_context(context)?;
        ensure!(
            report.error.is_none(),
            "worker {index}: {}",
            report.error.unwrap_or_default()
        );
        ensure!(
            report.rounds >= 2,
            "worker {index} did only {} rounds",
            report.rounds
        );
        check_slots(&pool, index, report.rounds - 1).with_context(context)?;
    }
    Ok(())
}

fn start_worker(env: &Env, mode: Mode, pool: &Buffer, index: usize) -> Result<Worker> {
    let mut helper = Helper::spawn(harness::role(env, &format!("worker.{mode}")))?;
    let endpoints: Vec<Endpoint> = helper.hear(Duration::from_secs(20))?;
    let (qps, peers) = connect(env, &endpoints)?;
    let slots = (0..QPS)
        .map(|qp| pool.remote((index * QPS + qp) * SLOT + 1))
        .collect();
    helper.tell(&Assignment {
        peers,
        slots,
        seed: index as u64 + 1,
        churn: index == 0,
    })?;
    let connected: bool = helper.hear(Duration::from_secs(20))?;
    ensure!(connected, "worker {index} is not connected");
    Ok(Worker { helper, _qps: qps })
}

/// A queue pair for each endpoint, connected to it.
fn connect(env: &Env, endpoints: &[Endpoint]) -> Result<(Vec<QueuePair>, Vec<Endpoint>)> {
    let qps = new_qps(env, endpoints.len())?;
    for (qp, endpoint) in qps.iter().zip(endpoints) {
        qp.connect(endpoint, env.mtu)?;
    }
    let own = qps
        .iter()
        .map(QueuePair::endpoint)
        .collect::<Result<_, _>>()?;
    Ok((qps, own))
}

fn new_qps(env: &Env, count: usize) -> Result<Vec<QueuePair>> {
    let config = QpConfig::new(Transport::Rc);
    let new = |_| -> Result<QueuePair> {
        let queue = CompletionQueue::new(&env.context, 64)?;
        Ok(QueuePair::new(&env.domain, &queue, env.gid, config)?)
    };
    (0..count).map(new).collect()
}

/// The hub's own look at what a worker wrote last.
fn check_slots(pool: &Buffer, index: usize, round: u64) -> Result<()> {
    for qp in 0..QPS {
        let slot = (index * QPS + qp) * SLOT;
        let pattern = pattern(index as u64 + 1, qp, round);
        pool.check_from(pattern, 0, slot + 1, DATA)
            .with_context(|| format!("slot {qp}"))?;
        pool.check_zero(slot, 1).context("before the slot's data")?;
        pool.check_zero(slot + 1 + DATA, SLOT - DATA - 1)
            .context("after the slot's data")?;
    }
    Ok(())
}

/// The part of a worker.
fn work(env: &Env, mode: Mode) -> Result<()> {
    let parent = Parent::new();
    let qps = new_qps(env, QPS)?;
    let endpoints = qps
        .iter()
        .map(QueuePair::endpoint)
        .collect::<Result<Vec<_>, _>>()?;
    parent.tell(&endpoints)?;
    let task: Assignment = parent.hear()?;
    for (qp, peer) in qps.iter().zip(&task.peers) {
        qp.connect(peer, env.mtu)?;
    }
    parent.tell(&true)?;
    let mut rounds = 0;
    let error = loop {
        if rounds >= 2 && parent.speaks()? {
            break None;
        }
        match round(env, mode, &qps, &task, rounds) {
            Ok(()) => rounds += 1,
            Err(error) => break Some(format!("round {rounds}: {error:#}")),
        }
    };
    parent.tell(&Report { rounds, error })?;
    Ok(())
}

/// Writes to every slot at once, reads all back at once, and compares.
fn round(env: &Env, mode: Mode, qps: &[QueuePair], task: &Assignment, round: u64) -> Result<()> {
    let buffers = (0..QPS)
        .map(|_| env.buffer(mode, SLOT))
        .collect::<Result<Vec<_>, _>>()?;
    for (i, buffer) in buffers.iter().enumerate() {
        buffer.fill(pattern(task.seed, i, round), 0, DATA);
    }
    all(env, qps, |i| {
        (Op::Write(task.slots[i]), buffers[i].sge(0, DATA))
    })
    .context("WRITE")?;
    for buffer in &buffers {
        if task.churn {
            buffer.memory.unmap(0..SLOT)?;
            buffer
                .memory
                .map(0..SLOT, Backing::Anonymous, Protection::ReadWrite)?;
        } else {
            buffer.memory.advise(0..SLOT, Advice::DontNeed)?;
        }
    }
    all(env, qps, |i| {
        (Op::Read(task.slots[i]), buffers[i].sge(0, DATA))
    })
    .context("READ")?;
    for (i, buffer) in buffers.iter().enumerate() {
        buffer
            .check(pattern(task.seed, i, round), 0, DATA)
            .with_context(|| format!("QP {i}"))?;
    }
    Ok(())
}

/// Posts one operation on each queue pair, then waits for all of them.
fn all(env: &Env, qps: &[QueuePair], op: impl Fn(usize) -> (Op, odp_verbs::Sge)) -> Result<()> {
    for (i, qp) in qps.iter().enumerate() {
        let (op, sge) = op(i);
        qp.post_send(i as u64, op, &[sge])?;
    }
    for qp in qps {
        qp.completions()
            .wait(env.patience)?
            .expect(&[Status::SUCCESS])?;
    }
    Ok(())
}

/// Processes that exit, or are killed, with regions and queue pairs alive and work under way.
fn exit_in_traffic(env: &Env, mode: Mode) -> Result<()> {
    let lane = Lane::new(env, mode, Placement::Odd)?;
    for round in 0..6 {
        let mut helper = Helper::spawn(harness::role(env, &format!("leaver.{mode}")))?;
        let busy: bool = helper.hear(Duration::from_secs(20))?;
        ensure!(busy, "the other process does not work");
        lane.run(Duration::from_millis(50))?;
        if round % 2 == 0 {
            helper.kill().context("killing it")?;
        } else {
            helper.tell(&"leave")?;
            let end = helper.finish(Duration::from_secs(10))?;
            ensure!(
                end == End::Status(0),
                "the other process did not leave ({end:?})"
            );
        }
        lane.run(Duration::from_millis(50))
            .context("after the other process left")?;
    }
    Ok(())
}

/// One of each that hangs on `far`: bound windows, a shared receive queue with receives, a prefetch under way.
fn everything(
    env: &Env,
    link: &Loopback,
    far: &Buffer,
) -> Result<(Vec<Window>, Arc<SharedReceiveQueue>, QueuePair)> {
    let access = Access::ALL | Access::MW_BIND;
    let shown = match far.region.span().len {
        usize::MAX => env.new_implicit(access)?,
        len => env
            .domain
            .register(&far.memory, 0..len, access | Access::ON_DEMAND)?,
    };
    let mut windows = Vec::new();
    for kind in [WindowType::One, WindowType::Two] {
        let window = Window::new(&env.domain, kind)?;
        let binding = Binding {
            region: &shown,
            addr: far.memory.at(0),
            len: PAGE as u64,
            access: Access::REMOTE_READ,
        };
        window.post_bind(&link.second, 0, binding)?;
        link.second
            .completions()
            .wait(env.patience)?
            .expect(&[Status::SUCCESS])?;
        windows.push(window);
    }
    // For as long as the windows are: it is never deregistered here.
    std::mem::forget(shown);
    let receives = SharedReceiveQueue::new(&env.domain, 8, 1)?;
    let completions = CompletionQueue::new(&env.context, 16)?;
    let config = QpConfig::new(Transport::Rc);
    let receiver =
        QueuePair::with_receives(&env.domain, &completions, env.gid, config, Some(&receives))?;
    for id in 0..8 {
        receives.post_recv(id, &[far.sge(id as usize * PAGE, PAGE)])?;
    }
    let all = far.sge(0, far.memory.len());
    env.domain.advise(Advise::PrefetchWrite, 0, &[all])?;
    Ok((windows, receives, receiver))
}

/// The part of one who leaves without putting anything in order.
fn leave(env: &Env, mode: Mode) -> Result<()> {
    let parent = Parent::new();
    let (near, far) = (env.buffer(mode, 256 * PAGE)?, env.buffer(mode, 256 * PAGE)?);
    let link = env.rc()?;
    let _everything = everything(env, &link, &far)?;
    parent.tell(&true)?;
    let mut posted = 0;
    while !parent.speaks()? {
        // Up to 32 under way, on pages that fault again and again.
        let at = posted % 64 * PAGE + 5;
        link.first.post_send(
            posted as u64,
            Op::Write(far.remote(at)),
            &[near.sge(at, 30_000)],
        )?;
        posted += 1;
        while posted >= 32 && link.first.completions().poll()?.is_none() {}
        if posted % 64 == 0 {
            far.memory.advise(0..256 * PAGE, Advice::DontNeed)?;
        }
    }
    // Without dropping anything.
    std::process::exit(0)
}
