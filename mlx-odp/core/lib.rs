// SPDX-License-Identifier: GPL-2.0

//! The ODP driver's logic, free of the kernel: safe Rust that cargo tests on the host and Kbuild links into
//! `mlx_odp.ko`.
#![no_std]
