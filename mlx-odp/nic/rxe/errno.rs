// SPDX-License-Identifier: GPL-2.0

//! Results as C wants them: an errno.

use kernel::prelude::*;

/// `0` or the negative errno, as C wants it.
pub(crate) fn errno(result: Result) -> kernel::ffi::c_int {
    match result {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// `EOPNOTSUPP`, which the kernel crate has no name for.
pub(crate) fn not_supported() -> Error {
    Error::from_errno(-(kernel::bindings::EOPNOTSUPP as kernel::ffi::c_int))
}
