/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What hmm needs of the kernel's inline functions and macros. bindgen makes shim_bindings.rs of it.
 * No decision is made here: each function reads one thing, or many of a kind, or calls one thing.
 */
#ifndef HMM_SHIM_H
#define HMM_SHIM_H

#include <linux/mm_types.h>
#include <linux/mmu_notifier.h>
#include <linux/rwlock_types.h>
#include <linux/xarray.h>

/* A flag of struct mmu_notifier_range: whether the callback may sleep. */
enum hmm_shim_notifier {
	HMM_SHIM_BLOCKABLE = MMU_NOTIFIER_RANGE_BLOCKABLE,
};

/* What a page table entry holds. */
enum hmm_shim_kind {
	HMM_SHIM_ABSENT,
	HMM_SHIM_INACCESSIBLE,
	HMM_SHIM_ELSEWHERE,
	HMM_SHIM_MIGRATING,
	HMM_SHIM_MAPPED,
	HMM_SHIM_DEVICE,
	HMM_SHIM_SPECIAL,
	HMM_SHIM_BAD,
	HMM_SHIM_TABLE,
};

/*
 * An entry: its kind in the low bits; if it is MAPPED, DEVICE or SPECIAL, also whether it is writable
 * and the number of its first frame.
 */
typedef u64 hmm_shim_entry;
enum hmm_shim_bits {
	HMM_SHIM_KIND_MASK = 0xf,
	HMM_SHIM_WRITABLE = 0x10,
	HMM_SHIM_PFN_SHIFT = 8,
};

/*
 * The page table. An address in a user's part of the mm; the mmap lock held, and the RCU read lock, so that
 * no table goes away under the reader. Entries may change at any time: the caller learns of it through its
 * interval notifier.
 */

/* Where a descent has ended: one of them is written. */
struct hmm_shim_place {
	/* Above the tables of PMDs: the entry. */
	hmm_shim_entry entry;
	/* The first entry of a table of PMDs, of which that for the address is not a table. */
	pmd_t *pmds;
	/* The first entry of a table of PTEs. */
	pte_t *ptes;
};

/* Goes down to the entry for addr; returns the log2 size of what it covers. */
unsigned int hmm_shim_descend(struct mm_struct *mm, unsigned long addr, struct hmm_shim_place *place);

/*
 * count entries from pmd or pte on, all in one table. owner, if not NULL, is whose device memory counts as
 * DEVICE; that of others is ELSEWHERE. mixed says that the area is one in which a driver has put what it likes
 * (VM_MIXEDMAP): what is special there is its own, elsewhere it is the huge zero page.
 */
void hmm_shim_pmd_entries(pmd_t *pmd, unsigned int count, const void *owner, bool mixed,
			  hmm_shim_entry *to);
void hmm_shim_pte_entries(pte_t *pte, unsigned int count, const void *owner, hmm_shim_entry *to);

/* Whether vma maps memfd_secret(2) memory: ordinary pages that the kernel itself cannot reach. */
bool hmm_shim_vma_is_secret(const struct vm_area_struct *vma);
bool hmm_shim_vma_is_shadow_stack(const struct vm_area_struct *vma);

/*
 * Whether a fault in vma may have to wait for a process: the handler of a userfaultfd, or a file system
 * in user space. The mmap lock held.
 */
bool hmm_shim_may_wait_for_user(struct vm_area_struct *vma);

/*
 * handle_mm_fault(). A kernel thread that waits for the handler of a userfaultfd is woken each second,
 * and VM_FAULT_RETRY is the result: nobody could kill it.
 */
vm_fault_t hmm_shim_fault(struct vm_area_struct *vma, unsigned long addr, unsigned int flags);

/*
 * The same for a caller that must not wait: VM_FAULT_RETRY, with the mmap lock still held, if the page is not to be had
 * without waiting for somebody.
 */
vm_fault_t hmm_shim_fault_at_once(struct vm_area_struct *vma, unsigned long addr, unsigned int flags);

/* The mmap lock for reading: false if the thread was killed meanwhile, or if it is not to be had soon. */
bool hmm_shim_mmap_read_lock_killable(struct mm_struct *mm);
bool hmm_shim_mmap_try_read_lock(struct mm_struct *mm);
void hmm_shim_mmap_read_unlock(struct mm_struct *mm);

