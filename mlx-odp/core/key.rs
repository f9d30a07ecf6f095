// SPDX-License-Identifier: GPL-2.0

//! Memory keys: which part of an address space a region covers, and at which iova.
//!
//! A key is explicit, or an implicit parent, which covers the whole address space. mlx5 gives a parent
//! children, keys for the pieces in use. Here these are the chunks of the mirror (`hmm::Mirror`): a fault in
//! their range makes them, and they are freed once they are empty. An explicit key has chunks, too.
//!
//! A request names an iova, an address in the region's own numbering. In an implicit region it is the virtual
//! address; in an explicit one it starts where the application chose at registration.

use hmm::{ByteRange, PageRange};

/// The `length` that registers the whole address space.
pub const IMPLICIT_LENGTH: u64 = u64::MAX;

/// What a region covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// `length` bytes from virtual address `va`.
    Explicit,
    /// The whole address space: an implicit parent.
    Implicit,
}

/// Why a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadKey {
    /// No bytes, or an implicit region with an iova other than 0 (`EINVAL`).
    Meaningless,
    /// The virtual addresses or the iovas overflow 64 bits (`EINVAL`).
    Wraps,
    /// Part of it is outside user space (`EFAULT`).
    NotUser,
}

/// An access that is not within its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

/// The translation from iovas to virtual addresses, and its bounds: what a region was registered with, once it has been
/// checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    kind: KeyKind,
    bytes: ByteRange,
    iova: u64,
    span: PageRange,
}

impl Key {
    /// The key of a registration of `length` bytes from `va`, known to requests as `iova`.
    ///
    /// `va` 0 with `length` [`IMPLICIT_LENGTH`] means an implicit region. `user` is the range of pages that
    /// a process may map.
    pub fn new(va: u64, length: u64, iova: u64, user: PageRange) -> Result<Self, BadKey> {
        if va == 0 && length == IMPLICIT_LENGTH {
            if iova != 0 {
                return Err(BadKey::Meaningless);
            }
            return Ok(Self {
                kind: KeyKind::Implicit,
                bytes: ByteRange::new(va, length).ok_or(BadKey::Wraps)?,
                iova,
                span: user,
            });
        }
        if length == 0 {
            return Err(BadKey::Meaningless);
        }
        let bytes = ByteRange::new(va, length).ok_or(BadKey::Wraps)?;
        ByteRange::new(iova, length).ok_or(BadKey::Wraps)?;
        let pages = bytes.pages();
        if pages.intersection(&user) != pages {
            return Err(BadKey::NotUser);
        }
        Ok(Self {
            kind: KeyKind::Explicit,
            bytes,
            iova,
            span: pages,
        })
    }

    /// What the region covers.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The pages of the region; for an implicit region, all of user space.
    pub fn span(&self) -> PageRange {
        self.span
    }

    /// The bytes of the region, by their virtual addresses.
    pub fn bytes(&self) -> ByteRange {
        self.bytes
    }

    /// The address by which requests name the first byte.
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// The `len` bytes from `iova`, by their virtual addresses, if they are all in the region. Later steps need
    /// not check again.
    #[inline]
    pub fn translate(&self, iova: u64, len: u64) -> Result<ByteRange, OutOfRange> {
        let offset = iova.checked_sub(self.iova).ok_or(OutOfRange)?;
        self.bytes.part(offset, len).ok_or(OutOfRange)
    }

