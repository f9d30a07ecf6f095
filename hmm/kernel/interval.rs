// SPDX-License-Identifier: GPL-2.0

//! Interval notifiers: being told, before it happens, that the CPU takes pages of a range away.
//!
//! [`IntervalNotifier`] owns what the device knows about the range, and the lock over it, which faults
//! validate under. It is registered for as long as it lives; dropping it returns only when no
//! callback runs or can start.
//!
//! One invalidation goes: the kernel → `invalidate_callback` → the exclusive lock → the range goes
//! into the [`History`], which is what a fault under way compares with → [`Invalidate::invalidate`].
//!
//! Kernel header: `include/linux/mmu_notifier.h`.

use core::ops::{Deref, DerefMut};

use kernel::bindings;
use kernel::error::to_result;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::types::Opaque;

use crate::addr::{PageIndex, PageRange};
use crate::event::Event;
use crate::pfn::Owner;
use crate::process::user_pages;
use crate::rwlock::{ReadGuard, RwLock, WriteGuard};
use crate::seq::{Domain, History};
use crate::shim;

/// What is done when the CPU takes pages away.
///
/// Both functions run under the exclusive lock: no fault is being entered, and no access that holds
/// the shared lock is under way.
pub trait Invalidate: Send + Sync {
    /// The device stops using its translations of `range` before this returns, as far as `event` asks
    /// for it.
    ///
    /// `range` is cut to the notifier's own. Must not sleep.
    fn invalidate(&mut self, range: PageRange, event: Event);

    /// The device gives up its translations: called once, before the notifier is unregistered.
    /// Nobody faults in the range any more, but invalidations may still come.
    fn retire(&mut self);
}

/// What an [`IntervalNotifier`] protects, and the invalidations that it has seen.
pub struct Watched<T> {
    history: History,
    data: T,
}

impl<T> Deref for Watched<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> DerefMut for Watched<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

/// A registered interval notifier and the `T` that it protects.
///
/// # Invariants
///
/// While the value can be used, `raw` is registered with `OPS` of `T`.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub struct IntervalNotifier<T: Invalidate> {
    // First, so that the callback finds the value from the pointer it is given.
    #[pin]
    raw: Opaque<bindings::mmu_interval_notifier>,
    #[pin]
    state: RwLock<Watched<T>>,
    owner: Owner,
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
    /// What `owner` itself does to the range, moving pages to its device's memory or taking them for
    /// exclusive access, is no invalidation.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range is empty or not all of it can be mapped by user space; `ENOMEM`.
    pub fn new(
        mm: &MmWithUser,
        range: PageRange,
        owner: Owner,
        data: T,
    ) -> impl PinInit<Self, Error> + use<'_, T> {
        let history = History::new(0);
        try_pin_init!(Self {
            // Before the registration: callbacks use them as soon as that is done.
            state <- RwLock::new(Watched { history, data }),
            owner,
            raw <- Opaque::try_ffi_init(move |raw| Self::register(raw, mm, range)),
        })
    }

    fn register(
        raw: *mut bindings::mmu_interval_notifier,
        mm: &MmWithUser,
        range: PageRange,
    ) -> Result {
        if range.is_empty() || range.intersection(&user_pages(mm)) != range {
            return Err(EINVAL);
        }
        // SAFETY: `raw` is pinned memory for a notifier, `mm` has users, `OPS` is a constant that
        // lives forever. The other fields are initialised already.
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
        // SAFETY: Registered, by the type invariant.
        unsafe { range_of(self.raw.get()) }
    }

    /// Whose own doings are no invalidation.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Whether it is registered with `mm`.
    pub fn watches(&self, mm: &MmWithUser) -> bool {
        // SAFETY: Registered, by the type invariant; the field does not change.
        let own = unsafe { (*self.raw.get()).mm };
        core::ptr::eq(own, mm.as_raw())
    }

    /// Shares the lock: invalidations wait, and others may share it too. Nothing may sleep.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, Watched<T>> {
        self.state.read()
    }

    /// Takes the lock for oneself: invalidations wait. Nothing may sleep.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_, Watched<T>> {
        self.state.write()
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
        // as dropping it waits for callbacks. The fields used are initialised before the registration
        // and not written while it lasts. Only these are touched: the initialiser of `raw` itself may
        // not have returned yet.
        let (state, own, owner) = unsafe {
            let this = raw.cast::<Self>();
            (&(*this).state, range_of(raw), (*this).owner)
        };
        // SAFETY: The kernel passes a valid range.
        let range = unsafe { &*range };
        let event = event_from(range.event);
        // Only these two say whose doing they are.
        if matches!(event, Event::Migrate | Event::Exclusive)
            && owner.is(Owner::new(range.owner as usize))
        {
            return true;
        }
        // Rounded outwards at both ends.
        let pages = PageRange::new(
            PageIndex::containing(range.start as u64),
            PageIndex::containing((range.end as u64).saturating_add(crate::addr::PAGE_SIZE - 1)),
        )
        .intersection(&own);
        // Waits for accesses under way; later ones find nothing and fault.
        let mut state = state.write();
        state.history.record(pages);
        // SAFETY: `raw` is the notifier whose callback is running; the lock is the one that faults
        // validate under.
        unsafe { shim::hmm_shim_interval_set_seq(raw, seq) };
        state.data.invalidate(pages, event);
        true
    }
}

