// SPDX-License-Identifier: GPL-2.0

//! Changes of a key's translation entries by UMR.
//!
//! The only way to an UMR is a function of umr.c, which asks for the entries on the way, in the same thread: umr.c has
//! the buffer, rounds what is asked for to whole blocks, and may write a long range in several pieces, with the same
//! buffer. So the entries of an update are a function, which is left in the head of the key's `umem` for as long as the
//! update takes ([`crate::umem_head`]).

use core::ops::Range;

use kernel::error::to_result;
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;

use mlx_odp::mlx5::xlt::{BLOCK, KSM, MTT};

use crate::mlx5;
use crate::umem_head::{head_of, Entry};

/// What a key's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Addresses of pages.
    Mtt,
    /// Other keys.
    Ksm,
}

/// Writes entries of `mr`'s key: those of `range`, and those around them that are in the same blocks. Waits for the
/// device. When this returns `Ok`, it has them.
///
/// # Errors
///
/// `ENOMEM`: the device has not been told of it. Others if it has not confirmed.
///
/// # Safety
///
/// `mr` is valid, its key is not revoked before this returns, and no other update of it is under way.
pub(crate) unsafe fn update(
    mr: *mut mlx5::mlx5_ib_mr,
    kind: Kind,
    range: Range<u64>,
    entry: Entry<'_>,
) -> Result {
    let (first, count) = (range.start as usize, (range.end - range.start) as usize);
    // SAFETY: By the contract.
    unsafe {
        with_entries(mr, entry, || {
            mlx5::mlx5_odp_shim_update(mr, first, count, kind == Kind::Ksm)
        })
    }
}

/// Writes the first `count` entries of a new key, each for 2^`log_size` bytes, and enables it.
///
/// # Errors
///
/// As for [`update`].
///
/// # Safety
///
/// `mr` is a key with room for so many and with memory of this driver's ([`crate::umem_head`]). It is used by nothing else.
pub(crate) unsafe fn enable(
    mr: *mut mlx5::mlx5_ib_mr,
    kind: Kind,
    count: u64,
    log_size: u32,
    entry: Entry<'_>,
) -> Result {
    // SAFETY: By the contract.
    unsafe {
        with_entries(mr, entry, || {
            mlx5::mlx5_odp_shim_enable(mr, count as usize, log_size, kind == Kind::Ksm)
        })
    }
}

/// Has `mlx5_odp_populate_xlt` find `entry` while `write` runs, which waits for the UMR.
///
/// # Safety
///
/// `mr` is valid, and no other update of it is under way.
unsafe fn with_entries(
    mr: *mut mlx5::mlx5_ib_mr,
    entry: Entry<'_>,
    write: impl FnOnce() -> c_int,
) -> Result {
    // SAFETY: By the contract.
    let head = unsafe { head_of(mr) }.ok_or(EINVAL)?;
    to_result(head.with_entry(entry, write))
}

/// Gives umr.c the entries of a key from `idx` on: `nentries`, and those that fill the last block. All of them are
/// written.
///
/// # Safety
///
/// Called by umr.c for `mr`, in a call of this driver's, with a buffer of whole blocks.
#[no_mangle]
unsafe extern "C" fn mlx5_odp_populate_xlt(
    xlt: *mut c_void,
    idx: usize,
    nentries: usize,
    mr: *mut mlx5::mlx5_ib_mr,
    flags: c_int,
) -> c_int {
    let indirect = flags & mlx5::MLX5_ODP_SHIM_INDIRECT as c_int != 0;
    let size = if indirect { KSM } else { MTT };
    let bytes = (nentries * size).next_multiple_of(BLOCK);
    // SAFETY: By the contract, there are so many.
    let buffer = unsafe { core::slice::from_raw_parts_mut(xlt.cast::<u8>(), bytes) };
    let (entries, rest) = buffer.split_at_mut(nentries * size);
    rest.fill(0);
    // SAFETY: By the contract, `mr` is valid, and this is the thread of the update.
    let entry = unsafe { head_of(mr).and_then(|head| head.entry()) };
    let Some(entry) = entry else {
        // No key that is not one of these gets here.
        return EINVAL.to_errno();
    };
    for (number, room) in (idx as u64..).zip(entries.chunks_exact_mut(size)) {
        entry(number, room);
    }
    0
}
