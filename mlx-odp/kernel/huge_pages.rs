// SPDX-License-Identifier: GPL-2.0

//! `IBV_ACCESS_HUGETLB`: the application promises that the memory of a region consists of huge pages, which some NICs
//! can use at lower cost. Here a huge page is one fault with or without the flag. So the promise is checked once, at
//! registration, and then dropped: what is mapped there later is used as it is.

use kernel::ffi::c_int;
use kernel::mm::{virt::flags, MmWithUser};
use kernel::prelude::*;

use crate::registration::with_current_mm;

/// `IBV_ACCESS_HUGETLB`.
pub const HUGETLB: c_int = 1 << 7;

/// Checks the promise, if it is among the `access` flags of a registration, for the `length` bytes from `va` in the
/// memory of the current process. Takes the mmap lock for reading; touches no page.
///
/// # Errors
///
/// `EINVAL` if a part is mapped without huge pages of the pool (hugetlbfs), or not at all. The whole address space is
/// such a case.
pub fn check_huge_pages(access: c_int, va: u64, length: u64) -> Result {
    match access & HUGETLB {
        0 => Ok(()),
        _ => with_current_mm(|mm| are_all(mm, va, length)),
    }
}

/// Checks that all `length` bytes from `va` are mapped with huge pages.
///
/// # Errors
///
/// `EINVAL` if not.
fn are_all(mm: &MmWithUser, va: u64, length: u64) -> Result {
    if length == 0 {
        return Err(EINVAL);
    }
    let end = va.checked_add(length).ok_or(EINVAL)?;
    let mappings = mm.mmap_read_lock();
    let mut at = va;
    while at < end {
        let mapping = mappings.vma_lookup(at as usize).ok_or(EINVAL)?;
        if mapping.flags() & flags::HUGETLB == 0 {
            return Err(EINVAL);
        }
        at = mapping.end() as u64;
    }
    Ok(())
}
