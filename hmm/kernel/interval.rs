// SPDX-License-Identifier: GPL-2.0

//! Interval notifiers: being told, before it happens, that the CPU takes pages of a range away.
//!
//! [`IntervalNotifier`] owns what the device knows about the range. It is registered for as long as
//! it lives; dropping it returns only when no callback runs or can start.
//!
//! Kernel header: `include/linux/mmu_notifier.h`.

use core::marker::PhantomData;
use core::ops::Deref;

use kernel::bindings;
use kernel::error::to_result;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::types::Opaque;

use crate::addr::{PageIndex, PageRange};
use crate::event::Event;
use crate::shim;

/// What is done when the CPU takes pages away.
///
/// # Safety
///
/// `invalidate` closes the sequence under the lock that faults validate under, and removes the
/// translations before it releases that lock.
pub unsafe trait Invalidate: Send + Sync + Sized {
    /// The device stops using its translations of `range` before this returns.
    ///
    /// `range` is cut to the notifier's own. Must not sleep: the out-of-memory killer calls it where
    /// it cannot wait.
    fn invalidate(&self, range: PageRange, event: Event, seq: OpenSeq<'_>) -> Closed;

    /// The device gives up its translations: called once, before the notifier is unregistered.
    /// Nobody faults in the range any more, but invalidations may still come.
    fn retire(&self);
}

/// A sequence that an invalidation has yet to close.
pub struct OpenSeq<'a> {
    raw: *mut bindings::mmu_interval_notifier,
    seq: usize,
    _life: PhantomData<&'a ()>,
}

/// Proof that the sequence was closed: faults begun before will see that they must retry.
pub struct Closed(());

impl OpenSeq<'_> {
    /// Closes the sequence.
    ///
    /// `_lock` is the guard of the lock that faults validate under; it is what makes the new
    /// number visible to them in order.
    pub fn close<G>(self, _lock: &mut G) -> Closed {
        // SAFETY: `raw` is the notifier whose callback is running, so it is alive; the caller holds
        // the lock that readers of the sequence take.
        unsafe { shim::hmm_shim_interval_set_seq(self.raw, self.seq) };
        Closed(())
    }
}

/// A registered interval notifier and the `T` that it protects.
///
/// # Invariants
///
/// While the value can be used, `raw` is registered with `OPS` of `T`, and `data` is initialised.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub struct IntervalNotifier<T: Invalidate> {
    // First, so that the callback finds the value from the pointer it is given.
    #[pin]
    raw: Opaque<bindings::mmu_interval_notifier>,
    #[pin]
    data: T,
    range: PageRange,
}

// SAFETY: The kernel's notifier functions may be called from any thread; `T` is `Send`.
unsafe impl<T: Invalidate> Send for IntervalNotifier<T> {}
// SAFETY: As above, concurrently too; `T` is `Sync`.
unsafe impl<T: Invalidate> Sync for IntervalNotifier<T> {}

impl<T: Invalidate> IntervalNotifier<T> {
    const OPS: &'static bindings::mmu_interval_notifier_ops =
        &bindings::mmu_interval_notifier_ops {
            invalidate: Some(Self::invalidate_callback),
            invalidate_start: None,
            invalidate_finish: None,
        };

