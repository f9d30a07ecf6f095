// SPDX-License-Identifier: GPL-2.0
//! What tests of a device's view of memory share, with a NIC or without.
//!
//! - [`command`]: other programs.
//! - [`memory`]: address ranges whose pages can be given and taken while a device uses them.
//! - [`mm`]: the system calls beneath that.
//! - [`pattern`]: bytes that depend on their position, so that a misplaced byte is found out.
//! - [`patience`]: time limits, longer where the kernel is slow.
//! - [`process`]: other processes, that live, die and talk over pipes.
//! - [`slow_file`]: a file whose pages come when a test wants them to.
//! - [`userfault`]: memory whose pages this process brings itself.
//! - [`userfaultfd`]: the file beneath that, and its other kinds of faults.

pub mod command;
pub mod memory;
pub mod mm;
pub mod patience;
pub mod pattern;
pub mod process;
pub mod slow_file;
pub mod userfault;
pub mod userfaultfd;
