// SPDX-License-Identifier: GPL-2.0
//! A plugin of QEMU that records which code a function of the guest's kernel runs, from its first instruction until it
//! returns, call by call. `cargo testbed trace` loads it, and makes trees of what it writes.
//!
//! QEMU translates the guest's code in blocks without a jump but at the end. [`block`] tells how one ends, [`recorder`]
//! follows calls and returns, [`control`] takes orders on a socket; `plugin` is what QEMU calls.
//!
//! The guest has one processor. A call in which the kernel was interrupted, or went on with another task, is not kept.

mod block;
mod control;
#[cfg(not(test))]
mod plugin;
mod recorder;
