// SPDX-License-Identifier: GPL-2.0

//! Interval notifiers: callbacks for a range of addresses, before the CPU takes pages of it away.
//!
//! [`IntervalNotifier`] owns the driver's data about the range and the lock over it, under which faults
//! validate. It is registered for as long as it lives.
//!
//! An invalidation takes this path: the kernel → `invalidate_callback` → [`invalidate`]: the exclusive lock, the
//! history that a fault under way compares with, [`Invalidate::invalidate`].

use kernel::bindings;
use kernel::error::to_result;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::types::Opaque;

use crate::addr::{PageIndex, PageRange};
use crate::event::Event;
use crate::notifier_lock::{NotifierLock, Spin};
use crate::pfn::Owner;
use crate::process::user_pages;
use crate::rwlock::{ReadGuard, RwLock, SharedLock};
use crate::seq::{invalidate, Domain, Watched, WatchedLock};
use crate::shim;

/// What a driver does when the CPU takes pages away.
///
/// The functions run under the notifier's exclusive lock: no fault is being entered, and no access that
/// holds the shared lock is under way.
///
/// ```no_run
/// # #![no_std]
/// # use hmm::{Event, Invalidate, Leaves, PageRange, Spin};
/// # struct PageTable(PageRange);
/// # impl PageTable {
/// #     fn all(&self) -> PageRange { self.0 }
/// #     fn zap(&mut self, _range: PageRange) {}
/// #     fn write_protect(&mut self, _range: PageRange) {}
/// # }
/// impl Invalidate for PageTable {
///     type Lock = Spin;
///
///     fn invalidate(&mut self, range: PageRange, event: Event) {
///         match event.leaves() {
///             Leaves::Nothing => self.zap(range),
///             Leaves::ReadOnly => self.write_protect(range),
///         }
///     }
///
///     fn retire(&mut self) {
///         self.zap(self.all());
///     }
/// }
/// # fn main() {}
/// ```
///
/// # Why this is a safe trait
///
/// An implementation that does nothing breaks the promise of a *device*, which goes on using pages that are
/// no longer the process's. Rust does not check devices: any driver that programs one can have it write
/// anywhere. The CPU is not led astray. `hmm` follows no pointer that an implementation gives it; a [`Pfn`] is
/// a number; and the functions that go from a number to memory ([`MappedPage::map`], [`mark_dirty`]) are
/// unsafe. Their caller, the driver, has to prove that the frame is still the process's, and its own
/// `invalidate` is a part of that proof.
///
/// [`Pfn`]: crate::Pfn
/// [`MappedPage::map`]: crate::MappedPage::map
/// [`mark_dirty`]: crate::mark_dirty
pub trait Invalidate: Send + Sync + Unpin + 'static {
    /// The notifier's lock: [`Spin`], or [`Sleep`](crate::Sleep) if the functions below have to wait for the device.
    type Lock: NotifierLock;

    /// Removes the device's translations of `range`, or its right to write, as [`Event::leaves`] says. When
    /// this returns, the device does not use what went. Pages that it wrote are marked dirty here.
    ///
    /// `range` is cut to the notifier's own. Must not sleep under [`Spin`]. The kernel may hold the mmap lock, a
    /// folio's lock or reverse-map locks.
    fn invalidate(&mut self, range: PageRange, event: Event);

    /// Removes all translations: called once, before the notifier is unregistered. There are no faults in the
    /// range any more, but invalidations may still come. Must not sleep under [`Spin`].
    fn retire(&mut self);

    /// Whether the device has translations of `range`. Called under [`Sleep`](crate::Sleep) only, for an invalidation
    /// that must not sleep. If true, it is refused and its caller tries again. Must not sleep.
    fn uses(&self, _range: PageRange) -> bool {
        true
    }
}

/// The lock of the notifier of `T`.
type LockOf<T> = <<T as Invalidate>::Lock as NotifierLock>::Lock<T>;

/// The exclusive lock of the notifier of `T`, held. Derefs to the `T`.
pub type Locked<'d, T> = <LockOf<T> as WatchedLock<T>>::Guard<'d>;

