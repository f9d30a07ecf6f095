// SPDX-License-Identifier: GPL-2.0

//! The kernel's page tables as the [`AddressSpace`] that [`crate::walk`] goes through.
//!
//! Reading takes no page table lock. A present entry that changes right after it was read belongs to
//! an invalidation, and that makes the fault retry; an absent one that becomes present does no harm.

use core::iter::FusedIterator;
use core::mem::MaybeUninit;
use core::ptr::{null_mut, NonNull};

use kernel::bindings;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::rcu;
use kernel::types::NotThreadSafe;

use crate::addr::{PageIndex, PageRange, PAGE_SHIFT, PMD_ORDER, PUD_ORDER};
use crate::pfn::{Access, Memory, Owner, Perm, Pfn};
use crate::policy::{Entry, Refusal, VmaRights};
use crate::process::killed;
use crate::shim;
use crate::walk::{AddressSpace, FaultError, Found, Handled, Vma, Waiting};

/// The address space of a process whose mmap lock is held.
pub(crate) struct LockedMm<'a, 's> {
    mm: &'a MmWithUser,
    mmap_lock: MmapLock<'a>,
    write_lock: &'a mut Option<MmapWriteLock<'s>>,
    /// The area that `vma_from` last returned under this lock.
    vma: Option<NonNull<bindings::vm_area_struct>>,
    /// `VM_MIXEDMAP`: entries may be special.
    mixed: bool,
    table: Option<Table>,
    /// Entries of `table`.
    batch: &'a mut Batch,
    /// Whose device memory counts as present.
    owner: Owner,
    waiting: Waiting,
    // No parameter of the type: the names of generic functions would exceed the kernel's limit.
    collided: &'a dyn Fn() -> bool,
}

/// How the mmap lock is held.
enum MmapLock<'a> {
    /// By this walk, for reading.
    Read { _guard: MmapReadLock<'a> },
    /// By the [`MmapWriteLock`], for writing.
    Write,
    /// Not at all: between a fault handler that dropped it and an error that ends the walk.
    Dropped,
}

impl<'a> MmapLock<'a> {
    fn reading(mm: &'a MmWithUser, waiting: Waiting) -> Result<Self, FaultError> {
        let _guard = MmapReadLock::take(mm, waiting)?;
        Ok(Self::Read { _guard })
    }
}

/// The mmap lock, held for reading. The kernel crate has no killable variant.
///
/// # Invariants
///
/// The current thread holds the mmap lock of `mm` for reading.
pub(crate) struct MmapReadLock<'a> {
    mm: &'a MmWithUser,
    _this_thread: NotThreadSafe,
}

impl<'a> MmapReadLock<'a> {
    /// Takes the lock. The writer may be blocked on a file system, so with [`Waiting::Forbidden`] this only tries, for the
    /// time that a normal `mmap` takes.
    ///
    /// # Errors
    ///
    /// [`FaultError::WouldWait`]; [`FaultError::Interrupted`] if the thread has been killed.
    pub(crate) fn take(mm: &'a MmWithUser, waiting: Waiting) -> Result<Self, FaultError> {
        // SAFETY: `mm` has users.
        let taken = unsafe {
            match waiting {
                Waiting::Allowed => shim::hmm_shim_mmap_read_lock_killable(mm.as_raw()),
                Waiting::Forbidden => shim::hmm_shim_mmap_try_read_lock(mm.as_raw()),
            }
        };
        match (taken, waiting) {
            // INVARIANT: Just taken.
            (true, _) => Ok(Self {
                mm,
                _this_thread: NotThreadSafe,
            }),
            (false, Waiting::Allowed) => Err(FaultError::Interrupted),
            (false, Waiting::Forbidden) => Err(FaultError::WouldWait),
        }
    }

    /// The address space that is locked.
    pub(crate) fn mm(&self) -> &'a MmWithUser {
        self.mm
    }
}

impl Drop for MmapReadLock<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: Held by this thread, by the type invariant.
        unsafe { shim::hmm_shim_mmap_read_unlock(self.mm.as_raw()) };
    }
}

