// SPDX-License-Identifier: GPL-2.0
//! Memory of other kinds than plain anonymous pages: files, huge pages, holes.

use std::{fs::File, os::unix::fs::FileExt};

use anyhow::{Context as _, Result};
use odp_fixture::env::{anonymous, Buffer, Env, Mode};
use odp_verbs::{Access, Op};
use testkit::{
    memory::{memory_file, secret_file, Advice, Backing, Mapping, Protection, HUGE_PAGE, PAGE},
    pattern::Pattern,
};

use crate::harness::{skip, Test, LOCAL_REFUSED, REMOTE_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("file-shared", file_shared),
    Test::data("file-private", file_private),
    Test::on_demand("file-truncated", file_truncated),
    Test::on_demand("read-only-mapping", read_only),
    Test::data("huge-pages", huge_pages),
    Test::on_demand("huge-pages-split", huge_pages_split),
    Test::data("huge-pages-reserved", huge_pages_reserved),
    Test::on_demand("secret-memory", secret_memory),
    Test::on_demand("partly-unmapped", partly_unmapped),
    Test::on_demand("mapped-later", mapped_later),
    Test::on_demand("many-small-mappings", many_small_mappings),
];

const SIZE: usize = 8 * PAGE;
const AT: usize = PAGE - 7;
const LEN: usize = 2 * PAGE + 100;

fn file_with(pattern: Pattern) -> Result<File> {
    let file = memory_file(SIZE)?;
    file.write_all_at(&pattern.bytes(0, SIZE), 0)?;
    Ok(file)
}

/// What the file holds at `AT`.
fn in_file(file: &File) -> Result<Vec<u8>> {
    let mut bytes = vec![0; LEN];
    file.read_exact_at(&mut bytes, AT as u64)?;
    Ok(bytes)
}

fn file_shared(env: &Env, mode: Mode) -> Result<()> {
    let (old, new, last) = (Pattern::new(1), Pattern::new(2), Pattern::new(3));
    let (near, file) = (env.buffer(mode, SIZE)?, file_with(old)?);
    let memory = Mapping::new(SIZE, Backing::Shared(&file), Protection::ReadWrite)?;
    let far = env.cover(mode, memory, Access::ALL)?;
    let link = env.rc()?;
    link.read(far.remote(AT), near.sge(AT, LEN))?;
    near.check(old, AT, LEN).context("READ of the file")?;
    near.fill(new, AT, LEN);
    link.write(near.sge(AT, LEN), far.remote(AT))?;
    new.check(AT as u64, &in_file(&file)?)
        .context("the file after a WRITE")?;
    file.write_all_at(&last.bytes(AT as u64, LEN), AT as u64)?;
    link.read(far.remote(AT), near.sge(AT, LEN))?;
    near.check(last, AT, LEN)
        .context("READ after the file was written")?;
    Ok(())
}

/// The pages are ordinary ones for the CPU's page table, but the kernel has no mapping of them.
fn secret_memory(env: &Env, mode: Mode) -> Result<()> {
    let file = secret_file(SIZE).map_err(|e| skip(format!("memfd_secret: {e}")))?;
    let (near, secret) = (env.buffer(mode, SIZE)?, Pattern::new(4));
    let memory = Mapping::new(SIZE, Backing::Shared(&file), Protection::ReadWrite)?;
    let far = env.cover(mode, memory, Access::ALL)?;
    far.fill(secret, 0, SIZE);
    for op in [Op::Read(far.remote(AT)), Op::Write(far.remote(AT))] {
        let refused = env.rc()?.refused(op, &[near.sge(AT, LEN)], REMOTE_REFUSED);
        refused.with_context(|| format!("{op:?}"))?;
    }
    near.check_zero(0, SIZE)?;
    far.check(secret, 0, SIZE)?;
    Ok(())
}

fn file_private(env: &Env, mode: Mode) -> Result<()> {
    let (old, new) = (Pattern::new(1), Pattern::new(2));
    let (near, file) = (env.buffer(mode, SIZE)?, file_with(old)?);
    let memory = Mapping::new(SIZE, Backing::Private(&file), Protection::ReadWrite)?;
    let far = env.cover(mode, memory, Access::ALL)?;
    let link = env.rc()?;
    link.read(far.remote(AT), near.sge(AT, LEN))?;
    near.check(old, AT, LEN).context("READ of the file")?;
    near.fill(new, AT, LEN);
    link.write(near.sge(AT, LEN), far.remote(AT))?;
    far.check(new, AT, LEN)
        .context("the private copy after a WRITE")?;
    far.check(old, 0, AT).context("before the data")?;
    far.check(old, AT + LEN, SIZE - AT - LEN)
        .context("after the data")?;
    old.check(AT as u64, &in_file(&file)?)
        .context("the file after a WRITE to a private copy")?;
    Ok(())
}

