// SPDX-License-Identifier: GPL-2.0

//! The kernel's page tables as the [`AddressSpace`] that [`crate::walk`] goes through.
//!
//! Reading takes no page table lock. A present entry that changes right after it was read belongs to
//! an invalidation, and that makes the fault retry; an absent one that becomes present does no harm.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::mm::{MmWithUser, MmapReadGuard};
use kernel::prelude::*;
use kernel::sync::rcu;
use kernel::types::NotThreadSafe;

use crate::addr::{PageIndex, PageRange, PAGE_SHIFT};
use crate::pfn::{Access, Memory, Owner, Perm, Pfn};
use crate::policy::{Entry, Refusal, VmaRights};
use crate::range::killed;
use crate::shim;
use crate::walk::{AddressSpace, FaultError, Found, Handled, Vma};

/// log2 of how many base pages an entry of each level maps (x86-64 and every 4 KiB kernel).
const PMD_ORDER: u32 = 9;
const PUD_ORDER: u32 = 18;

/// The address space of a process whose mmap lock is held.
pub(crate) struct LockedMm<'a, 's, C: Fn() -> bool> {
    mm: &'a MmWithUser,
    mmap_lock: MmapLock<'a>,
    still: &'a mut Option<StillMm<'s>>,
    /// The area that `vma_from` last returned under this lock.
    vma: Option<NonNull<bindings::vm_area_struct>>,
    ptes: Option<PteTable>,
    /// Whose device memory counts as present.
    owner: Owner,
    collided: C,
}

/// How the mmap lock is held.
enum MmapLock<'a> {
    /// By this walk, for reading.
    Read { _guard: MmapReadGuard<'a> },
    /// By the [`StillMm`], for writing.
    Still,
    /// Not at all: between a fault handler that let go of it and an error that ends the walk.
    LetGo,
}

impl<'a> MmapLock<'a> {
    fn reading(mm: &'a MmWithUser) -> Self {
        Self::Read {
            _guard: mm.mmap_read_lock(),
        }
    }
}

/// An address space that no call of its process can change: its mmap lock is held for writing.
///
/// # Invariants
///
/// The current thread holds the mmap lock of `mm` for writing.
pub(crate) struct StillMm<'s> {
    mm: &'s MmWithUser,
    _this_thread: NotThreadSafe,
}

impl<'s> StillMm<'s> {
    /// Takes the lock; sleeps.
    pub(crate) fn hold(mm: &'s MmWithUser) -> Self {
        // SAFETY: `mm` has users.
        unsafe { shim::hmm_shim_mmap_write_lock(mm.as_raw()) };
        // INVARIANT: Just taken.
        Self {
            mm,
            _this_thread: NotThreadSafe,
        }
    }
}

impl Drop for StillMm<'_> {
    fn drop(&mut self) {
        // SAFETY: Held by this thread, by the type invariant.
        unsafe { shim::hmm_shim_mmap_write_unlock(self.mm.as_raw()) };
    }
}

/// A table of PTEs that is being read, some at a time.
///
/// # Invariants
///
/// `first` points to the PTE of the first page of `range` in a table that has been reachable since
/// `_rcu` was taken; so it is not freed before that is released.
struct PteTable {
    range: PageRange,
    first: NonNull<bindings::pte_t>,
    _rcu: rcu::Guard,
    /// The page whose entry is the first in `batch`.
    from: PageIndex,
    /// How many entries of `batch` have been read.
    read: usize,
    batch: [shim::hmm_shim_entry; MOST_AT_ONCE],
}

/// How many PTEs are read in one call at most: one at first, and twice as many each time, since what
/// has been read is in vain when the walk has to fault.
const MOST_AT_ONCE: usize = 32;

impl PteTable {
    /// The entry for `page`; `None` if it is not in this table.
    #[inline]
    fn entry(&mut self, page: PageIndex, owner: Owner) -> Option<shim::hmm_shim_entry> {
        let index = page.get().wrapping_sub(self.from.get()) as usize;
        match self.batch.get(..self.read)?.get(index) {
            Some(entry) => Some(*entry),
            None => self.read_from(page, owner),
        }
    }

    fn read_from(&mut self, page: PageIndex, owner: Owner) -> Option<shim::hmm_shim_entry> {
        if !self.range.contains(page) {
            return None;
        }
        let index = (page.get() - self.range.start().get()) as usize;
        let left = (self.range.end().get() - page.get()) as usize;
        let count = (self.read * 2).clamp(1, MOST_AT_ONCE).min(left);
        // SAFETY: `page` and the `count - 1` behind it are in the table's range, so the pointer stays
        // in the table, which is alive by the type invariant; `batch` has room for them.
        unsafe {
            shim::hmm_shim_pte_entries(
                self.first.as_ptr().add(index),
                count as u32,
                owner.identity() as *const _,
                self.batch.as_mut_ptr(),
            )
        };
        (self.from, self.read) = (page, count);
        self.batch.first().copied()
    }
}

