// SPDX-License-Identifier: GPL-2.0
//! `ibv_advise_mr` against faults on demand.

use std::time::Instant;

use anyhow::Result;
use odp_results::run::Unit;

use super::{
    act::Act,
    advice::Way,
    lane::Lane,
    pages::{Kind, Pattern},
    setting::Bench,
    Case, Cost,
};
use odp_fixture::env::Mode;
use testkit::memory::PAGE;

const SIZE: usize = 8 << 20;

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
