// SPDX-License-Identifier: GPL-2.0
//! The few figures that give an impression: how long a write takes on warm, pinned and cold
//! memory, and how long a registration takes.
//!
//! Accesses are of 64 bytes at the start of a page in explicit regions, which every driver does
//! right.

use std::time::Instant;

use anyhow::Result;
use odp_verbs::{
    env::{anonymous, Mode},
    loopback::Loopback,
    memory::{Advice, PAGE},
    pattern::Pattern,
    verbs::{Access, Remote, Sge},
};

use crate::stage::{Figure, Stage};

/// The figures, in the order in which they are told.
pub const FIGURES: &[Figure] = &[
    Figure {
        name: "write-64-pinned",
        title: "64-byte WRITE, pinned memory",
        unit: "us",
        run: |stage| warm(stage, Mode::Pinned),
    },
    Figure {
        name: "write-64-warm",
        title: "64-byte WRITE, on-demand memory, page present",
        unit: "us",
        run: |stage| warm(stage, Mode::Explicit),
    },
    Figure {
        name: "write-64-cold",
        title: "64-byte WRITE, on-demand memory, page untouched",
        unit: "us",
        run: cold,
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

fn warm(stage: &Stage, mode: Mode) -> Result<f64> {
    let (near, far) = (stage.buffer(mode, PAGE)?, stage.buffer(mode, PAGE)?);
    let link = stage.rc()?;
    let mut times = Vec::new();
    for round in 0..1100 {
        let pattern = Pattern::new(round);
        near.fill(pattern, 0, LEN);
        let time = timed_write(&link, near.sge(0, LEN), far.remote(0))?;
        far.check(pattern, 0, LEN)?;
        // The first hundred are for warming up.
        if round >= 100 {
            times.push(time);
        }
    }
    Ok(median(times))
}

fn cold(stage: &Stage) -> Result<f64> {
    const PAGES: usize = 400;
    let near = stage.buffer(Mode::Explicit, PAGE)?;
    let memory = anonymous(PAGES * PAGE)?;
    memory.advise(0..PAGES * PAGE, Advice::NoHugePage)?;
    let far = stage.keep(stage.cover(Mode::Explicit, memory, Access::ALL)?);
    let link = stage.rc()?;
    near.fill(Pattern::new(0), 0, LEN);
    link.write(near.sge(0, LEN), far.remote(0))?;
    let mut times = Vec::new();
    for page in 1..PAGES {
        let pattern = Pattern::new(page as u64);
        near.fill(pattern, 0, LEN);
        times.push(timed_write(
            &link,
            near.sge(0, LEN),
            far.remote(page * PAGE),
        )?);
        far.check_from(pattern, 0, page * PAGE, LEN)?;
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
