// SPDX-License-Identifier: GPL-2.0

//! Zeroed arrays straight from the allocator, so that memory is not written twice.

use core::ptr;

use kernel::alloc::flags::__GFP_ZERO;
use kernel::alloc::{AllocError, Flags};
use kernel::prelude::*;

use crate::pfn_array::HmmPfn;
use crate::xlt::Slot;

// SAFETY: A transparent u64.
unsafe impl Zeroable for HmmPfn {}
// SAFETY: An atomic u64 and nothing else: all bytes 0 is 0.
unsafe impl Zeroable for Slot {}

/// An array of `count` zeroes. Sleeps if `flags` allow it.
///
/// # Errors
///
/// `AllocError` if there is no memory.
pub(crate) fn zeroed<T: Zeroable>(count: usize, flags: Flags) -> Result<KBox<[T]>, AllocError> {
    let mut room = KVec::<T>::with_capacity(count, flags | __GFP_ZERO)?;
    // SAFETY: There is room for `count`, all bytes of it are 0, and that is a value of `T`.
    unsafe { room.inc_len(count) };
    let (first, count, _) = room.into_raw_parts();
    let all = ptr::slice_from_raw_parts_mut(first, count);
    // SAFETY: `all` was allocated with the allocator of a `KBox`, and nobody else has it.
    Ok(unsafe { KBox::from_raw(all) })
}
