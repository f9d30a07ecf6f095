// SPDX-License-Identifier: GPL-2.0

//! rxe's pools, and references to the objects in them.
//!
//! rxe keeps its objects in pools, finds them by index and counts references to them. Destroying an object removes
//! it from its pool and waits until the last reference is dropped.

use core::ptr::NonNull;

use crate::rxe;

/// An object that rxe keeps in a pool.
///
/// # Safety
///
/// [`Pooled::elem`] is the object's field by which its pool and its references know it.
pub(crate) unsafe trait Pooled {
    /// The pool element of the object.
    ///
    /// # Safety
    ///
    /// `this` points to an object, which is not read.
    unsafe fn elem(this: *mut Self) -> *mut rxe::rxe_pool_elem;
}

// SAFETY: It is a field.
unsafe impl Pooled for rxe::rxe_mw {
    #[inline]
    unsafe fn elem(this: *mut Self) -> *mut rxe::rxe_pool_elem {
        // SAFETY: By the contract.
        unsafe { &raw mut (*this).elem }
    }
}

// SAFETY: As above.
unsafe impl Pooled for rxe::rxe_mr {
    #[inline]
    unsafe fn elem(this: *mut Self) -> *mut rxe::rxe_pool_elem {
        // SAFETY: By the contract.
        unsafe { &raw mut (*this).elem }
    }
}

// SAFETY: As above.
unsafe impl Pooled for rxe::rxe_qp {
    #[inline]
    unsafe fn elem(this: *mut Self) -> *mut rxe::rxe_pool_elem {
        // SAFETY: By the contract.
        unsafe { &raw mut (*this).elem }
    }
}

// SAFETY: As above.
unsafe impl Pooled for rxe::rxe_srq {
    unsafe fn elem(this: *mut Self) -> *mut rxe::rxe_pool_elem {
        // SAFETY: By the contract.
        unsafe { &raw mut (*this).elem }
    }
}

// SAFETY: As above.
unsafe impl Pooled for rxe::rxe_pd {
    #[inline]
    unsafe fn elem(this: *mut Self) -> *mut rxe::rxe_pool_elem {
        // SAFETY: By the contract.
        unsafe { &raw mut (*this).elem }
    }
}

/// A reference to an object. Dropping it puts the reference, and may be done in atomic context.
///
/// # Invariants
///
/// The object is valid, and one of its references is ours.
pub(crate) struct Ref<T: Pooled>(NonNull<T>);

impl<T: Pooled> Ref<T> {
    /// A reference to the object at `index` of `pool`.
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
        // INVARIANT: Made only if there is a reference for us, as dropping it puts one.
        got.then(|| Self(object))
    }

    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `object` is null, or comes with a reference that its owner gives up.
    #[inline]
    pub(crate) unsafe fn from_raw(object: *mut T) -> Option<Self> {
        // INVARIANT: By the contract.
        NonNull::new(object).map(Self)
    }

    /// Gives the reference up to the caller.
    pub(crate) fn into_raw(self) -> *mut T {
        let object = self.0.as_ptr();
        core::mem::forget(self);
        object
    }

    /// The object.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }

    /// Whether it is still in its pool: its destruction has not begun.
    pub(crate) fn in_pool(&self) -> bool {
        // SAFETY: The object is valid.
        unsafe { in_pool(self.as_ptr()) }
    }
}

/// Whether `object` is still in its pool: its destruction has not begun.
///
/// # Safety
///
/// `object` is valid and referenced.
pub(crate) unsafe fn in_pool<T: Pooled>(object: *mut T) -> bool {
    // SAFETY: By the contract.
    unsafe { rxe::rxe_shim_in_pool(T::elem(object)) }
}

impl<T: Pooled> Drop for Ref<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The reference is ours to give back.
        unsafe { rxe::__rxe_put(T::elem(self.as_ptr())) };
    }
}
