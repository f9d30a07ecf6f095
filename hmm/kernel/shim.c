// SPDX-License-Identifier: GPL-2.0
#include <linux/cred.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/leafops.h>
#include <linux/libnvdimm.h>
#include <linux/magic.h>
#include <linux/memcontrol.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/spinlock.h>
#include <linux/user_namespace.h>
#include <linux/userfaultfd_k.h>
#include <linux/xarray.h>

#include "shim.h"

static hmm_shim_entry mapping(enum hmm_shim_kind kind, unsigned long pfn, bool writable)
{
	return ((hmm_shim_entry)pfn << HMM_SHIM_PFN_SHIFT) |
	       (writable ? HMM_SHIM_WRITABLE : 0) | kind;
}

static hmm_shim_entry device_private(softleaf_t leaf, const void *owner)
{
	if (!owner || page_pgmap(softleaf_to_page(leaf))->owner != owner)
		return HMM_SHIM_ELSEWHERE;
	return mapping(HMM_SHIM_DEVICE, softleaf_to_pfn(leaf),
		       softleaf_is_device_private_write(leaf));
}

/* Of an entry that is neither empty nor present. */
static hmm_shim_entry not_present(softleaf_t leaf, const void *owner)
{
	switch (softleaf_type(leaf)) {
	case SOFTLEAF_SWAP:
	case SOFTLEAF_DEVICE_EXCLUSIVE:
		return HMM_SHIM_ELSEWHERE;
	case SOFTLEAF_DEVICE_PRIVATE_READ:
	case SOFTLEAF_DEVICE_PRIVATE_WRITE:
		return device_private(leaf, owner);
	case SOFTLEAF_MIGRATION_READ:
	case SOFTLEAF_MIGRATION_READ_EXCLUSIVE:
	case SOFTLEAF_MIGRATION_WRITE:
		return HMM_SHIM_MIGRATING;
	case SOFTLEAF_MARKER:
		/* userfaultfd's write-protect marker stands for an empty entry. */
		return softleaf_is_uffd_wp_marker(leaf) ? HMM_SHIM_ABSENT : HMM_SHIM_BAD;
	default:
		return HMM_SHIM_BAD;
	}
}

static hmm_shim_entry pud_entry(pud_t pud)
{
	if (pud_none(pud))
		return HMM_SHIM_ABSENT;
	/* Only hugetlb has entries here that are not present. */
	if (!pud_present(pud))
		return not_present(softleaf_from_pte(__pte(pud_val(pud))), NULL);
	if (pud_leaf(pud))
		return mapping(pud_special(pud) ? HMM_SHIM_SPECIAL : HMM_SHIM_MAPPED,
			       pud_pfn(pud), pud_write(pud));
	if (pud_bad(pud))
		return HMM_SHIM_BAD;
	return HMM_SHIM_TABLE;
}

static bool is_table(pmd_t pmd)
{
	return pmd_present(pmd) && !pmd_leaf(pmd) && !pmd_bad(pmd);
}

unsigned int hmm_shim_descend(struct mm_struct *mm, unsigned long addr, struct hmm_shim_place *place)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t pud;
	pmd_t pmd;

	place->entry = HMM_SHIM_ABSENT;
	if (pgd_none(*pgd) || pgd_bad(*pgd))
		return PGDIR_SHIFT;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d) || p4d_bad(*p4d))
		return P4D_SHIFT;
	pud = pudp_get(pud_offset(p4d, addr));
	place->entry = pud_entry(pud);
	if (place->entry != HMM_SHIM_TABLE)
		return PUD_SHIFT;
	pmd = pmdp_get_lockless(pmd_offset(&pud, addr));
	if (!is_table(pmd)) {
		place->pmds = pmd_offset(&pud, addr & PUD_MASK);
		return PMD_SHIFT;
	}
	place->ptes = pte_offset_kernel(&pmd, addr & PMD_MASK);
	return PAGE_SHIFT;
}