    /// Registers for the non-empty `range` of `mm`. Takes the mmap lock for writing if `mm` has no
    /// notifiers yet.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range is empty, `EOVERFLOW` if it passes the end of the address space,
    /// `ENOMEM`, or the error of `data`.
    pub fn new<'a>(
        mm: &'a MmWithUser,
        range: PageRange,
        data: impl PinInit<T, Error> + 'a,
    ) -> impl PinInit<Self, Error> + 'a
    where
        T: 'a,
    {
        try_pin_init!(Self {
            // Before the registration: callbacks use it as soon as that is done.
            data <- data,
            range,
            raw <- Opaque::try_ffi_init(move |raw| Self::register(raw, mm, *range)),
        })
    }

    fn register(
        raw: *mut bindings::mmu_interval_notifier,
        mm: &MmWithUser,
        range: PageRange,
    ) -> Result {
        if range.is_empty() {
            return Err(EINVAL);
        }
        // SAFETY: `raw` is pinned memory for a notifier, `mm` has users, `OPS` is a constant that
        // lives forever. `data` is initialised already and is only used through `&T`.
        to_result(unsafe {
            bindings::mmu_interval_notifier_insert(
                raw,
                mm.as_raw(),
                range.start().addr() as usize,
                (range.len() << crate::addr::PAGE_SHIFT) as usize,
                Self::OPS,
            )
        })
    }

    /// The pages that it watches.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Waits until no invalidation of the range is under way; returns the sequence number.
    pub fn read_begin(&self) -> u64 {
        // SAFETY: Registered, by the type invariant.
        unsafe { bindings::mmu_interval_read_begin(self.raw.get()) as u64 }
    }

    /// Whether an invalidation has come since `seq`. The caller holds the lock that
    /// [`Invalidate::invalidate`] closes the sequence under.
    pub fn must_retry(&self, seq: u64) -> bool {
        // SAFETY: Registered, by the type invariant.
        unsafe { shim::hmm_shim_interval_read_retry(self.raw.get(), seq as usize) }
    }

    /// The same without the lock: `true` is certain.
    pub fn may_have_collided(&self, seq: u64) -> bool {
        // SAFETY: Registered, by the type invariant.
        unsafe { shim::hmm_shim_interval_check_retry(self.raw.get(), seq as usize) }
    }

    /// # Safety
    ///
    /// Called by the kernel for a notifier registered by [`Self::register`].
    unsafe extern "C" fn invalidate_callback(
        raw: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        seq: usize,
    ) -> bool {
        // SAFETY: `raw` is the first field of an `IntervalNotifier<T>`, which outlives the callback
        // as dropping it waits for callbacks. Its `data` and `range` are initialised before the
        // registration and not written while it lasts. Only these two fields are touched: the
        // initialiser of `raw` itself may not have returned yet.
        let (data, own) = unsafe {
            let this = raw.cast::<Self>();
            (&(*this).data, (*this).range)
        };
        // SAFETY: The kernel passes a valid range.
        let (start, end, event) = unsafe { ((*range).start, (*range).end, (*range).event) };
        let open = OpenSeq {
            raw,
            seq,
            _life: PhantomData,
        };
        let pages = PageRange::new(
            PageIndex::containing(start as u64),
            PageIndex::containing((end as u64).saturating_add(crate::addr::PAGE_SIZE - 1)),
        );
        let Closed(()) = data.invalidate(pages.intersection(&own), event_from(event), open);
        true
    }
}

impl<T: Invalidate> Deref for IntervalNotifier<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

#[pinned_drop]
impl<T: Invalidate> PinnedDrop for IntervalNotifier<T> {
    // A callback may run at the same time and use `data` through `&T`; so does this, and the type
    // cannot be moved (`!Unpin`), so the compiler assumes nothing of this `&mut`.
    fn drop(self: Pin<&mut Self>) {
        self.data.retire();
        // SAFETY: Registered, by the type invariant; after this no callback runs, so `data` may go.
        unsafe { bindings::mmu_interval_notifier_remove(self.raw.get()) };
    }
}

fn event_from(event: bindings::mmu_notifier_event) -> Event {
    match event {
        bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP => Event::Unmap,
        bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA => Event::ProtectVma,
        bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE => Event::ProtectPage,
        bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY => Event::SoftDirty,
        bindings::mmu_notifier_event_MMU_NOTIFY_RELEASE => Event::Release,
        bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE => Event::Migrate,
        bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE => Event::Exclusive,
        // CLEAR, and whatever a later kernel adds: the entries may have been replaced.
        _ => Event::Clear,
    }
}
