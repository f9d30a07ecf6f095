// SPDX-License-Identifier: GPL-2.0

//! Why the CPU takes pages away, and what a device has to do.
//!
//! An event comes before the change, and the device complies before the callback returns. Every event makes
//! faults under way on its pages repeat.

/// The reason for an invalidation.
///
/// Pages that the device wrote are marked dirty when their translations go or become read-only.
///
/// Source: `enum mmu_notifier_event`, `include/linux/mmu_notifier.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The range is unmapped or moved (`munmap`, `mremap`). All translations go, and nothing will be
    /// there again: a driver may free what it keeps for the range.
    Unmap,
    /// Entries are cleared or replaced: `MADV_DONTNEED`, copy on write, reclaim, truncation, migration
    /// between NUMA nodes, a huge page that is split or made. All translations go.
    Clear,
    /// The rights of the whole range change (`mprotect`, write protection by userfaultfd). The right to
    /// read may go too: all translations go.
    ProtectVma,
    /// Single pages are write-protected: write-back of a file, fork. The pages stay: translations
    /// become read-only, and those that are may stay as they are.
    ProtectPage,
    /// Soft-dirty tracking write-protects the range. As [`Event::ProtectPage`]: the device's next write
    /// has to fault, or it would not be tracked.
    SoftDirty,
    /// The last user of the address space is gone. All translations go; later faults find nobody.
    Release,
    /// Pages migrate to or from a device. All translations go. Not delivered to a notifier with the owner of that
    /// device's memory: its driver changes the translations itself.
    Migrate,
    /// A device takes exclusive access. All translations go. Not delivered to a notifier with that device's owner.
    Exclusive,
}

/// What a device may keep of its translations of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// None of them.
    Nothing,
    /// All of them, but only for reading.
    ReadOnly,
}

impl Event {
    /// What the device may keep.
    pub const fn leaves(self) -> Leaves {
        match self {
            Event::ProtectPage | Event::SoftDirty => Leaves::ReadOnly,
            Event::Unmap
            | Event::Clear
            | Event::ProtectVma
            | Event::Release
            | Event::Migrate
            | Event::Exclusive => Leaves::Nothing,
        }
    }
}
