// SPDX-License-Identifier: GPL-2.0
//! Checks of what on-demand paging offers: regions of any size, memory that nobody has touched.

use anyhow::{ensure, Context as _, Result};
use odp_fixture::env::{anonymous, Mode};
use odp_verbs::{Access, Mtu, Op};
use testkit::{memory::PAGE, pattern::Pattern};

use crate::stage::{Check, Stage};

/// The checks of this file.
pub const CHECKS: &[Check] = &[
    Check {
        name: "implicit-write",
        title: "Whole address space as one region: RDMA WRITE to untouched memory",
        required: true,
        run: implicit_write,
    },
    Check {
        name: "implicit-read",
        title: "Whole address space as one region: RDMA READ of untouched memory",
        required: true,
        run: implicit_read,
    },
    Check {
        name: "implicit-messages",
        title: "SEND, RECV and atomics on untouched memory",
        required: true,
        run: implicit_messages,
    },
    Check {
        name: "explicit-page",
        title: "On-demand region: a packet at the start of a page",
        required: true,
        run: explicit_page,
    },
    Check {
        name: "explicit-odd",
        title: "On-demand region: a packet at an odd address",
        required: true,
        run: explicit_odd,
    },
    Check {
        name: "explicit-long",
        title: "On-demand region: a message of many packets",
        required: true,
        run: explicit_long,
    },
    Check {
        name: "iova",
        title: "A region under addresses of its own choice (ibv_reg_mr_iova)",
        required: true,
        run: own_addresses,
    },
    Check {
        name: "reserved-16-tib",
        title: "16 TiB of reserved memory as one region, used at both ends",
        required: true,
        run: reserved,
    },
];

/// Writes `len` bytes from `offset` to `offset` of untouched memory, and looks at them and around.
fn write(stage: &Stage, mode: Mode, offset: usize, len: usize) -> Result<()> {
    let pattern = Pattern::new(1);
    let size = (offset + len).next_multiple_of(PAGE) + PAGE;
    let near = stage.buffer(mode, size)?;
    let far = stage.buffer(mode, size)?;
    near.fill(pattern, offset, len);
    stage
        .usual_link()?
        .write(near.sge(offset, len), far.remote(offset))?;
    far.check(pattern, offset, len)?;
    far.check_zero(0, offset).context("before the data")?;
    far.check_zero(offset + len, size - offset - len)
        .context("after the data")?;
    Ok(())
}

/// Reads `len` bytes from `offset` to `offset` of untouched memory.
fn read(stage: &Stage, mode: Mode, offset: usize, len: usize) -> Result<()> {
    let pattern = Pattern::new(2);
    let size = (offset + len).next_multiple_of(PAGE) + PAGE;
    let near = stage.buffer(mode, size)?;
    let far = stage.buffer(mode, size)?;
    far.fill(pattern, offset, len);
    stage
        .usual_link()?
        .read(far.remote(offset), near.sge(offset, len))?;
    near.check(pattern, offset, len)?;
    near.check_zero(0, offset).context("before the data")?;
    near.check_zero(offset + len, size - offset - len)
        .context("after the data")?;
    Ok(())
}

fn implicit_write(stage: &Stage) -> Result<String> {
    write(stage, Mode::Implicit, 12345, 300_007)?;
    Ok("300007 bytes at an odd address".into())
}

fn implicit_read(stage: &Stage) -> Result<String> {
    let untouched = stage.buffer(Mode::Implicit, 4 * PAGE)?;
    let near = stage.buffer(Mode::Implicit, 4 * PAGE)?;
    near.fill(Pattern::new(3), 0, 4 * PAGE);
    stage
        .rc()?
        .read(untouched.remote(1), near.sge(1, 3 * PAGE))?;
    near.check_zero(1, 3 * PAGE)
        .context("memory that nobody wrote")?;
    read(stage, Mode::Implicit, 4095, 200_003)?;
    Ok("zeroes where nobody wrote, 200003 right bytes where the CPU did".into())
}

