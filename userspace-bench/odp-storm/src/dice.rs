// SPDX-License-Identifier: GPL-2.0
//! Where random choices come from.

/// Random choices. All come from the seed; what the threads make of them depends on their timing.
pub type Dice = rand_chacha::ChaCha8Rng;
