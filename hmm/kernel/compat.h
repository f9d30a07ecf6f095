/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What is not the same in all kernels that these modules are made for, for all of them: the only place in C
 * that asks for the kernel's version. compat.rs is the same for Rust.
 *
 * Each item says from which version on what holds.
 */
#ifndef HMM_COMPAT_H
#define HMM_COMPAT_H

#include <linux/errno.h>
#include <linux/hmm.h>
#include <linux/version.h>

/*
 * C's walk that takes the mmap lock itself and lets the fault handler drop it, from 7.3 on. It begins
 * reading the notifier itself; range->notifier_seq is what it has read last. Before there is none:
 * -EOPNOTSUPP.
 */
static inline int compat_hmm_range_fault_unlocked(struct hmm_range *range, unsigned long timeout)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
	return hmm_range_fault_unlocked_timeout(range, timeout);
#else
	return -EOPNOTSUPP;
#endif
}

#endif
