// SPDX-License-Identifier: GPL-2.0

//! Resolves page faults: brings in the pages that a NIC waits for.
//!
//! It holds the memory, and nothing of the NIC's, while it sleeps.

use hmm::{FaultError, PageIndex, PageRange, Permitted};

use crate::fault::{AccessError, Wanted};

/// Memory to bring pages into; in the kernel, an address space.
pub trait Memory {
    /// Brings `pages` in for the access that is `permitted`. Sleeps for as long as that takes.
    ///
    /// # Errors
    ///
    /// That of the first page that cannot be had.
    fn bring_in(&self, pages: PageRange, permitted: Permitted) -> Result<(), FaultError>;
}

/// Brings in the first page of `wanted`.
///
/// # Errors
///
/// [`AccessError::Fault`] if it cannot be had.
pub fn bring_first(memory: &impl Memory, wanted: Wanted) -> Result<(), AccessError> {
    let (first, _) = split(wanted.pages);
    memory
        .bring_in(first, wanted.permitted)
        .map_err(AccessError::Fault)
}

/// Brings in the other pages of `wanted`. The NIC does not wait for these.
pub fn bring_rest(memory: &impl Memory, wanted: Wanted) {
    let (_, rest) = split(wanted.pages);
    if !rest.is_empty() {
        // A request that needs one of them will fault on it.
        let _ = memory.bring_in(rest, wanted.permitted);
    }
}

/// The first page, which the NIC waits for, and the others.
fn split(pages: PageRange) -> (PageRange, PageRange) {
    let second: PageIndex = pages.start().saturating_add(1).min(pages.end());
    (
        PageRange::new(pages.start(), second),
        PageRange::new(second, pages.end()),
    )
}
