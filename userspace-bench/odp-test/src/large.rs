// SPDX-License-Identifier: GPL-2.0
//! Regions far larger than the machine's memory, reserved and never touched: registered in the
//! time of a small one, usable at both ends, and with exact bounds.

use std::{ops::Range, time::Instant};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::env::{anonymous, Env, Mode};
use odp_verbs::{Access, Op};
use testkit::{memory::PAGE, pattern::Pattern};

use crate::harness::{Test, LOCAL_REFUSED, REMOTE_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::once("large-time", time),
    Test::on_demand("large-4-gib", |env, mode| both_ends(env, mode, 4 << 30)),
    Test::on_demand("large-64-gib", |env, mode| both_ends(env, mode, 64 << 30)),
    Test::on_demand("large-16-tib", |env, mode| both_ends(env, mode, 16 << 40)),
    Test::on_demand("many-places", many_places),
    Test::once("bounds", |env| bounds(env, 4 * PAGE, PAGE..3 * PAGE)),
    Test::once("bounds-odd", |env| bounds(env, 4 * PAGE, ODD)),
    Test::once("bounds-large", |env| bounds(env, 65 << 30, ODD_64_GIB)),
];

const ACCESS: Access = Access::from_bits(0x4f);
/// Ranges that start and end inside pages.
const ODD: Range<usize> = 1234..3 * PAGE + 77;
const ODD_64_GIB: Range<usize> = PAGE + 1..(64 << 30) + 4321;
/// How much longer the registration of any size may take than that of 1 MiB.
const RATIO: f64 = 20.0;

/// The median time that it takes to register `len` untouched bytes, in microseconds.
fn registration(env: &Env, len: usize) -> Result<f64> {
    let memory = anonymous(len)?;
    let mut times = Vec::new();
    for _ in 0..11 {
        let start = Instant::now();
        let region = env.domain.register(&memory, 0..len, ACCESS)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        region.deregister()?;
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn time(env: &Env) -> Result<()> {
    registration(env, 1 << 20)?;
    let small = registration(env, 1 << 20)?;
    for (name, len) in [
        ("4 GiB", 4 << 30),
        ("64 GiB", 64 << 30),
        ("16 TiB", 16 << 40),
    ] {
        let large = registration(env, len).context(name)?;
        ensure!(
            large < RATIO * small,
            "registering {name} takes {large:.0} us, registering 1 MiB {small:.0} us"
        );
    }
    Ok(())
}

fn both_ends(env: &Env, mode: Mode, size: usize) -> Result<()> {
    let (large, small) = (env.buffer(mode, size)?, env.buffer(mode, 4 * PAGE)?);
    let (link, len) = (env.rc()?, 5003);
    for at in [
        0,
        1,
        size / 3,
        size / 2 - 17,
        size - PAGE - 1000,
        size - len,
    ] {
        let pattern = Pattern::new(at as u64);
        small.fill(pattern, 0, len);
        link.write(small.sge(0, len), large.remote(at))?;
        large
            .check_from(pattern, 0, at, len)
            .with_context(|| format!("WRITE to {at:#x}"))?;
        small.memory.write(0, &vec![0; len]);
        link.read(large.remote(at), small.sge(0, len))?;
        small
            .check(pattern, 0, len)
            .with_context(|| format!("READ from {at:#x}"))?;
        small.memory.write(0, &vec![0; len]);
        link.send(Op::Send, &[large.sge(at, len)], &[small.sge(0, len)])?;
        small
            .check(pattern, 0, len)
            .with_context(|| format!("SEND from {at:#x}"))?;
    }
    Ok(())
}

/// One page each in places far apart, which come and go.
fn many_places(env: &Env, mode: Mode) -> Result<()> {
    let (near, link) = (env.buffer(mode, PAGE)?, env.rc()?);
    for round in 0..2 {
        let places = (0..400)
            .map(|_| env.buffer(mode, 2 * PAGE))
            .collect::<Result<Vec<_>, _>>()?;
        for (i, place) in places.iter().enumerate() {
            let pattern = Pattern::new(1000 * round + i as u64);
            near.fill(pattern, 0, 900);
            link.write(near.sge(0, 900), place.remote(4000))?;
        }
        for (i, place) in places.iter().enumerate() {
            let pattern = Pattern::new(1000 * round + i as u64);
            place
                .check_from(pattern, 0, 4000, 900)
                .with_context(|| format!("place {i}"))?;
            near.memory.write(0, &[0; 900]);
            link.read(place.remote(4000), near.sge(0, 900))?;
            near.check(pattern, 0, 900)
                .with_context(|| format!("READ of place {i}"))?;
        }
    }
    Ok(())
}

/// A region that covers `range` of more memory, so that nothing but its bounds stops an access.
fn bounds(env: &Env, size: usize, range: Range<usize>) -> Result<()> {
    let (near, memory) = (env.buffer(Mode::Explicit, PAGE)?, anonymous(size)?);
    let region = env.domain.register(&memory, range.clone(), ACCESS)?;
    let address = |offset: usize| memory.at(offset);
    for (at, len) in [(range.start, 1), (range.end - 1, 1), (range.end - 8, 8)] {
        let link = env.rc()?;
        link.write(near.sge(0, len), region.remote(address(at)))
            .context("WRITE inside")?;
        link.read(region.remote(address(at)), near.sge(0, len))
            .context("READ inside")?;
        link.write(region.sge(address(at), len), near.remote(0))
            .context("local inside")?;
    }
    for (at, len) in [
        (range.start - 1, 1),
        (range.start - 1, 8),
        (range.end, 1),
        (range.end - 7, 8),
    ] {
        let place = format!("{len} bytes at {at:#x} of {range:x?}");
        let remote = region.remote(address(at));
        let (own, other) = ([near.sge(0, len)], [region.sge(address(at), len)]);
        env.rc()?
            .refused(Op::Write(remote), &own, REMOTE_REFUSED)
            .with_context(|| format!("WRITE {place}"))?;
        env.rc()?
            .refused(Op::Read(remote), &own, REMOTE_REFUSED)
            .with_context(|| format!("READ {place}"))?;
        let write = env
            .rc()?
            .refused(Op::Write(near.remote(0)), &other, LOCAL_REFUSED);
        write.with_context(|| format!("WRITE from {place}"))?;
        let read = env
            .rc()?
            .refused(Op::Read(near.remote(0)), &other, LOCAL_REFUSED);
        read.with_context(|| format!("READ into {place}"))?;
    }
    Ok(())
}
