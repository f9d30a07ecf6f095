// SPDX-License-Identifier: GPL-2.0

//! Access to the bytes of a page that cannot go away: its translation's lock is held, or it is migrating.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use kernel::bindings;

use crate::addr::Piece;
use crate::device_shim;
use crate::pfn::Pfn;
use crate::shim;

/// A page of system memory, mapped into the kernel's address space (`kmap_local_page`).
///
/// # Invariants
///
/// `base` is the kernel's mapping of a whole page, and the page is not taken from its user while
/// `'a` lasts.
pub struct MappedPage<'a> {
    base: NonNull<u8>,
    _life: PhantomData<&'a ()>,
}

impl MappedPage<'_> {
    /// Maps frame `pfn`.
    ///
    /// # Safety
    ///
    /// `pfn` is a frame with a `struct page` that the kernel may touch, and stays the user's for as
    /// long as the result lives: its translation's lock is held.
    #[inline]
    pub unsafe fn map(pfn: Pfn) -> Self {
        // SAFETY: By the contract there is a `struct page`, and it stays.
        let base = unsafe { shim::hmm_shim_map(pfn.get() as usize) };
        // SAFETY: A page of memory is never mapped at address 0.
        let base = unsafe { NonNull::new_unchecked(base.cast()) };
        // INVARIANT: `base` was just mapped; the rest is the caller's promise.
        Self {
            base,
            _life: PhantomData,
        }
    }

    /// The bytes of `piece`, a piece of this page.
    #[inline]
    pub fn piece(&self, piece: &Piece) -> Bytes<'_> {
        Bytes {
            // SAFETY: Within the page, by the type invariants of both.
            start: unsafe { self.base.add(piece.offset()) },
            len: piece.len(),
            _life: PhantomData,
        }
    }

    /// The `len` bytes from byte `offset` of the page.
    ///
    /// # Panics
    ///
    /// If they are not all in the page: a caller that gets this wrong must not touch memory.
    #[inline]
    pub fn bytes(&self, offset: usize, len: usize) -> Bytes<'_> {
        assert!(offset <= PAGE && len <= PAGE - offset);
        Bytes {
            // SAFETY: Within the page, as just checked.
            start: unsafe { self.base.add(offset) },
            len,
            _life: PhantomData,
        }
    }
}

impl Drop for MappedPage<'_> {
    #[inline]
    fn drop(&mut self) {
        // Where all memory is mapped for good there is nothing to undo, and to call a function that does nothing would
        // cost each access.
        #[cfg(CONFIG_KMAP_LOCAL)]
        // SAFETY: Mapped by `map`, and local mappings are dropped in reverse order, as they nest.
        unsafe { bindings::kunmap_local(self.base.as_ptr().cast()) };
    }
}

const PAGE: usize = kernel::page::PAGE_SIZE;

/// Bytes of a user's page.
///
/// The user may read and write them at any time, so there is never a Rust reference to them. A copy is not
/// atomic, as that of `copy_from_user` is not: it may see a mixture of old and new bytes.
pub struct Bytes<'a> {
    start: NonNull<u8>,
    len: usize,
    _life: PhantomData<&'a ()>,
}

impl Bytes<'_> {
    /// How many bytes there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies them to `to`, which must have the same length and is initialised afterwards.
    #[inline]
    pub fn read(&self, to: &mut [MaybeUninit<u8>]) {
        assert!(to.len() == self.len);
        // SAFETY: Both are valid for `len` bytes; `to` is kernel memory that no user page overlaps.
        unsafe {
            self.start
                .as_ptr()
                .copy_to_nonoverlapping(to.as_mut_ptr().cast(), self.len)
        };
    }

    /// Copies `from` to them, which must have the same length.
    #[inline]
    pub fn write(&self, from: &[u8]) {
        assert!(from.len() == self.len);
        // SAFETY: As in `read`; the translation was given for a write, or this is never called.
        unsafe {
            self.start
                .as_ptr()
                .copy_from_nonoverlapping(from.as_ptr(), self.len)
        };
    }

    /// The 8 bytes as one atomic word; `None` if there are not 8 or they are not aligned to 8.
    #[inline]
    pub fn atomic_u64(&self) -> Option<&AtomicU64> {
        let word = self.start.cast::<AtomicU64>();
        if self.len != size_of::<AtomicU64>() || !word.is_aligned() {
            return None;
        }
        // SAFETY: Aligned, 8 bytes long, alive for as long as `self`; an atomic may change under it.
        Some(unsafe { word.as_ref() })
    }

    /// The address in the kernel's mapping, for a flush of the CPU's caches.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

/// Marks frame `pfn` dirty, as a device wrote it (`set_page_dirty`). Does not sleep.
///
/// # Safety
///
/// `pfn` has a `struct page` which is still the user's.
pub unsafe fn mark_dirty(pfn: Pfn) {
    // SAFETY: By the contract. It may be called under a spinlock, as the kernel's own unmapping of
    // pages does under the page table lock.
    unsafe { bindings::set_page_dirty(page(pfn)) };
}

/// If the `pages` frames from `pfn` on, which one entry of the page table maps, are persistent memory: writes the CPU's
/// caches of them back, and returns whether it did. They are in that memory, and stay there without power, once
/// [`persist`] has returned. Does not sleep.
///
/// # Safety
///
/// Each has a `struct page` which is still the user's.
#[inline]
pub(crate) unsafe fn write_back(pfn: Pfn, pages: u64) -> bool {
    // SAFETY: By the contract. An entry maps memory of one kind.
    let is_persistent = unsafe { shim::hmm_shim_is_persistent(pfn.get() as usize) };
    if is_persistent {
        for page in 0..pages {
            // SAFETY: By the contract, and the kernel has such memory mapped. No byte changes.
            unsafe { shim::hmm_shim_write_back(pfn.add(page).get() as usize) };
        }
    }
    is_persistent
}

/// Waits until what this processor has [written back](write_back) is in its memory.
pub(crate) fn persist() {
    // SAFETY: A barrier.
    unsafe { shim::hmm_shim_persist() };
}

/// log2 of how many pages the folio of `pfn` has: what the CPU's fault handler brought in at once.
///
/// # Safety
///
/// `pfn` has a `struct page` which is still the user's.
#[inline]
pub(crate) unsafe fn folio_order(pfn: Pfn) -> u32 {
    // SAFETY: By the contract: a folio that is mapped is not split.
    unsafe { shim::hmm_shim_folio_order_of(pfn.get() as usize) }
}

/// Whether `pfn` is the zero page.
pub fn is_zero_page(pfn: Pfn) -> bool {
    // SAFETY: Compares the number, nothing else.
    unsafe { device_shim::hmm_shim_is_zero_pfn(pfn.get() as usize) }
}

#[inline]
fn page(pfn: Pfn) -> *mut bindings::page {
    // SAFETY: Arithmetic on the frame number only.
    unsafe { shim::hmm_shim_pfn_to_page(pfn.get() as usize) }
}
