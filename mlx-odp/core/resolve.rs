// SPDX-License-Identifier: GPL-2.0

//! Resolving page faults: having the pages brought in that a NIC waits for.
//!
//! What is held meanwhile is the memory, and nothing of the NIC's.

use hmm::{Access, FaultError, PageIndex, PageRange};

use crate::fault::{AccessError, Wanted};

/// Memory that pages are brought into: in the kernel an address space.
pub trait Memory {
    /// Has `pages` brought in for `access`. Sleeps for as long as it takes.
    ///
    /// # Errors
    ///
    /// Why the first of them that cannot be had cannot.
    fn bring_in(&self, pages: PageRange, access: Access) -> Result<(), FaultError>;
}

/// Brings in the first page of what is wanted.
///
/// # Errors
///
/// [`AccessError::Fault`] if it cannot be had.
pub fn bring_first(memory: &impl Memory, wanted: Wanted) -> Result<(), AccessError> {
    let (first, _) = split(wanted.pages);
    memory
        .bring_in(first, wanted.access)
        .map_err(AccessError::Fault)
}

/// Brings in the others: nobody waits for them yet.
pub fn bring_rest(memory: &impl Memory, wanted: Wanted) {
    let (_, rest) = split(wanted.pages);
    if !rest.is_empty() {
        // Whoever needs one of them will ask for it.
        let _ = memory.bring_in(rest, wanted.access);
    }
}

/// The page that is waited for, and the others.
fn split(pages: PageRange) -> (PageRange, PageRange) {
    let second: PageIndex = pages.start().saturating_add(1).min(pages.end());
    (
        PageRange::new(pages.start(), second),
        PageRange::new(second, pages.end()),
    )
}
