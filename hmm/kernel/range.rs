// SPDX-License-Identifier: GPL-2.0

//! The range fault: look at a range of a process's page table and fault in what the policy wants.

use kernel::mm::MmWithUser;

use crate::run::Runs;
use crate::seq::{Domain, Faulted, ReadSide};
use crate::tables::LockedMm;
use crate::walk::{serve, FaultError, Request};

/// Serves `request` on `mm`. Takes and releases the mmap lock for reading; sleeps.
///
/// The result covers the pages wanted from the first on, all of them unless there were more than
/// [`crate::run::MAX_RUNS`] runs; huge entries are reported whole. [`Faulted::validate`]
/// makes it readable.
///
/// # Errors
///
/// [`FaultError::Refused`] if the policy asks for a page that cannot be had: no area there, no right
/// to it, memory that devices cannot use, or the CPU's fault handler failed (then it is `NoPage`).
/// [`FaultError::Collided`] if the domain was invalidated meanwhile.
///
/// The C counterpart is `hmm_range_fault` in `mm/hmm.c`.
pub fn range_fault<'d, D: Domain>(
    mm: &MmWithUser,
    side: ReadSide<'d, D>,
    request: &Request,
) -> Result<Faulted<'d, D>, FaultError> {
    let mut runs = Runs::new();
    let done = {
        let mmap_lock = mm.mmap_read_lock();
        let mut space = LockedMm::new(mm, &mmap_lock, || side.collided());
        serve(&mut space, request, &mut runs)?
    };
    Ok(side.faulted(runs, done))
}
