// SPDX-License-Identifier: GPL-2.0
//! Large messages into untouched memory, against pinned memory.

use std::time::Instant;

use anyhow::Result;

use super::{
    act::{Act, Piece},
    pages::{available, Kind},
    problem::lacking,
    setting::Bench,
    target::{Connection, Target},
    Case, Cost,
};
use odp_fixture::env::{Buffer, Mode};
use odp_verbs::Op;
use testkit::{memory::PAGE, pattern::Pattern};

const MESSAGE: usize = 1 << 20;
const MESSAGES: usize = 64;

/// Forty rounds, half of them into pages that fault.
const COST: Cost = Cost {
    faults: (20 * MESSAGES * MESSAGE / PAGE) as f64,
    bytes: (40 * MESSAGES * MESSAGE) as f64,
    ..Cost::NOTHING
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in Mode::ON_DEMAND {
        for kind in [Kind::Small, Kind::Thp] {
            let name = format!("stream/{mode}/{kind}");
            let inner = name.clone();
            cases.push(Case::new(name, COST, move |bench| {
                stream(bench, &inner, mode, kind)
            }));
        }
    }
    cases
}

/// The messages go to pinned and to untouched memory in turns, A B B A; a sample is the time of all of them,
/// for each message.
fn stream(bench: &Bench, name: &str, mode: Mode, kind: Kind) -> Result<()> {
    bench.needs(mode)?;
    bench.allows_message(MESSAGE)?;
    let len = MESSAGE * MESSAGES;
    if available()? < 4 * len as u64 {
        return Err(lacking("too little free memory"));
    }
    // Each message begins a little further on in the source than the one before, so that no two are alike.
    let near = bench.buffer(Mode::Pinned, MESSAGE + PAGE)?;
    let pinned = bench.target(Mode::Pinned, kind, len)?;
    let cold = bench.target(mode, kind, len)?;
    let link = bench.link(64)?;
    let (mut there, mut here) = (Vec::new(), Vec::new());
    for round in 0..4 * bench.times(10) {
        let seed = round as u64;
        near.fill(Pattern::new(seed), 0, near.memory.len());
        let (target, times) = match round % 4 {
            0 | 3 => (&pinned, &mut there),
            _ => (&cold, &mut here),
        };
        if round % 4 == 1 || round % 4 == 2 {
            target.does(Act::Discard)?;
        }
        times.push(messages(&link, &near, target)?);
        let pieces = (0..MESSAGES).map(piece).collect();
        target.does(Act::Check(seed, pieces))?;
    }
    cold.does(Act::Confirm(kind))?;
    bench.times_of(format!("{name}/pinned"), there);
    bench.times_of(format!("{name}/untouched"), here);
    Ok(())
}

/// Where a message comes from, and where it goes.
fn piece(message: usize) -> Piece {
    Piece {
        position: message * (PAGE / MESSAGES),
        offset: message * MESSAGE,
        len: MESSAGE,
    }
}

/// Sends all messages; the nanoseconds for each.
fn messages(link: &Connection<'_>, near: &Buffer, far: &Target<'_>) -> Result<f64> {
    let begun = Instant::now();
    for piece in (0..MESSAGES).map(piece) {
        let to = Op::Write(far.remote(piece.offset));
        link.ok(to, &[near.sge(piece.position, piece.len)])?;
    }
    Ok(begun.elapsed().as_nanos() as f64 / MESSAGES as f64)
}
