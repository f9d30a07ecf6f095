// SPDX-License-Identifier: GPL-2.0
//! `ibv_advise_mr` against faults on demand.

use std::time::Instant;

use anyhow::Result;
use odp_results::run::Unit;
use serde::{Deserialize, Serialize};

use super::{
    lane::Lane,
    pages::{Kind, Pattern},
    problem::lacking,
    setting::Bench,
    target::Act,
    Case, Cost,
};
use odp_fixture::env::{Buffer, Mode};
use odp_verbs::{Advise, PREFETCH_FLUSH};
use testkit::memory::PAGE;

const SIZE: usize = 8 << 20;
/// What one entry of a list of pieces may name of it.
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
    const ALL: [Self; 4] = [Self::Demand, Self::Sync, Self::Async, Self::NoFault];

    fn name(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Sync => "sync",
            Self::Async => "async",
            Self::NoFault => "no-fault",
        }
    }

    /// Gives the advice for all of `buffer`, in pieces.
    pub(super) fn advise(self, bench: &Bench, buffer: &Buffer) -> Result<()> {
        let (advice, flags) = match self {
            Self::Demand => return Ok(()),
            Self::Sync => (Advise::PrefetchWrite, PREFETCH_FLUSH),
            Self::Async => (Advise::PrefetchWrite, 0),
            Self::NoFault => (Advise::PrefetchNoFault, PREFETCH_FLUSH),
        };
        let pieces: Vec<_> = (0..buffer.memory.len() / PIECE)
            .map(|piece| buffer.sge(piece * PIECE, PIECE))
            .collect();
        match bench.domain.advise(advice, flags, &pieces) {
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

/// Twenty rounds of all pages.
const COST: Cost = Cost {
    accesses: (20 * SIZE / PAGE) as f64,
    faults: (20 * SIZE / PAGE) as f64,
    ..Cost::NOTHING
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in Mode::ON_DEMAND {
        for kind in [Kind::Small, Kind::Thp] {
            for way in Way::ALL {
                let name = format!("prefetch/{mode}/{kind}/{}", way.name());
                let inner = name.clone();
                let run = move |bench: &Bench| prefetch(bench, &inner, mode, kind, way);
                cases.push(Case::new(name, COST, run));
            }
        }
    }
    cases
}

/// Untouched memory (for `NoFault` memory that the CPU has used), the advice, then an access to each page. A
/// sample of `advice` is the time of the call where it is made, one of `accesses` that of all accesses after it.
fn prefetch(bench: &Bench, name: &str, mode: Mode, kind: Kind, way: Way) -> Result<()> {
    let target = bench.target(mode, kind, SIZE)?;
    let order = Pattern::Sequential.order(0, SIZE / PAGE);
    let mut lane = Lane::new(bench, SIZE / PAGE)?;
    lane.warm_up()?;
    let (mut advice, mut accesses) = (Vec::new(), Vec::new());
    for _ in 0..bench.times(20) {
        target.does(Act::Discard)?;
        if way == Way::NoFault {
            target.does(Act::Populate)?;
        }
        lane.renew();
        advice.push(target.timed(Act::Advise(way))?);
        let begun = Instant::now();
        lane.sweep(&target, &order)?;
        accesses.push(begun.elapsed().as_nanos() as f64);
        lane.check(&target, &order)?;
    }
    target.does(Act::Confirm(kind))?;
    let size = Some(SIZE);
    if way != Way::Demand {
        bench.record(format!("{name}/advice"), Unit::Nanoseconds, size, advice);
    }
    bench.record(
        format!("{name}/accesses"),
        Unit::Nanoseconds,
        size,
        accesses,
    );
    Ok(())
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
