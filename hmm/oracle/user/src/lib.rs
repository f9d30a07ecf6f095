// SPDX-License-Identifier: GPL-2.0
//! What `hmm-diff` and `hmm-mirror` share.

pub mod command;
pub mod userfault;

/// Bytes in a page.
pub const PAGE: usize = 4096;
