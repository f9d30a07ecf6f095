// SPDX-License-Identifier: GPL-2.0

//! The credentials that a fault uses: those of the task that registered the memory.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::cred::Credential;
use kernel::sync::aref::ARef;
use kernel::types::NotThreadSafe;

use crate::shim;

/// The credentials of a task, with a reference.
///
/// The kernel's workers serve a device's faults, and they are root's. With root's credentials a fault would get
/// the blocks that a file system reserves for root, exceed quotas, and be refused by a FUSE file system that
/// serves only its user.
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

    /// The user who is accountable for them: the one who made their outermost user namespace, or their own user. A
    /// namespace has as many users as its maker likes, so all of them count as one; so do those of each namespace
    /// that root made, for a container.
    pub fn accountable_user(&self) -> u64 {
        // SAFETY: Valid, as we have a reference.
        unsafe { shim::hmm_shim_accountable_user(self.0.as_ptr()) }
    }

    /// Overrides the current task's credentials until the result is dropped.
    #[inline]
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

/// An override of the current task's credentials.
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
    #[inline]
    fn drop(&mut self) {
        // SAFETY: Those from before, on the same task; values of this type end in the reverse order, as they are
        // bound to a scope.
        unsafe { shim::hmm_shim_revert_credentials(self.before) };
    }
}
