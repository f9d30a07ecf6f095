// SPDX-License-Identifier: GPL-2.0

//! Lock classes for generic code.
//!
//! Lockdep knows a class by its key, and wants one name with each key: one address, not one text. The kernel
//! crate's macros that make locks put both where they stand. In a generic function the key is then a static of this
//! module, but the name a constant of every module that makes code of the function, and lockdep complains of the
//! second one. So generic code has its classes as statics, which are in this module with all that they point to.

use kernel::prelude::*;
use kernel::sync::LockClassKey;

/// A class of locks, or of what else lockdep follows.
pub(crate) struct LockClass {
    name: &'static CStr,
    key: LockClassKey,
}

impl LockClass {
    /// The class that lockdep calls `name`.
    ///
    /// # Safety
    ///
    /// It has to be the value of a static.
    pub(crate) const unsafe fn new(name: &'static CStr) -> Self {
        Self {
            name,
            // SAFETY: A static stays where it is and is never dropped.
            key: unsafe { LockClassKey::new_static() },
        }
    }

    /// What lockdep calls it.
    pub(crate) fn name(&'static self) -> &'static CStr {
        self.name
    }

    /// What lockdep knows it by.
    pub(crate) fn key(&'static self) -> Pin<&'static LockClassKey> {
        Pin::static_ref(&self.key)
    }
}
