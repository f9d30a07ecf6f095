// SPDX-License-Identifier: GPL-2.0
//! Receives into memory that has to be faulted in first: shared among queue pairs, posted late, in bursts.
//! No message may be lost or end up in two places.

use std::{sync::Arc, thread, time::Duration};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::{Buffer, Env, Mode},
    loopback::GRH,
};
use odp_verbs::{CompletionQueue, Op, QpConfig, QueuePair, SharedReceiveQueue, Status, Transport};
use testkit::{
    memory::{Advice, PAGE},
    pattern::Pattern,
};

use crate::harness::{skip, Test};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("srq", srq),
    Test::on_demand("srq-dontneed", srq_dontneed),
    Test::data("rnr", rnr),
    Test::data("rnr-exceeded", rnr_exceeded),
    Test::data("uc-send", uc_send),
    Test::data("ud-burst", ud_burst),
];

/// Where a message starts in its slot of a buffer: odd, and across pages and packets.
const SLOT: usize = 4 * PAGE;
const AT: usize = PAGE - 5;

/// Queue pairs that send, connected to queue pairs that receive from one shared queue.
struct Fan {
    senders: Vec<QueuePair>,
    // They only have to be there.
    _receivers: Vec<QueuePair>,
    receives: Arc<SharedReceiveQueue>,
    arrived: Arc<CompletionQueue>,
}

impl Fan {
    fn new(env: &Env, count: usize, depth: u32) -> Result<Self> {
        let receives = SharedReceiveQueue::new(&env.domain, depth, 2)?;
        let arrived = CompletionQueue::new(&env.context, 2 * depth)?;
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let config = QpConfig::new(Transport::Rc);
            let sent = CompletionQueue::new(&env.context, 128)?;
            let sender = QueuePair::new(&env.domain, &sent, env.gid, config)?;
            let receiver =
                QueuePair::with_receives(&env.domain, &arrived, env.gid, config, Some(&receives))?;
            sender.connect(&receiver.endpoint()?, env.mtu)?;
            receiver.connect(&sender.endpoint()?, env.mtu)?;
            senders.push(sender);
            receivers.push(receiver);
        }
        Ok(Self {
            senders,
            _receivers: receivers,
            receives,
            arrived,
        })
    }

    /// Sends `messages`, each of which names itself in its immediate value, on the queue pairs in turn, and
    /// offers their receives meanwhile, some before and some after.
    fn exchange(&self, env: &Env, near: &Buffer, far: &Buffer, messages: usize) -> Result<()> {
        let post = |slot: usize| {
            // Two pieces, the first of which ends at an odd place.
            let at = slot * SLOT + AT;
            self.receives.post_recv(
                slot as u64,
                &[far.sge(at, 1003), far.sge(at + 1003, SLOT - AT - 1003)],
            )
        };
        let early = messages / 2;
        (0..early).try_for_each(post)?;
        for message in 0..messages {
            let sge = near.sge(message * SLOT + AT, length(message));
            self.senders[message % self.senders.len()].post_send(
                message as u64,
                Op::SendImm(message as u32),
                &[sge],
            )?;
        }
        (early..messages).try_for_each(post)?;
        let mut seen = vec![false; messages];
        for _ in 0..messages {
            let end = self.arrived.wait(env.patience)?;
            let end = end.expect(&[Status::SUCCESS])?;
            let message = end.imm.context("without its name")? as usize;
            ensure!(!seen[message], "message {message} arrived twice");
            seen[message] = true;
            ensure!(
                end.len as usize == length(message),
                "{} bytes of message {message}",
                end.len
            );
            let slot = end.id as usize;
            let context = || format!("message {message} in slot {slot}");
            far.check_from(pattern(message), 0, slot * SLOT + AT, length(message))
                .with_context(context)?;
            let rest = slot * SLOT + AT + length(message);
            far.check_zero(rest, (slot + 1) * SLOT - rest)
                .with_context(context)?;
            far.check_zero(slot * SLOT, AT).with_context(context)?;
        }
        for sender in &self.senders {
            for _ in (0..messages).step_by(self.senders.len()) {
                let end = sender.completions().wait(env.patience)?;
                end.expect(&[Status::SUCCESS])?;
            }
        }
        Ok(())
    }
}

/// How long a message is: of every size up to several packets.
fn length(message: usize) -> usize {
    1 + message * 397 % (SLOT - AT - 1)
}

fn pattern(message: usize) -> Pattern {
    Pattern::new(1000 + message as u64)
}

fn fill(near: &Buffer, messages: usize) {
    for message in 0..messages {
        let bytes = pattern(message).bytes(0, length(message));
        near.memory.write(message * SLOT + AT, &bytes);
    }
}

/// Messages from several queue pairs into receives of one queue, on memory that nobody has touched.
fn srq(env: &Env, mode: Mode) -> Result<()> {
    const MESSAGES: usize = 48;
    let (near, far) = (
        env.buffer(mode, MESSAGES * SLOT)?,
        env.buffer(mode, MESSAGES * SLOT)?,
    );
    fill(&near, MESSAGES);
    Fan::new(env, 4, MESSAGES as u32)?.exchange(env, &near, &far, MESSAGES)
}