    /// What the region has of the `len` bytes from `iova`, by their virtual addresses; `None` if that is nothing.
    pub fn clip(&self, iova: u64, len: u64) -> Option<ByteRange> {
        let end = iova.saturating_add(len);
        let start = iova.max(self.iova);
        let len = end
            .min(self.iova.saturating_add(self.bytes.len()))
            .checked_sub(start)?;
        let bytes = self.bytes.part(start - self.iova, len)?;
        (len > 0).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmm::PageIndex;

    const USER: PageRange = PageRange::new(PageIndex::new(0), PageIndex::new(1 << 35));

    #[test]
    fn an_explicit_key_translates_its_bytes_and_no_others() {
        let key = Key::new(0x7000_0123, 0x2000, 0xffff_ffff_0000_0123, USER).unwrap();
        assert_eq!(key.kind(), KeyKind::Explicit);
        assert_eq!(key.span().len(), 3);
        let bytes = |start, len| Ok(ByteRange::new(start, len).unwrap());
        assert_eq!(
            key.translate(0xffff_ffff_0000_0123, 0x2000),
            bytes(0x7000_0123, 0x2000)
        );
        assert_eq!(
            key.translate(0xffff_ffff_0000_0124, 0x1fff),
            bytes(0x7000_0124, 0x1fff)
        );
        assert_eq!(
            key.translate(0xffff_ffff_0000_0124, 0x2000),
            Err(OutOfRange)
        );
        assert_eq!(key.translate(0xffff_ffff_0000_0122, 1), Err(OutOfRange));
        assert_eq!(key.translate(0, 1), Err(OutOfRange));
        assert_eq!(key.translate(u64::MAX, u64::MAX), Err(OutOfRange));
    }

    #[test]
    fn an_implicit_key_is_the_address_space() {
        let key = Key::new(0, IMPLICIT_LENGTH, 0, USER).unwrap();
        assert_eq!(key.kind(), KeyKind::Implicit);
        let page = ByteRange::new(0x7fff_ffff_f000, 4096).unwrap();
        assert_eq!(key.translate(page.start(), 4096), Ok(page));
        assert_eq!(key.translate(u64::MAX, 1), Err(OutOfRange));
        assert!(key.span().contains(PageIndex::containing(0x7fff_ffff_f000)));
        assert_eq!(
            Key::new(0, IMPLICIT_LENGTH, 4096, USER),
            Err(BadKey::Meaningless)
        );
    }

    #[test]
    fn keys_that_make_no_sense_are_refused() {
        let user_end = USER.end().addr();
        let cases = [
            ((4096, 0, 4096), BadKey::Meaningless),
            ((4096, u64::MAX, 4096), BadKey::Wraps),
            ((4096, 8192, u64::MAX - 4096), BadKey::Wraps),
            ((user_end - 4096, 4097, 0), BadKey::NotUser),
            ((0xffff_8000_0000_0000, 4096, 0), BadKey::NotUser),
        ];
        for ((va, length, iova), why) in cases {
            assert_eq!(
                Key::new(va, length, iova, USER),
                Err(why),
                "{va:#x} {length:#x} {iova:#x}"
            );
        }
        assert!(Key::new(user_end - 4096, 4096, 0, USER).is_ok());
        assert!(Key::new(4096, 4096, u64::MAX - 4095, USER).is_ok());
    }

    #[test]
    fn what_a_region_has_of_a_range() {
        let user = PageRange::covering(0, 1 << 47).unwrap();
        let key = Key::new(0x10_0456, 0x2000, 0x7456, user).unwrap();
        assert_eq!(key.clip(0x7000, 0x1000), ByteRange::new(0x10_0456, 0xbaa));
        assert_eq!(key.clip(0x8000, 0x1000), ByteRange::new(0x10_1000, 0x1000));
        assert_eq!(key.clip(0x9000, 0x5000), ByteRange::new(0x10_2000, 0x456));
        assert_eq!(key.clip(0, u64::MAX), ByteRange::new(0x10_0456, 0x2000));
        for (iova, len) in [
            (0x7000, 0x456),
            (0x9456, 1),
            (u64::MAX, u64::MAX),
            (0x8000, 0),
        ] {
            assert_eq!(key.clip(iova, len), None, "{iova:#x}, {len:#x}");
        }
        let whole = Key::new(0, IMPLICIT_LENGTH, 0, user).unwrap();
        assert_eq!(whole.clip(5, 7), ByteRange::new(5, 7));
    }
}
