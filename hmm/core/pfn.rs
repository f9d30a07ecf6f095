// SPDX-License-Identifier: GPL-2.0

//! Page frame numbers, accesses and rights, kinds of memory and their owners.

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

    /// The frame `pages` after this one.
    #[inline]
    pub const fn add(self, pages: u64) -> Self {
        Self(self.0 + pages)
    }
}

/// An access of the device to a page. A write needs more rights than a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read it.
    Read,
    /// Write it, or read and write it (an atomic).
    Write,
}

/// The rights of a translation. Every translation allows reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Perm {
    /// Reads only.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

impl Perm {
    /// Whether these rights allow `access`.
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

/// The kind of memory that a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Memory that the CPU can reach.
    System,
    /// Memory of the asking driver's own device, which the CPU cannot reach (`DEVICE_PRIVATE`).
    Device,
}

/// The owner of device memory. A fault reports device pages of its own owner, and brings those of others back to
/// system memory.
///
/// It stands for the kernel's `owner` pointers (`dev_private_owner`), and is compared by identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(usize);

impl Owner {
    /// No owner.
    pub const NONE: Self = Self(0);

    /// The owner that the kernel knows by the address `identity`, which must not be 0 and not be used
    /// by two owners at once.
    #[inline]
    pub const fn new(identity: usize) -> Self {
        Self(identity)
    }

    /// The address.
    #[inline]
    pub const fn identity(self) -> usize {
        self.0
    }

    /// Whether `other` is the same owner; `false` for [`Owner::NONE`].
    #[inline]
    pub const fn is(self, other: Self) -> bool {
        self.0 != 0 && self.0 == other.0
    }
}
