// SPDX-License-Identifier: GPL-2.0
//! Two queue pairs of one process, connected to each other, and one operation at a time on them.

use std::{sync::Arc, time::Duration};

use crate::{
    env::Env,
    verbs::{
        Completion, CompletionQueue, Error, Mtu, Op, QpConfig, QueuePair, Remote, Result, Sge,
        Status,
    },
};

/// How many bytes of a received datagram precede its data.
pub const GRH: usize = 40;

/// Two connected queue pairs. The first is asked for operations, the second is their target.
#[derive(Debug)]
pub struct Loopback {
    /// The one that is asked.
    pub first: QueuePair,
    /// The one that is addressed.
    pub second: QueuePair,
    patience: Duration,
}

impl Loopback {
    /// Makes both and connects them with packets of `mtu`.
    pub fn new(env: &Env, config: QpConfig, mtu: Mtu) -> Result<Self> {
        let queue = || -> Result<Arc<CompletionQueue>> {
            CompletionQueue::new(&env.context, 2 * config.depth)
        };
        let first = QueuePair::new(&env.domain, &queue()?, env.gid, config)?;
        let second = QueuePair::new(&env.domain, &queue()?, env.gid, config)?;
        first.connect(&second.endpoint()?, mtu)?;
        second.connect(&first.endpoint()?, mtu)?;
        Ok(Self {
            first,
            second,
            patience: env.patience,
        })
    }

    /// Makes both usable again after an operation has failed. What was posted and has not ended is gone.
    pub fn restore(&mut self, env: &Env) -> Result<()> {
        self.first.reset()?;
        self.second.reset()?;
        while self.first.completions().poll()?.is_some() {}
        while self.second.completions().poll()?.is_some() {}
        self.first.connect(&self.second.endpoint()?, env.mtu)?;
        self.second.connect(&self.first.endpoint()?, env.mtu)
    }

    /// Asks for `op` and waits until it ends, well or not.
    pub fn run(&self, op: Op, sges: &[Sge]) -> Result<Completion> {
        self.first.post_send(1, op, sges)?;
        self.first.completions().wait(self.patience)
    }

    /// Asks for `op`, which has to succeed.
    pub fn ok(&self, op: Op, sges: &[Sge]) -> Result<()> {
        self.run(op, sges)?.expect(&[Status::SUCCESS]).map(drop)
    }

    /// Asks for `op`, which has to end with one of `expected`. Both queue pairs are unusable after that.
    pub fn refused(&self, op: Op, sges: &[Sge], expected: &[Status]) -> Result<()> {
        self.run(op, sges)?.expect(expected).map(drop)
    }

    /// Writes the memory of `sge` to `to`.
    pub fn write(&self, sge: Sge, to: Remote) -> Result<()> {
        self.ok(Op::Write(to), &[sge])
    }

    /// Reads from `from` into the memory of `sge`.
    pub fn read(&self, from: Remote, sge: Sge) -> Result<()> {
        self.ok(Op::Read(from), &[sge])
    }

    /// Sends the memory of `from` to that of `to`, and gives the receiver's completion.
    pub fn send(&self, op: Op, from: &[Sge], to: &[Sge]) -> Result<Completion> {
        self.second.post_recv(2, to)?;
        self.ok(op, from)?;
        let received = self.second.completions().wait(self.patience)?;
        received.expect(&[Status::SUCCESS])
    }
}

impl Completion {
    /// Itself, if it ended with one of `expected`.
    pub fn expect(self, expected: &[Status]) -> Result<Self> {
        if expected.contains(&self.status) {
            return Ok(self);
        }
        let names: Vec<_> = expected.iter().map(Status::to_string).collect();
        Err(Error::Status {
            found: self.status,
            expected: names.join(" or "),
        })
    }
}
