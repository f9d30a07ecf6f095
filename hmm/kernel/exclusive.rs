// SPDX-License-Identifier: GPL-2.0

//! Exclusive access of a device to a page, for atomics that the bus does not have.
//!
//! [`make_exclusive`] replaces the CPU's entry for the page by one that faults. While a device has the
//! page exclusively, no CPU reads or writes it; the first that tries ends that: the fault comes as an
//! invalidation of the page to all notifiers, and then restores the entry. So a device that has
//! entered the page into its translations under the guard loses it like any other translation.
//!
//! The steps for one page: sequence noted → the kernel faults the page in for writing, locks it, tells all
//! notifiers but those of `owner` ([`Event::Exclusive`](crate::Event::Exclusive)) and replaces
//! the entry → the notifier's lock → if an invalidation came in between (also one of the kernel's own
//! doing, when it splits a huge page for this), all over again.
//!
//! Lock order: the mmap lock, the page's, the notifier's. The guard of the last two is [`Exclusive`].

use core::ptr::NonNull;

use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::mm::MmWithUser;
use kernel::prelude::*;

use crate::addr::{PageIndex, PageRange};
use crate::collect::{Collect, Full};
use crate::device_shim as shim;
use crate::interval::{IntervalNotifier, Invalidate, Locked};
use crate::pfn::{Access, Memory, Perm, Pfn};
use crate::policy::Policy;
use crate::process::killed;
use crate::range::{fault_until_valid, TimeLimit};
use crate::run::Run;
use crate::runs::Runs;
use crate::seq::{Deadline, Sequence, Unread, ValidRange};
use crate::walk::{FaultError, Request};

/// A page that no CPU can access, and the notifier's lock.
///
/// The driver enters the page into the device's page table, under the lock, and drops this. From then on an access
/// of the CPU is an invalidation.
///
/// Exclusive access ends with any event for the page, also with one that [leaves](crate::Event::leaves) read-only
/// translations: after a fork the CPU may read again.
///
/// Kernel header: `include/linux/rmap.h` (`make_device_exclusive`).
pub struct Exclusive<'d, T: Invalidate> {
    // Its lock is released before the page.
    valid: ValidRange<'d, IntervalNotifier<T>, LockedFolio>,
}

impl<'d, T: Invalidate> Exclusive<'d, T> {
    /// The page's frame. It is system memory, and may be read and written.
    pub fn pfn(&self) -> Pfn {
        self.valid.result().pfn
    }

    /// The data that the notifier protects, to enter the page into.
    pub fn guard(&mut self) -> &mut Locked<'d, T> {
        self.valid.split().1
    }
}

