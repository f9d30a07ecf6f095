/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The C half of hmm_oracle: the kernel's own hmm_range_fault, called as a driver calls it, and what
 * the Rust half needs of inline functions. bindgen makes shim_bindings.rs of it.
 */
#ifndef HMM_ORACLE_SHIM_H
#define HMM_ORACLE_SHIM_H

#include <linux/mm_types.h>

/* A walk by hmm_range_fault, or by hmm_range_fault_unlocked_timeout. */
struct hmm_oracle_walk {
	unsigned long start;		/* address */
	unsigned long pages;
	unsigned long default_flags;
	unsigned long pfn_flags_mask;
	const unsigned long *requests;	/* HMM_PFN_REQ_* a page, or NULL */
	unsigned long *pfns;		/* out: HMM's own format */
	bool unlocked;			/* by the walk that takes the mmap lock itself */
	unsigned long nanoseconds;	/* out: without registering the notifier */
};

/*
 * Walks until the result is valid. Returns 0, the errno of C's walk, -EOPNOTSUPP if this kernel has none
 * that takes the lock itself, or -ETIMEDOUT if invalidations keep winning. mm has users; may sleep.
 */
int hmm_oracle_walk_range(struct mm_struct *mm, struct hmm_oracle_walk *walk);

/* The flags of a request, and what is to be seen in a word of a result. */
unsigned long hmm_oracle_request(bool fault, bool write);
bool hmm_oracle_is_valid(unsigned long word);
bool hmm_oracle_is_writable(unsigned long word);
bool hmm_oracle_is_error(unsigned long word);
unsigned long hmm_oracle_pfn(unsigned long word);
unsigned int hmm_oracle_order(unsigned long word);

/*
 * How a driver in C forgets a range in its invalidation callback: an xarray with an entry a page,
 * stored first (not measured), then erased one by one under a spinlock. Returns the nanoseconds of
 * the latter, or an errno.
 */
long hmm_oracle_zap_pages(unsigned long first, unsigned long pages);

/*
 * Fills vma, which is being made, with entries for memory that has no struct page, though it is no
 * area of a device: as file systems with direct access do. Returns 0 or -EFAULT.
 */
int hmm_oracle_map_special(struct vm_area_struct *vma);

unsigned long hmm_oracle_task_size(const struct mm_struct *mm);
bool hmm_oracle_may_use(void);

#endif
