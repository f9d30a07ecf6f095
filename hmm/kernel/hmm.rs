// SPDX-License-Identifier: GPL-2.0

//! `hmm.ko`: heterogeneous memory management for drivers written in Rust.
//!
//! A device uses a process's memory at the process's own addresses. Its driver enters pages into the device's
//! page table when the device faults, and removes them before the CPU takes them away. The API, in the order in
//! which a driver needs it:
//!
//! | the driver                                  | with                                                              |
//! |---------------------------------------------|-------------------------------------------------------------------|
//! | names pages                                 | [`PageIndex`], [`PageRange`], [`user_pages`]                      |
//! | keeps its page table under a lock that invalidations take | [`IntervalNotifier`], [`Invalidate`], [`Event`], [`Leaves`] |
//! | says which lock that is                     | [`Spin`], [`Sleep`]                                               |
//! | says what it wants of pages                 | [`Request`], [`Policy`], [`Requests`], [`Owner`]                  |
//! | gives and checks rights                     | [`Access`], [`Perm`], [`Permitted`]                               |
//! | faults                                      | [`fault_until_valid`], [`TimeLimit`], [`FaultError`]              |
//! | gets the result                             | [`ValidRange`], as [`Runs`] or a [`PfnArray`]                     |
//! | reads a result                              | [`Run`], [`PageState`], [`HmmPfn`], [`Memory`], [`Refusal`]       |
//! | repeats a fault itself                      | [`Sequence`], [`Unread`], [`Faulted`], [`Domain`], [`Collect`]    |
//! | lets its device, if it is software, access a page | [`MappedPage`], [`Bytes`], [`mark_dirty`]                   |
//! | maps pages for DMA | [`DmaRange`], [`Mapping`], [`DmaRun`], [`Addressing`], [`Route`], [`Parts`], [`DmaError`]  |
//! | has memory of its own that pages move to    | [`Pool`], [`DeviceMemory`], [`Extent`], [`SystemPages`], [`Huge`] |
//! | takes a page away from the CPU for atomics  | [`make_exclusive`], [`Exclusive`]                                 |
//! | acts as the process                         | [`Owned`], [`Credentials`]                                        |
//!
//! A driver to begin with: `examples/driver/toy.rs`.
//!
//! If the device's page table can be one in the kernel's memory, a [`Mirror`] does most of this:
//! [`Mirror::access`] is the device's access, with faults, limits ([`Limits`], [`Geometry`]) and reports
//! ([`Observer`]). An access that must not wait says so ([`Waiting`]); [`Owned::populate`] then brings the pages
//! in elsewhere. [`Mirror::write_back`] makes sure of what was written to persistent memory.
//!
//! If the device has translations of its own, and has to be waited for until it forgets one, the mirror is made by
//! [`Mirror::on_device`], and [`Mirror::resolve`] serves the device's faults. The driver implements [`MirrorDevice`] and
//! [`DeviceChunk`]: it is told what the device has to have ([`Entries`], [`Translation`]) and to forget ([`Zap`]), and
//! the pages are unmapped for what it says the device has confirmed ([`Zapped`]).
//!
//! The logic is in `../core`, which knows nothing of the kernel and is tested on the host. The same files are
//! modules of this crate. There is no `unsafe` in them.
//!
//! # Units
//!
//! Bytes are `u64`, pages are [`PageIndex`], of [`PAGE_SIZE`] bytes however large the entry that maps them; an
//! *order* is log2 of a number of pages. Frames are [`Pfn`].
//!
//! # Errors
//!
//! A fault fails with a [`FaultError`], which converts to the errno that C's `hmm_range_fault` has for it.
//! Constructors return errnos. Nothing panics on what a user does.
//!
//! # Lock order
//!
//! Outermost first:
//!
//! 1. the mmap lock of the process, held for reading by a fault, for writing by one that has collided
//!    many times; an invalidation comes with it held for writing (`munmap`), with only the area's lock
//!    (`MADV_DONTNEED`) or with none (reclaim);
//! 2. the lock of a page (a folio), where a device takes it exclusively or moves it; an invalidation
//!    may come with it held (reclaim);
//! 3. the lock of an [`IntervalNotifier`]: with [`Spin`] a reader-writer spinlock, shared by accesses of
//!    the device, exclusive for filling after a fault and for invalidations. Nothing sleeps under it. With [`Sleep`] a
//!    mutex: its holder may wait for the device, but for nothing that waits for reclaim;
//! 4. what `set_page_dirty` takes, and the driver's own spinlocks around an access.
//!
//! The reaper of a [`Mirror`]'s chunks holds a mutex of its own outside of 3, as does a fault that makes a chunk of a
//! mirror on a device. A reader of a spinlock of 3 is an RCU reader, too. A fault that must not wait
//! ([`Waiting::Forbidden`]) only tries to take 1.
//!
//! A fault holds 1 while it walks, releases it, and only then takes 3; one that holds 1 for writing
//! releases it under 3. Waiting for an invalidation's end (`mmu_interval_read_begin`) comes after 1,
//! as its start does.

#![deny(clippy::undocumented_unsafe_blocks)]