static hmm_shim_entry pmd_entry(pmd_t pmd, const void *owner, bool mixed)
{
	if (pmd_none(pmd))
		return HMM_SHIM_ABSENT;
	if (!pmd_present(pmd))
		return not_present(softleaf_from_pmd(pmd), owner);
	if (pmd_leaf(pmd)) {
		if (pmd_protnone(pmd))
			return HMM_SHIM_INACCESSIBLE;
		/* The huge zero page is special too, but it can be read like any other. */
		if (pmd_special(pmd) && (mixed || !pfn_valid(pmd_pfn(pmd))))
			return mapping(HMM_SHIM_SPECIAL, pmd_pfn(pmd), pmd_write(pmd));
		return mapping(HMM_SHIM_MAPPED, pmd_pfn(pmd), pmd_write(pmd));
	}
	if (pmd_bad(pmd))
		return HMM_SHIM_BAD;
	return HMM_SHIM_TABLE;
}

void hmm_shim_pmd_entries(pmd_t *pmdp, unsigned int count, const void *owner, bool mixed,
			  hmm_shim_entry *to)
{
	for (; count; count--)
		*to++ = pmd_entry(pmdp_get_lockless(pmdp++), owner, mixed);
}

static hmm_shim_entry pte_entry(pte_t pte, const void *owner)
{
	bool special;

	if (pte_none(pte))
		return HMM_SHIM_ABSENT;
	if (!pte_present(pte))
		return not_present(softleaf_from_pte(pte), owner);
	if (pte_protnone(pte))
		return HMM_SHIM_INACCESSIBLE;
	/* The zero page is special to the core mm, but it can be read like any other. */
	special = pte_special(pte) && !is_zero_pfn(pte_pfn(pte));
	return mapping(special ? HMM_SHIM_SPECIAL : HMM_SHIM_MAPPED, pte_pfn(pte), pte_write(pte));
}

void hmm_shim_pte_entries(pte_t *ptep, unsigned int count, const void *owner, hmm_shim_entry *to)
{
	/* An ordinary page, and what became of it. */
	pteval_t plain = ~0UL;
	hmm_shim_entry what = 0;

	while (count--) {
		pte_t pte = ptep_get_lockless(ptep++);
		/* Most pages are mapped as their neighbour is: then only the frame is another. */
		pteval_t differs = pte_val(pte) ^ plain;

		if (!(differs & PTE_FLAGS_MASK)) {
			*to++ = what ^ ((differs >> PAGE_SHIFT) << HMM_SHIM_PFN_SHIFT);
			continue;
		}
		*to = pte_entry(pte, owner);
		if (count && (*to & HMM_SHIM_KIND_MASK) == HMM_SHIM_MAPPED && !pte_special(pte)) {
			plain = pte_val(pte);
			what = *to;
		}
		to++;
	}
}

bool hmm_shim_vma_is_secret(const struct vm_area_struct *vma)
{
	/* vma_is_secretmem() is not exported; the file system's number says the same. */
	return vma->vm_file && file_inode(vma->vm_file)->i_sb->s_magic == SECRETMEM_MAGIC;
}

bool hmm_shim_vma_is_shadow_stack(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_SHADOW_STACK;
}

bool hmm_shim_may_wait_for_user(struct vm_area_struct *vma)
{
	return userfaultfd_armed(vma) || !vma_is_anonymous(vma);
}

struct waker {
	struct timer_list timer;
	struct task_struct *task;
};

static void wake(struct timer_list *timer)
{
	struct waker *waker = timer_container_of(waker, timer, timer);

	wake_up_process(waker->task);
	mod_timer(timer, jiffies + HZ);
}

/* Beside the usual way, so that its timer costs nothing there. */
static noinline vm_fault_t fault_and_wake(struct vm_area_struct *vma, unsigned long addr,
					  unsigned int flags)
{
	struct waker waker = { .task = current };
	vm_fault_t result;

	timer_setup_on_stack(&waker.timer, wake, 0);
	mod_timer(&waker.timer, jiffies + HZ);
	result = handle_mm_fault(vma, addr, flags, NULL);
	timer_delete_sync(&waker.timer);
	timer_destroy_on_stack(&waker.timer);
	return result;
}