/// A fault and an invalidation collide if they touch the same pages.
impl<T: Invalidate> Domain for IntervalNotifier<T> {
    type Guard<'d>
        = WriteGuard<'d, Watched<T>>
    where
        Self: 'd;

    fn read_begin(&self) -> u64 {
        // First the number: an invalidation that is not counted in it yet makes the fault retry; of
        // one that is, the wait below sees the end.
        let seq = self.read().history.seq();
        // SAFETY: Registered, by the type invariant.
        unsafe { bindings::mmu_interval_read_begin(self.raw.get()) };
        seq
    }

    fn lock(&self) -> Self::Guard<'_> {
        self.write()
    }

    fn must_retry(&self, guard: &Self::Guard<'_>, seq: u64, pages: PageRange) -> bool {
        guard.history.touched_since(seq, pages)
    }

    fn may_have_collided(&self, seq: u64, pages: PageRange) -> bool {
        self.read().history.touched_since(seq, pages)
    }
}

#[pinned_drop]
impl<T: Invalidate> PinnedDrop for IntervalNotifier<T> {
    // A callback may run at the same time and use `state` through a shared reference; so does this,
    // and the type cannot be moved (`!Unpin`), so the compiler assumes nothing of this `&mut`.
    fn drop(self: Pin<&mut Self>) {
        self.state.write().data.retire();
        // SAFETY: Registered, by the type invariant; after this no callback runs, so `state` may go.
        unsafe { bindings::mmu_interval_notifier_remove(self.raw.get()) };
    }
}

/// Watches nothing.
struct Nobody;

impl Invalidate for Nobody {
    fn invalidate(&mut self, _range: PageRange, _event: Event) {}

    fn retire(&mut self) {}
}

/// Makes `mm` ready for notifiers: for the first one the kernel takes the mmap lock for writing, and a fault that
/// must not wait cannot. Sleeps.
///
/// # Errors
///
/// `ENOMEM`; `EINTR` if a signal is pending.
pub(crate) fn prepare(mm: &MmWithUser) -> Result {
    let first = PageRange::new(PageIndex::new(0), PageIndex::new(1));
    let notifier = IntervalNotifier::new(mm, first, Owner::NONE, Nobody);
    KBox::pin_init(notifier, GFP_KERNEL).map(drop)
}

/// The pages that a notifier watches; it keeps them itself.
///
/// # Safety
///
/// `raw` has been handed to the kernel for registration.
unsafe fn range_of(raw: *mut bindings::mmu_interval_notifier) -> PageRange {
    // SAFETY: Both are set before the registration and do not change while it lasts.
    let (start, last) = unsafe { ((*raw).interval_tree.start, (*raw).interval_tree.last) };
    PageRange::new(
        PageIndex::containing(start as u64),
        PageIndex::containing(last as u64).saturating_add(1),
    )
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
