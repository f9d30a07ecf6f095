// SPDX-License-Identifier: GPL-2.0

//! What the caller of a range fault wants of a page, and the decision that follows.
//!
//! A caller wants the same of all pages ([`Policy`]) or something of each ([`Requests`]); the walk asks through
//! [`Wants`]. [`Policy::decide`] alone decides whether a page is faulted in.

use crate::addr::PageIndex;
use crate::pfn::{Access, Memory, Perm, Pfn};

/// What the caller wants of a page, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// Report the page if it is there; fault nothing in.
    Snapshot,
    /// Fault the page in, with the rights for this access.
    Fault(Access),
}

/// What is wanted of each page of a range.
pub trait Wants {
    /// The policy for `page`, and the first page after it that may have another.
    fn at(&self, page: PageIndex) -> (Policy, PageIndex);
}

/// The same policy for every page.
impl Wants for Policy {
    #[inline]
    fn at(&self, _page: PageIndex) -> (Policy, PageIndex) {
        (*self, PageIndex::new(u64::MAX))
    }
}

/// A policy for each page: "fault all for reading, this one for writing", "snapshot all but these".
///
/// The policy for a page is its own request, limited by `most` and raised to `base`, as by C's `pfn_flags_mask`
/// and `default_flags`. Pages after the last request get `base`.
///
/// ```
/// use hmm::{Access, PageIndex, Policy, Requests, Wants};
///
/// // All for reading, the second one for writing.
/// let requests = Requests {
///     first: PageIndex::new(16),
///     base: Policy::Fault(Access::Read),
///     most: Policy::Fault(Access::Write),
///     pages: &[Policy::Snapshot, Policy::Fault(Access::Write)],
/// };
/// let (first, until) = requests.at(PageIndex::new(16));
/// assert_eq!((first, until), (Policy::Fault(Access::Read), PageIndex::new(17)));
/// assert_eq!(requests.at(PageIndex::new(17)).0, Policy::Fault(Access::Write));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Requests<'a> {
    /// The page of the first request.
    pub first: PageIndex,
    /// The least for every page.
    pub base: Policy,
    /// The most that a request can ask for.
    pub most: Policy,
    /// The requests, one for each page.
    pub pages: &'a [Policy],
}

impl Requests<'_> {
    fn effective(&self, request: Policy) -> Policy {
        request.min(self.most).max(self.base)
    }
}

impl Wants for Requests<'_> {
    fn at(&self, page: PageIndex) -> (Policy, PageIndex) {
        let index = page.get().checked_sub(self.first.get());
        let rest = index
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| self.pages.get(index..))
            .unwrap_or_default();
        let Some((&own, following)) = rest.split_first() else {
            return (self.base, PageIndex::new(u64::MAX));
        };
        let policy = self.effective(own);
        let alike = following
            .iter()
            .take_while(|&&request| self.effective(request) == policy);
        (policy, page.saturating_add(1 + alike.count() as u64))
    }
}

/// A kind of entry in the CPU's page table, as far as it matters to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// No page yet.
    Absent,
    /// A page that the CPU cannot access at the moment: NUMA hinting.
    Inaccessible,
    /// In swap, on another owner's device, or taken exclusively by a device: a fault brings it back.
    Elsewhere,
    /// Under migration: a fault waits for its end.
    Migrating,
    /// A page that the device can use: system memory, or memory of the request's owner.
    Mapped {
        /// Its frame.
        pfn: Pfn,
        /// The CPU's rights, or those it had before the page went to the device.
        perm: Perm,
        /// Whose memory it is.
        memory: Memory,
    },
    /// Memory without a `struct page`, or with one that must not be used: `VM_PFNMAP`, `pte_special`.
    Special {
        /// The CPU's rights: a write may replace read-only special memory by an ordinary page.
        perm: Perm,
    },
    /// Poisoned memory, a guard marker or an invalid entry.
    Bad,
}

/// The rights and the kind of a virtual memory area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaRights {
    /// `VM_READ`.
    pub readable: bool,
    /// `VM_WRITE`.
    pub writable: bool,
    /// `VM_IO`, `VM_PFNMAP` or `memfd_secret`: nothing in it can be mirrored.
    pub special: bool,
}