fn implicit_messages(stage: &Stage) -> Result<String> {
    let (near, far) = (
        stage.buffer(Mode::Implicit, 8 * PAGE)?,
        stage.buffer(Mode::Implicit, 8 * PAGE)?,
    );
    let (link, pattern, len) = (stage.rc()?, Pattern::new(4), 10_001);
    near.fill(pattern, 77, len);
    link.send(Op::Send, &[near.sge(77, len)], &[far.sge(77, len)])?;
    far.check(pattern, 77, len)?;

    let (counter, old) = (5 * PAGE + 8, [near.sge(6 * PAGE, 8)]);
    link.ok(
        Op::FetchAdd {
            at: far.remote(counter),
            add: 41,
        },
        &old,
    )?;
    link.ok(
        Op::CompareSwap {
            at: far.remote(counter),
            compare: 41,
            swap: 99,
        },
        &old,
    )?;
    let (found, before) = (far.memory.word(counter), near.memory.word(6 * PAGE));
    ensure!(
        found == 99 && before == 41,
        "the counter is {found} and was {before}, expected 99 and 41"
    );
    Ok("10001 bytes sent, fetch-and-add and compare-and-swap right".into())
}

fn explicit_page(stage: &Stage) -> Result<String> {
    let len = stage.mtu.min(Mtu::USUAL).bytes();
    write(stage, Mode::Explicit, 0, len)?;
    read(stage, Mode::Explicit, 0, len)?;
    Ok(format!("{len} bytes written and read"))
}

fn explicit_odd(stage: &Stage) -> Result<String> {
    write(stage, Mode::Explicit, PAGE + 7, 64)?;
    read(stage, Mode::Explicit, PAGE + 7, 64)?;
    Ok("64 bytes written and read, 7 bytes into a page".into())
}

fn explicit_long(stage: &Stage) -> Result<String> {
    write(stage, Mode::Explicit, 0, 1 << 20)?;
    read(stage, Mode::Explicit, 0, 1 << 20)?;
    Ok(format!(
        "1 MiB written and read, {} packets each",
        (1 << 20) / stage.mtu.min(Mtu::USUAL).bytes()
    ))
}

fn own_addresses(stage: &Stage) -> Result<String> {
    // A driver that fails this would do harm with addresses that are far apart.
    ensure!(
        stage.tells_iova()?,
        "the data went to where the iova points in the process"
    );
    let near = stage.buffer(Mode::Explicit, PAGE)?;
    let access = Access::ALL | Access::ON_DEMAND;
    for (seed, iova) in [(5, 0), (6, 0x4000_0000_0000_0000)] {
        let far = stage.keep(stage.cover_iova(anonymous(2 * PAGE)?, iova, access)?);
        let pattern = Pattern::new(seed);
        near.fill(pattern, 0, 512);
        let written = stage.rc()?.write(near.sge(0, 512), far.remote(0));
        written.with_context(|| format!("iova {iova:#x}"))?;
        far.check(pattern, 0, 512)
            .with_context(|| format!("iova {iova:#x}"))?;
    }
    Ok("written at iova 0 and at iova 2^62".into())
}

fn reserved(stage: &Stage) -> Result<String> {
    let size = 16 << 40;
    let far = stage.buffer(Mode::Explicit, size)?;
    let near = stage.buffer(Mode::Explicit, PAGE)?;
    let (link, len) = (stage.rc()?, 1000);
    for offset in [0, size / 2 - 500, size - len] {
        let pattern = Pattern::new(offset as u64);
        near.fill(pattern, 0, len);
        link.write(near.sge(0, len), far.remote(offset))?;
        far.check_from(pattern, 0, offset, len)
            .with_context(|| format!("at {offset:#x}"))?;
    }
    Ok("written at the beginning, the middle and the very end".into())
}
