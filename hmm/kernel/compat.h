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

/*
 * hmm-tests' command to read by that walk, in the kernel's header from 7.3 on. A driver whose faults always
 * wait without the lock can have it on any kernel.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
#define COMPAT_DMIRROR_READ_UNLOCKED HMM_DMIRROR_READ_UNLOCKED
#else
#define COMPAT_DMIRROR_READ_UNLOCKED _IOWR('H', 0x09, struct hmm_dmirror_cmd)
#endif

#endif
