// SPDX-License-Identifier: GPL-2.0
//! The memory that accesses go to, in this process or in a peer's, and the connections to it.
//!
//! What has to be done with the memory by whoever owns it is an [`Act`]: it is done at once, or sent to the
//! peer, who does it in the same way.

use std::{rc::Rc, time::Duration};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    lane::wrong,
    pages::{populate, Kind},
    prefetch::Way,
    setting::Bench,
};
use crate::{
    env::Buffer,
    memory::Advice,
    pattern::Pattern,
    verbs::{self, Completion, Op, QueuePair, Remote, Sge, Status},
};

/// A queue pair that is connected to one of the target's owner.
pub(super) struct Connection {
    pub(super) qp: QueuePair,
    /// The other one, if it is of this process.
    _other: Option<QueuePair>,
    patience: Duration,
}

impl Connection {
    pub(super) fn new(qp: QueuePair, other: Option<QueuePair>, patience: Duration) -> Self {
        Self {
            qp,
            _other: other,
            patience,
        }
    }

    /// Asks for `op` and waits until it has succeeded.
    pub(super) fn ok(&self, op: Op, sges: &[Sge]) -> verbs::Result<()> {
        self.qp.post_send(1, op, sges)?;
        self.wait().map(drop)
    }

    /// Waits for the next completion, which has to be a success.
    pub(super) fn wait(&self) -> verbs::Result<Completion> {
        let completion = self.qp.completions().wait(self.patience)?;
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
        match self {
            Self::Here(bench, buffer) => act.perform(bench, buffer),
            Self::There(bench, id, _) => bench.peer_does(*id, act),
        }
    }
}
