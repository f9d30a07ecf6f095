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
#[path = "../core/parameters.rs"]
pub mod parameters;
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

use hmm::compat::parameter;
use kernel::prelude::*;

use parameters::Parameters;

module! {
    type: MlxOdpModule,
    name: "mlx_odp",
    authors: ["hmm-odp"],
    description: "On-demand paging for RDMA in Rust",
    license: "GPL v2",
    params: {
        fault_around: u32 {
            default: crate::parameters::Parameters::DEFAULT.fault_around,
            description: "Resident pages that may come along with a page fault when the NIC goes through memory in order: 0 to 512 (default 512)",
        },
        chunk_size: u32 {
            default: crate::parameters::Parameters::DEFAULT.chunk_size,
            description: "MiB of addresses in each chunk (child) of a region: a power of two from 2 to 1024 (default 128)",
        },
        fault_workers: u32 {
            default: crate::parameters::Parameters::DEFAULT.fault_workers,
            description: "Page faults of one region that are served at once: 1 to 512, or 0 for no limit (default 0)",
        },
        prefetch_workers: u32 {
            default: crate::parameters::Parameters::DEFAULT.prefetch_workers,
            description: "Prefetches in the background that run at once: 1 to 32 (default 4)",
        },
        region_memory: u32 {
            default: crate::parameters::Parameters::DEFAULT.region_memory,
            description: "MiB of kernel memory for the translations of each region: 1 to 1048576 and at least chunk_size/128, or 0 for a 128th of the machine's memory (default 0)",
        },
    },
}

/// The parameters with which the module was loaded.
pub fn parameters() -> Parameters {
    Parameters {
        fault_around: parameter(&module_parameters::fault_around),
        chunk_size: parameter(&module_parameters::chunk_size),
        fault_workers: parameter(&module_parameters::fault_workers),
        prefetch_workers: parameter(&module_parameters::prefetch_workers),
        region_memory: parameter(&module_parameters::region_memory),
    }
}

struct MlxOdpModule {
    _debugfs: debugfs::Root,
}

impl kernel::Module for MlxOdpModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let parameters = parameters();
        if let Err(bad) = parameters.check() {
            pr_err!("{}\n", format_args!("{bad}"));
            return Err(EINVAL);
        }
        pr_info!("on-demand paging for RDMA in Rust\n");
        Ok(Self {
            // SAFETY: The module is loaded once, and users of it come later.
            _debugfs: unsafe { debugfs::Root::new(parameters)? },
        })
    }
}