/// A registered interval notifier and the `T` that it protects: the counterpart of C's
/// `struct mmu_interval_notifier` and the driver's lock.
///
/// The lock is the one that [`Invalidate::Lock`] names.
///
/// Dropping it calls [`Invalidate::retire`] and sleeps until no callback runs or can start.
///
/// Kernel header: `include/linux/mmu_notifier.h`.
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
    state: LockOf<T>,
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

    /// Registers for the non-empty `range` of `mm`. Sleeps; takes the mmap lock for writing if `mm` has no
    /// notifiers yet.
    ///
    /// Migrations and exclusive access by `owner` itself are no invalidations.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range is empty or not all of it can be mapped by user space; `ENOMEM`; `EINTR` if a signal is
    /// pending.
    pub fn new(
        mm: &MmWithUser,
        range: PageRange,
        owner: Owner,
        data: T,
    ) -> impl PinInit<Self, Error> + use<'_, T> {
        try_pin_init!(Self {
            // Before the registration: callbacks use them as soon as that is done.
            state <- T::Lock::around(Watched::new(data, 0)),
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

    /// The pages that it is registered for.
    pub fn range(&self) -> PageRange {
        // SAFETY: Registered, by the type invariant.
        unsafe { range_of(self.raw.get()) }
    }

    /// Whose migrations and exclusive accesses are no invalidations.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Whether it is registered with `mm`.
    pub fn watches(&self, mm: &MmWithUser) -> bool {
        // SAFETY: Registered, by the type invariant; the field does not change.
        let own = unsafe { (*self.raw.get()).mm };
        core::ptr::eq(own, mm.as_raw())
    }

    /// Takes the lock exclusively: invalidations wait. The holder must not sleep under [`Spin`].
    #[inline]
    pub fn write(&self) -> Locked<'_, T> {
        self.state.lock()
    }

    /// Calls `look` on the data under the lock, shared if that can be. Sleeps if the lock does.
    #[inline]
    pub fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        self.state.look(|watched| look(watched))
    }

    /// The same without sleeping; `None` if somebody holds a lock under which one may sleep.
    #[inline]
    pub fn try_look<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.state.try_look(|watched| look(watched))
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
        // Only these two name their owner.
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
        invalidate(
            state,
            pages,
            range.flags & shim::hmm_shim_notifier_HMM_SHIM_BLOCKABLE != 0,
            |data| data.uses(pages),
            // SAFETY: `raw` is the notifier whose callback is running; the lock is the one that faults
            // validate under.
            || unsafe { shim::hmm_shim_interval_set_seq(raw, seq) },
            |data| data.invalidate(pages, event),
        )
    }
}

impl<T: Invalidate<Lock = Spin>> IntervalNotifier<T> {
    /// Takes the lock shared: invalidations wait. The holder must not sleep.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, Watched<T>> {
        self.state.read()
    }
}

// SAFETY: `state` is a field, and its lock a field of that.
unsafe impl<T: Invalidate<Lock = Spin>> SharedLock for IntervalNotifier<T> {
    type Data = Watched<T>;

    const OFFSET: usize = core::mem::offset_of!(Self, state) + RwLock::<Watched<T>>::RAW;

    #[inline]
    unsafe fn taken(&self) -> ReadGuard<'_, Watched<T>> {
        // SAFETY: By the contract.
        unsafe { self.state.taken_for_reading() }
    }
}

/// A fault collides with an invalidation of the same pages.
impl<T: Invalidate> Domain for IntervalNotifier<T> {
    type Guard<'d>
        = Locked<'d, T>
    where
        Self: 'd;

    fn read_begin(&self) -> u64 {
        // First the number: an invalidation that is not counted in it yet makes the fault retry; of
        // one that is, the wait below sees the end.
        let seq = self.state.look(Watched::seq);
        // SAFETY: Registered, by the type invariant.
        unsafe { bindings::mmu_interval_read_begin(self.raw.get()) };
        seq
    }

    fn lock(&self) -> Self::Guard<'_> {
        self.write()
    }

    fn must_retry(&self, guard: &Self::Guard<'_>, seq: u64, pages: PageRange) -> bool {
        guard.touched_since(seq, pages)
    }

    fn may_have_collided(&self, seq: u64, pages: PageRange) -> bool {
        let collided = self
            .state
            .try_look(|watched| watched.touched_since(seq, pages));
        collided.unwrap_or(false)
    }
}

#[pinned_drop]
impl<T: Invalidate> PinnedDrop for IntervalNotifier<T> {
    // A callback may run at the same time and use `state` through a shared reference; so does this,
    // and the type cannot be moved (`!Unpin`), so the compiler assumes nothing of this `&mut`.
    fn drop(self: Pin<&mut Self>) {
        self.state.lock().retire();
        // SAFETY: Registered, by the type invariant; after this no callback runs, so `state` may go.
        unsafe { bindings::mmu_interval_notifier_remove(self.raw.get()) };
    }
}

/// A notifier without a device.
struct Nobody;

impl Invalidate for Nobody {
    type Lock = Spin;

    fn invalidate(&mut self, _range: PageRange, _event: Event) {}

    fn retire(&mut self) {}
}

/// Makes `mm` ready for notifiers. Sleeps. For the first one the kernel takes the mmap lock for writing, which a
/// fault that must not wait could not do.
///
/// # Errors
///
/// `ENOMEM`; `EINTR` if a signal is pending.
pub(crate) fn prepare(mm: &MmWithUser) -> Result {
    let first = PageRange::new(PageIndex::new(0), PageIndex::new(1));
    let notifier = IntervalNotifier::new(mm, first, Owner::NONE, Nobody);
    KBox::pin_init(notifier, GFP_KERNEL).map(drop)
}

/// The pages that a notifier is registered for, from its interval tree node.
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
