// SPDX-License-Identifier: GPL-2.0

//! Page frame numbers, and what a mapping of one allows.

/// The number of a physical page: its physical address divided by the base page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pfn(u64);

impl Pfn {
    /// The frame with number `pfn`.
    #[inline]
    pub const fn new(pfn: u64) -> Self {
        Self(pfn)
    }

    /// The number itself.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The frame `pages` further on.
    #[inline]
    pub const fn add(self, pages: u64) -> Self {
        Self(self.0 + pages)
    }
}

/// What the device is about to do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Write it, or read and write it (an atomic).
    Write,
}

/// What a mapping allows. Whatever is mapped can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Perm {
    /// Reads only.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

impl Perm {
    /// Whether a mapping with these rights serves `access`.
    #[inline]
    pub const fn allows(self, access: Access) -> bool {
        matches!((self, access), (Perm::ReadWrite, _) | (_, Access::Read))
    }

    /// `ReadWrite` if `writable`.
    #[inline]
    pub const fn from_writable(writable: bool) -> Self {
        if writable {
            Perm::ReadWrite
        } else {
            Perm::ReadOnly
        }
    }
}