impl VmaRights {
    /// The rights at addresses without an area.
    pub const NONE: Self = Self {
        readable: false,
        writable: false,
        special: false,
    };

    /// Whether a device can use any page there. As in C, an area that cannot be read cannot be written.
    #[inline]
    pub const fn usable(self) -> bool {
        self.readable && !self.special
    }
}

/// Why a fault refuses a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No area, or no memory that a device can use (`EFAULT`).
    NoPage,
    /// The area does not allow the access (`EPERM`).
    Forbidden,
}

/// What the walk does about a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Report this page, with these rights.
    Report(Pfn, Perm, Memory),
    /// Report that there is none. A fault might change that.
    Skip,
    /// Report that no device can use it.
    Unusable,
    /// Call the CPU's fault handler for this access, then read the entry again.
    Fault(Access),
    /// End the walk.
    Refuse(Refusal),
}

impl Policy {
    /// Decides about a page whose entry in the CPU's page table is `entry`, in an area with `rights`.
    ///
    /// The results are those of C's `hmm_range_fault`, but for the differences that the book's
    /// chapter on the differential test lists.
    #[inline]
    pub fn decide(self, rights: VmaRights, entry: Entry) -> Decision {
        if !rights.usable() {
            return self.decide_unmapped();
        }
        let may = |perm: Perm| match rights.writable {
            true => perm,
            // The CPU can write entries of shadow stacks, though nobody else may.
            false => Perm::ReadOnly,
        };
        match (self, entry) {
            (Policy::Snapshot, Entry::Mapped { pfn, perm, memory }) => {
                Decision::Report(pfn, may(perm), memory)
            }
            (Policy::Snapshot, Entry::Special { .. }) => Decision::Unusable,
            (Policy::Snapshot, _) => Decision::Skip,
            (Policy::Fault(access), Entry::Mapped { pfn, perm, memory })
                if may(perm).allows(access) =>
            {
                Decision::Report(pfn, may(perm), memory)
            }
            (Policy::Fault(access), Entry::Special { perm }) if may(perm).allows(access) => {
                Decision::Refuse(Refusal::NoPage)
            }
            (Policy::Fault(_), Entry::Bad) => Decision::Refuse(Refusal::NoPage),
            (Policy::Fault(Access::Write), _) if !rights.writable => {
                Decision::Refuse(Refusal::Forbidden)
            }
            (Policy::Fault(access), _) => Decision::Fault(access),
        }
    }

