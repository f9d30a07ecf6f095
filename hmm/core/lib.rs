// SPDX-License-Identifier: GPL-2.0

//! HMM's logic, free of the kernel: safe Rust that cargo tests on the host and Kbuild links into
//! `hmm.ko`.
#![no_std]