/// The mmap lock, held for writing: no call of the process can change its address space. With it the locks of all
/// areas, if the holder may wait for them.
///
/// # Invariants
///
/// The current thread holds the mmap lock of `mm` for writing.
pub(crate) struct MmapWriteLock<'s> {
    mm: &'s MmWithUser,
    _this_thread: NotThreadSafe,
}

impl<'s> MmapWriteLock<'s> {
    /// Takes the locks; sleeps. With [`Waiting::Forbidden`], `None` if the mmap lock is not free soon, and without the
    /// locks of areas whose holders may wait for somebody: `MADV_DONTNEED` is not held off there.
    pub(crate) fn take(mm: &'s MmWithUser, waiting: Waiting) -> Option<Self> {
        // SAFETY: `mm` has users.
        let held = unsafe {
            match waiting {
                Waiting::Allowed => {
                    shim::hmm_shim_mmap_write_lock(mm.as_raw());
                    true
                }
                Waiting::Forbidden => shim::hmm_shim_mmap_try_write_lock(mm.as_raw()),
            }
        };
        // Only on success: the destructor unlocks.
        held.then(|| Self {
            // INVARIANT: Just taken.
            mm,
            _this_thread: NotThreadSafe,
        })
    }
}

impl Drop for MmapWriteLock<'_> {
    fn drop(&mut self) {
        // SAFETY: Held by this thread, by the type invariant.
        unsafe { shim::hmm_shim_mmap_write_unlock(self.mm.as_raw()) };
    }
}

/// A table of PMD entries or PTEs that is being read, some at a time.
///
/// # Invariants
///
/// `first` points to the entry for the first page of `range` in a table that has been reachable since
/// `_rcu` was taken; so it is not freed before that is released.
struct Table {
    range: PageRange,
    first: First,
    _rcu: rcu::Guard,
}

/// The first entry of a table.
#[derive(Clone, Copy)]
enum First {
    Pmd(NonNull<bindings::pmd_t>),
    Pte(NonNull<bindings::pte_t>),
}

/// The bits of an entry that say what it is; above them is the frame.
const NOT_FRAME: shim::hmm_shim_entry = (1 << shim::hmm_shim_bits_HMM_SHIM_PFN_SHIFT) - 1;

/// How many entries are read in one call at most.
const MOST_AT_ONCE: usize = 64;

/// Entries that were read from a table. Too large to be moved about or cleared for each fault, most of
/// which need a few: it stays where whoever walks has made it.
///
/// # Invariants
///
/// The first `read` of `entries` are initialised.
pub(crate) struct Batch {
    /// The page whose entry is the first.
    from: PageIndex,
    read: usize,
    entries: [MaybeUninit<shim::hmm_shim_entry>; MOST_AT_ONCE],
}

impl Batch {
    /// No entries.
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        // INVARIANT: None is said to be initialised.
        Self {
            from: PageIndex::new(0),
            read: 0,
            entries: [MaybeUninit::uninit(); MOST_AT_ONCE],
        }
    }

    #[inline]
    fn entries(&self) -> &[shim::hmm_shim_entry] {
        let first = self.entries.as_ptr().cast();
        // SAFETY: So many are initialised, by the type invariant.
        unsafe { core::slice::from_raw_parts(first, self.read) }
    }

    /// The entry for `page` in a table whose entries map `1 << order` pages, and those after it.
    #[inline]
    fn from(&self, page: PageIndex, order: u32) -> &[shim::hmm_shim_entry] {
        let index = page.get().wrapping_sub(self.from.get()) >> order;
        self.entries().get(index as usize..).unwrap_or_default()
    }
}

impl Table {
    /// log2 of how many pages an entry maps.
    #[inline]
    fn order(&self) -> u32 {
        match self.first {
            First::Pmd(_) => PMD_ORDER,
            First::Pte(_) => 0,
        }
    }

    fn index(&self, page: PageIndex) -> usize {
        ((page.get() - self.range.start().get()) >> self.order()) as usize
    }