vm_fault_t hmm_shim_fault(struct vm_area_struct *vma, unsigned long addr, unsigned int flags)
{
	/* A thread that can be killed needs no waking. */
	if (!(current->flags & PF_KTHREAD) || !userfaultfd_armed(vma))
		return handle_mm_fault(vma, addr, flags, NULL);
	return fault_and_wake(vma, addr, flags);
}

/* Whether the page at addr, of shared memory, is in swap: that it is read from there is waited for in any case. */
static bool shmem_in_swap(struct vm_area_struct *vma, unsigned long addr)
{
	return xa_is_value(xa_load(&vma->vm_file->f_mapping->i_pages, linear_page_index(vma, addr)));
}

/*
 * Files: even with FAULT_FLAG_RETRY_NOWAIT the page is read, and its block allocated, in the call. That it is in the
 * page cache now is no promise: a truncation can take it away before the handler has looked.
 */
static bool may_wait_in_area(struct vm_area_struct *vma)
{
	if (userfaultfd_armed(vma))
		return true;
	if (vma_is_anonymous(vma) || is_vm_hugetlb_page(vma))
		return false;
	return !vma->vm_file || !shmem_mapping(vma->vm_file->f_mapping);
}

static bool may_wait_for_page(struct vm_area_struct *vma, unsigned long addr)
{
	if (may_wait_in_area(vma))
		return true;
	return !vma_is_anonymous(vma) && !is_vm_hugetlb_page(vma) && shmem_in_swap(vma, addr);
}

vm_fault_t hmm_shim_fault_at_once(struct vm_area_struct *vma, unsigned long addr, unsigned int flags)
{
	unsigned int nofs;
	vm_fault_t result;

	if (may_wait_for_page(vma, addr))
		return VM_FAULT_RETRY;
	/* Memory that is short is not made by writing to a file system, whose server may not answer. */
	nofs = memalloc_nofs_save();
	result = handle_mm_fault(vma, addr, flags | FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_RETRY_NOWAIT, NULL);
	memalloc_nofs_restore(nofs);
	return result;
}

static bool is_read(struct vm_area_struct *vma, bool writes)
{
	struct file *file = vma->vm_file;

	if (!file || !(vma->vm_flags & (writes ? VM_WRITE : VM_READ)) || userfaultfd_armed(vma))
		return false;
	/* A page of a private mapping may be the process's own by now, and need not be read. */
	if (!(vma->vm_flags & VM_SHARED) && vma->anon_vma)
		return false;
	if (!S_ISREG(file_inode(file)->i_mode) || IS_DAX(file_inode(file)) ||
	    shmem_mapping(file->f_mapping) || is_vm_hugetlb_page(vma))
		return false;
	/* What kernel_read() asks for. */
	return (file->f_mode & FMODE_READ) && (file->f_mode & FMODE_CAN_READ) &&
	       file->f_op->read_iter && !file->f_op->read;
}

struct file *hmm_shim_file_to_read(struct mm_struct *mm, u64 addr, u64 *end, bool writes, s64 *pos)
{
	struct vm_area_struct *vma = find_vma(mm, addr);

	if (!vma)
		return NULL;
	if (vma->vm_start > addr) {
		*end = min_t(u64, *end, vma->vm_start);
		return NULL;
	}
	*end = min_t(u64, *end, vma->vm_end);
	if (!is_read(vma, writes))
		return NULL;
	*pos = (s64)linear_page_index(vma, addr) << PAGE_SHIFT;
	return get_file(vma->vm_file);
}

static bool is_in_page_cache(struct file *file, loff_t pos)
{
	struct folio *folio = filemap_get_folio(file->f_mapping, pos >> PAGE_SHIFT);
	bool is_there;

	if (IS_ERR(folio))
		return false;
	is_there = folio_test_uptodate(folio);
	folio_put(folio);
	return is_there;
}

bool hmm_shim_read_page(struct file *file, s64 pos)
{
	loff_t at = pos;
	char byte;

	cond_resched();
	/* Otherwise network file systems ask their server for each page whether the file is the same. */
	return is_in_page_cache(file, at) || kernel_read(file, &byte, 1, &at) == 1;
}

