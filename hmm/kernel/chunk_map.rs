// SPDX-License-Identifier: GPL-2.0

//! The chunks of a mirror by number: an xarray that is read without a lock.
//!
//! Chunks are added while the map is in use and removed only when it is dropped; a reference to one
//! therefore lives as long as the borrow of the map. The kernel crate's `XArray` reads under its
//! spinlock, which the warm path of a device must not take.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::prelude::*;
use kernel::types::{ForeignOwnable, Opaque};

/// A growing map from numbers to pinned boxes.
///
/// # Invariants
///
/// Every entry of the array is a `Pin<KBox<T>>` turned into a pointer, owned by the map.
#[pin_data(PinnedDrop)]
pub(crate) struct ChunkMap<T> {
    #[pin]
    xa: Opaque<bindings::xarray>,
    _owns: core::marker::PhantomData<T>,
}

// SAFETY: The map owns its `T`s; the xarray may be used from any thread.
unsafe impl<T: Send> Send for ChunkMap<T> {}
// SAFETY: It hands out `&T` to several threads and takes `T` from any.
unsafe impl<T: Send + Sync> Sync for ChunkMap<T> {}

impl<T> ChunkMap<T> {
    /// An empty map.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            xa <- Opaque::ffi_init(|xa| {
                // SAFETY: `xa` is pinned memory for an xarray.
                unsafe { bindings::xa_init_flags(xa, 0) }
            }),
            _owns: core::marker::PhantomData,
        })
    }

    /// The value at `index`.
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        // SAFETY: The array is initialised; `xa_load` takes the RCU lock itself.
        let entry = NonNull::new(unsafe { bindings::xa_load(self.xa.get(), index) })?;
        // SAFETY: A pointer of ours, by the type invariant, which stays until the map is dropped.
        Some(unsafe { entry.cast::<T>().as_ref() })
    }

    /// The first value at `index` or above, and where it is.
    pub(crate) fn next(&self, index: usize) -> Option<(usize, &T)> {
        let (at, value) = self.next_raw(index)?;
        // SAFETY: As in `get`.
        Some((at, unsafe { value.as_ref() }))
    }

    fn next_raw(&self, index: usize) -> Option<(usize, NonNull<T>)> {
        let mut at = index;
        // SAFETY: The array is initialised; `xa_find` takes the RCU lock itself.
        let entry =
            unsafe { bindings::xa_find(self.xa.get(), &mut at, usize::MAX, bindings::XA_PRESENT) };
        Some((at, NonNull::new(entry)?.cast()))
    }

    /// Puts `value` at `index`, unless something is there already. Returns what is there then, and
    /// whether it is `value`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn get_or_insert(&self, index: usize, value: Pin<KBox<T>>) -> Result<(&T, bool)> {
        // The two low bits of an entry are the array's own.
        const { assert!(align_of::<T>() >= 4 && size_of::<T>() > 0) };
        let pointer = value.into_foreign();
        // SAFETY: The array is initialised, and the lock is held around the insertion.
        let result = unsafe {
            bindings::xa_lock(self.xa.get());
            let result =
                bindings::__xa_insert(self.xa.get(), index, pointer.cast(), bindings::GFP_KERNEL);
            bindings::xa_unlock(self.xa.get());
            result
        };
        if result == 0 {
            // INVARIANT: The array owns the box now.
            return Ok((self.get(index).ok_or(EINVAL)?, true));
        }
        // SAFETY: It was not inserted, so it is still ours alone.
        drop(unsafe { Pin::<KBox<T>>::from_foreign(pointer) });
        match Error::from_errno(result) {
            error if error == EBUSY => Ok((self.get(index).ok_or(EINVAL)?, false)),
            error => Err(error),
        }
    }
}

#[pinned_drop]
impl<T> PinnedDrop for ChunkMap<T> {
    fn drop(self: Pin<&mut Self>) {
        let mut from = 0;
        while let Some((index, value)) = self.next_raw(from) {
            // SAFETY: Ours, by the type invariant. `&mut self`: nobody else uses it, each is found
            // once, and the array forgets it in `xa_destroy` below.
            drop(unsafe { Pin::<KBox<T>>::from_foreign(value.as_ptr().cast()) });
            from = index + 1;
        }
        // SAFETY: Nothing uses the array any more.
        unsafe { bindings::xa_destroy(self.xa.get()) };
    }
}
