// SPDX-License-Identifier: GPL-2.0
//! UCX for the guest.
//!
//! The guest's suite has UCX without InfiniBand (1.23.0~rc1), the chroot's has it with it. Its packages cannot be
//! installed in the guest: they depend on much that nobody needs here, GPUs for instance. So what `ucx_perftest`
//! takes is unpacked into a directory of its own.

use anyhow::Result;

use crate::build::World;
use crate::session::Put;

/// What the cache calls it.
const KIND: &str = "ucx";

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

/// UCX and its place in the guest, where `ucx` looks for it.
pub(crate) fn put(world: &World) -> Result<Put> {
    Ok(Put {
        host: world.chroot.unpacked(&world.cache, KIND, PACKAGES)?,
        guest: "/opt/ucx".into(),
    })
}
