// SPDX-License-Identifier: GPL-2.0

//! Charges the allocations of faults to the process whose memory they fault in.
//!
//! The kernel's workers serve faults. Their allocations for the mirror and for the CPU's page table would be
//! charged to nobody, and no limit would bound them. (The CPU's fault handler charges the pages themselves.)

use kernel::mm::MmWithUser;
use kernel::types::NotThreadSafe;

use crate::shim;

/// While it lives, the task's `GFP_KERNEL_ACCOUNT` allocations are charged to a process.
///
/// # Invariants
///
/// `charged` is the task's active memory cgroup, with a reference; `outer` was it before.
pub(crate) struct Charge {
    charged: *mut kernel::bindings::mem_cgroup,
    outer: *mut kernel::bindings::mem_cgroup,
    _this_task: NotThreadSafe,
}

impl Charge {
    /// Charges to the memory cgroup of `mm`.
    #[inline]
    pub(crate) fn to(mm: &MmWithUser) -> Self {
        let mut outer = core::ptr::null_mut();
        // SAFETY: `mm` is alive, `outer` can be written.
        let charged = unsafe { shim::hmm_shim_charge_begin(mm.as_raw(), &mut outer) };
        // INVARIANT: Just established.
        Self {
            charged,
            outer,
            _this_task: NotThreadSafe,
        }
    }
}

impl Drop for Charge {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The values of the call that began it, on the same task.
        unsafe { shim::hmm_shim_charge_end(self.charged, self.outer) };
    }
}
