// SPDX-License-Identifier: GPL-2.0
#include <linux/capability.h>
#include <linux/hmm.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/mmu_notifier.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/xarray.h>

#include "../../kernel/compat.h"
#include "shim.h"

/* What a driver has for a range: its notifier, and the lock that it validates under. */
struct watched {
	struct mmu_interval_notifier notifier;
	spinlock_t lock;
};

static bool invalidate(struct mmu_interval_notifier *notifier, const struct mmu_notifier_range *range,
		       unsigned long seq)
{
	struct watched *watched = container_of(notifier, struct watched, notifier);

	spin_lock(&watched->lock);
	mmu_interval_set_seq(notifier, seq);
	spin_unlock(&watched->lock);
	return true;
}

static const struct mmu_interval_notifier_ops ops = { .invalidate = invalidate };

/* The result overwrites the requests, so each try needs them anew. */
static void ask(const struct hmm_oracle_walk *walk)
{
	size_t bytes = walk->pages * sizeof(*walk->pfns);

	if (walk->requests)
		memcpy(walk->pfns, walk->requests, bytes);
	else
		memset(walk->pfns, 0, bytes);
}

/* One call of C's walk, as a driver makes it: there has been no invalidation since notifier_seq was read. */
static int walk_once(struct mm_struct *mm, struct hmm_range *range, bool unlocked)
{
	int err;

	if (unlocked)
		return compat_hmm_range_fault_unlocked(range, msecs_to_jiffies(HMM_RANGE_DEFAULT_TIMEOUT));
	range->notifier_seq = mmu_interval_read_begin(range->notifier);
	mmap_read_lock(mm);
	err = hmm_range_fault(range);
	mmap_read_unlock(mm);
	return err;
}

static int walk_until_valid(struct mm_struct *mm, struct watched *watched,
			    const struct hmm_oracle_walk *walk)
{
	unsigned long deadline = jiffies + msecs_to_jiffies(10 * HMM_RANGE_DEFAULT_TIMEOUT);
	struct hmm_range range = {
		.notifier = &watched->notifier,
		.start = walk->start,
		.end = walk->start + walk->pages * PAGE_SIZE,
		.hmm_pfns = walk->pfns,
		.default_flags = walk->default_flags,
		.pfn_flags_mask = walk->pfn_flags_mask,
	};
	bool valid;
	int err;

	for (;;) {
		ask(walk);
		err = walk_once(mm, &range, walk->unlocked);
		if (err && err != -EBUSY)
			return err;
		if (!err) {
			spin_lock(&watched->lock);
			valid = !mmu_interval_read_retry(range.notifier, range.notifier_seq);
			spin_unlock(&watched->lock);
			if (valid)
				return 0;
		}
		if (fatal_signal_pending(current))
			return -EINTR;
		if (time_after(jiffies, deadline))
			return -ETIMEDOUT;
	}
}

int hmm_oracle_walk_range(struct mm_struct *mm, struct hmm_oracle_walk *walk)
{
	struct watched watched;
	ktime_t begun;
	int err;

	spin_lock_init(&watched.lock);
	err = mmu_interval_notifier_insert(&watched.notifier, mm, walk->start,
					   walk->pages * PAGE_SIZE, &ops);
	if (err)
		return err;
	begun = ktime_get();
	err = walk_until_valid(mm, &watched, walk);
	walk->nanoseconds = ktime_to_ns(ktime_sub(ktime_get(), begun));
	mmu_interval_notifier_remove(&watched.notifier);
	return err;
}

unsigned long hmm_oracle_request(bool fault, bool write)
{
	if (write)
		return HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
	return fault ? HMM_PFN_REQ_FAULT : 0;
}

bool hmm_oracle_is_valid(unsigned long word)
{
	return word & HMM_PFN_VALID;
}

bool hmm_oracle_is_writable(unsigned long word)
{
	return word & HMM_PFN_WRITE;
}

bool hmm_oracle_is_error(unsigned long word)
{
	return word & HMM_PFN_ERROR;
}

unsigned long hmm_oracle_pfn(unsigned long word)
{
	return word & ~HMM_PFN_FLAGS;
}

unsigned int hmm_oracle_order(unsigned long word)
{
	return hmm_pfn_to_map_order(word);
}

long hmm_oracle_zap_pages(unsigned long first, unsigned long pages)
{
	struct xarray map;
	unsigned long page;
	ktime_t begun;
	long time = 0;

	xa_init(&map);
	for (page = first; page < first + pages && !time; page++)
		time = xa_err(xa_store(&map, page, xa_mk_value(page), GFP_KERNEL));
	if (!time) {
		begun = ktime_get();
		xa_lock(&map);
		for (page = first; page < first + pages; page++)
			__xa_erase(&map, page);
		xa_unlock(&map);
		time = ktime_to_ns(ktime_sub(ktime_get(), begun));
	}
	xa_destroy(&map);
	return time;
}

/* Video memory of a PC: there on every machine, and nobody looks at it. */
#define VIDEO_START 0xa0000UL
#define VIDEO_PAGES 16

int hmm_oracle_map_special(struct vm_area_struct *vma)
{
	unsigned long addr, pfn;

	vm_flags_set(vma, VM_MIXEDMAP);
	for (addr = vma->vm_start; addr < vma->vm_end; addr += PAGE_SIZE) {
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
		pfn = PHYS_PFN(VIDEO_START) + PHYS_PFN(addr - vma->vm_start) % VIDEO_PAGES;
		if (vmf_insert_mixed(vma, addr, pfn) != VM_FAULT_NOPAGE)
			return -EFAULT;
	}
	return 0;
}

unsigned long hmm_oracle_task_size(const struct mm_struct *mm)
{
	return mm->task_size;
}

bool hmm_oracle_may_use(void)
{
	return capable(CAP_SYS_ADMIN);
}
