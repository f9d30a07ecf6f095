// SPDX-License-Identifier: GPL-2.0

//! `mlx_odp.ko`: on-demand paging for RDMA, on top of `hmm.ko`.
//!
//! A [`region::Region`] is what an application has registered with `IBV_ACCESS_ON_DEMAND`: a key and
//! a mirror. A binding for each kind of NIC (`../nic`) asks the region for bytes when the NIC wants
//! them; the region does the rest. A [`device::Device`] is what the regions of one NIC have in common.
//!
//! The logic is in `../core`, which knows nothing of the kernel and is tested on the host. The same
//! files are modules of this crate.
//!
//! The locks that matter are hmm's; see the lock order in its `hmm.rs`. Two mutexes of this module are
//! outside of that order: nothing of hmm's is called under them. `debugfs::ROOT` is for the directory of the
//! module, `Device::regions` for the list of a device's regions; neither is taken under the other.

#![deny(clippy::undocumented_unsafe_blocks)]

#[path = "../core/advice.rs"]
pub mod advice;
#[path = "../core/announced.rs"]
pub mod announced;
#[path = "../core/fault.rs"]
pub mod fault;
#[path = "../core/histogram.rs"]
pub mod histogram;
#[path = "../core/key.rs"]
pub mod key;
#[path = "../core/resolve.rs"]
pub mod resolve;
#[path = "../core/sge.rs"]
pub mod sge;
#[path = "../core/stats.rs"]
pub mod stats;

pub mod debugfs;
pub mod device;
mod observer;
pub mod region;
mod trace;

use kernel::prelude::*;

module! {
    type: MlxOdpModule,
    name: "mlx_odp",
    authors: ["hmm-odp"],
    description: "On-demand paging for RDMA in Rust",
    license: "GPL v2",
}

struct MlxOdpModule {
    _debugfs: debugfs::Root,
}

impl kernel::Module for MlxOdpModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("on-demand paging for RDMA in Rust\n");
        Ok(Self {
            // SAFETY: The module is loaded once, and users of it come later.
            _debugfs: unsafe { debugfs::Root::new() },
        })
    }
}
