// SPDX-License-Identifier: GPL-2.0
//! An emulated ConnectX-5 on which the stock `mlx5_core` and `mlx5_ib` run, behind QEMU's `vfio-user-pci`.
//!
//! It models no silicon: it is what drivers say to a device and expect of it, from the interface's public header and
//! the open drivers. What it knows and what not is in the book's chapter on it (`docs/src/hca.md`).
//!
//! [`front`] is the server; [`Device`] is what it serves, and knows nothing of it. [`layout`] declares the structures
//! of the interface, [`memory`] is the guest's memory, [`trace`] tells what happens and what was wrong.
//!
//! A write of the driver's goes from `front` to `bar`, which makes it an [`Event`], and with that to `dispatch` in the
//! device's thread. From there `command` executes commands, and `engine` lets queue pairs work: `requester` and
//! `responder` are their ends. All of these change what `device` holds: the objects (`eq`, `cq`, `srq`, `qp`, `mkey` and
//! others), which know nothing of it.

mod access;
mod adversary;
mod bar;
mod bus;
pub mod clock;
mod command;
mod completion;
mod control;
mod counters;
mod cq;
mod data;
mod datagram;
mod device;
mod dispatch;
mod dynamic;
mod engine;
mod entries;
mod eq;
mod fabric;
mod faults;
mod flush;
pub mod front;
mod hold;
mod indirect;
mod invalidate;
mod invent;
pub mod layout;
pub mod memory;
mod message;
mod mkey;
mod on_demand;
mod pages;
mod pci;
mod port;
mod profile;
mod qp;
mod receive;
mod requester;
mod responder;
mod ring;
mod segment;
mod service;
mod srq;
mod status;
mod subnet;
mod table;
pub mod trace;
mod translate;
mod umem;
mod umr;
mod wqe;

pub use adversary::{Script, ScriptError};
pub use bar::{Event, Registers};
pub use device::{Device, Options};
pub use profile::{Profile, PROFILES};
pub use subnet::{Arrival, Subnet};

#[cfg(test)]
mod tests;