/// Takes `page` of `mm`, for which `notifier` is registered, away from the CPU and from all other devices.
///
/// `notifier` must have an [owner](IntervalNotifier::owner): without one, its own call would count as an
/// invalidation and never succeed. Takes and releases the mmap lock; sleeps.
///
/// The driver marks the page dirty ([`crate::mark_dirty`]) before its translation ends, if the device wrote it, as
/// for any page.
///
/// # Errors
///
/// `EINVAL` if the notifier does not watch that page or has no owner; `EFAULT` if there is no page
/// that may be written; `EOPNOTSUPP` if it is not anonymous memory; `ETIMEDOUT` if others kept coming
/// in between for the time of `limit`; `EINTR` if the caller is killed; `ENOMEM`.
///
/// ```no_run
/// # #![no_std]
/// # use hmm::{make_exclusive, IntervalNotifier, Invalidate, PageIndex, Pfn, TimeLimit};
/// # use kernel::mm::MmWithUser;
/// # trait PageTable: Invalidate {
/// #     fn enter(&mut self, page: PageIndex, pfn: Pfn);
/// # }
/// # fn atomic<T: PageTable>(
/// #     notifier: &IntervalNotifier<T>,
/// #     mm: &MmWithUser,
/// #     page: PageIndex,
/// # ) -> kernel::error::Result {
/// let mut held = make_exclusive(notifier, mm, &TimeLimit::default(), page)?;
/// let pfn = held.pfn();
/// // Under the notifier's lock. Once `held` is dropped, an access of the CPU calls `invalidate`.
/// held.guard().enter(page, pfn);
/// # Ok(())
/// # }
/// # fn main() {}
/// ```
pub fn make_exclusive<'d, T: Invalidate>(
    notifier: &'d IntervalNotifier<T>,
    mm: &MmWithUser,
    limit: &TimeLimit,
    page: PageIndex,
) -> Result<Exclusive<'d, T>> {
    let owner = notifier.owner();
    if !notifier.watches(mm) || !notifier.range().contains(page) || !owner.is(owner) {
        return Err(EINVAL);
    }
    loop {
        if killed() {
            return Err(FaultError::Interrupted.into());
        }
        let seq = Sequence::begin(notifier);
        let held = LockedFolio::take(mm, page, owner.identity())?;
        let run = held.run(page);
        let mut found = Unread::new(held);
        if found.mapped(run).is_ok() {
            if let Ok(valid) = seq.faulted(found, run.range()).validate() {
                return Ok(Exclusive { valid });
            }
        }
        if limit.passed() {
            return Err(FaultError::TimedOut.into());
        }
        restore(notifier, mm, limit, page)?;
    }
}

/// Ends the exclusive access of a failed attempt. The next attempt would end it otherwise, which is an
/// invalidation, and fail for that.
fn restore<T: Invalidate>(
    notifier: &IntervalNotifier<T>,
    mm: &MmWithUser,
    limit: &TimeLimit,
    page: PageIndex,
) -> Result {
    let page = PageRange::new(page, page.saturating_add(1));
    let request = Request::new(page, Policy::Fault(Access::Write));
    fault_until_valid(notifier, mm, limit, &request, Runs::new())?;
    Ok(())
}

/// A locked folio, with a page whose entry in the CPU's page table was replaced.
///
/// # Invariants
///
/// `folio` is locked by us and has a reference that is ours.
struct LockedFolio {
    folio: NonNull<bindings::folio>,
    pfn: Pfn,
}

impl LockedFolio {
    fn take(mm: &MmWithUser, page: PageIndex, owner: usize) -> Result<Self> {
        let mut folio = core::ptr::null_mut();
        let _mmap_lock = mm.mmap_read_lock();
        // SAFETY: The mmap lock is held; `owner` is compared only.
        let page = from_err_ptr(unsafe {
            shim::make_device_exclusive(
                mm.as_raw(),
                page.addr() as usize,
                owner as *mut _,
                &mut folio,
            )
        })?;
        let folio = NonNull::new(folio).ok_or(EFAULT)?;
        // SAFETY: The page is kept by the folio's reference.
        let pfn = Pfn::new(unsafe { shim::hmm_shim_page_pfn(page) } as u64);
        // INVARIANT: On success the folio is locked and referenced for the caller.
        Ok(Self { folio, pfn })
    }

    fn run(&self, page: PageIndex) -> Run {
        Run {
            start: page,
            pfn: self.pfn,
            pages: 1,
            perm: Perm::ReadWrite,
            order: 0,
            memory: Memory::System,
        }
    }
}

/// Has its page from the start. The sequence needs to know only the address.
impl Collect for LockedFolio {
    fn mapped(&mut self, _run: Run) -> Result<(), Full> {
        Ok(())
    }

    fn clear(&mut self) {}
}

impl Drop for LockedFolio {
    fn drop(&mut self) {
        // SAFETY: Locked by us and referenced, by the type invariant.
        unsafe { bindings::folio_unlock(self.folio.as_ptr()) };
        // SAFETY: The reference is ours.
        unsafe { shim::hmm_shim_folio_put(self.folio.as_ptr()) };
    }
}
