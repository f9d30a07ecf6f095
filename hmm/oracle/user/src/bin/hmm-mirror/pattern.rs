// SPDX-License-Identifier: GPL-2.0
//! Bytes that depend on their position, so that a byte from the wrong place does not go unnoticed.

use anyhow::{bail, Result};

/// An endless sequence of bytes; those of different seeds have nothing in common. No byte is 0, which
/// is what fresh memory holds.
#[derive(Clone, Copy)]
pub(crate) struct Pattern(pub(crate) u64);

impl Pattern {
    fn byte(self, position: u64) -> u8 {
        // The finaliser of SplitMix64: every bit of the input moves every bit of the output.
        let mut x = (position + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(self.0.wrapping_mul(0xd134_2543_de82_ef95));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) as u8).max(1)
    }

    /// The `len` bytes from `position` on.
    pub(crate) fn bytes(self, position: u64, len: usize) -> Vec<u8> {
        let positions = position..position + len as u64;
        positions.map(|position| self.byte(position)).collect()
    }

    /// Whether `bytes` are those from `position` on.
    pub(crate) fn check(self, position: u64, bytes: &[u8]) -> Result<()> {
        self.check_each(position, bytes, |found, expected| found == expected)
    }

    /// The same, but each byte may also be 0: fresh memory, not or only partly written.
    pub(crate) fn check_or_zero(self, position: u64, bytes: &[u8]) -> Result<()> {
        self.check_each(position, bytes, |found, expected| {
            found == expected || found == 0
        })
    }

    fn check_each(self, position: u64, bytes: &[u8], right: impl Fn(u8, u8) -> bool) -> Result<()> {
        for (at, found) in (position..).zip(bytes) {
            let expected = self.byte(at);
            if !right(*found, expected) {
                bail!("byte {at} is {found:#04x}, expected {expected:#04x}");
            }
        }
        Ok(())
    }
}

/// Whether all of `bytes` are 0.
pub(crate) fn check_zero(bytes: &[u8]) -> Result<()> {
    match bytes.iter().position(|byte| *byte != 0) {
        Some(at) => bail!("byte {at} is {:#04x}, expected 0", bytes[at]),
        None => Ok(()),
    }
}