void hmm_shim_put_file(struct file *file)
{
	fput(file);
}

bool hmm_shim_mmap_read_lock_killable(struct mm_struct *mm)
{
	return !mmap_read_lock_killable(mm);
}

static noinline bool try_read_lock_again(struct mm_struct *mm)
{
	/* mmap() and the like are done in microseconds. */
	unsigned int tries = 200;

	do {
		cond_resched();
		udelay(1);
		if (mmap_read_trylock(mm))
			return true;
	} while (--tries);
	return false;
}

bool hmm_shim_mmap_try_read_lock(struct mm_struct *mm)
{
	return likely(mmap_read_trylock(mm)) || try_read_lock_again(mm);
}

void hmm_shim_mmap_read_unlock(struct mm_struct *mm)
{
	mmap_read_unlock(mm);
}

static bool try_write_lock(struct mm_struct *mm)
{
	/* As often as for reading: a process that changes its address space all the time unlocks all the time. */
	unsigned int tries = 200;

	while (!down_write_trylock(&mm->mmap_lock)) {
		if (!--tries)
			return false;
		cond_resched();
		udelay(1);
	}
	return true;
}

bool hmm_shim_mmap_try_write_lock(struct mm_struct *mm)
{
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, mm, 0);

	/* As mmap_write_lock() does it. */
	if (!try_write_lock(mm))
		return false;
	mm_lock_seqcount_begin(mm);
	for_each_vma(vmi, vma) {
		/* The holder of any other area's lock may be reading from swap. */
		if (!userfaultfd_armed(vma) && (vma_is_anonymous(vma) || is_vm_hugetlb_page(vma)))
			vma_start_write(vma);
	}
	return true;
}

const struct cred *hmm_shim_get_credentials(void)
{
	return get_current_cred();
}

const struct cred *hmm_shim_override_credentials(const struct cred *cred)
{
	return override_creds(cred);
}

void hmm_shim_revert_credentials(const struct cred *before)
{
	revert_creds(before);
}

u64 hmm_shim_accountable_user(const struct cred *cred)
{
	const struct user_namespace *ns = cred->user_ns;

	if (ns == &init_user_ns)
		return __kuid_val(cred->uid);
	while (ns->parent != &init_user_ns)
		ns = ns->parent;
	/* The superuser's are containers, which have nothing to do with each other. */
	if (uid_eq(ns->owner, GLOBAL_ROOT_UID))
		return 1ULL << 32 | ns->ns.inum;
	return __kuid_val(ns->owner);
}

void hmm_shim_mmap_write_lock(struct mm_struct *mm)
{
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, mm, 0);

	mmap_write_lock(mm);
	for_each_vma(vmi, vma)
		vma_start_write(vma);
}

bool hmm_shim_mm_has_owner(struct mm_struct *mm)
{
#ifdef CONFIG_MEMCG
	return READ_ONCE(mm->owner);
#else
	return true;
#endif
}

void hmm_shim_mmap_write_unlock(struct mm_struct *mm)
{
	mmap_write_unlock(mm);
}

static noinline void *load_again(struct xarray *xa, unsigned long index)
{
	XA_STATE(xas, xa, index);
	void *entry;

	do {
		entry = xas_load(&xas);
	} while (xas_retry(&xas, entry));
	return entry;
}

/* xa_load() of an array that holds pointers only, each at one index: a fifth of its instructions. */
static __always_inline void *load(struct xarray *xa, unsigned long index)
{
	void *entry = xa_head(xa);
	const struct xa_node *node;

	/* Not a node: it is the entry at 0. */
	if (!xa_is_internal(entry))
		return index ? NULL : entry;
	if (!xa_is_node(entry))
		return load_again(xa, index);
	node = xa_to_node(entry);
	if (index >> node->shift > XA_CHUNK_MASK)
		return NULL;
	do {
		node = xa_to_node(entry);
		entry = xa_entry(xa, node, (index >> node->shift) & XA_CHUNK_MASK);
	} while (xa_is_node(entry));
	/* What is neither a pointer nor a node is there while the array changes. */
	return xa_is_internal(entry) ? load_again(xa, index) : entry;
}

