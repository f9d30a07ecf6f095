// SPDX-License-Identifier: GPL-2.0

//! A reader-writer spinlock around a value; the kernel crate has none yet.
//!
//! It is the kernel's queued rwlock: readers share it with one atomic addition, and an invalidation is never starved by
//! the device's accesses.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

use kernel::bindings;
use kernel::prelude::*;
use kernel::types::{NotThreadSafe, Opaque};

use crate::shim;

/// A value under the kernel's queued reader-writer spinlock (`include/linux/rwlock.h`).
///
/// A waiting writer holds later readers off. The holder of a guard must not sleep. Not for use in interrupts.
#[pin_data]
pub struct RwLock<T> {
    #[pin]
    raw: Opaque<bindings::rwlock_t>,
    data: UnsafeCell<T>,
}

// SAFETY: Moving the lock between threads moves the value.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: `&RwLock` gives `&T` to several threads at once (`Sync`) and `&mut T` to one (`Send`).
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
    /// A lock around `data`.
    pub fn new(data: T) -> impl PinInit<Self> {
        pin_init!(Self {
            raw <- Opaque::ffi_init(|raw| {
                // SAFETY: `raw` is valid for writes; it stays where it is, as it is pinned.
                unsafe { shim::hmm_shim_rwlock_init(raw) }
            }),
            data: UnsafeCell::new(data),
        })
    }

    /// Where in it the kernel's lock is, in bytes.
    pub(crate) const RAW: usize = core::mem::offset_of!(Self, raw);

    /// The guard of a lock that the caller has taken for reading otherwise.
    ///
    /// # Safety
    ///
    /// The current thread has just done that, and leaves it to the guard to release the lock.
    #[inline]
    pub(crate) unsafe fn taken_for_reading(&self) -> ReadGuard<'_, T> {
        // INVARIANT: By the contract.
        ReadGuard {
            lock: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Waits until nobody changes the value; others may read it at the same time.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, T> {
        // SAFETY: The lock is initialised.
        unsafe { shim::hmm_shim_read_lock(self.raw.get()) };
        // SAFETY: Just taken.
        unsafe { self.taken_for_reading() }
    }

    /// Waits until nobody else uses the value.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_, T> {
        // SAFETY: The lock is initialised.
        unsafe { shim::hmm_shim_write_lock(self.raw.get()) };
        // INVARIANT: Just taken.
        WriteGuard {
            lock: self,
            _not_send: NotThreadSafe,
        }
    }
}

/// A value with a reader-writer spinlock in it.
///
/// # Safety
///
/// There is an initialised `rwlock_t` at [`SharedLock::OFFSET`] of each value: that of the guards that
/// [`SharedLock::taken`] returns.
pub(crate) unsafe trait SharedLock {
    /// What the lock protects.
    type Data;

    /// Where the lock is, in bytes.
    const OFFSET: usize;

    /// The guard of the lock.
    ///
    /// # Safety
    ///
    /// The current thread has just taken the lock for reading, and leaves it to the guard to release it.
    unsafe fn taken(&self) -> ReadGuard<'_, Self::Data>;
}

/// The lock, held for reading.
///
/// # Invariants
///
/// The lock is held for reading by the current thread.
pub struct ReadGuard<'a, T> {
    lock: &'a RwLock<T>,
    _not_send: NotThreadSafe,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The lock is held, so nobody has a `&mut` to the value.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The lock is held for reading, by the type invariant.
        unsafe { shim::hmm_shim_read_unlock(self.lock.raw.get()) }
    }
}

/// The lock, held for writing.
///
/// # Invariants
///
/// The lock is held for writing by the current thread.
pub struct WriteGuard<'a, T> {
    lock: &'a RwLock<T>,
    _not_send: NotThreadSafe,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The lock is held for writing, so the only `&mut` is this guard's own.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The lock is held for writing, and `&mut self` excludes other uses of the guard.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The lock is held for writing, by the type invariant.
        unsafe { shim::hmm_shim_write_unlock(self.lock.raw.get()) }
    }
}
