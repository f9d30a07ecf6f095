// SPDX-License-Identifier: GPL-2.0
//! What the NIC writes to a shared mapping of a file is in the file: after msync, after the file system was
//! unmounted, and when it is mounted anew, with nothing left in memory.

use std::{fs::File, os::unix::fs::FileExt};

use anyhow::{Context as _, Result};
use odp_fixture::env::{Env, Mode};
use odp_verbs::Access;
use testkit::{
    memory::{Backing, Mapping, Protection, PAGE},
    pattern::Pattern,
};

use crate::{harness::Test, machine::Disk};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("disk-msync", |env, mode| survives(env, mode, End::Sync)),
    Test::on_demand("disk-written-after-msync", |env, mode| {
        survives(env, mode, End::WriteAfterSync)
    }),
    Test::on_demand("disk-unmapped-first", |env, mode| {
        survives(env, mode, End::UnmapFirst)
    }),
    Test::on_demand("disk-deregistered-first", |env, mode| {
        survives(env, mode, End::DeregisterFirst)
    }),
];

const SIZE: usize = 64 * PAGE;
/// What the NIC writes: odd, and leaving pages of the file alone.
const AT: usize = 3 * PAGE - 7;
const LEN: usize = 41 * PAGE + 99;

/// How the mapping ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Synced, and then given up.
    Sync,
    /// Synced, then written by the NIC again.
    WriteAfterSync,
    /// Unmapped while it is registered, without a sync.
    UnmapFirst,
    /// Deregistered before it is unmapped, without a sync.
    DeregisterFirst,
}

fn mapped(file: &File) -> Result<Mapping> {
    Ok(Mapping::new(
        SIZE,
        Backing::Shared(file),
        Protection::ReadWrite,
    )?)
}

fn survives(env: &Env, mode: Mode, how: End) -> Result<()> {
    let mut disk = Disk::new(32 << 20)?;
    let near = env.buffer(mode, SIZE)?;
    let mut expected = Pattern::new(1).bytes(0, SIZE);
    {
        let file = disk.file("data")?;
        file.write_all_at(&expected, 0)?;
        file.sync_all()?;
    }
    for round in 0..3 {
        let context = || format!("mount {round}");
        let file = disk.file("data")?;
        let far = env.cover(mode, mapped(&file)?, Access::ALL)?;
        let link = env.rc()?;
        // From the disk, through the NIC.
        link.read(far.remote(0), near.sge(0, SIZE))
            .with_context(context)?;
        testkit::pattern::compare(&expected, &near.memory.bytes(0, SIZE))
            .context("what the NIC reads")
            .with_context(context)?;
        let mut write = |seed: u64| -> Result<()> {
            let pattern = Pattern::new(100 * round + seed);
            near.fill(pattern, AT, LEN);
            link.write(near.sge(AT, LEN), far.remote(AT))?;
            pattern.fill(AT as u64, &mut expected[AT..AT + LEN]);
            Ok(())
        };
        write(2).with_context(context)?;
        if matches!(how, End::Sync | End::WriteAfterSync) {
            far.memory.sync(0..SIZE)?;
        }
        if how == End::WriteAfterSync {
            write(3).with_context(context)?;
        }
        let (region, memory) = (far.region, far.memory);
        if how == End::DeregisterFirst {
            drop((region, memory));
        } else {
            drop((memory, region));
        }
        drop((link, file));
        disk.unmount().with_context(context)?;
        disk.mount().with_context(context)?;
        let mut found = vec![0; SIZE];
        disk.file("data")?.read_exact_at(&mut found, 0)?;
        testkit::pattern::compare(&expected, &found)
            .context("the file on a fresh mount")
            .with_context(context)?;
    }
    Ok(())
}
