// SPDX-License-Identifier: GPL-2.0

//! The ioctls' arguments: copied in and out, and checked. What makes no sense is an errno.

use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::transmute::{AsBytes, FromBytes};
use kernel::uaccess::{UserPtr, UserSlice};

use hmm::{Access, PageIndex, PageRange, Policy, PAGE_SIZE};

use crate::abi;
use crate::shim;

// SAFETY: Integers without padding between them: 72, 40, 24 and 32 bytes; every value is allowed.
unsafe impl FromBytes for abi::Compare {}
// SAFETY: As above.
unsafe impl AsBytes for abi::Compare {}
// SAFETY: As above.
unsafe impl FromBytes for abi::Walk {}
// SAFETY: As above.
unsafe impl AsBytes for abi::Walk {}
// SAFETY: As above.
unsafe impl FromBytes for abi::Zap {}
// SAFETY: As above.
unsafe impl AsBytes for abi::Zap {}
// SAFETY: As above.
unsafe impl FromBytes for abi::Mirror {}
// SAFETY: As above.
unsafe impl AsBytes for abi::Mirror {}

// SAFETY: 8-byte integers only, so no padding; every value is allowed.
unsafe impl FromBytes for abi::MirrorOpen {}
// SAFETY: As above.
unsafe impl AsBytes for abi::MirrorOpen {}
// SAFETY: As above.
unsafe impl FromBytes for abi::MirrorAccess {}
// SAFETY: As above.
unsafe impl AsBytes for abi::MirrorAccess {}
// SAFETY: As above.
unsafe impl FromBytes for abi::MirrorPrefetch {}
// SAFETY: As above.
unsafe impl AsBytes for abi::MirrorPrefetch {}
// SAFETY: As above.
unsafe impl FromBytes for abi::MirrorPresent {}
// SAFETY: As above.
unsafe impl AsBytes for abi::MirrorPresent {}
// SAFETY: As above.
unsafe impl FromBytes for abi::MirrorStats {}
// SAFETY: As above.
unsafe impl AsBytes for abi::MirrorStats {}

const _: () = assert!(size_of::<abi::Compare>() == 72 && size_of::<abi::Walk>() == 40);
const _: () = assert!(size_of::<abi::Zap>() == 24 && size_of::<abi::Mirror>() == 32);

/// Copies the argument at `address` in, lets `serve` fill in its results, and copies it out.
pub(crate) fn exchange<T: FromBytes + AsBytes>(
    address: usize,
    serve: impl FnOnce(&mut T, &MmWithUser) -> Result,
) -> Result<isize> {
    let slice = UserSlice::new(UserPtr::from_addr(address), size_of::<T>());
    let (mut reader, mut writer) = slice.reader_writer();
    let mut argument = reader.read::<T>()?;
    let task = kernel::current!();
    serve(&mut argument, task.mm().ok_or(EINVAL)?)?;
    writer.write(&argument)?;
    Ok(0)
}

/// The pages of a range of user space.
///
/// # Errors
///
/// `EINVAL` if it is empty, unaligned, larger than [`abi::MAX_PAGES`] or not all in user space.
pub(crate) fn range(mm: &MmWithUser, start: u64, pages: u64) -> Result<PageRange> {
    if pages > abi::MAX_PAGES {
        return Err(EINVAL);
    }
    span(mm, start, pages)
}

/// The same of any size.
pub(crate) fn span(mm: &MmWithUser, start: u64, pages: u64) -> Result<PageRange> {
    if start % PAGE_SIZE != 0 || pages == 0 {
        return Err(EINVAL);
    }
    let length = pages.checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
    let end = start.checked_add(length).ok_or(EINVAL)?;
    // SAFETY: `mm` is alive.
    if end > unsafe { shim::hmm_oracle_task_size(mm.as_raw()) } as u64 {
        return Err(EINVAL);
    }
    Ok(PageRange::new(
        PageIndex::containing(start),
        PageIndex::containing(end),
    ))
}

/// What a byte asks for.
pub(crate) fn policy(byte: u8) -> Result<Policy> {
    match byte {
        abi::SNAPSHOT => Ok(Policy::Snapshot),
        abi::READ => Ok(Policy::Fault(Access::Read)),
        abi::WRITE => Ok(Policy::Fault(Access::Write)),
        _ => Err(EINVAL),
    }
}

/// The requests at the user's `address`, one a page; `None` if that is 0.
pub(crate) fn requests(address: u64, pages: u64) -> Result<Option<KVVec<Policy>>> {
    if address == 0 {
        return Ok(None);
    }
    let slice = UserSlice::new(UserPtr::from_addr(address as usize), pages as usize);
    let mut bytes = KVVec::from_elem(0u8, pages as usize, GFP_KERNEL)?;
    slice.reader().read_slice(&mut bytes)?;
    let mut policies = KVVec::with_capacity(bytes.len(), GFP_KERNEL)?;
    for byte in &bytes {
        policies.push(policy(*byte)?, GFP_KERNEL)?;
    }
    Ok(Some(policies))
}

/// Copies `words` to the user's `address`.
pub(crate) fn deliver(words: &[u64], address: u64) -> Result {
    UserSlice::new(UserPtr::from_addr(address as usize), size_of_val(words))
        .writer()
        .write_slice(AsBytes::as_bytes(words))
}

/// `result` as the errno that the argument reports.
pub(crate) fn errno(result: Result) -> u32 {
    result.map_or_else(|error| error.to_errno().unsigned_abs(), |()| 0)
}
