// SPDX-License-Identifier: GPL-2.0
#include <linux/sched/signal.h>
#include <net/netlink.h>

#include "shim.h"
#include "rxe_queue.h"

void rxe_shim_atomic_lock(void)
{
	spin_lock_bh(&atomic_ops_lock);
}

void rxe_shim_atomic_unlock(void)
{
	spin_unlock_bh(&atomic_ops_lock);
}

bool rxe_shim_registered(struct rxe_pool_elem *elem)
{
	return xa_load(&elem->pool->xa, elem->index) == elem;
}

void rxe_shim_init_window_lock(struct rxe_mw *mw)
{
	spin_lock_init(&mw->lock);
}

void rxe_shim_lock_window(struct rxe_mw *mw)
{
	spin_lock_bh(&mw->lock);
}

void rxe_shim_unlock_window(struct rxe_mw *mw)
{
	spin_unlock_bh(&mw->lock);
}

struct rxe_mw *rxe_shim_next_window(struct rxe_dev *rxe, unsigned long *index)
{
	struct rxe_mw *mw = NULL;

	cond_resched();
	while (!mw && xa_find(&rxe->mw_pool.xa, index, ULONG_MAX, XA_PRESENT)) {
		mw = rxe_pool_get_index(&rxe->mw_pool, *index);
		++*index;
	}
	return mw;
}

bool rxe_shim_flushes_region(struct rxe_qp *qp)
{
	struct sk_buff *skb = skb_peek(&qp->req_pkts);

	return skb && feth_sel(SKB_TO_PKT(skb)) == IB_FLUSH_MR;
}

bool rxe_shim_writable(int access)
{
	return ib_access_writable(access);
}

struct nlattr *rxe_shim_begin_nest(struct sk_buff *msg, int attribute)
{
	return nla_nest_start(msg, attribute);
}

void rxe_shim_end_nest(struct sk_buff *msg, struct nlattr *nest)
{
	nla_nest_end(msg, nest);
}

void rxe_shim_cancel_nest(struct sk_buff *msg, struct nlattr *nest)
{
	nla_nest_cancel(msg, nest);
}

const char *rxe_shim_name(struct ib_device *ibdev)
{
	return dev_name(&ibdev->dev);
}

void rxe_shim_set_driver_data(struct ib_device *ibdev, void *data)
{
	dev_set_drvdata(&ibdev->dev, data);
}

void *rxe_shim_driver_data(struct ib_device *ibdev)
{
	return dev_get_drvdata(&ibdev->dev);
}

bool rxe_shim_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

void rxe_shim_set_reset_state(struct rxe_qp *qp)
{
	unsigned long flags;

	spin_lock_irqsave(&qp->state_lock, flags);
	qp->attr.qp_state = IB_QPS_RESET;
	spin_unlock_irqrestore(&qp->state_lock, flags);
}

unsigned int rxe_shim_send_index_before(struct rxe_qp *qp, unsigned int index)
{
	return (index - 1) & qp->sq.queue->index_mask;
}

unsigned int rxe_shim_oldest_send_index(struct rxe_qp *qp)
{
	return queue_get_consumer(qp->sq.queue, QUEUE_TYPE_FROM_CLIENT);
}

struct rxe_send_wqe *rxe_shim_send_wqe(struct rxe_qp *qp, unsigned int index)
{
	return queue_addr_from_index(qp->sq.queue, index);
}

static struct workqueue_struct *prefetch_queue;

struct workqueue_struct *rxe_shim_prefetch_queue(void)
{
	return prefetch_queue;
}

/*
 * Take the place of rxe_alloc_wq() and rxe_destroy_wq() in rxe.c. Prefetches have a queue of their own, so
 * that rxe's, which its queue pairs need, never waits for them. It is made before the first device and
 * destroyed after the last, which waits for what is in it; and the module's code stays until then.
 */
int mlx_odp_rxe_make_queues(void)
{
	int err;

	prefetch_queue = alloc_workqueue("rxe_prefetch", WQ_UNBOUND, mlx_odp_rxe_prefetch_workers());
	if (!prefetch_queue)
		return -ENOMEM;
	err = rxe_alloc_wq();
	if (err)
		destroy_workqueue(prefetch_queue);
	return err;
}

void mlx_odp_rxe_destroy_queues(void)
{
	destroy_workqueue(prefetch_queue);
	rxe_destroy_wq();
}

static bool task_runs(struct rxe_task *task)
{
	int state = READ_ONCE(task->state);

	return state == TASK_STATE_BUSY || state == TASK_STATE_ARMED || state == TASK_STATE_DRAINING;
}

static bool qp_runs(struct rxe_pool_elem *elem)
{
	struct rxe_qp *qp = container_of(elem, struct rxe_qp, elem);

	return task_runs(&qp->recv_task) || task_runs(&qp->send_task);
}

/*
 * Takes the place of wait_for_completion_timeout() where rxe_pool.c waits until nobody uses an
 * object any more. rxe gives up after 50 s and frees it all the same. A fault may take longer than
 * that, on a file system that does not answer for instance, and it uses the region, and the queue
 * pair whose task it is in: they are waited for.
 *
 * A memory window that is still bound would use its region and its queue pair for ever: its binding ends here.
 */
unsigned long mlx_odp_rxe_wait_unused(struct completion *unused, unsigned long timeout)
{
	struct rxe_pool_elem *elem = container_of(unused, struct rxe_pool_elem, complete);
	unsigned long left;

	switch (elem->pool->type) {
	case RXE_TYPE_MR:
		mlx_odp_rxe_unbind_windows(elem);
		wait_for_completion(unused);
		return 1;
	case RXE_TYPE_QP:
		mlx_odp_rxe_unbind_windows(elem);
		do {
			left = wait_for_completion_timeout(unused, timeout);
		} while (!left && qp_runs(elem));
		return left;
	default:
		return wait_for_completion_timeout(unused, timeout);
	}
}
