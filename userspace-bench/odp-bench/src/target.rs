// SPDX-License-Identifier: GPL-2.0
//! The memory that accesses go to, in this process or in a peer's, and the connections to it.
//!
//! A case asks for either without knowing whose it is.

use std::{rc::Rc, time::Duration};

use anyhow::{bail, Result};

use super::{act::Act, far::Far};
use odp_fixture::env::{Buffer, Env};
use odp_verbs::{Completion, Op, QueuePair, Remote, Sge, Status};

/// The queue pair at the other end of a connection.
pub(super) enum Other<'a> {
    /// This process's.
    Here(QueuePair),
    /// The peer's, by its number there.
    There(&'a Far, usize),
}

/// A queue pair that is connected to one of the target's owner.
pub(super) struct Connection<'a> {
    pub(super) qp: QueuePair,
    other: Other<'a>,
    patience: Duration,
}

impl<'a> Connection<'a> {
    pub(super) fn new(qp: QueuePair, other: Other<'a>, patience: Duration) -> Self {
        Self {
            qp,
            other,
            patience,
        }
    }

    /// Has the other side receive the next message into the `len` bytes at `offset` of `target`.
    pub(super) fn receive(&self, target: &Target<'_>, offset: usize, len: usize) -> Result<()> {
        match (&self.other, target) {
            (Other::Here(qp), Target::Here(_, buffer)) => {
                Ok(qp.post_recv(2, &[buffer.sge(offset, len)])?)
            }
            (Other::There(far, link), Target::There(_, id, _)) => {
                far.receives(*link, *id, offset, len)
            }
            _ => bail!("the connection and the memory are not of the same machine"),
        }
    }

    /// The same for a message that brings no data to where it is received.
    pub(super) fn receive_nothing(&self) -> Result<()> {
        match &self.other {
            Other::Here(qp) => Ok(qp.post_recv(2, &[])?),
            Other::There(far, link) => far.receives_nothing(*link),
        }
    }

    /// What the peer calls it, if the other end is the peer's.
    pub(super) fn at_peer(&self) -> Option<usize> {
        match self.other {
            Other::Here(_) => None,
            Other::There(_, link) => Some(link),
        }
    }

    /// Waits until the other side has received the next message.
    pub(super) fn received(&self) -> Result<()> {
        match &self.other {
            Other::Here(qp) => {
                let completion = qp.completions().wait_awake(self.patience)?;
                completion.expect(&[Status::SUCCESS])?;
                Ok(())
            }
            Other::There(far, link) => far.received(*link),
        }
    }

    /// Whether this process has received the next message within `limit`.
    pub(super) fn received_within(&self, limit: Duration) -> Result<bool> {
        let Other::Here(qp) = &self.other else {
            bail!("the message is received by the peer");
        };
        match qp.completions().wait_awake(limit) {
            Ok(completion) => completion
                .expect(&[Status::SUCCESS])
                .map(|_| true)
                .map_err(Into::into),
            Err(odp_verbs::Error::Late(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for `op` and waits until it has succeeded.
    pub(super) fn ok(&self, op: Op, sges: &[Sge]) -> odp_verbs::Result<()> {
        self.qp.post_send(1, op, sges)?;
        self.wait().map(drop)
    }

    /// Waits for the next completion, which has to be a success.
    pub(super) fn wait(&self) -> odp_verbs::Result<Completion> {
        let completion = self.qp.completions().wait_awake(self.patience)?;
        completion.expect(&[Status::SUCCESS])
    }
}

/// Registered memory that accesses go to.
pub(super) enum Target<'a> {
    /// This process's.
    Here(&'a Env, Rc<Buffer>),
    /// The peer's, by its number there.
    There(&'a Far, usize, Remote),
}

impl Target<'_> {
    /// The bytes at `offset`, for an access.
    pub(super) fn remote(&self, offset: usize) -> Remote {
        match self {
            Self::Here(_, buffer) => buffer.remote(offset),
            Self::There(_, _, first) => first.plus(offset),
        }
    }

    /// Has its owner do something with it.
    pub(super) fn does(&self, act: Act) -> Result<()> {
        self.timed(act).map(drop)
    }

    /// The same, and the nanoseconds that it took, as the owner measures them: without the way there and back.
    pub(super) fn timed(&self, act: Act) -> Result<f64> {
        match self {
            Self::Here(env, buffer) => {
                let took = act.timed(env, buffer);
                took.map(|time| time.as_nanos() as f64)
            }
            Self::There(far, id, _) => far.does(*id, act),
        }
    }
}
