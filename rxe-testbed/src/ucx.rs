// SPDX-License-Identifier: GPL-2.0
//! UCX for the guest.
//!
//! The guest's suite has UCX without InfiniBand (1.23.0~rc1), the chroot's has it with it. Its packages cannot be
//! installed in the guest: they depend on much that nobody needs here, GPUs for instance. So what `ucx_perftest`
//! takes is unpacked into a directory of its own.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::build::World;
use crate::cache::Key;
use crate::chroot::Bind;
use crate::process;
use crate::session::Put;
use crate::ui::Step;

/// UCX, and what its programs are linked with.
const PACKAGES: &[&str] = &[
    "ucx-utils",
    "libucx0",
    "libopenmpi40",
    "libpmix2t64",
    "libhwloc15",
    "libevent-core-2.1-7t64",
    "libevent-pthreads-2.1-7t64",
    "libmunge2",
    "libpsm2-2",
    "libnuma1",
    "libgomp1",
];

const COLLECT: &str = include_str!("../scripts/collect-ucx.sh");

/// UCX and its place in the guest, where `ucx` looks for it.
pub(crate) fn put(world: &World) -> Result<Put> {
    Ok(Put {
        host: ensure(world)?,
        guest: "/opt/ucx".into(),
    })
}

fn ensure(world: &World) -> Result<PathBuf> {
    let _building = world.cache.lock_build()?;
    let key = Key::builder()
        .add("chroot", world.chroot.key().as_str())
        .add_script("script", COLLECT)
        .add("packages", PACKAGES.join(","))
        .finish();
    world.cache.ensure("ucx", &key, |target| {
        let step = Step::start("downloading UCX");
        let binds = [Bind::write(target, "/build/out")];
        let command = world.chroot.script(&binds, COLLECT, PACKAGES);
        process::run_logged(command, &world.cache.log("ucx"), &step).context("downloading UCX")?;
        step.done();
        Ok(())
    })
}
