// SPDX-License-Identifier: GPL-2.0

//! Why the CPU side takes pages away.
//!
//! Every event obliges the device to stop using its translations of the range before the callback
//! returns, and to have dirtied pages marked. The kind says why, so that a driver may do less where
//! less is right; nothing here skips anything yet.
//!
//! Source: `enum mmu_notifier_event` in the kernel's `include/linux/mmu_notifier.h`.

/// The reason for an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The range is unmapped or moved (`munmap`, `mremap`).
    Unmap,
    /// Entries are cleared or replaced: `MADV_DONTNEED`, copy on write, reclaim, truncation.
    Clear,
    /// The rights of the whole range change (`mprotect`).
    ProtectVma,
    /// The rights of single pages change: write-back, fork.
    ProtectPage,
    /// Soft-dirty tracking write-protects the range.
    SoftDirty,
    /// The address space goes away.
    Release,
    /// Pages migrate to or from a device.
    Migrate,
    /// A device takes exclusive access.
    Exclusive,
}
