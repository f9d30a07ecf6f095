/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Included before rxe_comp.c: gives the completer another definition of an inline function, which no renamed symbol
 * reaches.
 */
#ifndef MLX_ODP_RXE_REDIRECT_COMP_H
#define MLX_ODP_RXE_REDIRECT_COMP_H

#include <linux/skbuff.h>

#include "rxe.h"
#include "rxe_loc.h"
#include "rxe_queue.h"

/* The completer works on the kernel's own copy of a send queue. The application sees the index in its own. */
static inline void mlx_odp_rxe_advance_consumer(struct rxe_queue *q, enum queue_type type)
{
	queue_advance_consumer(q, type);
	if (q->ip) {
		struct rxe_queue_buf *shared = q->ip->obj;

		smp_store_release(&shared->consumer_index, q->index);
	}
}

#define queue_advance_consumer mlx_odp_rxe_advance_consumer

#endif