void *hmm_shim_xa_load(struct xarray *xa, unsigned long index)
{
	return load(xa, index);
}

#if defined(CONFIG_DEBUG_LOCK_ALLOC) || defined(CONFIG_DEBUG_SPINLOCK) || defined(CONFIG_PREEMPT_RT)

/* Lockdep, and RCU's own checks, want to see each step. PREEMPT_RT's read_lock() calls rcu_read_lock() itself. */
void *hmm_shim_xa_read_lock(struct xarray *xa, unsigned long index, unsigned long lock)
{
	void *entry;

	rcu_read_lock();
	entry = load(xa, index);
	if (entry)
		read_lock((rwlock_t *)(entry + lock));
	rcu_read_unlock();
	return entry;
}

void hmm_shim_read_unlock(rwlock_t *lock)
{
	read_unlock(lock);
}

void hmm_shim_write_lock(rwlock_t *lock)
{
	write_lock(lock);
}

void hmm_shim_write_unlock(rwlock_t *lock)
{
	write_unlock(lock);
}

#else

/* RCU waits for whoever cannot be preempted, so what the lock does about that is done once, and first. */
void *hmm_shim_xa_read_lock(struct xarray *xa, unsigned long index, unsigned long lock)
{
	void *entry;

	preempt_disable();
	entry = load(xa, index);
	if (likely(entry))
		do_raw_read_lock((rwlock_t *)(entry + lock));
	else
		preempt_enable();
	return entry;
}

/* read_unlock() and the like, in line. */
void hmm_shim_read_unlock(rwlock_t *lock)
{
	do_raw_read_unlock(lock);
	preempt_enable();
}

void hmm_shim_write_lock(rwlock_t *lock)
{
	preempt_disable();
	do_raw_write_lock(lock);
}

void hmm_shim_write_unlock(rwlock_t *lock)
{
	do_raw_write_unlock(lock);
	preempt_enable();
}

#endif

unsigned long hmm_shim_ram(void)
{
	return totalram_pages() << PAGE_SHIFT;
}

unsigned int hmm_shim_folio_order_of(unsigned long pfn)
{
	return folio_order(page_folio(pfn_to_page(pfn)));
}

unsigned long hmm_shim_task_size(const struct mm_struct *mm)
{
	return mm->task_size;
}

void hmm_shim_interval_set_seq(struct mmu_interval_notifier *notifier, unsigned long seq)
{
	mmu_interval_set_seq(notifier, seq);
}

bool hmm_shim_killed(void)
{
	return fatal_signal_pending(current);
}

void hmm_shim_rwlock_init(rwlock_t *lock)
{
	rwlock_init(lock);
}

void hmm_shim_read_lock(rwlock_t *lock)
{
	read_lock(lock);
}

struct page *hmm_shim_pfn_to_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

void *hmm_shim_map(unsigned long pfn)
{
	return kmap_local_pfn(pfn);
}

bool hmm_shim_vma_is_dax(const struct vm_area_struct *vma)
{
	return vma_is_dax(vma);
}

bool hmm_shim_is_persistent(unsigned long pfn)
{
	const struct folio *folio = page_folio(pfn_to_page(pfn));

	return folio_is_zone_device(folio) &&
	       (folio->pgmap->type == MEMORY_DEVICE_FS_DAX ||
		folio->pgmap->type == MEMORY_DEVICE_GENERIC);
}

void hmm_shim_write_back(unsigned long pfn)
{
	void *page = kmap_local_pfn(pfn);

	arch_wb_cache_pmem(page, PAGE_SIZE);
	kunmap_local(page);
}

void hmm_shim_persist(void)
{
	pmem_wmb();
}

struct mem_cgroup *hmm_shim_charge_begin(struct mm_struct *mm, struct mem_cgroup **outer)
{
	struct mem_cgroup *memcg = get_mem_cgroup_from_mm(mm);

	*outer = set_active_memcg(memcg);
	return memcg;
}

void hmm_shim_charge_end(struct mem_cgroup *charged, struct mem_cgroup *outer)
{
	set_active_memcg(outer);
	mem_cgroup_put(charged);
}