    /// Reads the entry for `page` into `batch`, and those after it before `until`, as many as fit.
    /// Returns the first; `None` if it is not in this table.
    #[inline]
    fn read(
        &self,
        batch: &mut Batch,
        page: PageIndex,
        until: PageIndex,
        owner: Owner,
        mixed: bool,
    ) -> Option<shim::hmm_shim_entry> {
        if !self.range.contains(page) {
            return None;
        }
        let index = self.index(page);
        let pages = PageRange::new(page, until.min(self.range.end())).len();
        let count = ((pages >> self.order()) as usize).clamp(1, MOST_AT_ONCE);
        let owner = owner.identity() as *const _;
        let to = batch.entries.as_mut_ptr().cast();
        // SAFETY: The entry at `index` and the `count - 1` after it map pages in `range`, so they are in
        // the table, which is alive by the type invariant; there is room for them at `to`.
        unsafe {
            match self.first {
                First::Pmd(first) => {
                    let first = first.as_ptr().add(index);
                    shim::hmm_shim_pmd_entries(first, count as u32, owner, mixed, to);
                }
                First::Pte(first) => {
                    let first = first.as_ptr().add(index);
                    shim::hmm_shim_pte_entries(first, count as u32, owner, to);
                }
            }
        }
        batch.from = Found::around(page, self.order(), Entry::Absent).start;
        // INVARIANT: So many have just been written.
        batch.read = count;
        batch.entries().first().copied()
    }
}

impl<'a, 's> LockedMm<'a, 's> {
    /// Takes the mmap lock of `mm` for reading, if `write_lock` does not hold it already; what was taken
    /// is released with the value.
    ///
    /// `collided` returns whether an invalidation has already made the result stale.
    ///
    /// # Errors
    ///
    /// [`FaultError::WouldWait`]; [`FaultError::Interrupted`] if the thread has been killed.
    // In line, as what a fault calls below: from a driver's module it would be a call, and a copy of the result.
    #[inline]
    pub(crate) fn lock(
        mm: &'a MmWithUser,
        write_lock: &'a mut Option<MmapWriteLock<'s>>,
        batch: &'a mut Batch,
        owner: Owner,
        waiting: Waiting,
        collided: &'a dyn Fn() -> bool,
    ) -> Result<Self, FaultError> {
        let mmap_lock = match write_lock {
            Some(_) => MmapLock::Write,
            None => MmapLock::reading(mm, waiting)?,
        };
        Ok(Self {
            mm,
            mmap_lock,
            write_lock,
            vma: None,
            mixed: false,
            table: None,
            batch,
            owner,
            waiting,
            collided,
        })
    }

    /// The entry for `page` in the table that is being read; a table may be linked there.
    #[inline]
    fn in_table(
        &mut self,
        page: PageIndex,
        until: PageIndex,
    ) -> Option<(shim::hmm_shim_entry, u32)> {
        let table = self.table.as_ref()?;
        let order = table.order();
        let entry = match self.batch.from(page, order).first() {
            Some(entry) => *entry,
            None => table.read(self.batch, page, until, self.owner, self.mixed)?,
        };
        Some((entry, order))
    }

    /// The entry `found`, and those after it that have been read and end before `until` or there.
    #[inline]
    fn read_after(
        &self,
        found: &Found,
        until: PageIndex,
    ) -> (shim::hmm_shim_entry, &[shim::hmm_shim_entry]) {
        let read = match &self.table {
            // A gigantic entry is in no table that is read in batches.
            Some(table) if table.order() == found.order => {
                self.batch.from(found.start, found.order)
            }
            _ => &[],
        };
        let Some((first, following)) = read.split_first() else {
            return (0, &[]);
        };
        let room = until.get().saturating_sub(found.range().end().get()) >> found.order;
        (*first, &following[..following.len().min(room as usize)])
    }

