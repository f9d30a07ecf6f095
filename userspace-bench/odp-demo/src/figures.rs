// SPDX-License-Identifier: GPL-2.0
//! The few figures that give an impression: how long a write takes on warm, pinned and cold
//! memory, and how long a registration takes.
//!
//! Accesses are of 64 bytes at the start of a page in explicit regions, which every driver does
//! right.

use std::time::Instant;

use anyhow::Result;
use odp_fixture::{
    env::{anonymous, Mode},
    loopback::Loopback,
};
use odp_verbs::{Access, Remote, Sge};
use testkit::{
    memory::{Advice, PAGE},
    pattern::Pattern,
};

use crate::stage::{Figure, Stage};

/// The figures, in the order in which they are told.
pub const FIGURES: &[Figure] = &[
    Figure {
        name: "write-64-pinned",
        title: "64-byte WRITE, pinned memory",
        unit: "us",
        run: |stage| write(stage, Target::Pinned),
    },
    Figure {
        name: "write-64-warm",
        title: "64-byte WRITE, on-demand memory, page present",
        unit: "us",
        run: |stage| write(stage, Target::Warm),
    },
    Figure {
        name: "write-64-cold",
        title: "64-byte WRITE, on-demand memory, page untouched",
        unit: "us",
        run: |stage| write(stage, Target::Cold),
    },
    Figure {
        name: "register-256-mib-pinned",
        title: "Registration of 256 MiB, pinned",
        unit: "us",
        run: |stage| register(stage, 256 << 20, Access::ALL, 3),
    },
    Figure {
        name: "register-256-mib",
        title: "Registration of 256 MiB, on demand",
        unit: "us",
        run: |stage| register(stage, 256 << 20, Access::ALL | Access::ON_DEMAND, 15),
    },
    Figure {
        name: "register-16-tib",
        title: "Registration of 16 TiB, on demand",
        unit: "us",
        run: |stage| register(stage, 16 << 40, Access::ALL | Access::ON_DEMAND, 15),
    },
];

const LEN: usize = 64;
/// How many writes of each kind are timed, and how many come before them for warming up.
const ROUNDS: usize = 400;
const WARM_UP: usize = 100;

/// Where a write goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Pinned,
    Warm,
    Cold,
}

/// The median time of a write to `wanted`. All kinds take turns, so that whatever else the machine
/// does affects them alike.
fn write(stage: &Stage, wanted: Target) -> Result<f64> {
    let near = stage.buffer(Mode::Pinned, PAGE)?;
    let (pinned, warm) = (
        stage.buffer(Mode::Pinned, PAGE)?,
        stage.buffer(Mode::Explicit, PAGE)?,
    );
    let memory = anonymous((WARM_UP + ROUNDS) * PAGE)?;
    memory.advise(0..memory.len(), Advice::NoHugePage)?;
    let cold = stage.keep(stage.cover(Mode::Explicit, memory, Access::ALL)?);
    let (link, mut times) = (stage.rc()?, Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let pattern = Pattern::new(round as u64);
        near.fill(pattern, 0, LEN);
        // Not one page after the other, which a driver may foresee.
        let page = round * 151 % (WARM_UP + ROUNDS) * PAGE;
        let mut turns = [
            (Target::Pinned, &pinned, 0),
            (Target::Warm, &warm, 0),
            (Target::Cold, &cold, page),
        ];
        turns.rotate_left(round % 3);
        for (target, buffer, at) in turns {
            let time = timed_write(&link, near.sge(0, LEN), buffer.remote(at))?;
            buffer.check_from(pattern, 0, at, LEN)?;
            if target == wanted && round >= WARM_UP {
                times.push(time);
            }
        }
    }
    Ok(median(times))
}

fn timed_write(link: &Loopback, sge: Sge, to: Remote) -> Result<f64> {
    let start = Instant::now();
    link.write(sge, to)?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

fn register(stage: &Stage, len: usize, access: Access, rounds: usize) -> Result<f64> {
    let memory = anonymous(len)?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let region = stage.domain.register(&memory, 0..len, access)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        region.deregister()?;
    }
    Ok(median(times))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
