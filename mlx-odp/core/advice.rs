// SPDX-License-Identifier: GPL-2.0

//! What `ibv_advise_mr` asks for.
//!
//! Source: the manual page ibv_advise_mr(3).

use hmm::{Access, Policy};

/// A prefetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Have the pages there for reading.
    Prefetch,
    /// Have the pages there for writing.
    PrefetchWrite,
    /// Take over what is resident; fault nothing in.
    PrefetchNoFault,
}

impl Advice {
    /// From the number in `enum ib_uverbs_advise_mr_advice`; `None` if it is another one.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Prefetch),
            1 => Some(Self::PrefetchWrite),
            2 => Some(Self::PrefetchNoFault),
            _ => None,
        }
    }

    /// What the pages are brought in for; `None` if none is to be.
    pub fn access(self) -> Option<Access> {
        match self {
            Self::Prefetch => Some(Access::Read),
            Self::PrefetchWrite => Some(Access::Write),
            Self::PrefetchNoFault => None,
        }
    }

    /// What it means for the pages.
    pub fn policy(self) -> Policy {
        self.access().map_or(Policy::Snapshot, Policy::Fault)
    }
}
