// SPDX-License-Identifier: GPL-2.0

//! HMM's logic, free of the kernel: safe Rust that cargo tests on the host and Kbuild links into
//! `hmm.ko` (`../kernel/hmm.rs` names the same files as its modules).
//!
//! A device fault passes through here in this order:
//!
//! | module     | what it decides                                                        |
//! |------------|------------------------------------------------------------------------|
//! | [`addr`]   | which pages are meant                                                  |
//! | [`seq`]    | from when on the result may be trusted, and whether it still may       |
//! | [`walk`]   | what the CPU page table says, page by page                             |
//! | [`policy`] | whether a page is reported as it is, faulted in, or refused            |
//! | [`pmd_pages`] | how the pages found are put together ([`run`], [`pfn_array`])               |
//! | [`fault_around`] | how many resident pages after them are mapped, too                     |
//! | [`xlt`]  | what the device is allowed to use from then on                         |
//!
//! Which pages of a device's own memory are free is known to [`frames`]; where a device that uses DMA
//! finds the CPU's pages, to [`dma_run`]. How a mirror is cut into pieces is its [`geometry`].
//!
//! An invalidation is an [`event`] that ends in [`xlt::Xlt::zap`] or in
//! [`xlt::Xlt::write_protect`].
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod collect;
pub mod dma_run;
pub mod event;
pub mod fault_around;
pub mod frames;
pub mod geometry;
#[cfg(test)]
mod one_page;
pub mod pfn;
pub mod pfn_array;
pub mod pmd_pages;
pub mod policy;
pub mod refcount;
pub mod run;
pub mod runs;
pub mod seq;
pub mod walk;
pub mod xlt;
