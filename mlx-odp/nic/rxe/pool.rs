// SPDX-License-Identifier: GPL-2.0

//! Counted references to rxe's objects.
//!
//! rxe keeps its objects in pools and finds them by index. Destroying one takes it out of its pool and
//! waits until nobody has a reference any more.

use core::ptr::NonNull;

use crate::rxe;

/// What rxe keeps in a pool.
///
/// # Safety
///
/// [`Pooled::elem`] is a field of the object, by which its pool and the references know it.
pub(crate) unsafe trait Pooled {
    /// The object's element of its pool.
    ///
    /// # Safety
    ///
    /// `this` points to an object; it is not read.
    unsafe fn elem(this: *mut Self) -> *mut rxe::rxe_pool_elem;
}

// SAFETY: It is a field.
unsafe impl Pooled for rxe::rxe_mw {
    unsafe fn elem(this: *mut Self) -> *mut rxe::rxe_pool_elem {
        // SAFETY: By the contract.
        unsafe { &raw mut (*this).elem }
    }
}

// SAFETY: As above.
unsafe impl Pooled for rxe::rxe_mr {
    unsafe fn elem(this: *mut Self) -> *mut rxe::rxe_pool_elem {
        // SAFETY: By the contract.
        unsafe { &raw mut (*this).elem }
    }
}

// SAFETY: As above.
unsafe impl Pooled for rxe::rxe_qp {
    unsafe fn elem(this: *mut Self) -> *mut rxe::rxe_pool_elem {
        // SAFETY: By the contract.
        unsafe { &raw mut (*this).elem }
    }
}

// SAFETY: As above.
unsafe impl Pooled for rxe::rxe_pd {
    unsafe fn elem(this: *mut Self) -> *mut rxe::rxe_pool_elem {
        // SAFETY: By the contract.
        unsafe { &raw mut (*this).elem }
    }
}

/// A counted reference, given back when dropped, which may be in atomic context.
///
/// # Invariants
///
/// The object is valid, and one of its references is ours.
pub(crate) struct Ref<T: Pooled>(NonNull<T>);

impl<T: Pooled> Ref<T> {
    /// The object at `index` of `pool`.
    ///
    /// # Safety
    ///
    /// `pool` is a valid pool of objects of this type.
    pub(crate) unsafe fn find(pool: *mut rxe::rxe_pool, index: u32) -> Option<Self> {
        // SAFETY: `pool` is valid.
        let object = unsafe { rxe::rxe_pool_get_index(pool, index) };
        // INVARIANT: The pool has objects of this type and returns one with a reference for us.
        NonNull::new(object.cast()).map(Self)
    }

    /// Another reference to `object`, unless it is being destroyed.
    ///
    /// # Safety
    ///
    /// `object` is valid.
    pub(crate) unsafe fn get(object: *mut T) -> Option<Self> {
        let object = NonNull::new(object)?;
        // SAFETY: By the contract.
        let got = unsafe { rxe::__rxe_get(T::elem(object.as_ptr())) } != 0;
        // Made only then: whatever is made gives a reference back.
        // INVARIANT: A reference for us.
        got.then(|| Self(object))
    }

    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `object` is null or comes with a reference that its owner gives up.
    pub(crate) unsafe fn from_raw(object: *mut T) -> Option<Self> {
        // INVARIANT: By the contract.
        NonNull::new(object).map(Self)
    }

    /// Gives the reference to someone else.
    pub(crate) fn into_raw(self) -> *mut T {
        let object = self.0.as_ptr();
        core::mem::forget(self);
        object
    }

    /// The object.
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }

    /// Whether nobody has begun to destroy it.
    pub(crate) fn in_pool(&self) -> bool {
        // SAFETY: The object is valid.
        unsafe { in_pool(self.as_ptr()) }
    }
}

/// Whether nobody has begun to destroy `object`.
///
/// # Safety
///
/// `object` is valid and referenced.
pub(crate) unsafe fn in_pool<T: Pooled>(object: *mut T) -> bool {
    // SAFETY: By the contract.
    unsafe { rxe::rxe_shim_in_pool(T::elem(object)) }
}

impl<T: Pooled> Drop for Ref<T> {
    fn drop(&mut self) {
        // SAFETY: The reference is ours to give back.
        unsafe { rxe::__rxe_put(T::elem(self.as_ptr())) };
    }
}
