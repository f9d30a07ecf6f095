// SPDX-License-Identifier: GPL-2.0

//! Page frame numbers, accesses and rights, kinds of memory and their owners, the state of a page.

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

    /// `access`, if these rights allow it.
    #[inline]
    pub const fn permit(self, access: Access) -> Option<Permitted> {
        match self.allows(access) {
            true => Some(Permitted(access)),
            false => None,
        }
    }

    /// The access that needs the most rights of those that these rights allow.
    #[inline]
    pub const fn most_access(self) -> Access {
        match self {
            Perm::ReadWrite => Access::Write,
            Perm::ReadOnly => Access::Read,
        }
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

/// An access that was found to be permitted, by [`Perm::permit`]: what follows does not ask again.
///
/// It stands for a decision and gives no right: a translation has no more rights than its mirror's limit and the CPU's
/// page table allow.
///
/// ```
/// use hmm::{Access, Perm};
///
/// assert!(Perm::ReadOnly.permit(Access::Write).is_none());
/// let permitted = Perm::ReadOnly.permit(Access::Read).unwrap();
/// assert_eq!(permitted.access(), Access::Read);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permitted(Access);

impl Permitted {
    /// The access.
    #[inline]
    pub const fn access(self) -> Access {
        self.0
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

/// The state of a page in the result of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Nothing that the device can use at the moment. A fault might change that.
    Absent,
    /// Nothing that a device can ever use: no area, no right to read, device registers.
    Unusable,
    /// A page.
    Mapped {
        /// Its frame.
        pfn: Pfn,
        /// The rights of the CPU's entry.
        perm: Perm,
        /// log2 of how many pages the CPU's entry maps.
        order: u32,
        /// The kind of memory.
        memory: Memory,
    },
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
