// SPDX-License-Identifier: GPL-2.0

//! The locks that an [`IntervalNotifier`](crate::IntervalNotifier) may have: [`Spin`] or [`Sleep`].
//!
//! [`Invalidate::Lock`](crate::Invalidate::Lock) says which one: for a device that forgets a page at once, or for one
//! that has to be waited for. What both do is [`WatchedLock`], and what the notifier's callback does with either is
//! [`crate::seq::invalidate`].

use kernel::prelude::*;
use kernel::sync::lock::mutex::MutexBackend;
use kernel::sync::lock::Guard;
use kernel::sync::Mutex;

use crate::lock_class::LockClass;
use crate::rwlock::{RwLock, WriteGuard};
use crate::seq::{Watched, WatchedLock};

/// A kind of lock.
pub trait NotifierLock: private::Sealed + 'static {
    /// The lock around `T` and its last invalidations.
    type Lock<T: Send + Sync + Unpin>: WatchedLock<T> + Send + Sync;

    /// Makes one.
    fn around<T: Send + Sync + Unpin>(watched: Watched<T>) -> impl PinInit<Self::Lock<T>>;
}

mod private {
    pub trait Sealed {}
    impl Sealed for super::Spin {}
    impl Sealed for super::Sleep {}
}

/// A reader-writer spinlock. Nothing sleeps under it, so no invalidation is ever refused, and accesses of a device in
/// software share it.
pub struct Spin;

/// A mutex: an invalidation may sleep until the device has forgotten its pages. One that must not sleep is refused if
/// the device uses any of them, or if somebody holds the mutex.
///
/// Reclaim takes it, so nothing under it may allocate memory in a way that waits for reclaim (`GFP_NOWAIT` at most).
pub struct Sleep;

// SAFETY: It is a static's.
static SLEEP: LockClass = unsafe { LockClass::new(c"hmm::interval::sleep") };

impl NotifierLock for Spin {
    type Lock<T: Send + Sync + Unpin> = RwLock<Watched<T>>;

    #[inline]
    fn around<T: Send + Sync + Unpin>(watched: Watched<T>) -> impl PinInit<Self::Lock<T>> {
        RwLock::new(watched)
    }
}

impl<T> WatchedLock<T> for RwLock<Watched<T>> {
    type Guard<'a>
        = WriteGuard<'a, Watched<T>>
    where
        Self: 'a;

    const SLEEPS: bool = false;

    #[inline]
    fn lock(&self) -> Self::Guard<'_> {
        self.write()
    }

    /// Waits for those who hold the lock, as they do not sleep.
    #[inline]
    fn try_lock(&self) -> Option<Self::Guard<'_>> {
        Some(self.write())
    }

    #[inline]
    fn look<R>(&self, look: impl FnOnce(&Watched<T>) -> R) -> R {
        look(&self.read())
    }

    #[inline]
    fn try_look<R>(&self, look: impl FnOnce(&Watched<T>) -> R) -> Option<R> {
        Some(look(&self.read()))
    }
}

impl NotifierLock for Sleep {
    type Lock<T: Send + Sync + Unpin> = Mutex<Watched<T>>;

    fn around<T: Send + Sync + Unpin>(watched: Watched<T>) -> impl PinInit<Self::Lock<T>> {
        Mutex::new(watched, SLEEP.name(), SLEEP.key())
    }
}

impl<T: Unpin> WatchedLock<T> for Mutex<Watched<T>> {
    type Guard<'a>
        = Guard<'a, Watched<T>, MutexBackend>
    where
        Self: 'a;

    const SLEEPS: bool = true;

    fn lock(&self) -> Self::Guard<'_> {
        Mutex::lock(self)
    }

    fn try_lock(&self) -> Option<Self::Guard<'_>> {
        Mutex::try_lock(self)
    }

    fn look<R>(&self, look: impl FnOnce(&Watched<T>) -> R) -> R {
        look(&Mutex::lock(self))
    }

    fn try_look<R>(&self, look: impl FnOnce(&Watched<T>) -> R) -> Option<R> {
        Mutex::try_lock(self).map(|watched| look(&watched))
    }
}
