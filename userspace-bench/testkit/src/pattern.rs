// SPDX-License-Identifier: GPL-2.0
//! Bytes that depend on their position.
//!
//! A driver that reads the right number of bytes from the wrong place passes every test whose
//! data is uniform. Here each byte is a function of a seed and an absolute position, and a
//! check names the first byte that is wrong.

use std::fmt;

/// An endless sequence of bytes, one for each position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    seed: u64,
}

/// The first byte that was not what the pattern says, and how many there were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mismatch {
    /// Where the first wrong byte is, relative to the start of the checked bytes.
    pub offset: usize,
    /// Its position in the pattern.
    pub position: u64,
    /// What should be there.
    pub expected: u8,
    /// What is there.
    pub found: u8,
    /// How many bytes are wrong in all.
    pub wrong: usize,
    /// How many bytes were checked.
    pub checked: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "byte {} is {:#04x}, expected {:#04x} ({} of {} bytes wrong)",
            self.offset, self.found, self.expected, self.wrong, self.checked
        )
    }
}

impl Pattern {
    /// The pattern of `seed`. Patterns of different seeds have nothing in common.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Eight bytes at once: those at `8 * index` and the seven positions after it.
    fn word(self, index: u64) -> [u8; 8] {
        // The finaliser of SplitMix64: every bit of the input moves every bit of the output.
        let mut x = index
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(self.seed.wrapping_mul(0xd134_2543_de82_ef95));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)).to_le_bytes()
    }

    /// The byte at `position`.
    pub fn byte(self, position: u64) -> u8 {
        self.word(position / 8)[(position % 8) as usize]
    }

    /// Fills `bytes` with what belongs at `position` and after.
    pub fn fill(self, position: u64, bytes: &mut [u8]) {
        let skip = (position % 8) as usize;
        let head = bytes.len().min((8 - skip) % 8);
        let (head, rest) = bytes.split_at_mut(head);
        if skip > 0 {
            head.copy_from_slice(&self.word(position / 8)[skip..skip + head.len()]);
        }
        let mut index = position.div_ceil(8);
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word(index));
            index += 1;
        }
        let tail = words.into_remainder();
        tail.copy_from_slice(&self.word(index)[..tail.len()]);
    }

    /// `len` bytes of the pattern from `position` on.
    pub fn bytes(self, position: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(position, &mut bytes);
        bytes
    }

    /// Checks that `bytes` are what belongs at `position` and after.
    pub fn check(self, position: u64, bytes: &[u8]) -> Result<(), Mismatch> {
        compare(&self.bytes(position, bytes.len()), bytes).map_err(|m| Mismatch {
            position: position + m.offset as u64,
            ..m
        })
    }

    /// The same, but each byte may also be 0: fresh memory, not or only partly written.
    pub fn check_or_zero(self, position: u64, bytes: &[u8]) -> Result<(), Mismatch> {
        let written = self.bytes(position, bytes.len());
        let pairs = written.into_iter().zip(bytes);
        let expected: Vec<_> = pairs.map(|(w, b)| if *b == 0 { 0 } else { w }).collect();
        compare(&expected, bytes).map_err(|m| Mismatch {
            position: position + m.offset as u64,
            ..m
        })
    }
}

/// Checks that `found` is `expected`, which are of one length.
pub fn compare(expected: &[u8], found: &[u8]) -> Result<(), Mismatch> {
    if expected == found {
        return Ok(());
    }
    let wrong = |(e, f): &(&u8, &u8)| e != f;
    let pairs = || expected.iter().zip(found);
    let offset = pairs()
        .position(|p| wrong(&p))
        .unwrap_or(expected.len().min(found.len()));
    Err(Mismatch {
        offset,
        position: offset as u64,
        expected: expected.get(offset).copied().unwrap_or(0),
        found: found.get(offset).copied().unwrap_or(0),
        wrong: pairs().filter(wrong).count(),
        checked: found.len(),
    })
}

/// Checks that every byte is zero.
pub fn check_zero(bytes: &[u8]) -> Result<(), Mismatch> {
    if bytes.iter().all(|&b| b == 0) {
        return Ok(());
    }
    compare(&vec![0; bytes.len()], bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_the_same_wherever_it_is_cut() {
        let pattern = Pattern::new(7);
        let whole = pattern.bytes(0, 300);
        for start in 0..40 {
            for len in 0..40 {
                assert_eq!(pattern.bytes(start as u64, len), whole[start..start + len]);
            }
        }
        assert_eq!(pattern.byte(123), whole[123]);
    }

    #[test]
    fn a_shift_by_any_packet_or_page_is_noticed() {
        let pattern = Pattern::new(1);
        for shift in [1, 7, 8, 256, 1024, 4096, 1 << 21] {
            assert!(pattern.check(0, &pattern.bytes(shift, 64)).is_err());
        }
    }

    #[test]
    fn a_mismatch_names_the_first_wrong_byte() {
        let pattern = Pattern::new(3);
        let mut bytes = pattern.bytes(1000, 50);
        bytes[17] ^= 1;
        bytes[30] ^= 1;
        let m = pattern.check(1000, &bytes).unwrap_err();
        assert_eq!(
            (m.offset, m.position, m.wrong, m.checked),
            (17, 1017, 2, 50)
        );
        assert_eq!(m.found, m.expected ^ 1);
    }
}
