// SPDX-License-Identifier: GPL-2.0

//! On whose behalf the address space of a process is faulted in.
//!
//! Faults of a device are served by the kernel's workers, which are the superuser's: with their own
//! credentials a fault would get the blocks that a file system keeps for the superuser, exceed quotas, and be
//! refused by a file system of the user's own that serves nobody else. So whoever faults something in takes
//! on the credentials of who registered the memory.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::cred::Credential;
use kernel::sync::aref::ARef;
use kernel::types::NotThreadSafe;

use crate::shim;

/// The credentials of who registered memory.
pub struct Credentials(ARef<Credential>);

impl Credentials {
    /// Those of the current task.
    pub fn current() -> Self {
        // SAFETY: Called by the task that they are of; they come with a reference.
        let credentials = unsafe { shim::hmm_shim_get_credentials() }.cast_mut();
        // SAFETY: A task has credentials, thus not null. `Credential` is a transparent `struct cred`, and the
        // reference is handed over.
        Self(unsafe { ARef::from_raw(NonNull::new_unchecked(credentials.cast())) })
    }

    /// The user who answers for what is done with them: who made the outermost user namespace that they are
    /// of, or themselves. Users of a namespace are as many as its maker likes, and count as one; so do those of each
    /// that the superuser has made, a container's.
    pub fn accountable_user(&self) -> u64 {
        // SAFETY: Valid, as we have a reference.
        unsafe { shim::hmm_shim_accountable_user(self.0.as_ptr()) }
    }

    /// Takes them on until the result is dropped.
    pub fn take_on(&self) -> TakenOn<'_> {
        // SAFETY: They live until they are given up, as the result borrows `self`.
        let before = unsafe { shim::hmm_shim_override_credentials(self.0.as_ptr()) };
        // INVARIANT: Just taken on.
        TakenOn {
            before,
            _taken: self,
            _this_task: NotThreadSafe,
        }
    }
}

/// Credentials that the current task has taken on.
///
/// # Invariants
///
/// The task had `before` until then, which are alive.
pub struct TakenOn<'c> {
    before: *const bindings::cred,
    _taken: &'c Credentials,
    _this_task: NotThreadSafe,
}

impl Drop for TakenOn<'_> {
    fn drop(&mut self) {
        // SAFETY: Those from before, on the same task; values of this type end in the reverse order, as they are
        // bound to a scope.
        unsafe { shim::hmm_shim_revert_credentials(self.before) };
    }
}
