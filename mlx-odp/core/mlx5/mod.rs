// SPDX-License-Identifier: GPL-2.0

//! What the ODP of a ConnectX needs to know of the device: how it reports a page fault, what its work queues and keys
//! look like, and how a translation table is written.
//!
//! Everything here is a function of bytes and numbers. In the order of a fault:
//!
//! * [`page_fault`]: the event queue entry that reports it, and the command that resumes it;
//! * [`refusals`]: whether a fault that does not say so is one of a write;
//! * [`wqe`]: the memory that a WQE needs, if the event names a WQE;
//! * [`mkey`]: the regions that a key leads to through other keys;
//! * [`key_tree`]: the keys that a large region consists of;
//! * [`xlt`]: the entries of the translation table, and the blocks that an update has to write.
//!
//! Bytes come from the device, or from queues that the application can write at any time. So nothing here trusts them,
//! and nothing reads beyond what it was given.
//!
//! Names are those of the mlx5 driver's headers, from which the layouts were taken as facts.

pub mod key_tree;
pub mod mkey;
pub mod page_fault;
pub mod refusals;
pub mod wqe;
pub mod xlt;

/// The `N` bytes at `at`; `None` if there are fewer.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_be_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_be_bytes)
}
