// SPDX-License-Identifier: GPL-2.0

//! The chunks of a mirror by number: an xarray that is read without a lock.
//!
//! Chunks come and go while the map is in use. An access finds a chunk and takes its lock under RCU, in one step
//! ([`ChunkMap::read`]). A fault, which sleeps, takes a reference ([`ChunkRef`]). [`ChunkMap::retire`]
//! moves chunks without references to a [`RetireList`], which frees them after a grace period. The rules
//! are those of [`crate::refcount`]. The kernel crate's `XArray` reads under its spinlock, which the warm
//! path of a device must not take.

use core::cell::Cell;
use core::ops::Deref;
use core::ptr::NonNull;

use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::rcu;
use kernel::types::{ForeignOwnable, Opaque};

use crate::refcount::{Reap, Refcount};
use crate::rwlock::{ReadGuard, SharedLock};
use crate::shim;

/// A map from numbers to pinned values.
///
/// # Invariants
///
/// Every entry of the array is a `Pin<KBox<Entry<T>>>` turned into a pointer, owned by the map. It
/// leaves the array, under the array's lock, only when its `refcount` has been retired, and is freed after
/// a grace period from then on; or by [`ChunkMap::clear`].
#[pin_data(PinnedDrop)]
pub(crate) struct ChunkMap<T> {
    #[pin]
    xa: Opaque<bindings::xarray>,
    _owns: core::marker::PhantomData<T>,
}

/// A value and its reference count.
#[pin_data]
struct Entry<T> {
    refcount: Refcount,
    /// The next one in the same [`RetireList`]. Used by that alone.
    next: Cell<Option<NonNull<Entry<T>>>>,
    #[pin]
    value: T,
}

// SAFETY: The map owns its `T`s; the xarray may be used from any thread.
unsafe impl<T: Send> Send for ChunkMap<T> {}
// SAFETY: It hands out `&T` to several threads and takes `T` from any. `Entry::next` is not touched
// while others may have the entry.
unsafe impl<T: Send + Sync> Sync for ChunkMap<T> {}

impl<T: SharedLock> ChunkMap<T> {
    /// The value at `index`, its lock taken for reading; it may be retired meanwhile. One call of C, which an access
    /// would otherwise spend a fifth of its instructions on. Does not sleep.
    #[inline]
    pub(crate) fn read(&self, index: usize) -> Option<ReadGuard<'_, T::Data>> {
        let lock = core::mem::offset_of!(Entry<T>, value) + T::OFFSET;
        // SAFETY: The array is initialised. Its entries are `Entry<T>`, by the type invariant, so there is a lock.
        let entry = unsafe { shim::hmm_shim_xa_read_lock(self.xa.get(), index, lock) };
        let entry = NonNull::new(entry)?.cast::<Entry<T>>();
        // SAFETY: A pointer of ours. It was in the array when the lock was taken, whose holder is a reader for RCU: it
        // is not freed as long as the guard lives.
        let entry = unsafe { entry.as_ref() };
        entry.refcount.mark_accessed();
        // SAFETY: Just taken.
        Some(unsafe { entry.value.taken() })
    }
}

/// How many bytes the map takes for a value.
pub(crate) const fn entry_size<T>() -> usize {
    size_of::<Entry<T>>()
}

