// SPDX-License-Identifier: GPL-2.0
//! A device's file that two processes share: a region is memory of the process that registered it.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::env::{anonymous, Env, Mode};
use odp_verbs::{
    uverbs::{self, AdviceRequest, Made, Piece, Registration},
    Access, Op, Remote,
};
use testkit::{
    memory::PAGE,
    pattern::Pattern,
    process::{self, End, Gate},
};

use crate::harness::{Test, REMOTE_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[Test::on_demand("fd-sharing", by_a_child)];

const SIZE: usize = 8 * PAGE;

/// A child registers its copy of some memory with the parent's device and domain. The parent's queue
/// pairs reach that copy, not the parent's, and nothing once the child is gone.
fn by_a_child(env: &Env, mode: Mode) -> Result<()> {
    let (near, memory) = (env.buffer(Mode::Explicit, SIZE)?, anonymous(SIZE)?);
    let (mine, theirs, written) = (Pattern::new(1), Pattern::new(2), Pattern::new(3));
    memory.write(0, &mine.bytes(0, SIZE));
    let whole = mode == Mode::Implicit;
    let wanted = Registration {
        domain: env.domain.handle(),
        addr: if whole { 0 } else { memory.addr() },
        len: if whole { u64::MAX } else { SIZE as u64 },
        iova: if whole { 0 } else { memory.addr() },
        access: (Access::ALL | Access::ON_DEMAND).bits(),
    };
    let (file, gate) = (env.context.command_file(), Gate::new()?);
    let (mut hear, mut tell) = UnixStream::pair()?;
    let child = process::fork(|| {
        memory.write(0, &theirs.bytes(0, SIZE));
        let made =
            uverbs::register_by_attributes(file, &wanted).unwrap_or(Made { handle: 0, key: 0 });
        let told = [made.handle.to_ne_bytes(), made.key.to_ne_bytes()].concat();
        let told = tell.write_all(&told).and_then(|()| gate.wait());
        let arrived = written.check(0, &memory.bytes(4 * PAGE + 9, PAGE)).is_ok();
        i32::from(told.is_err() || !arrived)
    })?;
    let mut told = [[0; 4]; 2];
    hear.set_read_timeout(Some(Duration::from_secs(20)))?;
    hear.read_exact(told.as_flattened_mut())?;
    let made = Made {
        handle: u32::from_ne_bytes(told[0]),
        key: u32::from_ne_bytes(told[1]),
    };
    ensure!(made.key != 0, "the child could not register its memory");
    let at = |offset| Remote {
        addr: memory.at(offset),
        rkey: made.key,
    };
    let link = env.rc()?;
    link.read(at(100), near.sge(0, 3 * PAGE))?;
    theirs
        .check(100, &near.memory.bytes(0, 3 * PAGE))
        .context("the child's memory")?;
    near.fill(written, 0, PAGE);
    link.write(near.sge(0, PAGE), at(4 * PAGE + 9))?;
    gate.open()?;
    let end = child.finish(Duration::from_secs(20))?;
    ensure!(end == End::Status(0), "the child did not see it ({end:?})");
    mine.check(0, &memory.bytes(0, SIZE))
        .context("the parent's own copy")?;
    let own = [near.sge(0, 64)];
    for op in [Op::Write(at(0)), Op::Read(at(0))] {
        env.rc()?
            .refused(op, &own, REMOTE_REFUSED)
            .context("after the child")?;
    }
    let advice = AdviceRequest {
        domain: env.domain.handle(),
        advice: 0,
        flags: 1,
        pieces: &[Piece {
            addr: memory.addr(),
            len: PAGE as u32,
            key: made.key,
        }],
        bytes: size_of::<Piece>() as u16,
    };
    let refused = uverbs::advise(file, &advice);
    ensure!(
        refused == Err(libc::ESRCH),
        "a prefetch for a process that is gone: {refused:?}"
    );
    mine.check(0, &memory.bytes(0, SIZE))
        .context("the parent's own copy")?;
    let ended = uverbs::deregister(file, made.handle);
    ensure!(ended.is_ok(), "deregistration: {ended:?}");
    Ok(())
}