/* Takes the mmap lock for writing, and the lock of each area: some calls do with one of these. */
void hmm_shim_mmap_write_lock(struct mm_struct *mm);
/*
 * The same, if the mmap lock can be had soon, and with the locks of those areas alone in which nobody waits for
 * somebody while he holds one.
 */
bool hmm_shim_mmap_try_write_lock(struct mm_struct *mm);
void hmm_shim_mmap_write_unlock(struct mm_struct *mm);

/* The current task's credentials, with a reference; and those that it has taken on, until they are reverted. */
const struct cred *hmm_shim_get_credentials(void);
const struct cred *hmm_shim_override_credentials(const struct cred *cred);
void hmm_shim_revert_credentials(const struct cred *before);
/*
 * Who made the outermost user namespace that cred is of, or, if that was the superuser, the namespace; in the first
 * one, the user themselves. A number for each.
 */
u64 hmm_shim_accountable_user(const struct cred *cred);

/*
 * The file that the page at addr of mm, whose mmap lock is held, is read from, with a reference, and where in it; NULL
 * if it need not be read for an access of this kind, or cannot. *end is cut to where that ends.
 */
struct file *hmm_shim_file_to_read(struct mm_struct *mm, u64 addr, u64 *end, bool writes, s64 *pos);
/* Reads the page at pos of such a file into the page cache; whether it could. */
bool hmm_shim_read_page(struct file *file, s64 pos);
void hmm_shim_put_file(struct file *file);

/* Whether there is a process left that the memory of mm is for. */
bool hmm_shim_mm_has_owner(struct mm_struct *mm);

/* The flag of an xarray whose own memory is charged to the task that makes it grow. */
enum hmm_shim_xa {
	HMM_SHIM_XA_ACCOUNT = (__force unsigned int)XA_FLAGS_ACCOUNT,
};

/* xa_load() of an array that holds pointers only, each at one index, with the RCU read lock held. */
void *hmm_shim_xa_load(struct xarray *xa, unsigned long index);

/*
 * The same without that lock, as one with the lock that each entry has, so many bytes from its beginning: it is taken
 * for reading, if there is an entry. Its holder is a reader for RCU, so the entry stays. The warm path of every access
 * comes through here.
 */
void *hmm_shim_xa_read_lock(struct xarray *xa, unsigned long index, unsigned long lock);

/* How much memory the machine has, in bytes. */
unsigned long hmm_shim_ram(void);

/* log2 of how many pages the folio of @pfn has, which stays what it is. */
unsigned int hmm_shim_folio_order_of(unsigned long pfn);

unsigned long hmm_shim_task_size(const struct mm_struct *mm);

void hmm_shim_interval_set_seq(struct mmu_interval_notifier *notifier, unsigned long seq);
/* Whether the current thread has been killed. */
bool hmm_shim_killed(void);

/* All locks made here are of one lockdep class: hmm has one kind. */
void hmm_shim_rwlock_init(rwlock_t *lock);
void hmm_shim_read_lock(rwlock_t *lock);
void hmm_shim_read_unlock(rwlock_t *lock);
void hmm_shim_write_lock(rwlock_t *lock);
void hmm_shim_write_unlock(rwlock_t *lock);

struct page *hmm_shim_pfn_to_page(unsigned long pfn);
/* To be undone with kunmap_local(). */
void *hmm_shim_map(unsigned long pfn);

/* Whether vma maps a file of persistent memory, or of a device like it, with no page cache in between. */
bool hmm_shim_vma_is_dax(const struct vm_area_struct *vma);
/* Whether the page with this frame, which stays, is in such memory: of a file system, or of a device by itself. */
bool hmm_shim_is_persistent(unsigned long pfn);
/* Writes the CPU's caches of the page back to its memory, which it has once hmm_shim_persist() has returned. */
void hmm_shim_write_back(unsigned long pfn);
void hmm_shim_persist(void);

/*
 * Between the two, the current task's accounted allocations are charged to the memory cgroup of mm.
 * begin returns that cgroup, with a reference, and in *outer what the task had charged to before.
 */
struct mem_cgroup *hmm_shim_charge_begin(struct mm_struct *mm, struct mem_cgroup **outer);
void hmm_shim_charge_end(struct mem_cgroup *charged, struct mem_cgroup *outer);

#endif