impl<T> ChunkMap<T> {
    /// An empty map. Its own memory is charged to the task that adds to it.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            xa <- Opaque::ffi_init(|xa| {
                let flags = shim::hmm_shim_xa_HMM_SHIM_XA_ACCOUNT;
                // SAFETY: `xa` is pinned memory for an xarray.
                unsafe { bindings::xa_init_flags(xa, flags) }
            }),
            _owns: core::marker::PhantomData,
        })
    }

    /// The entry at `index`.
    #[inline]
    fn entry<'g>(&'g self, index: usize, _looking: &'g rcu::Guard) -> Option<&'g Entry<T>> {
        // SAFETY: The array is initialised; the RCU lock is held.
        let entry = NonNull::new(unsafe { shim::hmm_shim_xa_load(self.xa.get(), index) })?;
        // SAFETY: A pointer of ours, by the type invariant. It was in the array when the RCU lock was
        // held already, so it is not freed while that is.
        Some(unsafe { entry.cast::<Entry<T>>().as_ref() })
    }

    /// The value at `index`, with a reference.
    pub(crate) fn get(&self, index: usize) -> Option<ChunkRef<'_, T>> {
        let looking = rcu::read_lock();
        self.reference(self.entry(index, &looking)?)
    }

    /// The first value at `index` or above, with a reference, and its index.
    pub(crate) fn get_next(&self, index: usize) -> Option<(usize, ChunkRef<'_, T>)> {
        let mut from = index;
        loop {
            let looking = rcu::read_lock();
            let (at, entry) = self.next(from, &looking)?;
            match self.reference(entry) {
                Some(value) => return Some((at, value)),
                // It has just been retired.
                None => from = at.checked_add(1)?,
            }
        }
    }

    /// Takes a reference to `entry`, which was found under the RCU read lock, unless it is retired.
    fn reference(&self, entry: &Entry<T>) -> Option<ChunkRef<'_, T>> {
        if !entry.refcount.try_get() {
            return None;
        }
        // SAFETY: It has a reference now, so it is not retired, and by the type invariant not freed as long
        // as the map is borrowed.
        let entry = unsafe { &*core::ptr::from_ref(entry) };
        // INVARIANT: `try_get` took the reference.
        Some(ChunkRef(entry))
    }

    fn next<'g>(&'g self, index: usize, _looking: &'g rcu::Guard) -> Option<(usize, &'g Entry<T>)> {
        let (at, entry) = self.next_raw(index)?;
        // SAFETY: As in `entry`.
        Some((at, unsafe { entry.as_ref() }))
    }

    fn next_raw(&self, index: usize) -> Option<(usize, NonNull<Entry<T>>)> {
        let mut at = index;
        // SAFETY: The array is initialised; `xa_find` takes the RCU lock itself.
        let entry =
            unsafe { bindings::xa_find(self.xa.get(), &mut at, usize::MAX, bindings::XA_PRESENT) };
        Some((at, NonNull::new(entry)?.cast()))
    }

    /// Inserts `value` at `index`, unless there is a value already. Returns the value that is there then,
    /// with a reference, and whether it is `value`. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of `value`; `ENOMEM`.
    pub(crate) fn get_or_insert(
        &self,
        index: usize,
        value: impl PinInit<T, Error>,
    ) -> Result<(ChunkRef<'_, T>, bool)> {
        // The two low bits of an entry are the array's own.
        const { assert!(align_of::<Entry<T>>() >= 4) };
        let entry = KBox::pin_init(
            try_pin_init!(Entry {
                refcount: Refcount::referenced(),
                next: Cell::new(None),
                value <- value,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        let pointer = entry.into_foreign();
        loop {
            // SAFETY: The array is initialised, and the lock is held around the insertion.
            let result = unsafe {
                bindings::xa_lock(self.xa.get());
                let result = bindings::__xa_insert(
                    self.xa.get(),
                    index,
                    pointer.cast(),
                    bindings::GFP_KERNEL,
                );
                bindings::xa_unlock(self.xa.get());
                result
            };
            // INVARIANT: On success the array owns the box, and `refcount` was made with one reference.
            let there = match to_result(result) {
                // SAFETY: This function has a reference, so the entry is not retired, and not freed while
                // the borrow of the map lasts.
                Ok(()) => return Ok((ChunkRef(unsafe { &*pointer.cast() }), true)),
                Err(error) if error == EBUSY => {
                    self.get(index).map(|value| (value, false)).ok_or(EBUSY)
                }
                Err(error) => Err(error),
            };
            // Full when it was to be inserted, and empty right after: again.
            if there.as_ref().is_err_and(|error| *error == EBUSY) {
                continue;
            }
            // SAFETY: It was not inserted, so it is still ours alone.
            drop(unsafe { Pin::<KBox<Entry<T>>>::from_foreign(pointer) });
            return there;
        }
    }

    /// Removes the values that `judge` selects, from `from` on and in ascending order, and adds them to
    /// `retired`. `judge` is called under the RCU read lock.
    pub(crate) fn retire(
        &self,
        from: usize,
        retired: &mut RetireList<T>,
        mut judge: impl FnMut(usize, &T, &Refcount) -> Option<Reap>,
    ) {
        let mut from = Some(from);
        while let Some(index) = from {
            let looking = rcu::read_lock();
            let Some((at, entry)) = self.next(index, &looking) else {
                break;
            };
            if let Some(reap) = judge(at, &entry.value, &entry.refcount) {
                // SAFETY: The array is initialised, and the lock is held around both.
                unsafe { bindings::xa_lock(self.xa.get()) };
                if entry.refcount.retire(reap) {
                    // SAFETY: As above. This entry is the one that is there: only `retire` removes it.
                    unsafe { bindings::__xa_erase(self.xa.get(), at) };
                    retired.add(entry);
                }
                // SAFETY: Locked above.
                unsafe { bindings::xa_unlock(self.xa.get()) };
            }
            from = at.checked_add(1);
        }
    }

    /// Removes and frees all values, each after `last` was called with it. Sleeps.
    ///
    /// # Safety
    ///
    /// Nobody has a reference to a value or looks at one, or will before this returns, and
    /// [`ChunkMap::retire`] is not running.
    pub(crate) unsafe fn clear(&self, mut last: impl FnMut(&T)) {
        let mut from = 0;
        while let Some((index, entry)) = self.next_raw(from) {
            // SAFETY: The array is initialised, and the lock is held around the removal.
            unsafe {
                bindings::xa_lock(self.xa.get());
                bindings::__xa_erase(self.xa.get(), index);
                bindings::xa_unlock(self.xa.get());
            }
            // SAFETY: Ours, by the type invariant, and by the contract nobody else uses it.
            let entry = unsafe { Pin::<KBox<Entry<T>>>::from_foreign(entry.as_ptr().cast()) };
            last(&entry.value);
            drop(entry);
            from = index + 1;
        }
    }
}

#[pinned_drop]
impl<T> PinnedDrop for ChunkMap<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: `&mut self`: nobody else uses the map.
        unsafe { self.clear(|_| ()) };
        // SAFETY: Nothing uses the array any more.
        unsafe { bindings::xa_destroy(self.xa.get()) };
    }
}