/// Beyond the end of a file there is nothing, whatever the mapping says.
fn file_truncated(env: &Env, mode: Mode) -> Result<()> {
    let pattern = Pattern::new(4);
    let (near, file) = (env.buffer(mode, SIZE)?, file_with(pattern)?);
    let memory = Mapping::new(SIZE, Backing::Shared(&file), Protection::ReadWrite)?;
    let far = env.cover(mode, memory, Access::ALL)?;
    env.rc()?.read(far.remote(0), near.sge(0, SIZE))?;
    file.set_len(2 * PAGE as u64)?;
    let own = [near.sge(0, 64)];
    let gone = far.remote(5 * PAGE + 3);
    env.rc()?
        .refused(Op::Read(gone), &own, REMOTE_REFUSED)
        .context("READ beyond the end")?;
    env.rc()?
        .refused(Op::Write(gone), &own, REMOTE_REFUSED)
        .context("WRITE beyond the end")?;
    env.rc()?
        .read(far.remote(AT), near.sge(AT, 100))
        .context("READ before the end")?;
    near.check(pattern, AT, 100)
        .context("READ before the end")?;
    file.set_len(SIZE as u64)?;
    env.rc()?
        .read(far.remote(5 * PAGE), near.sge(5 * PAGE, 64))
        .context("READ, longer again")?;
    near.check_zero(5 * PAGE, 64)
        .context("READ, longer again")?;
    Ok(())
}

/// A region may ask for more rights than its pages have: the pages decide.
fn read_only(env: &Env, mode: Mode) -> Result<()> {
    let pattern = Pattern::new(5);
    let (near, file) = (env.buffer(mode, SIZE)?, file_with(pattern)?);
    for backing in [Backing::Shared(&file), Backing::Private(&file)] {
        let memory = Mapping::new(SIZE, backing, Protection::Read)?;
        let far = env.cover(mode, memory, Access::ALL)?;
        let own = [near.sge(AT, LEN)];
        env.rc()?
            .refused(Op::Write(far.remote(AT)), &own, REMOTE_REFUSED)
            .context("WRITE")?;
        near.memory.advise(0..SIZE, Advice::DontNeed)?;
        env.rc()?
            .read(far.remote(AT), near.sge(AT, LEN))
            .context("READ")?;
        near.check(pattern, AT, LEN).context("READ")?;
        env.rc()?
            .write(far.sge(AT, LEN), near.remote(AT))
            .context("WRITE from it")?;
        env.rc()?
            .refused(
                Op::Read(near.remote(AT)),
                &[far.sge(AT, LEN)],
                LOCAL_REFUSED,
            )
            .context("READ into it")?;
        far.check(pattern, 0, SIZE).context("its content")?;
    }
    Ok(())
}

/// Moves odd messages across `far`, in the middle and over the boundary of huge pages.
fn exercise(env: &Env, mode: Mode, far: &Buffer) -> Result<()> {
    let (near, link) = (env.buffer(mode, 1 << 20)?, env.rc()?);
    let pieces = [
        (0, 5000),
        (HUGE_PAGE - 9999, 30_001),
        (HUGE_PAGE + 77_777, 300_000),
    ];
    for (seed, (at, len)) in pieces.into_iter().enumerate() {
        let context = || format!("{len} bytes at {at:#x}");
        let pattern = Pattern::new(seed as u64);
        near.fill(pattern, 0, len);
        link.write(near.sge(0, len), far.remote(at))
            .with_context(context)?;
        far.check_from(pattern, 0, at, len).with_context(context)?;
        near.memory.write(0, &vec![0; len]);
        link.read(far.remote(at), near.sge(0, len))
            .with_context(context)?;
        near.check(pattern, 0, len).with_context(context)?;
    }
    Ok(())
}

fn huge_pages(env: &Env, mode: Mode) -> Result<()> {
    for touched in [true, false] {
        let memory = anonymous(4 * HUGE_PAGE)?;
        memory.advise(0..4 * HUGE_PAGE, Advice::HugePage)?;
        if touched {
            (0..4).for_each(|i| memory.write(i * HUGE_PAGE, &[0]));
        }
        let far = env.cover(mode, memory, Access::ALL)?;
        exercise(env, mode, &far).with_context(|| format!("touched before: {touched}"))?;
    }
    Ok(())
}

