// SPDX-License-Identifier: GPL-2.0

//! HMM's logic, free of the kernel: safe Rust that cargo tests on the host and Kbuild links into
//! `hmm.ko` (`../kernel/hmm.rs` names the same files as its modules).
//!
//! A fault of a device passes through these files in this order:
//!
//! | file              | what it decides                                                     |
//! |-------------------|---------------------------------------------------------------------|
//! | `addr.rs`         | which pages are meant                                               |
//! | `seq.rs`          | from when on the result may be trusted, and whether it still may    |
//! | `walk.rs`         | what the CPU's page table holds, page by page                       |
//! | `policy.rs`       | whether a page is reported as it is, faulted in, or refused         |
//! | `pmd_pages.rs`    | how the pages found are put together; for other drivers `runs.rs` and `pfn_array.rs` |
//! | `fault_around.rs` | how many resident pages that follow are mapped, too                 |
//! | `xlt.rs`          | what the device may use from then on                                |
//!
//! A device with translations of its own has a copy of that table: `device_xlt.rs` keeps both the same, and `fence.rs`
//! has the order in which pages leave it.
//!
//! `frames.rs` keeps the free pages of a device's own memory, `dma_run.rs` what is decided about DMA mappings,
//! `geometry.rs` how a mirror is cut into chunks, `refcount.rs` when a chunk may be freed. An invalidation is an
//! [`Event`]; it ends in `Xlt::zap` or `Xlt::write_protect`.
//!
//! The public API is in `api.rs`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod addr;
mod api;
#[cfg(test)]
mod one_page;

pub use api::*;

mod collect;
mod event;
mod fence;
mod geometry;
mod pfn;
mod pfn_array;
mod policy;
mod run;
mod runs;

// Used by the kernel side, which this crate does not have. Public, so that they are no dead code here.
#[doc(hidden)]
pub mod device_xlt;
#[doc(hidden)]
pub mod dma_run;
#[doc(hidden)]
pub mod fault_around;
#[doc(hidden)]
pub mod frames;
#[doc(hidden)]
pub mod look_around;
#[doc(hidden)]
pub mod pmd_pages;
#[doc(hidden)]
pub mod refcount;
#[doc(hidden)]
pub mod seq;
#[doc(hidden)]
pub mod walk;
#[doc(hidden)]
pub mod xlt;
