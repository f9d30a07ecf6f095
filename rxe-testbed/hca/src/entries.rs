// SPDX-License-Identifier: GPL-2.0
//! The translation of a memory key: bytes of which only those are kept that somebody has written. What was never
//! written reads as zeroes.

use std::collections::BTreeMap;

/// Bytes that are kept together.
const CHUNK: usize = 4096;

/// A translation.
#[derive(Default)]
pub(crate) struct Entries {
    chunks: BTreeMap<usize, Box<[u8; CHUNK]>>,
    end: usize,
}

impl Entries {
    /// Writes bytes from `first` on.
    pub(crate) fn write(&mut self, first: usize, bytes: &[u8]) {
        self.end = self.end.max(first + bytes.len());
        for (chunk, offset, part) in pieces(first, bytes.len()) {
            let new = &bytes[part];
            let kept = self.chunks.contains_key(&chunk);
            // Zeroes are what there is without.
            if kept || new.iter().any(|byte| *byte != 0) {
                let place = self.chunks.entry(chunk);
                let place = place.or_insert_with(|| Box::new([0; CHUNK]));
                place[offset..offset + new.len()].copy_from_slice(new);
            }
        }
    }

    /// The end of what was written, in bytes.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// Reads bytes from `first` on.
    pub(crate) fn read(&self, first: usize, bytes: &mut [u8]) {
        for (chunk, offset, part) in pieces(first, bytes.len()) {
            let place = &mut bytes[part];
            match self.chunks.get(&chunk) {
                Some(kept) => place.copy_from_slice(&kept[offset..offset + place.len()]),
                None => place.fill(0),
            }
        }
    }

    /// The `N` bytes that are entry `index` of a table of such entries.
    pub(crate) fn entry<const N: usize>(&self, index: u64) -> Option<[u8; N]> {
        let first = usize::try_from(index).ok()?.checked_mul(N)?;
        first.checked_add(N)?;
        let mut bytes = [0; N];
        self.read(first, &mut bytes);
        Some(bytes)
    }

    /// All entries of `N` bytes that may be other than zeroes, by their indices.
    pub(crate) fn all<const N: usize>(&self) -> impl Iterator<Item = (u64, [u8; N])> + '_ {
        self.chunks.iter().flat_map(|(chunk, bytes)| {
            let first = chunk * CHUNK / N;
            let entries = bytes.chunks_exact(N).enumerate();
            entries.map(move |(at, bytes)| {
                let mut entry = [0; N];
                entry.copy_from_slice(bytes);
                ((first + at) as u64, entry)
            })
        })
    }
}

/// The chunks that `length` bytes from `first` on are in: each with where it begins in there, and which of the bytes
/// they are.
fn pieces(
    first: usize,
    length: usize,
) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = first + done;
        let offset = at % CHUNK;
        let count = (length - done).min(CHUNK - offset);
        let part = done..done + count;
        done += count;
        (count > 0).then_some((at / CHUNK, offset, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_is_written_is_kept() {
        let mut entries = Entries::default();
        entries.write(1 << 40, &[0; 0x3000]);
        assert_eq!(entries.chunks.len(), 0);
        entries.write((1 << 40) + 8, &[1; 8]);
        assert_eq!(entries.entry::<8>((1 << 37) + 1), Some([1; 8]));
        assert_eq!(entries.entry::<8>(u64::MAX), None);
        entries.write((1 << 40) + 8, &[0; 8]);
        assert_eq!(entries.entry::<8>((1 << 37) + 1), Some([0; 8]));
        assert!(entries.all::<16>().all(|(_, entry)| entry == [0; 16]));
    }

    proptest! {
        #[test]
        fn it_is_an_array(
            writes in prop::collection::vec((0_usize..0x2800, prop::collection::vec(0_u8..3, 0..0x1800)), 1..8),
            at in 0_usize..0x3000, length in 0_usize..0x1000,
        ) {
            let mut model = vec![0; 0x4000];
            let mut entries = Entries::default();
            for (first, bytes) in &writes {
                model[*first..first + bytes.len()].copy_from_slice(bytes);
                entries.write(*first, bytes);
            }
            let mut found = vec![9; length];
            entries.read(at, &mut found);
            prop_assert_eq!(&found, &model[at..at + length]);
            for (index, entry) in entries.all::<8>() {
                let at = index as usize * 8;
                prop_assert_eq!(entry.as_slice(), &model[at..at + 8]);
                model[at..at + 8].fill(0);
            }
            prop_assert!(model.iter().all(|byte| *byte == 0));
        }
    }
}
