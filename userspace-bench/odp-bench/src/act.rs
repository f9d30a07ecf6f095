// SPDX-License-Identifier: GPL-2.0
//! What has to be done with memory by whoever owns it. An [`Act`] is done at once, or sent to the peer that owns the
//! memory, who does it in the same way.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    advice::Way,
    pages::{populate, Kind},
    problem::wrong,
};
use odp_fixture::env::{Buffer, Env};
use testkit::{memory::Advice, pattern::Pattern};

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
    /// Does it with `buffer`, a region of `env`'s, and says how long that took.
    pub(super) fn timed(&self, env: &Env, buffer: &Buffer) -> Result<Duration> {
        let begun = Instant::now();
        self.perform(env, buffer)?;
        Ok(begun.elapsed())
    }

    /// Does it with `buffer`.
    fn perform(&self, env: &Env, buffer: &Buffer) -> Result<()> {
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
            Self::Advise(way) => way.advise(env, buffer)?,
        }
        Ok(())
    }
}
