// SPDX-License-Identifier: GPL-2.0

//! The ODP driver's logic, free of the kernel: safe Rust that cargo tests on the host and Kbuild
//! links into `mlx_odp.ko` (`../kernel/mlx_odp.rs` names the same files as its modules).
//!
//! * [`fault`]: a page fault of the NIC, which waits for it, until it is resumed;
//! * [`resolve`]: having the page brought in;
//! * [`share`]: how many faults and prefetches of one user wait at once;
//! * [`key`]: from a request's iova to the process's virtual address, bounds included;
//! * [`announced`]: how much of it a message is going to want;
//! * [`advice`]: what `ibv_advise_mr` asks for;
//! * [`parameters`]: what the module can be loaded with;
//! * [`rnr`]: when a requester tries again;
//! * [`sge`]: where in a scatter-gather list a copy is;
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