impl<'a, 's, C: Fn() -> bool> LockedMm<'a, 's, C> {
    /// Takes the mmap lock of `mm` for reading, if `still` does not hold it already; what was taken
    /// is released with the value.
    ///
    /// `collided` says whether the fault is in vain already.
    pub(crate) fn lock(
        mm: &'a MmWithUser,
        still: &'a mut Option<StillMm<'s>>,
        owner: Owner,
        collided: C,
    ) -> Self {
        let mmap_lock = match still {
            Some(_) => MmapLock::Still,
            None => MmapLock::reading(mm),
        };
        Self {
            mm,
            mmap_lock,
            still,
            vma: None,
            ptes: None,
            owner,
            collided,
        }
    }

    fn owner(&self) -> *mut core::ffi::c_void {
        self.owner.identity() as *mut _
    }

    #[inline]
    fn pte(&mut self, page: PageIndex) -> Option<Entry> {
        let entry = self.ptes.as_mut()?.entry(page, self.owner)?;
        Some(entry_of(entry).unwrap_or(Entry::Bad))
    }

    /// Descends to the entry for `page`. Remembers the table of PTEs if it comes to one.
    fn descend(&mut self, page: PageIndex) -> Found {
        self.ptes = None;
        let addr = page.addr() as usize;
        let rcu = rcu::read_lock();
        let mut shift = 0;
        // SAFETY: The mmap lock is held, `addr` lies in an area, `shift` can be written.
        let pud = unsafe { shim::hmm_shim_pud(self.mm.as_raw(), addr, &mut shift) };
        let Some(pud) = NonNull::new(pud) else {
            return Found::around(page, shift - PAGE_SHIFT, Entry::Absent);
        };
        // SAFETY: `pud` points into a table that stays while the mmap lock is held.
        let entry = unsafe { shim::hmm_shim_pud_entry(pud.as_ptr()) };
        if let Some(entry) = entry_of(entry) {
            return Found::around(page, PUD_ORDER, entry);
        }
        // SAFETY: As above; the RCU lock keeps the table below, which hugetlb may unshare.
        let Some(pmd) = NonNull::new(unsafe { shim::hmm_shim_pmd(pud.as_ptr(), addr) }) else {
            return Found::around(page, 0, Entry::Absent);
        };
        // SAFETY: As above.
        let entry = unsafe { shim::hmm_shim_pmd_entry(pmd.as_ptr(), self.owner()) };
        if let Some(entry) = entry_of(entry) {
            return Found::around(page, PMD_ORDER, entry);
        }
        let range = Found::around(page, PMD_ORDER, Entry::Absent).range();
        // SAFETY: As above; a table that is withdrawn now is freed after a grace period.
        let first = unsafe { shim::hmm_shim_pte(pmd.as_ptr(), range.start().addr() as usize) };
        let Some(first) = NonNull::new(first) else {
            return Found::around(page, 0, Entry::Absent);
        };
        // INVARIANT: Reached with `rcu` held, and `first` is the PTE of `range.start()`.
        self.ptes = Some(PteTable {
            range,
            first,
            _rcu: rcu,
            from: page,
            read: 0,
            batch: [0; MOST_AT_ONCE],
        });
        let entry = self.pte(page).unwrap_or(Entry::Bad);
        Found::around(page, 0, entry)
    }
}

impl<C: Fn() -> bool> LockedMm<'_, '_, C> {
    /// Takes the mmap lock, which the CPU's fault handler has released.
    fn lock_again(&mut self) -> Result<(), FaultError> {
        self.vma = None;
        // What the guard would release has been released.
        core::mem::forget(core::mem::replace(&mut self.mmap_lock, MmapLock::LetGo));
        if killed() {
            return Err(FaultError::Interrupted);
        }
        self.mmap_lock = MmapLock::reading(self.mm);
        Ok(())
    }

    /// Holds the address space no longer still.
    fn let_move(&mut self) {
        self.vma = None;
        *self.still = None;
        self.mmap_lock = MmapLock::reading(self.mm);
    }

    fn is_still(&self) -> bool {
        matches!(self.mmap_lock, MmapLock::Still)
    }
}

impl<C: Fn() -> bool> AddressSpace for LockedMm<'_, '_, C> {
    fn vma_from(&mut self, page: PageIndex) -> Option<Vma> {
        self.ptes = None;
        // SAFETY: The mmap lock is held: the walk ends if it could not be taken again.
        let vma = unsafe { bindings::find_vma(self.mm.as_raw(), page.addr() as usize) };
        self.vma = NonNull::new(vma);
        // SAFETY: The mmap lock keeps the area as it is.
        let area = self.vma.map(|vma| unsafe { describe(vma) })?;
        if self.is_still() && area.range.contains(page) {
            // Some calls do with the area's own lock.
            // SAFETY: The mmap lock is held for writing.
            unsafe { shim::hmm_shim_vma_start_write(vma) };
        }
        Some(area)
    }

