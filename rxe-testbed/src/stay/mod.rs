// SPDX-License-Identifier: GPL-2.0
//! VMs that stay: `up` boots one, `ssh` logs in to it, `down` ends it.
//!
//! `up` starts this program once more (`keep`), which boots the VM and holds on to it: it is all that a VM of `exec`'s has,
//! with what it needs of the cache and the device that it may be connected to. `place` has what the commands know of it.

mod down;
mod keep;
pub(crate) mod place;
mod ssh;
mod up;

pub(crate) use down::run as down;
pub(crate) use ssh::run as ssh;
pub(crate) use up::run as up;
