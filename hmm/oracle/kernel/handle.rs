// SPDX-License-Identifier: GPL-2.0

//! A mirror in the hands of a program: the program says what the device does, and the device does it
//! in the program's own thread.
//!
//! The mirror belongs to the open file, so it can outlive the address space that it mirrors. The
//! ranges that a caller asks for go to [`Mirror`] as they are, however little sense they make: what
//! becomes of them there is what tests want to know.

use core::mem::MaybeUninit;
use core::ops::ControlFlow;

use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce};
use kernel::uaccess::{UserPtr, UserSlice};

use hmm::{Access, ByteRange, Limits, Mirror, PageRange, Perm, Policy, Waiting, PAGE_SIZE};

use crate::abi;
use crate::argument;
use crate::tally::Tally;

/// What an open file mirrors, if anything.
pub(crate) struct Handle {
    open: SetOnce<Open>,
}

struct Open {
    mirror: Mirror<Tally>,
    tally: Arc<Tally>,
}

impl Handle {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            open: SetOnce::new(),
        }
    }

    fn get(&self) -> Result<&Open> {
        self.open.as_ref().ok_or(ENXIO)
    }

    /// Makes the file a mirror of part of `mm`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a range that is empty, unaligned or not all in user space, `EBUSY` if the file is
    /// a mirror already.
    pub(crate) fn open(&self, argument: &mut abi::MirrorOpen, mm: &MmWithUser) -> Result {
        if argument.len % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        let span = argument::span(mm, argument.start, argument.len / PAGE_SIZE)?;
        let limit = Perm::from_writable(flag(argument.writable)?);
        let tally = Arc::new(Tally::default(), GFP_KERNEL)?;
        let mirror = Mirror::new(mm, span, limit, Limits::default(), tally.clone())?;
        match self.open.populate(Open { mirror, tally }) {
            true => Ok(()),
            false => Err(EBUSY),
        }
    }

    /// The device reads or writes.
    ///
    /// # Errors
    ///
    /// `ENXIO` if the file is no mirror, `EINVAL` for a length that is 0 or too large, `EFAULT` for the
    /// buffer; otherwise those of [`Mirror::access`].
    pub(crate) fn access(&self, argument: &mut abi::MirrorAccess, _mm: &MmWithUser) -> Result {
        let open = self.get()?;
        if argument.len == 0 || argument.len > abi::MAX_ACCESS {
            return Err(EINVAL);
        }
        let len = argument.len as usize;
        let buffer = UserSlice::new(UserPtr::from_addr(argument.buffer as usize), len);
        match flag(argument.write)? {
            true => open.write(argument.va, buffer),
            false => open.read(argument.va, len, buffer),
        }
    }

    /// Brings pages into the mirror.
    ///
    /// # Errors
    ///
    /// `ENXIO`, `EINVAL` for a range that is empty or wraps, `EINTR` if a signal came; otherwise
    /// those of [`Mirror::prefetch`].
    pub(crate) fn prefetch(&self, argument: &mut abi::MirrorPrefetch, _mm: &MmWithUser) -> Result {
        let open = self.get()?;
        let range = pages(argument.va, argument.len)?;
        let policy = u8::try_from(argument.policy).map_err(|_| EINVAL)?;
        let permitted = match argument::policy(policy)? {
            Policy::Snapshot => None,
            Policy::Fault(access) => Some(open.mirror.owned().permit(access)?),
        };
        let (mut added, mut interrupted) = (0, false);
        open.mirror
            .prefetch(range, permitted, Waiting::Allowed, |_, pages| {
                added += pages;
                interrupted = kernel::current!().signal_pending();
                match interrupted {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
        if interrupted {
            return Err(EINTR);
        }
        argument.added = added;
        Ok(())
    }

    /// How many pages the device can read without a fault.
    ///
    /// # Errors
    ///
    /// `ENXIO`, `EINVAL` for a range that is empty or wraps.
    pub(crate) fn present(&self, argument: &mut abi::MirrorPresent, _mm: &MmWithUser) -> Result {
        let open = self.get()?;
        let bytes = ByteRange::new(argument.va, argument.len);
        let bytes = bytes.filter(|bytes| !bytes.is_empty()).ok_or(EINVAL)?;
        let mut pages = 0;
        open.mirror.access_present(bytes, |_bytes| pages += 1);
        argument.pages = pages;
        Ok(())
    }

    /// What has been counted.
    ///
    /// # Errors
    ///
    /// `ENXIO`.
    pub(crate) fn stats(&self, argument: &mut abi::MirrorStats, _mm: &MmWithUser) -> Result {
        *argument = self.get()?.tally.stats();
        Ok(())
    }
}

impl Open {
    fn read(&self, va: u64, len: usize, buffer: UserSlice) -> Result {
        let mut bounce = KVVec::<u8>::with_capacity(len, GFP_KERNEL)?;
        let room = bounce.spare_capacity_mut();
        room.fill(MaybeUninit::new(0));
        let mut at = 0;
        self.mirror.access(va, len, Access::Read, |bytes| {
            bytes.read(&mut room[at..at + bytes.len()]);
            at += bytes.len();
        })?;
        // SAFETY: The capacity is at least `len`, and all of it was initialised above.
        unsafe { bounce.inc_len(len) };
        buffer.writer().write_slice(&bounce)
    }

    fn write(&self, va: u64, buffer: UserSlice) -> Result {
        let mut bounce = KVVec::new();
        buffer.read_all(&mut bounce, GFP_KERNEL)?;
        let mut at = 0;
        self.mirror
            .access(va, bounce.len(), Access::Write, |bytes| {
                bytes.write(&bounce[at..at + bytes.len()]);
                at += bytes.len();
            })?;
        Ok(())
    }
}

fn flag(value: u64) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(EINVAL),
    }
}

fn pages(va: u64, len: u64) -> Result<PageRange> {
    let range = PageRange::covering(va, len).ok_or(EINVAL)?;
    match range.is_empty() {
        true => Err(EINVAL),
        false => Ok(range),
    }
}
