// SPDX-License-Identifier: GPL-2.0
//! The memory that accesses go to, in this process or in a peer's, and the connections to it.
//!
//! What has to be done with the memory by whoever owns it is an [`Act`]: it is done at once, or sent to the
//! peer, who does it in the same way.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{bail, Result};
use serde::{Deserialize, Serialize};

use super::{
    pages::{populate, Kind},
    prefetch::Way,
    problem::wrong,
    setting::Bench,
};
use odp_fixture::env::Buffer;
use odp_verbs::{Completion, Op, QueuePair, Remote, Sge, Status};
use testkit::{memory::Advice, pattern::Pattern};

/// The queue pair at the other end of a connection.
pub(super) enum Other {
    /// This process's.
    Here(QueuePair),
    /// The peer's, by its number there.
    There(usize),
}

/// A queue pair that is connected to one of the target's owner.
pub(super) struct Connection {
    pub(super) qp: QueuePair,
    other: Other,
    patience: Duration,
}

impl Connection {
    pub(super) fn new(qp: QueuePair, other: Other, patience: Duration) -> Self {
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
            (Other::There(link), Target::There(bench, id, _)) => {
                bench.peer_receives(*link, *id, offset, len)
            }
            _ => bail!("the connection and the memory are not of the same machine"),
        }
    }

    /// The same for a message that brings no data to where it is received.
    pub(super) fn receive_nothing(&self, bench: &Bench) -> Result<()> {
        match &self.other {
            Other::Here(qp) => Ok(qp.post_recv(2, &[])?),
            Other::There(link) => bench.peer_receives_nothing(*link),
        }
    }

    /// What the peer calls it, if the other end is the peer's.
    pub(super) fn at_peer(&self) -> Option<usize> {
        match self.other {
            Other::Here(_) => None,
            Other::There(link) => Some(link),
        }
    }

    /// Waits until the other side has received the next message.
    pub(super) fn received(&self, bench: &Bench) -> Result<()> {
        match &self.other {
            Other::Here(qp) => {
                let completion = qp.completions().wait_awake(self.patience)?;
                completion.expect(&[Status::SUCCESS])?;
                Ok(())
            }
            Other::There(link) => bench.peer_received(*link),
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

/// A few bytes of a pattern, and where they have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    /// Where they begin in the pattern.
    pub(super) position: usize,
    /// Where they are in the memory.
    pub(super) offset: usize,
    /// How many they are.
    pub(super) len: usize,
}

impl Piece {
    /// `len` bytes that are in the memory where they are in the pattern.
    pub(super) fn at(offset: usize, len: usize) -> Self {
        Self {
            position: offset,
            offset,
            len,
        }
    }
}

/// What the owner of memory does with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Act {
    /// Throws all pages away.
    Discard,
    /// Has the CPU use every page.
    Populate,
    /// Fails if the memory is not of the kind that it was to be.
    Confirm(Kind),
    /// Puts bytes of the pattern of a seed where the pieces say.
    Fill(u64, Vec<Piece>),
    /// Fails if bytes of the pattern of a seed are not where the pieces say.
    Check(u64, Vec<Piece>),
    /// Advises its driver.
    Advise(Way),
}

impl Act {
    /// Does it with `buffer`, and says how long that took.
    pub(super) fn timed(&self, bench: &Bench, buffer: &Buffer) -> Result<Duration> {
        let begun = Instant::now();
        self.perform(bench, buffer)?;
        Ok(begun.elapsed())
    }

    /// Does it with `buffer`.
    pub(super) fn perform(&self, bench: &Bench, buffer: &Buffer) -> Result<()> {
        match self {
            Self::Discard => {
                let all = 0..buffer.memory.len();
                buffer.memory.advise(all, Advice::DontNeed)?;
            }
            Self::Populate => populate(&buffer.memory),
            Self::Confirm(kind) => kind.confirm(&buffer.memory)?,
            Self::Fill(seed, pieces) => {
                for piece in pieces {
                    let bytes = Pattern::new(*seed).bytes(piece.position as u64, piece.len);
                    buffer.memory.write(piece.offset, &bytes);
                }
            }
            Self::Check(seed, pieces) => {
                for piece in pieces {
                    let (position, at) = (piece.position, piece.offset);
                    let found = buffer.check_from(Pattern::new(*seed), position, at, piece.len);
                    found.map_err(|mismatch| wrong(at, mismatch))?;
                }
            }
            Self::Advise(way) => way.advise(bench, buffer)?,
        }
        Ok(())
    }
}

/// Registered memory that accesses go to.
pub(super) enum Target<'a> {
    /// This process's.
    Here(&'a Bench, Rc<Buffer>),
    /// The peer's, by its number there.
    There(&'a Bench, usize, Remote),
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
            Self::Here(bench, buffer) => {
                let took = act.timed(bench, buffer);
                took.map(|time| time.as_nanos() as f64)
            }
            Self::There(bench, id, _) => bench.peer_does(*id, act),
        }
    }
}