/// Parts of huge pages are taken away, protected and thrown away.
fn huge_pages_split(env: &Env, mode: Mode) -> Result<()> {
    let memory = anonymous(4 * HUGE_PAGE)?;
    memory.advise(0..4 * HUGE_PAGE, Advice::HugePage)?;
    let (pattern, far) = (Pattern::new(6), env.cover(mode, memory, Access::ALL)?);
    far.fill(pattern, 0, 4 * HUGE_PAGE);
    let (near, link) = (env.buffer(mode, 4 * HUGE_PAGE)?, env.rc()?);
    let page = |n: usize| HUGE_PAGE + n * PAGE..HUGE_PAGE + (n + 1) * PAGE;
    let read = |n: usize| link.read(far.remote(page(n).start), near.sge(0, PAGE));
    let right = |n: usize| near.check_from(pattern, page(n).start, 0, PAGE);
    read(3)?;
    right(3)?;
    far.memory.advise(page(3), Advice::DontNeed)?;
    read(3)?;
    near.check_zero(0, PAGE).context("the page thrown away")?;
    read(4)?;
    right(4).context("the page beside it")?;
    far.memory.protect(page(7), Protection::Read)?;
    far.memory.unmap(page(9))?;
    let own = [near.sge(0, 100)];
    env.rc()?
        .refused(Op::Write(far.remote(page(7).start)), &own, REMOTE_REFUSED)?;
    env.rc()?
        .refused(Op::Read(far.remote(page(9).start)), &own, REMOTE_REFUSED)?;
    for n in [0, 6, 7, 8, 10, 511] {
        read(n)?;
        right(n).with_context(|| format!("page {n}"))?;
    }
    Ok(())
}

fn huge_pages_reserved(env: &Env, mode: Mode) -> Result<()> {
    let memory = Mapping::new(4 * HUGE_PAGE, Backing::HugeTlb, Protection::ReadWrite);
    let memory = memory.map_err(|e| skip(format!("no huge pages in the pool: {e}")))?;
    let far = env.cover(mode, memory, Access::ALL)?;
    exercise(env, mode, &far)?;
    if mode != Mode::Pinned {
        far.memory
            .advise(HUGE_PAGE..2 * HUGE_PAGE, Advice::DontNeed)?;
        let near = env.buffer(mode, PAGE)?;
        env.rc()?
            .read(far.remote(HUGE_PAGE + 77), near.sge(0, 1000))?;
        near.check_zero(0, 1000)
            .context("a huge page thrown away")?;
    }
    Ok(())
}

/// A region over a range that has a hole from the start.
fn partly_unmapped(env: &Env, mode: Mode) -> Result<()> {
    let (near, memory) = (env.buffer(mode, SIZE)?, anonymous(SIZE)?);
    memory.unmap(3 * PAGE..5 * PAGE)?;
    let far = env.cover(mode, memory, Access::ALL)?;
    for (at, len) in [
        (0, 3 * PAGE),
        (5 * PAGE, 3 * PAGE),
        (3 * PAGE - 9, 9),
        (5 * PAGE, 1),
    ] {
        let (link, pattern) = (env.rc()?, Pattern::new(at as u64));
        near.fill(pattern, 0, len);
        link.write(near.sge(0, len), far.remote(at))
            .context("beside the hole")?;
        far.check_from(pattern, 0, at, len)
            .context("beside the hole")?;
    }
    for at in [3 * PAGE - 1, 3 * PAGE, 4 * PAGE + 5, 5 * PAGE - 1] {
        let context = || format!("two bytes at {at}");
        let op = Op::Write(far.remote(at));
        env.rc()?
            .refused(op, &[near.sge(0, 2)], REMOTE_REFUSED)
            .with_context(context)?;
    }
    Ok(())
}

fn mapped_later(env: &Env, mode: Mode) -> Result<()> {
    let near = env.buffer(mode, SIZE)?;
    let memory = Mapping::new(SIZE, Backing::Vacant, Protection::None)?;
    let far = env.cover(mode, memory, Access::ALL)?;
    let own = [near.sge(0, 64)];
    let pattern = Pattern::new(8);
    env.rc()?
        .refused(Op::Write(far.remote(AT)), &own, REMOTE_REFUSED)
        .context("not yet mapped")?;
    far.memory
        .map(0..SIZE, Backing::Anonymous, Protection::ReadWrite)?;
    near.fill(pattern, AT, LEN);
    env.rc()?
        .write(near.sge(AT, LEN), far.remote(AT))
        .context("mapped")?;
    far.check(pattern, AT, LEN).context("mapped")?;
    Ok(())
}

/// One message across pages that each are a mapping of their own.
fn many_small_mappings(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 64 * PAGE)?, env.buffer(mode, 64 * PAGE)?);
    for page in (0..64).step_by(2) {
        far.memory
            .advise(page * PAGE..(page + 1) * PAGE, Advice::NoHugePage)?;
    }
    let (link, pattern, len) = (env.rc()?, Pattern::new(9), 63 * PAGE);
    near.fill(pattern, 1, len);
    link.write(near.sge(1, len), far.remote(1))?;
    far.check(pattern, 1, len).context("WRITE")?;
    near.memory.advise(0..64 * PAGE, Advice::DontNeed)?;
    link.read(far.remote(1), near.sge(1, len))?;
    near.check(pattern, 1, len).context("READ")?;
    Ok(())
}
