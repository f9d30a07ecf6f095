// SPDX-License-Identifier: GPL-2.0

//! The logic of the ODP driver, independent of the kernel: safe Rust that cargo tests on the host and
//! Kbuild links into `mlx_odp.ko` (`../kernel/mlx_odp.rs` names the same files as its modules).
//!
//! * [`fault`]: a page fault of the NIC, from raised to resumed;
//! * [`resolve`]: brings the pages of a fault in;
//! * [`job_quota`]: limits how many faults and prefetches of one user run at once;
//! * [`key`]: translates a request's iova to a virtual address and checks its bounds;
//! * [`advice`]: the advice of `ibv_advise_mr`;
//! * [`mlx5`]: what a ConnectX says and is told: its fault events, WQEs, keys and translation tables;
//! * [`parameters`]: the parameters of the module;
//! * [`rxe`]: what soft-RoCE checks and keeps of requests and messages;
//! * [`stats`], [`histogram`]: the counters of a region and of a device.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod advice;
pub mod fault;
pub mod histogram;
pub mod job_quota;
pub mod key;
pub mod mlx5;
pub mod parameters;
pub mod resolve;
pub mod rxe;
pub mod stats;
