/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The ioctl interface of the kernel's own HMM test device, taken from the kernel tree that the module
 * is built in. bindgen makes uapi_bindings.rs of it.
 */
#ifndef HMM_DMIRROR_UAPI_H
#define HMM_DMIRROR_UAPI_H

#include <test_hmm_uapi.h>

#include "../kernel/compat.h"

/* bindgen does not evaluate macros with sizeof in them, but it does evaluate enumerations. */
enum {
	DMIRROR_READ = HMM_DMIRROR_READ,
	DMIRROR_WRITE = HMM_DMIRROR_WRITE,
	DMIRROR_MIGRATE_TO_DEV = HMM_DMIRROR_MIGRATE_TO_DEV,
	DMIRROR_MIGRATE_TO_SYS = HMM_DMIRROR_MIGRATE_TO_SYS,
	DMIRROR_SNAPSHOT = HMM_DMIRROR_SNAPSHOT,
	DMIRROR_EXCLUSIVE = HMM_DMIRROR_EXCLUSIVE,
	DMIRROR_CHECK_EXCLUSIVE = HMM_DMIRROR_CHECK_EXCLUSIVE,
	DMIRROR_RELEASE = HMM_DMIRROR_RELEASE,
	DMIRROR_FLAGS = HMM_DMIRROR_FLAGS,
	DMIRROR_READ_UNLOCKED = COMPAT_DMIRROR_READ_UNLOCKED,
};

#endif
