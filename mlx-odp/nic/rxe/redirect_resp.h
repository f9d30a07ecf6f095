/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Included before rxe_resp.c: gives the responder other definitions of inline functions and macros, which no renamed
 * symbol reaches.
 */
#ifndef MLX_ODP_RXE_REDIRECT_RESP_H
#define MLX_ODP_RXE_REDIRECT_RESP_H

#include <linux/sizes.h>
#include <linux/skbuff.h>

#include "rxe.h"
#include "rxe_loc.h"
#include "rxe_queue.h"

int mlx_odp_rxe_announce(struct ib_umem *umem, u64 iova, size_t length);
int mlx_odp_rxe_copy_on_demand(struct ib_umem *umem, u64 iova, void *addr, unsigned int length,
			       enum rxe_mr_copy_dir dir);
int mlx_odp_rxe_flush_on_demand(struct rxe_mr *mr, u64 iova, u64 length, bool whole);
void mlx_odp_rxe_put_view(struct rxe_pool_elem *elem);
void *mlx_odp_rxe_take_receive(struct rxe_qp *qp, const struct rxe_recv_wqe *shared);

/* Memory on demand is checked, and its message announced, by this driver (responder.rs), other memory by rxe. */
static inline int mlx_odp_rxe_check_range(struct rxe_mr *mr, u64 iova, size_t length)
{
	if (is_odp_mr(mr))
		return mlx_odp_rxe_announce(mr->umem, iova, length);
	return mr_check_range(mr, iova, length);
}

#define mr_check_range mlx_odp_rxe_check_range

/*
 * And copied by it without a detour through rxe (verbs.rs). A message without bytes has no region. A peer may send some
 * with a WRITE of none all the same: that fails as if they were for memory that there is not.
 */
static inline int mlx_odp_rxe_mr_copy(struct rxe_mr *mr, u64 iova, void *addr, unsigned int length,
				      enum rxe_mr_copy_dir dir)
{
	if (unlikely(!mr))
		return length ? -EFAULT : 0;
	if (is_odp_mr(mr) && length)
		return mlx_odp_rxe_copy_on_demand(mr->umem, iova, addr, length, dir);
	return rxe_mr_copy(mr, iova, addr, length, dir);
}

#define rxe_mr_copy mlx_odp_rxe_mr_copy

/*
 * FLUSH to persistence. rxe cuts the length, which may be that of a whole region, to 32 bits: memory on demand is flushed by
 * this driver (flush.rs), other memory by rxe, in pieces.
 */
static inline int mlx_odp_rxe_flush(struct rxe_mr *mr, u64 iova, u64 length, bool whole)
{
	if (mr && is_odp_mr(mr))
		return length ? mlx_odp_rxe_flush_on_demand(mr, iova, length, whole) : 0;
	for (; length > SZ_1G; iova += SZ_1G, length -= SZ_1G) {
		int err = rxe_flush_pmem_iova(mr, iova, SZ_1G);

		if (err)
			return err;
	}
	return rxe_flush_pmem_iova(mr, iova, length);
}

/* The one place that calls it has what it knows of the FLUSH in a variable of this name. */
#define rxe_flush_pmem_iova(mr, iova, length) \
	mlx_odp_rxe_flush(mr, iova, length, res->flush.level != IB_FLUSH_RANGE)

/* The responder's view of a memory window, alone of all objects, is in no pool (window_view.rs). */
static inline int mlx_odp_rxe_put(struct rxe_pool_elem *elem)
{
	if (likely(elem->pool))
		return __rxe_put(elem);
	mlx_odp_rxe_put_view(elem);
	return 1;
}

#define __rxe_put mlx_odp_rxe_put

/*
 * Whether a queue pair that does not run flushes one more receive. It does so under a lock and until there is none, but
 * the application can say at any time that there are more: so it ends after as many as there can be. They are counted in
 * a field that rxe does not use.
 */
static inline bool mlx_odp_rxe_flushes_more(struct rxe_qp *qp, struct rxe_queue *q, bool more)
{
	if (more && qp->resp.res_tail <= q->index_mask) {
		qp->resp.res_tail++;
		return true;
	}
	qp->resp.res_tail = 0;
	return false;
}

/* Whether the receives in the queue of qp were written by an application, also if it cannot map the queue any more. */
static inline bool mlx_odp_rxe_of_application(struct rxe_qp *qp)
{
	return qp->srq ? !!qp->srq->ibsrq.uobject : qp->is_user;
}

/* The oldest receive of a queue: the responder's own copy of it, if an application has written it (receive.rs). */
static inline void *mlx_odp_rxe_next_receive(struct rxe_qp *qp, struct rxe_queue *q)
{
	void *oldest = queue_head(q, QUEUE_TYPE_FROM_CLIENT);

	if (unlikely(!q->ip) && !mlx_odp_rxe_of_application(qp))
		return oldest;
	if (!qp->srq &&
	    unlikely(!qp->valid || qp_state(qp) == IB_QPS_ERR || qp_state(qp) == IB_QPS_RESET) &&
	    !mlx_odp_rxe_flushes_more(qp, q, oldest))
		return NULL;
	return mlx_odp_rxe_take_receive(qp, oldest);
}

/* Every caller has its queue pair in a variable of this name. */
#define queue_head(queue, type) mlx_odp_rxe_next_receive(qp, queue)

void mlx_odp_rxe_repeated(struct rxe_qp *qp, struct rxe_pkt_info *pkt);

/*
 * Where a request is found to be a repeated one, it is also counted (responder.rs). Every place that counts has these
 * variables.
 */
#define rxe_counter_inc(rxe, counter)			\
	do {						\
		if ((counter) == RXE_CNT_DUP_REQ)	\
			mlx_odp_rxe_repeated(qp, pkt);	\
		rxe_counter_inc(rxe, counter);		\
	} while (0)

/* What is kept of a FLUSH, too, is found by its sequence number when it is repeated: rxe gives it none. */
#define free_rd_atomic_resource(res)					\
	do {								\
		free_rd_atomic_resource(res);				\
		(res)->first_psn = (res)->last_psn = pkt->psn;		\
		(res)->cur_psn = pkt->psn;				\
	} while (0)

/*
 * The packet that the responder looks at next. Over an unreliable connection a message begins with its first packet,
 * whatever became of the one before it: rxe would go on waiting for the rest of that, and drop all others. A receive of
 * a shared queue that the one before has taken is completed first, in rxe's own way.
 */
static inline struct sk_buff *mlx_odp_rxe_next_request(struct rxe_qp *qp)
{
	struct sk_buff *skb = skb_peek(&qp->req_pkts);

	if (unlikely(qp_type(qp) == IB_QPT_UC) && skb && (SKB_TO_PKT(skb)->mask & RXE_START_MASK) &&
	    !(qp->srq && qp->resp.wqe))
		qp->resp.opcode = -1;
	return skb;
}

/* The only queue that it looks into is that of its requests. */
#define skb_peek(packets) mlx_odp_rxe_next_request(qp)

/* What the responder keeps an answer of, and so has to have room for: a FLUSH, too, which rxe leaves out. */
#define RXE_READ_OR_ATOMIC_MASK (RXE_READ_MASK | RXE_ATOMIC_MASK | RXE_FLUSH_MASK)

/* How much of a READ goes into its next response: 2 GiB that are left are negative as the int that rxe asks for. */
#undef min_t
#define min_t(type, left, mtu) ((type)min((u32)(left), (u32)(mtu)))

#endif
