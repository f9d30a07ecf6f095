// SPDX-License-Identifier: GPL-2.0
//! Verbs, memory and processes for programs that put on-demand paging to the test.
//!
//! - [`verbs`]: a thin safe layer over libibverbs, as much of it as these programs use.
//! - [`memory`]: address ranges whose pages can be given and taken while a NIC uses them.
//! - [`pattern`]: bytes that depend on their position, so that a misplaced byte is found out.
//! - [`env`], [`loopback`]: a device, its regions and connected queue pairs, ready for use.
//! - [`peer`]: a process on another host, and queue pairs that are connected to its.
//! - [`patience`]: time limits, longer where the kernel is slow.
//! - [`process`]: other processes, that live, die and talk over pipes.
//! - [`slow_file`]: a file whose pages come when a test wants them to.
//! - [`userfault`]: memory whose pages this process brings itself.
//! - [`waiting`]: who waits for such a page, and what is taken down meanwhile.
//! - [`traffic`]: a process that must not be disturbed.
//! - [`bench`]: what `odp-bench` measures.
//! - [`counters`]: what the driver itself counted.
//! - [`footprint`]: what is left behind in the kernel.
//! - [`uverbs`], [`ring`]: the kernel's own interface, for what libibverbs would not let through.
//!
//! # Why posting work is safe
//!
//! A NIC writes to memory behind the compiler's back, so the layer has to say why that is sound:
//!
//! - A NIC reaches memory only through a key. A key for a range comes from a [`memory::Mapping`],
//!   whose memory is never borrowed as a Rust reference, only copied in and out with volatile
//!   accesses. What a NIC does there is no different from what a device does to its registers.
//! - A key for the whole address space comes from an `unsafe` function, whose caller promises to
//!   use it on such memory only.
//! - Mappings lie in a part of the address space where neither the kernel nor the allocator puts
//!   anything of its own. A hole in a mapping stays a hole.

pub mod bench;
pub mod counters;
pub mod env;
pub mod footprint;
pub mod loopback;
pub mod memory;
pub mod patience;
pub mod pattern;
pub mod peer;
pub mod process;
pub mod ring;
pub mod slow_file;
pub mod traffic;
pub mod userfault;
pub mod uverbs;
pub mod verbs;
pub mod waiting;