    #[inline]
    fn entry(&mut self, page: PageIndex) -> Found {
        match self.pte(page) {
            Some(entry) => Found {
                entry,
                start: page,
                order: 0,
            },
            None => self.descend(page),
        }
    }

    fn fault(&mut self, page: PageIndex, access: Access) -> Result<Handled, FaultError> {
        // The handler sleeps and may replace the table.
        self.ptes = None;
        let vma = self.vma.ok_or(FaultError::Refused(Refusal::NoPage))?;
        let mut flags = bindings::fault_flag_FAULT_FLAG_REMOTE;
        if self.is_still() {
            // SAFETY: As below.
            if unsafe { shim::hmm_shim_userfaultfd_armed(vma.as_ptr()) } {
                // Its handler may have to change the address space.
                self.let_move();
                return Ok(Handled::LetGo);
            }
        } else {
            // The handler may let go of a lock that is held for reading.
            flags |= bindings::fault_flag_FAULT_FLAG_ALLOW_RETRY
                | bindings::fault_flag_FAULT_FLAG_KILLABLE;
        }
        if access == Access::Write {
            flags |= bindings::fault_flag_FAULT_FLAG_WRITE;
        }
        // SAFETY: The mmap lock is held, and `vma` is an area of the mm, found under that lock.
        let result = unsafe {
            bindings::handle_mm_fault(
                vma.as_ptr(),
                page.addr() as usize,
                flags,
                core::ptr::null_mut(),
            )
        };
        const LET_GO: u32 =
            bindings::vm_fault_reason_VM_FAULT_RETRY | bindings::vm_fault_reason_VM_FAULT_COMPLETED;
        const FAILED: u32 = bindings::vm_fault_reason_VM_FAULT_OOM
            | bindings::vm_fault_reason_VM_FAULT_SIGBUS
            | bindings::vm_fault_reason_VM_FAULT_SIGSEGV
            | bindings::vm_fault_reason_VM_FAULT_HWPOISON
            | bindings::vm_fault_reason_VM_FAULT_HWPOISON_LARGE
            | bindings::vm_fault_reason_VM_FAULT_FALLBACK;
        if result & LET_GO != 0 {
            self.lock_again()?;
            return Ok(Handled::LetGo);
        }
        if result & FAILED != 0 {
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        Ok(Handled::Still)
    }

    fn collided(&self) -> bool {
        (self.collided)()
    }
}

/// # Safety
///
/// `vma` is an area of an mm whose mmap lock is held.
unsafe fn describe(vma: NonNull<bindings::vm_area_struct>) -> Vma {
    // SAFETY: Valid, by the contract of this function.
    let secret = unsafe { shim::hmm_shim_vma_is_secret(vma.as_ptr()) };
    // SAFETY: As above.
    let shadow_stack = unsafe { shim::hmm_shim_vma_is_shadow_stack(vma.as_ptr()) };
    // SAFETY: As above.
    let vma = unsafe { kernel::mm::virt::VmaRef::from_raw(vma.as_ptr()) };
    use kernel::mm::virt::flags;
    let has = |flag| vma.flags() & flag != 0;
    Vma {
        range: PageRange::new(
            PageIndex::containing(vma.start() as u64),
            PageIndex::containing(vma.end() as u64),
        ),
        rights: VmaRights {
            readable: has(flags::READ),
            // The CPU writes a shadow stack by calls and returns only.
            writable: has(flags::WRITE) && !shadow_stack,
            special: has(flags::IO | flags::PFNMAP) || secret,
        },
    }
}

/// What `raw` holds; `None` if it points to a table.
#[inline]
fn entry_of(raw: shim::hmm_shim_entry) -> Option<Entry> {
    let perm = Perm::from_writable(raw & u64::from(shim::hmm_shim_bits_HMM_SHIM_WRITABLE) != 0);
    let mapped = |memory| Entry::Mapped {
        pfn: Pfn::new(raw >> shim::hmm_shim_bits_HMM_SHIM_PFN_SHIFT),
        perm,
        memory,
    };
    Some(match raw as u32 & shim::hmm_shim_bits_HMM_SHIM_KIND_MASK {
        shim::hmm_shim_kind_HMM_SHIM_TABLE => return None,
        shim::hmm_shim_kind_HMM_SHIM_ABSENT => Entry::Absent,
        shim::hmm_shim_kind_HMM_SHIM_INACCESSIBLE => Entry::Inaccessible,
        shim::hmm_shim_kind_HMM_SHIM_ELSEWHERE => Entry::Elsewhere,
        shim::hmm_shim_kind_HMM_SHIM_MIGRATING => Entry::Migrating,
        shim::hmm_shim_kind_HMM_SHIM_MAPPED => mapped(Memory::System),
        shim::hmm_shim_kind_HMM_SHIM_DEVICE => mapped(Memory::Device),
        shim::hmm_shim_kind_HMM_SHIM_SPECIAL => Entry::Special { perm },
        _ => Entry::Bad,
    })
}
