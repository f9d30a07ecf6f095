// SPDX-License-Identifier: GPL-2.0

//! The range fault: look at a range of a process's page table and fault in what the policy wants.

use kernel::mm::MmWithUser;

use crate::addr::PageRange;
use crate::policy::Policy;
use crate::run::Runs;
use crate::seq::{Domain, Faulted, ReadSide};
use crate::tables::LockedMm;
use crate::walk::{walk, FaultError};

/// Walks `range` of `mm` under `policy`. Takes and releases the mmap lock for reading; sleeps.
///
/// The result covers `range` from its start on, all of it unless there were more than
/// [`crate::run::MAX_RUNS`] runs; [`Faulted::validate`] makes it readable.
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
    range: PageRange,
    policy: Policy,
) -> Result<Faulted<'d, D>, FaultError> {
    let mut runs = Runs::new();
    let done = {
        let mmap_lock = mm.mmap_read_lock();
        let mut space = LockedMm::new(mm, &mmap_lock, || side.collided());
        walk(&mut space, range, policy, &mut runs)?
    };
    Ok(side.faulted(runs, done))
}