    /// Decides about a page without an area, or in one that devices cannot use.
    #[inline]
    pub fn decide_unmapped(self) -> Decision {
        match self {
            Policy::Snapshot => Decision::Unusable,
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

    const SNAPSHOT: Policy = Policy::Snapshot;
    const READ: Policy = Policy::Fault(Access::Read);
    const WRITE: Policy = Policy::Fault(Access::Write);

    fn mapped(perm: Perm) -> Entry {
        Entry::Mapped {
            pfn: Pfn::new(7),
            perm,
            memory: Memory::System,
        }
    }

    #[test]
    fn the_table_of_decisions() {
        use Decision::*;
        use Perm::{ReadOnly, ReadWrite};
        let page = |perm| Report(Pfn::new(7), perm, Memory::System);
        let special = |perm| Entry::Special { perm };
        let no_page = Refuse(Refusal::NoPage);
        let forbidden = Refuse(Refusal::Forbidden);
        let cases = [
            (SNAPSHOT, RW, Entry::Absent, Skip),
            (SNAPSHOT, RW, Entry::Elsewhere, Skip),
            (SNAPSHOT, RW, Entry::Migrating, Skip),
            (SNAPSHOT, RW, Entry::Inaccessible, Skip),
            (SNAPSHOT, RW, Entry::Bad, Skip),
            (SNAPSHOT, RW, mapped(ReadWrite), page(ReadWrite)),
            (SNAPSHOT, RO, mapped(ReadWrite), page(ReadOnly)),
            (SNAPSHOT, RW, special(ReadWrite), Unusable),
            (SNAPSHOT, NONE, mapped(ReadOnly), Unusable),
            (SNAPSHOT, NONE, Entry::Absent, Unusable),
            (SNAPSHOT, IO, mapped(ReadWrite), Unusable),
            (READ, RW, Entry::Absent, Fault(Access::Read)),
            (READ, RO, Entry::Absent, Fault(Access::Read)),
            (READ, RW, Entry::Elsewhere, Fault(Access::Read)),
            (READ, RW, Entry::Migrating, Fault(Access::Read)),
            (READ, RW, Entry::Inaccessible, Fault(Access::Read)),
            (READ, RO, mapped(ReadOnly), page(ReadOnly)),
            (READ, RW, mapped(ReadWrite), page(ReadWrite)),
            (READ, NONE, Entry::Absent, no_page),
            (READ, NONE, mapped(ReadOnly), no_page),
            (READ, IO, mapped(ReadWrite), no_page),
            (READ, RW, special(ReadOnly), no_page),
            (READ, RW, Entry::Bad, no_page),
            (WRITE, RW, Entry::Absent, Fault(Access::Write)),
            (WRITE, RW, mapped(ReadOnly), Fault(Access::Write)),
            (WRITE, RW, mapped(ReadWrite), page(ReadWrite)),
            // Copy on write makes ordinary memory of a special page.
            (WRITE, RW, special(ReadOnly), Fault(Access::Write)),
            (WRITE, RW, special(ReadWrite), no_page),
            (WRITE, RO, special(ReadOnly), forbidden),
            (WRITE, RO, mapped(ReadOnly), forbidden),
            (WRITE, RO, mapped(ReadWrite), forbidden),
            (WRITE, RO, Entry::Absent, forbidden),
            (WRITE, RO, Entry::Bad, no_page),
            (WRITE, NONE, Entry::Absent, no_page),
        ];
        for (policy, rights, entry, want) in cases {
            let got = policy.decide(rights, entry);
            assert_eq!(got, want, "{policy:?} {rights:?} {entry:?}");
        }
    }

    #[test]
    fn a_devices_own_page_is_reported_as_such() {
        let entry = Entry::Mapped {
            pfn: Pfn::new(9),
            perm: Perm::ReadOnly,
            memory: Memory::Device,
        };
        let report = Decision::Report(Pfn::new(9), Perm::ReadOnly, Memory::Device);
        assert_eq!(SNAPSHOT.decide(RW, entry), report);
        assert_eq!(READ.decide(RW, entry), report);
        assert_eq!(WRITE.decide(RW, entry), Decision::Fault(Access::Write));
    }

    #[test]
    fn requests_of_pages_combine_with_those_of_the_range() {
        let pages = [SNAPSHOT, READ, READ, WRITE];
        let wants = |base, most| Requests {
            first: PageIndex::new(10),
            base,
            most,
            pages: &pages,
        };
        let at = |wants: Requests<'_>| {
            let pieces = (8..16).map(|page| wants.at(PageIndex::new(page)));
            pieces
                .map(|(policy, until)| (policy, until.get()))
                .collect::<std::vec::Vec<_>>()
        };
        const END: u64 = u64::MAX;
        // Each as it asks.
        assert_eq!(
            at(wants(SNAPSHOT, WRITE))[2..],
            [
                (SNAPSHOT, 11),
                (READ, 13),
                (READ, 13),
                (WRITE, 14),
                (SNAPSHOT, END),
                (SNAPSHOT, END)
            ]
        );
        // All for read, one for write.
        assert_eq!(
            at(wants(READ, WRITE))[2..],
            [
                (READ, 13),
                (READ, 13),
                (READ, 13),
                (WRITE, 14),
                (READ, END),
                (READ, END)
            ]
        );
        // The mask takes the wish to write away, or every wish.
        assert_eq!(at(wants(SNAPSHOT, READ))[5], (READ, 14));
        assert_eq!(at(wants(SNAPSHOT, SNAPSHOT))[2], (SNAPSHOT, 14));
    }
}
