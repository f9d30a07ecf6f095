// SPDX-License-Identifier: GPL-2.0

//! What the caller of a range fault wants, and the decision that follows for each page.
//!
//! [`Policy::decide`] is the one place that decides whether a page is faulted in.

use crate::pfn::{Access, Perm, Pfn};

/// What the caller wants of the pages in its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Report what is there; change nothing.
    Snapshot,
    /// Have every page there, with the rights for this access.
    Fault(Access),
}

/// What the CPU page table holds for a page, as far as a device may care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing yet.
    Absent,
    /// A page that the CPU may not touch at the moment: NUMA hinting.
    Inaccessible,
    /// Swapped out, device-private or device-exclusive: a fault brings it back.
    Elsewhere,
    /// Under migration: a fault waits until that is over.
    Migrating,
    /// A page of ordinary memory.
    Mapped {
        /// Its frame.
        pfn: Pfn,
        /// What the CPU may do with it.
        perm: Perm,
    },
    /// Memory without a `struct page`, or with one that must not be used: devices, PFN maps.
    Special,
    /// Poisoned memory, a guard marker or an entry that makes no sense.
    Bad,
}

/// The rights and the kind of a virtual memory area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaRights {
    /// `VM_READ`.
    pub readable: bool,
    /// `VM_WRITE`.
    pub writable: bool,
    /// `VM_IO` or `VM_PFNMAP`: nothing in it can be mirrored.
    pub special: bool,
}

/// Why a page cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing is mapped there, or nothing that a device can use (`EFAULT`).
    NoPage,
    /// The area does not allow the access (`EPERM`).
    Forbidden,
}

/// What is to be done about a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Report this page, with these rights.
    Report(Pfn, Perm),
    /// Report that there is none.
    Skip,
    /// Have the CPU's fault handler bring it in for this access, then look again.
    Fault(Access),
    /// Give up.
    Refuse(Refusal),
}

impl Policy {
    /// Decides about a page whose entry in the CPU page table is `entry`, in an area with `rights`.
    ///
    /// As in C, an area that cannot be read cannot be written either.
    pub fn decide(self, rights: VmaRights, entry: Entry) -> Decision {
        let reachable = rights.readable && !rights.special;
        let entry = match entry {
            // The CPU can write entries of shadow stacks, though nobody else may.
            Entry::Mapped { pfn, .. } if !rights.writable => Entry::Mapped {
                pfn,
                perm: Perm::ReadOnly,
            },
            entry => entry,
        };
        match (self, entry) {
            (Policy::Snapshot, Entry::Mapped { pfn, perm }) if reachable => {
                Decision::Report(pfn, perm)
            }
            (Policy::Snapshot, _) => Decision::Skip,
            (Policy::Fault(_), _) if !reachable => Decision::Refuse(Refusal::NoPage),
            (Policy::Fault(access), Entry::Mapped { pfn, perm }) if perm.allows(access) => {
                Decision::Report(pfn, perm)
            }
            (Policy::Fault(_), Entry::Special | Entry::Bad) => Decision::Refuse(Refusal::NoPage),
            (Policy::Fault(Access::Write), _) if !rights.writable => {
                Decision::Refuse(Refusal::Forbidden)
            }
            (Policy::Fault(access), _) => Decision::Fault(access),
        }
    }

    /// Decides about a page that no area covers.
    pub fn decide_unmapped(self) -> Decision {
        match self {
            Policy::Snapshot => Decision::Skip,
            Policy::Fault(_) => Decision::Refuse(Refusal::NoPage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RW: VmaRights = VmaRights {
        readable: true,
        writable: true,
        special: false,
    };
    const RO: VmaRights = VmaRights {
        writable: false,
        ..RW
    };
    const NONE: VmaRights = VmaRights {
        readable: false,
        ..RO
    };
    const IO: VmaRights = VmaRights {
        special: true,
        ..RW
    };

    fn mapped(perm: Perm) -> Entry {
        Entry::Mapped {
            pfn: Pfn::new(7),
            perm,
        }
    }

    #[test]
    fn the_table_of_decisions() {
        use Decision::*;
        let read = Policy::Fault(Access::Read);
        let write = Policy::Fault(Access::Write);
        let page = |perm| Report(Pfn::new(7), perm);
        let no_page = Refuse(Refusal::NoPage);
        let forbidden = Refuse(Refusal::Forbidden);
        let cases = [
            (Policy::Snapshot, RW, Entry::Absent, Skip),
            (
                Policy::Snapshot,
                RW,
                mapped(Perm::ReadWrite),
                page(Perm::ReadWrite),
            ),
            (Policy::Snapshot, NONE, mapped(Perm::ReadOnly), Skip),
            (Policy::Snapshot, RW, Entry::Special, Skip),
            (read, RW, Entry::Absent, Fault(Access::Read)),
            (read, RO, Entry::Absent, Fault(Access::Read)),
            (read, RW, Entry::Elsewhere, Fault(Access::Read)),
            (read, RW, Entry::Migrating, Fault(Access::Read)),
            (read, RW, Entry::Inaccessible, Fault(Access::Read)),
            (read, RO, mapped(Perm::ReadOnly), page(Perm::ReadOnly)),
            (read, RW, mapped(Perm::ReadWrite), page(Perm::ReadWrite)),
            (read, NONE, Entry::Absent, no_page),
            (read, NONE, mapped(Perm::ReadOnly), no_page),
            (read, IO, mapped(Perm::ReadWrite), no_page),
            (read, RW, Entry::Special, no_page),
            (read, RW, Entry::Bad, no_page),
            (write, RW, Entry::Absent, Fault(Access::Write)),
            (write, RW, mapped(Perm::ReadOnly), Fault(Access::Write)),
            (write, RW, mapped(Perm::ReadWrite), page(Perm::ReadWrite)),
            (write, RO, mapped(Perm::ReadOnly), forbidden),
            (write, RO, mapped(Perm::ReadWrite), forbidden),
            (
                Policy::Snapshot,
                RO,
                mapped(Perm::ReadWrite),
                page(Perm::ReadOnly),
            ),
            (write, RO, Entry::Absent, forbidden),
            (write, NONE, Entry::Absent, no_page),
        ];
        for (policy, rights, entry, want) in cases {
            let got = policy.decide(rights, entry);
            assert_eq!(got, want, "{policy:?} {rights:?} {entry:?}");
        }
    }
}
