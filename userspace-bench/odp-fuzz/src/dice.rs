// SPDX-License-Identifier: GPL-2.0
//! Where random choices come from.

/// Random choices. All come from the seed: the same seed makes the same requests.
pub type Dice = rand_chacha::ChaCha8Rng;
