/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Included before rxe_verbs.c: how many completions are in a queue, where it is given another size. Another thread of the
 * application may do that, too, and free the buffer in which the indices are.
 */
#ifndef MLX_ODP_RXE_REDIRECT_VERBS_H
#define MLX_ODP_RXE_REDIRECT_VERBS_H

#include <linux/libnvdimm.h>

#include "rxe.h"
#include "rxe_queue.h"

static inline u32 mlx_odp_rxe_count_completions(struct rxe_cq *cq, enum queue_type type)
{
	unsigned long flags;
	u32 count;

	spin_lock_irqsave(&cq->cq_lock, flags);
	count = queue_count(cq->queue, type);
	spin_unlock_irqrestore(&cq->cq_lock, flags);
	return count;
}

/* Every caller has the completion queue in a variable of this name. */
#define queue_count(queue, type) mlx_odp_rxe_count_completions(cq, type)

#endif