    /// Descends from the top to the table that has an entry for `page`, which is read from now on. Where
    /// there is none, the entry above it is returned.
    #[inline]
    fn descend(&mut self, page: PageIndex) -> Option<Found> {
        let rcu = rcu::read_lock();
        let mut place = shim::hmm_shim_place {
            entry: 0,
            pmds: null_mut(),
            ptes: null_mut(),
        };
        let addr = page.addr() as usize;
        // SAFETY: The mmap lock is held, and RCU's; `addr` lies in an area, `place` can be written.
        let shift = unsafe { shim::hmm_shim_descend(self.mm.as_raw(), addr, &mut place) };
        let order = shift - PAGE_SHIFT;
        // SAFETY: The order says which of the fields has been written, and no entry is at address 0.
        let (first, size) = unsafe {
            match order {
                0 => (First::Pte(NonNull::new_unchecked(place.ptes)), PMD_ORDER),
                PMD_ORDER => (First::Pmd(NonNull::new_unchecked(place.pmds)), PUD_ORDER),
                _ => {
                    // Not a table, or the descent would have continued.
                    let entry = entry_of(place.entry).unwrap_or(Entry::Bad);
                    return Some(Found::around(page, order, entry));
                }
            }
        };
        self.batch.read = 0;
        // INVARIANT: The descent has come to `first` under the RCU lock, which is held on.
        self.table = Some(Table {
            range: Found::around(page, size, Entry::Absent).range(),
            first,
            _rcu: rcu,
        });
        None
    }
}

impl LockedMm<'_, '_> {
    /// Takes the mmap lock again, which the CPU's fault handler has released.
    fn lock_again(&mut self) -> Result<(), FaultError> {
        self.vma = None;
        // What the guard would release has been released.
        core::mem::forget(core::mem::replace(&mut self.mmap_lock, MmapLock::Dropped));
        if killed() {
            return Err(FaultError::Interrupted);
        }
        self.mmap_lock = MmapLock::reading(self.mm, self.waiting)?;
        Ok(())
    }

    /// Replaces the write lock by a read lock.
    fn relock_for_reading(&mut self) -> Result<(), FaultError> {
        self.vma = None;
        self.mmap_lock = MmapLock::Dropped;
        *self.write_lock = None;
        self.mmap_lock = MmapLock::reading(self.mm, self.waiting)?;
        Ok(())
    }

    /// Whether the area that `vma_from` last returned is of persistent memory.
    pub(crate) fn is_persistent(&self) -> bool {
        let is_dax = |vma: NonNull<bindings::vm_area_struct>| {
            // SAFETY: An area of the mm, found under the mmap lock, which is held.
            unsafe { shim::hmm_shim_vma_is_dax(vma.as_ptr()) }
        };
        self.vma.is_some_and(is_dax)
    }

    fn is_write_locked(&self) -> bool {
        matches!(self.mmap_lock, MmapLock::Write)
    }

    /// The flags of the CPU's fault handler for an `access` to `vma`; `None` if the mmap lock is held for writing
    /// and must not be.
    fn fault_flags(
        &mut self,
        vma: NonNull<bindings::vm_area_struct>,
        access: Access,
    ) -> Option<u32> {
        let mut flags = bindings::fault_flag_FAULT_FLAG_REMOTE;
        if self.waiting == Waiting::Allowed {
            if !self.is_write_locked() {
                // The handler may drop a lock that is held for reading.
                flags |= bindings::fault_flag_FAULT_FLAG_ALLOW_RETRY
                    | bindings::fault_flag_FAULT_FLAG_KILLABLE;
            // SAFETY: The mmap lock is held, and `vma` is an area found under it.
            } else if unsafe { shim::hmm_shim_may_wait_for_user(vma.as_ptr()) } {
                // The process that it waits for may be this one.
                return None;
            }
        }
        if access == Access::Write {
            flags |= bindings::fault_flag_FAULT_FLAG_WRITE;
        }
        Some(flags)
    }
}

/// What the CPU's fault handler returns when it has dropped the mmap lock.
const LOCK_DROPPED: u32 =
    bindings::vm_fault_reason_VM_FAULT_RETRY | bindings::vm_fault_reason_VM_FAULT_COMPLETED;

/// What it returns when it has failed, other than for lack of memory.
const FAILED: u32 = bindings::vm_fault_reason_VM_FAULT_SIGBUS
    | bindings::vm_fault_reason_VM_FAULT_SIGSEGV
    | bindings::vm_fault_reason_VM_FAULT_HWPOISON
    | bindings::vm_fault_reason_VM_FAULT_HWPOISON_LARGE
    | bindings::vm_fault_reason_VM_FAULT_FALLBACK;

