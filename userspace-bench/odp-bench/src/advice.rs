// SPDX-License-Identifier: GPL-2.0
//! What a driver is told of memory before it is accessed: `ibv_advise_mr`, or nothing. `prefetch` measures what that is
//! worth.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::problem::lacking;
use odp_fixture::env::{Buffer, Env};
use odp_verbs::{Advise, PREFETCH_FLUSH};

/// What one entry of a list of pieces names of the memory.
const PIECE: usize = 1 << 20;

/// How the NIC's translations come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Way {
    /// By faults.
    Demand,
    /// By advice that is followed before the call returns.
    Sync,
    /// By advice that is followed while the accesses go on.
    Async,
    /// By advice to take what is resident.
    NoFault,
}

impl Way {
    pub(super) const ALL: [Self; 4] = [Self::Demand, Self::Sync, Self::Async, Self::NoFault];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Sync => "sync",
            Self::Async => "async",
            Self::NoFault => "no-fault",
        }
    }

    /// Gives the driver of `env` the advice for all of `buffer`, in pieces.
    pub(super) fn advise(self, env: &Env, buffer: &Buffer) -> Result<()> {
        let (advice, flags) = match self {
            Self::Demand => return Ok(()),
            Self::Sync => (Advise::PrefetchWrite, PREFETCH_FLUSH),
            Self::Async => (Advise::PrefetchWrite, 0),
            Self::NoFault => (Advise::PrefetchNoFault, PREFETCH_FLUSH),
        };
        let pieces: Vec<_> = (0..buffer.memory.len() / PIECE)
            .map(|piece| buffer.sge(piece * PIECE, PIECE))
            .collect();
        match env.domain.advise(advice, flags, &pieces) {
            Err(error) if is_no_advice(error.errno()) => {
                Err(lacking("the driver has no ibv_advise_mr"))
            }
            result => Ok(result?),
        }
    }
}

/// Whether an error says that the driver, or the kernel, has no `ibv_advise_mr`.
pub(super) fn is_no_advice(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_piece_is_not_missing_advice() {
        let says = [libc::EOPNOTSUPP, libc::ENOSYS, libc::EFAULT, libc::EINVAL];
        assert_eq!(
            says.map(|errno| is_no_advice(Some(errno))),
            [true, true, false, false]
        );
        assert!(!is_no_advice(None));
    }
}
