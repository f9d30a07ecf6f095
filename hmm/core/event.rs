// SPDX-License-Identifier: GPL-2.0

//! Why the CPU side takes pages away, and what a device must do about it.
//!
//! An event comes before the change, and what it asks for is done before the callback returns. Every
//! event makes a fault that is under way on its pages begin anew.
//!
//! Source: `enum mmu_notifier_event` in the kernel's `include/linux/mmu_notifier.h` and the places in
//! `mm/` that raise each.

/// The reason for an invalidation.
///
/// Whatever goes away or becomes read-only, and was written by the device, is marked dirty.
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
    /// Pages migrate to or from a device. All translations go. Not delivered to a notifier whose owner
    /// is the one of that device's memory: its driver then has to change its translations itself.
    Migrate,
    /// A device takes exclusive access. All translations go. Not delivered to a notifier whose owner
    /// takes it.
    Exclusive,
}

/// What a device may keep of its translations of the range.
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
