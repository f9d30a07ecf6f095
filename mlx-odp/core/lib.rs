// SPDX-License-Identifier: GPL-2.0

//! The logic of the ODP driver, independent of the kernel: safe Rust that cargo tests on the host and
//! Kbuild links into `mlx_odp.ko` (`../kernel/mlx_odp.rs` names the same files as its modules).
//!
//! * [`fault`]: a page fault of the NIC, from raised to resumed;
//! * [`resolve`]: brings the pages of a fault in;
//! * [`share`]: limits how many faults and prefetches of one user run at once;
//! * [`key`]: translates a request's iova to a virtual address and checks its bounds;
//! * [`announced`]: the message that the NIC is receiving, so that one fault asks for more of it;
//! * [`advice`]: the advice of `ibv_advise_mr`;
//! * [`parameters`]: the parameters of the module;
//! * [`rnr`]: the timer of an RNR NAK;
//! * [`sge`]: the place of a copy in a scatter-gather list;
//! * [`stats`], [`histogram`]: the counters of a region and of a device.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod advice;
pub mod announced;
pub mod fault;
pub mod histogram;
pub mod key;
pub mod parameters;
pub mod resolve;
pub mod rnr;
pub mod sge;
pub mod share;
pub mod stats;
