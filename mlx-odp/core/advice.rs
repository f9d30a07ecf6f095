// SPDX-License-Identifier: GPL-2.0

//! The advice of `ibv_advise_mr`.
//!
//! Source: the manual page ibv_advise_mr(3).

use hmm::Access;

/// The flag of `ibv_advise_mr` that has it return when the pages are there (`IBV_ADVISE_MR_FLAG_FLUSH`).
pub const ADVISE_FLUSH: u32 = 1;

/// How to prefetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Fault pages in for reading.
    Prefetch,
    /// Fault pages in for writing.
    PrefetchWrite,
    /// Map the resident pages; fault nothing in.
    PrefetchNoFault,
}

impl Advice {
    /// Converts a number of `enum ib_uverbs_advise_mr_advice`; `None` if it is not one.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Prefetch),
            1 => Some(Self::PrefetchWrite),
            2 => Some(Self::PrefetchNoFault),
            _ => None,
        }
    }

    /// The access that pages are faulted in for; `None` if none is faulted in.
    pub fn access(self) -> Option<Access> {
        match self {
            Self::Prefetch => Some(Access::Read),
            Self::PrefetchWrite => Some(Access::Write),
            Self::PrefetchNoFault => None,
        }
    }
}