impl AddressSpace for LockedMm<'_, '_> {
    #[inline]
    fn vma_from(&mut self, page: PageIndex) -> Option<Vma> {
        self.table = None;
        // SAFETY: The mmap lock is held: the walk ends if it could not be taken again.
        let vma = unsafe { bindings::find_vma(self.mm.as_raw(), page.addr() as usize) };
        self.vma = NonNull::new(vma);
        // SAFETY: The mmap lock keeps the area as it is.
        let (vma, mixed) = self.vma.map(|vma| unsafe { describe(vma) })?;
        self.mixed = mixed;
        Some(vma)
    }

    #[inline]
    fn entry(&mut self, page: PageIndex, until: PageIndex) -> Found {
        loop {
            if let Some((entry, order)) = self.in_table(page, until) {
                if let Some(entry) = entry_of(entry) {
                    return Found::around(page, order, entry);
                }
            }
            // In another table, maybe in one below this; again if that has changed since.
            self.table = None;
            if let Some(found) = self.descend(page) {
                return found;
            }
        }
    }

    #[inline]
    fn alike(&self, found: &Found, until: PageIndex) -> impl FusedIterator<Item = Pfn> {
        let (first, following) = self.read_after(found, until);
        let same = move |entry: &&shim::hmm_shim_entry| (**entry ^ first) & NOT_FRAME == 0;
        let frame = |entry: &_| Pfn::new(entry >> shim::hmm_shim_bits_HMM_SHIM_PFN_SHIFT);
        following.iter().take_while(same).map(frame)
    }

    fn absent_after(&self, found: &Found, until: PageIndex) -> u64 {
        let absent = u64::from(shim::hmm_shim_kind_HMM_SHIM_ABSENT);
        let (_, following) = self.read_after(found, until);
        following
            .iter()
            .take_while(|entry| **entry == absent)
            .count() as u64
    }

    #[inline]
    fn fault(&mut self, pages: PageRange, access: Access) -> Result<Handled, FaultError> {
        // The handler sleeps and may replace the table.
        self.table = None;
        let vma = self.vma.ok_or(FaultError::Refused(Refusal::NoPage))?;
        let Some(flags) = self.fault_flags(vma, access) else {
            self.relock_for_reading()?;
            return Ok(Handled::LockDropped);
        };
        let may_wait = self.waiting == Waiting::Allowed;
        for page in pages.start().get()..pages.end().get() {
            let addr = PageIndex::new(page).addr() as usize;
            // SAFETY: The mmap lock is held: after a call that has dropped it there is no other. `vma` is an
            // area of the mm, found under that lock.
            let result = unsafe {
                match may_wait {
                    true => shim::hmm_shim_fault(vma.as_ptr(), addr, flags),
                    false => shim::hmm_shim_fault_at_once(vma.as_ptr(), addr, flags),
                }
            };
            if result & LOCK_DROPPED != 0 {
                if !may_wait {
                    // Then the lock is still held.
                    return Err(FaultError::WouldWait);
                }
                self.lock_again()?;
                return Ok(Handled::LockDropped);
            }
            if result & bindings::vm_fault_reason_VM_FAULT_OOM != 0 {
                return Err(FaultError::NoMemory);
            }
            if result & FAILED != 0 {
                return Err(FaultError::Refused(Refusal::NoPage));
            }
        }
        Ok(Handled::LockHeld)
    }

    fn collided(&self) -> bool {
        (self.collided)()
    }
}

/// What `vma` is, and whether a driver has put what it likes there.
///
/// # Safety
///
/// `vma` is an area of an mm whose mmap lock is held.
#[inline]
unsafe fn describe(vma: NonNull<bindings::vm_area_struct>) -> (Vma, bool) {
    // SAFETY: Valid, by the contract of this function.
    let secret = unsafe { shim::hmm_shim_vma_is_secret(vma.as_ptr()) };
    // SAFETY: As above.
    let shadow_stack = unsafe { shim::hmm_shim_vma_is_shadow_stack(vma.as_ptr()) };
    // SAFETY: As above.
    let vma = unsafe { kernel::mm::virt::VmaRef::from_raw(vma.as_ptr()) };
    use kernel::mm::virt::flags;
    let has = |flag| vma.flags() & flag != 0;
    let described = Vma {
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
    };
    (described, has(flags::MIXEDMAP))
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