/// The same again and again, with the pages gone in between: once at least from each end.
fn srq_dontneed(env: &Env, mode: Mode) -> Result<()> {
    const MESSAGES: usize = 24;
    let (near, far) = (
        env.buffer(mode, MESSAGES * SLOT)?,
        env.buffer(mode, MESSAGES * SLOT)?,
    );
    let fan = Fan::new(env, 3, MESSAGES as u32)?;
    for round in 0..6 {
        near.memory.advise(0..MESSAGES * SLOT, Advice::DontNeed)?;
        fill(&near, MESSAGES);
        far.memory.advise(0..MESSAGES * SLOT, Advice::DontNeed)?;
        fan.exchange(env, &near, &far, MESSAGES)
            .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// The receiver is not ready for longer than one retry takes, time and again; nothing is lost or doubled.
fn rnr(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 8 * SLOT)?, env.buffer(mode, 8 * SLOT)?);
    fill(&near, 8);
    let link = env.rc()?;
    for message in 0..8 {
        let sge = near.sge(message * SLOT + AT, length(message));
        link.first
            .post_send(message as u64, Op::SendImm(message as u32), &[sge])?;
    }
    for message in 0..8 {
        thread::sleep(Duration::from_millis(10));
        ensure!(
            link.second.completions().poll()?.is_none(),
            "message {message} was received by nobody"
        );
        let at = message * SLOT + AT;
        link.second
            .post_recv(message as u64, &[far.sge(at, SLOT - AT)])?;
        let end = link.second.completions().wait(env.patience)?;
        let end = end.expect(&[Status::SUCCESS])?;
        ensure!(
            end.imm == Some(message as u32),
            "{:?} came as message {message}",
            end.imm
        );
        far.check_from(pattern(message), 0, at, length(message))
            .with_context(|| format!("message {message}"))?;
        link.first
            .completions()
            .wait(env.patience)?
            .expect(&[Status::SUCCESS])?;
    }
    Ok(())
}

/// A sender that does not try again is told, and the memory of a later receive is not touched by it.
fn rnr_exceeded(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, SLOT)?, env.buffer(mode, SLOT)?);
    near.fill(Pattern::new(1), 0, SLOT);
    let link = env.pair(QpConfig {
        rnr_retries: 0,
        ..QpConfig::new(Transport::Rc)
    })?;
    link.refused(
        Op::Send,
        &[near.sge(AT, 3000)],
        &[Status::RNR_RETRY_EXC_ERR],
    )?;
    link.second.post_recv(1, &[far.sge(AT, 3000)])?;
    thread::sleep(Duration::from_millis(50));
    ensure!(
        link.second.completions().poll()?.is_none(),
        "something was received"
    );
    far.check_zero(0, SLOT)?;
    Ok(())
}

/// A connection that never sends twice: a fault on either end must not cost a packet.
fn uc_send(env: &Env, mode: Mode) -> Result<()> {
    if !env.context.odp_caps()?.uc.send && mode != Mode::Pinned {
        return Err(skip("the device has no on-demand paging for UC"));
    }
    let messages: Vec<_> = (0..16).map(length).collect();
    burst(env, mode, Transport::Uc, 0, &messages)
}

/// Datagrams one after the other, each into a receive whose pages have to be faulted in.
fn ud_burst(env: &Env, mode: Mode) -> Result<()> {
    burst(env, mode, Transport::Ud, GRH, &[env.mtu.bytes(); 32])
}

/// Messages of these lengths one after the other; each receive begins with `header` bytes that are not the
/// message's.
fn burst(
    env: &Env,
    mode: Mode,
    transport: Transport,
    header: usize,
    lengths: &[usize],
) -> Result<()> {
    let (near, far) = (
        env.buffer(mode, lengths.len() * SLOT)?,
        env.buffer(mode, lengths.len() * SLOT)?,
    );
    let link = env.pair(QpConfig::new(transport))?;
    for (message, len) in lengths.iter().enumerate() {
        let at = message * SLOT + AT;
        near.memory.write(at, &pattern(message).bytes(0, *len));
        link.second
            .post_recv(message as u64, &[far.sge(at, SLOT - AT)])?;
    }
    for (message, len) in lengths.iter().enumerate() {
        let sge = near.sge(message * SLOT + AT, *len);
        link.first
            .post_send(message as u64, Op::SendImm(message as u32), &[sge])?;
    }
    for (message, len) in lengths.iter().enumerate() {
        let end = link.second.completions().wait(env.patience)?;
        let end = end.expect(&[Status::SUCCESS])?;
        ensure!(
            end.imm == Some(message as u32),
            "{:?} came as message {message}",
            end.imm
        );
        let (start, at) = (message * SLOT, message * SLOT + AT + header);
        far.check_from(pattern(message), 0, at, *len)
            .with_context(|| format!("message {message}"))?;
        far.check_zero(start, AT)?;
        far.check_zero(at + len, start + SLOT - at - len)?;
        link.first
            .completions()
            .wait(env.patience)?
            .expect(&[Status::SUCCESS])?;
    }
    Ok(())
}
