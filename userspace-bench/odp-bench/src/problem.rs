// SPDX-License-Identifier: GPL-2.0
//! Why a case ends before its end. Whatever finds that out says so with these; `serve` passes it on to the machine that
//! measures, and a run tells what is lacking from what is wrong.

use std::io;

use testkit::pattern::Mismatch;

/// Why a case was not measured as planned.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Something that it takes is not there.
    #[error("{0}")]
    Lacking(String),
    /// The device moved a wrong byte.
    #[error("wrong data at offset {offset:#x} of the region: {what}")]
    WrongData {
        /// Where the first wrong byte is.
        offset: usize,
        /// What is there, and what should be.
        what: String,
    },
    /// The other of two machines does not answer any more.
    #[error("the peer does not answer: {0}")]
    PeerGone(io::Error),
    /// More memory would be pinned than this user may pin.
    #[error(
        "the locked-memory limit is {limit} KiB, and the pinned baseline takes {needed} KiB: raise it \
         (ulimit -l), or choose cases without pinned memory"
    )]
    LockedMemory {
        /// What may be pinned.
        limit: u64,
        /// What is to be pinned.
        needed: u64,
    },
}

/// The end of a case that takes what is not there.
pub(super) fn lacking(what: impl Into<String>) -> anyhow::Error {
    Problem::Lacking(what.into()).into()
}

/// What is wrong with bytes that were expected at `offset` of a region.
pub(super) fn wrong(offset: usize, mismatch: Mismatch) -> anyhow::Error {
    Problem::WrongData {
        offset: offset + mismatch.offset,
        what: mismatch.to_string(),
    }
    .into()
}