// The core.
#[path = "../core/addr.rs"]
mod addr;
#[path = "../core/api.rs"]
mod api;
#[path = "../core/collect.rs"]
mod collect;
#[expect(
    unreachable_pub,
    reason = "the tests on the host use more of it than the API has"
)]
#[path = "../core/dma_run.rs"]
mod dma_run;
#[expect(
    unreachable_pub,
    reason = "the tests on the host use more of it than the API has"
)]
#[path = "../core/device_xlt.rs"]
mod device_xlt;
#[path = "../core/event.rs"]
mod event;
#[path = "../core/fence.rs"]
mod fence;
#[expect(
    unreachable_pub,
    reason = "the tests on the host use more of it than the API has"
)]
#[path = "../core/fault_around.rs"]
mod fault_around;
#[expect(
    unreachable_pub,
    reason = "the tests on the host use more of it than the API has"
)]
#[path = "../core/look_around.rs"]
mod look_around;
#[expect(
    unreachable_pub,
    reason = "the tests on the host use more of it than the API has"
)]
#[path = "../core/frames.rs"]
mod frames;
#[path = "../core/geometry.rs"]
mod geometry;
#[path = "../core/pfn.rs"]
mod pfn;
#[path = "../core/pfn_array.rs"]
mod pfn_array;
#[expect(
    unreachable_pub,
    reason = "the tests on the host use more of it than the API has"
)]
#[path = "../core/pmd_pages.rs"]
mod pmd_pages;
#[path = "../core/policy.rs"]
mod policy;
#[expect(
    unreachable_pub,
    reason = "the tests on the host use more of it than the API has"
)]
#[path = "../core/refcount.rs"]
mod refcount;
#[path = "../core/run.rs"]
mod run;
#[path = "../core/runs.rs"]
mod runs;
#[expect(
    unreachable_pub,
    reason = "the tests on the host use more of it than the API has"
)]
#[path = "../core/seq.rs"]
mod seq;
#[expect(
    unreachable_pub,
    reason = "the tests on the host use more of it than the API has"
)]
#[path = "../core/walk.rs"]
mod walk;
#[expect(
    unreachable_pub,
    reason = "the tests on the host use more of it than the API has"
)]
#[path = "../core/xlt.rs"]
mod xlt;

// The side that calls the kernel.
mod charge;
mod chunk;
mod chunk_map;
pub mod compat;
mod credentials;
mod device_memory;
mod device_table;
mod dma;
mod dma_pages;
mod exclusive;
mod file_read;
mod interval;
mod limits;
mod lock_class;
mod mirror;
mod notifier_lock;
mod observer;
mod page;
mod page_table;
mod persistent;
mod pfn_room;
mod populate;
mod process;
mod range;
mod reaper;
mod room;
mod rwlock;
mod table;
mod zeroed;

// The public API, in the order of the table above.
pub use api::*;
pub use interval::{IntervalNotifier, Invalidate, Locked};
pub use notifier_lock::{NotifierLock, Sleep, Spin};
pub use process::user_pages;
pub use range::{fault_until_valid, TimeLimit};
pub use rwlock::{ReadGuard, RwLock, WriteGuard};

pub use page::{is_zero_page, mark_dirty, Bytes, MappedPage};

pub use limits::Limits;
pub use mirror::Mirror;
pub use table::{Backing, Software};
pub use observer::{Observer, Removal};

pub use credentials::{Credentials, TakenOn};
pub use populate::Owned;

pub use dma::{Addressing, DmaError, DmaRange, Mapping};

pub use device_table::{MirrorDevice, OnDevice};

pub use device_memory::{DeviceMemory, Extent, Huge, Pool, SystemPages};
pub use exclusive::{make_exclusive, Exclusive};

/// Not part of the API: `hmm_oracle.ko` measures the table of a chunk by itself.
#[doc(hidden)]
pub use xlt::{Filled, NoRoom, Pages, Room, Slot, Xlt};

#[expect(
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    reason = "generated by bindgen from shim.h, where the documentation is"
)]
mod shim_bindings;
use shim_bindings as shim;

#[expect(
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    reason = "generated by bindgen from device_shim.h, where the documentation is"
)]
mod device_shim_bindings;
use device_shim_bindings as device_shim;

#[expect(
    dead_code,
    improper_ctypes,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    reason = "generated by bindgen from dma_shim.h, where the documentation is"
)]
mod dma_shim_bindings;
use dma_shim_bindings as dma_shim;

use kernel::prelude::*;

module! {
    type: HmmModule,
    name: "hmm",
    authors: ["hmm-odp"],
    description: "Heterogeneous memory management in Rust",
    license: "GPL v2",
}

// The core does its arithmetic with its own constant, as it knows no kernel.
const _: () = assert!(PAGE_SIZE as usize == kernel::page::PAGE_SIZE);

struct HmmModule;

impl kernel::Module for HmmModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("heterogeneous memory management in Rust\n");
        Ok(Self)
    }
}

impl From<FaultError> for Error {
    /// The errno for each failure, the same as C's `hmm_range_fault` where it has one.
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::Refused(Refusal::NoPage) => EFAULT,
            FaultError::Refused(Refusal::Forbidden) => EPERM,
            FaultError::Collided => EBUSY,
            FaultError::TimedOut => ETIMEDOUT,
            FaultError::Exited => ESRCH,
            FaultError::NoMemory => ENOMEM,
            FaultError::Interrupted => EINTR,
            FaultError::WouldWait => EAGAIN,
            FaultError::Device => EIO,
            FaultError::Invalid => EINVAL,
        }
    }
}
