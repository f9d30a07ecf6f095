// SPDX-License-Identifier: GPL-2.0

//! Results as errnos, for C.

use kernel::prelude::*;

/// 0 or the negative errno.
#[inline]
pub fn errno(result: Result) -> kernel::ffi::c_int {
    match result {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// `EOPNOTSUPP`, for which the kernel crate has no name.
pub fn not_supported() -> Error {
    Error::from_errno(-(kernel::bindings::EOPNOTSUPP as kernel::ffi::c_int))
}
