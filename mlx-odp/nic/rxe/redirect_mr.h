/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Included before rxe_mr.c: where it allocates the list of the pages of a pinned region. rxe wants it in one piece of
 * physical memory, which ends at 4 MiB, for 1 GiB of pages, with a warning; one that is mapped in pages will do. It is
 * charged to the application, which chose the length.
 */
#ifndef MLX_ODP_RXE_REDIRECT_MR_H
#define MLX_ODP_RXE_REDIRECT_MR_H

#include <linux/libnvdimm.h>

#include "rxe.h"
#include "rxe_loc.h"

#undef kzalloc_objs
#define kzalloc_objs(type, count) \
	kvcalloc(count, sizeof(type), GFP_KERNEL_ACCOUNT | __GFP_NOWARN)
#define kfree(list) kvfree(list)

#endif