/// A reference to a value of a [`ChunkMap`]. The value is not retired while it lives.
///
/// # Invariants
///
/// One reference in the entry's `refcount` is this one.
pub(crate) struct ChunkRef<'m, T>(&'m Entry<T>);

impl<T> Deref for ChunkRef<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Drop for ChunkRef<'_, T> {
    fn drop(&mut self) {
        self.0.refcount.put();
    }
}

/// Retired values, removed from their map. They are freed after a grace period: by
/// [`RetireList::free_after_grace_period`] or when the list is dropped. Both sleep.
///
/// # Invariants
///
/// The entries in the list were owned by a map, have been retired and removed, and are owned by the list.
pub(crate) struct RetireList<T> {
    first: Option<NonNull<Entry<T>>>,
}

impl<T> RetireList<T> {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        Self { first: None }
    }

    /// Waits for a grace period and frees the values, each after `last` was called with it. Sleeps.
    pub(crate) fn free_after_grace_period(mut self, last: impl FnMut(&T)) {
        self.free(last);
    }

    fn free(&mut self, mut last: impl FnMut(&T)) {
        if self.first.is_none() {
            return;
        }
        // SAFETY: May sleep here, by the contract of the callers.
        unsafe { bindings::synchronize_rcu() };
        while let Some(entry) = self.first {
            // SAFETY: In the list, by the type invariant.
            self.first = unsafe { entry.as_ref() }.next.get();
            // SAFETY: Ours, by the type invariant. Readers that found it before its removal began before the
            // grace period, and have ended.
            let entry = unsafe { Pin::<KBox<Entry<T>>>::from_foreign(entry.as_ptr().cast()) };
            last(&entry.value);
        }
    }

    /// Adds `entry`, which has just been retired and removed.
    fn add(&mut self, entry: &Entry<T>) {
        entry.next.set(self.first);
        // INVARIANT: By the contract of this function.
        self.first = Some(NonNull::from(entry));
    }
}

impl<T> Drop for RetireList<T> {
    fn drop(&mut self) {
        self.free(|_| ());
    }
}
