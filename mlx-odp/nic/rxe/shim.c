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

bool rxe_shim_in_pool(struct rxe_pool_elem *elem)
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

/*
 * A device is removed from its clients in the reverse order of their registration: from this one before ib_uverbs,
 * which is loaded before rxe. ib_uverbs waits for the system calls in progress on the device.
 */
static void remove_device(struct ib_device *ibdev, void *client_data)
{
	if (ibdev->ops.driver_id == RDMA_DRIVER_RXE)
		mlx_odp_rxe_remove_device(ibdev);
}

static struct ib_client client = {
	.name = "mlx_odp_rxe",
	.remove = remove_device,
};

/* Replaces rxe_register_notifier() in rxe.c, when the module is loaded. */
int mlx_odp_rxe_init(void)
{
	int err = rxe_register_notifier();

	if (err)
		return err;
	err = ib_register_client(&client);
	if (err)
		rxe_net_exit();
	return err;
}

/* Replaces rxe_net_exit() in rxe.c, when all devices are gone. */
void mlx_odp_rxe_exit(void)
{
	ib_unregister_client(&client);
	rxe_net_exit();
}

/* The work function of all of rxe's tasks; NULL before the first task. */
static work_func_t run_task;

/* Replaces rxe_init_task() in rxe_qp.c: records the work function. */
int mlx_odp_rxe_init_task(struct rxe_task *task, struct rxe_qp *qp, int (*func)(struct rxe_qp *))
{
	int err = rxe_init_task(task, qp, func);

	WRITE_ONCE(run_task, task->work.func);
	return err;
}

struct rxe_task *rxe_shim_current_task(void)
{
	struct work_struct *work = current_work();

	if (!work || work->func != READ_ONCE(run_task))
		return NULL;
	return container_of(work, struct rxe_task, work);
}

void rxe_shim_run_tasks(struct rxe_qp *qp)
{
	if (!__rxe_get(&qp->elem))
		return;
	if (qp->recv_task.func)
		rxe_sched_task(&qp->recv_task);
	if (qp->send_task.func)
		rxe_sched_task(&qp->send_task);
	__rxe_put(&qp->elem);
}

bool rxe_shim_runs(struct rxe_qp *qp)
{
	unsigned long flags;
	bool runs;

	spin_lock_irqsave(&qp->state_lock, flags);
	runs = qp->valid && qp_state(qp) != IB_QPS_ERR && qp_state(qp) != IB_QPS_RESET;
	spin_unlock_irqrestore(&qp->state_lock, flags);
	return runs;
}

void rxe_shim_resume(struct rxe_dev *rxe, u32 number, enum rxe_shim_side side)
{
	struct rxe_qp *qp = rxe_pool_get_index(&rxe->qp_pool, number);
	unsigned long flags;

	if (!qp)
		return;
	spin_lock_irqsave(&qp->state_lock, flags);
	if (qp->valid) {
		/* As after a timeout: asks again for what was dropped. */
		if (side == RXE_SHIM_COMPLETER && READ_ONCE(qp->send_task.func) == mlx_odp_rxe_send_again)
			qp->req.need_retry = 1;
		rxe_sched_task(side == RXE_SHIM_RESPONDER ? &qp->recv_task : &qp->send_task);
	}
	spin_unlock_irqrestore(&qp->state_lock, flags);
	rxe_put(qp);
}

struct rxe_pkt_info *rxe_shim_first_req_pkt(struct rxe_qp *qp)
{
	struct sk_buff *skb = skb_peek(&qp->req_pkts);

	return skb ? SKB_TO_PKT(skb) : NULL;
}

struct sk_buff *rxe_shim_take_req_pkt(struct rxe_qp *qp)
{
	struct sk_buff *empty = alloc_skb(0, GFP_KERNEL), *skb;
	unsigned long flags;

	if (!empty)
		return NULL;
	spin_lock_irqsave(&qp->req_pkts.lock, flags);
	skb = skb_peek(&qp->req_pkts);
	__skb_unlink(skb, &qp->req_pkts);
	__skb_queue_head(&qp->req_pkts, empty);
	spin_unlock_irqrestore(&qp->req_pkts.lock, flags);
	skb_orphan(skb);
	return skb;
}

bool rxe_shim_give_back_req_pkt(struct rxe_qp *qp, struct sk_buff *skb)
{
	if (!ib_device_try_get(qp->ibqp.device)) {
		kfree_skb(skb);
		return false;
	}
	/* The calling task has a reference. */
	rxe_get(qp);
	skb_queue_head(&qp->req_pkts, skb);
	return true;
}

u32 rxe_shim_mask(const struct rxe_pkt_info *pkt)
{
	return pkt->mask | rxe_opcode[pkt->opcode].mask;
}

void rxe_shim_free_packet(struct sk_buff *skb)
{
	kfree_skb(skb);
}

/* How many packets queue up after a parked one. The others are dropped, which unacknowledged transports allow. */
#define MOST_QUEUED 256

void rxe_shim_orphan_req_pkts(struct rxe_qp *qp)
{
	struct sk_buff *skb;
	unsigned long flags;

	while (skb_queue_len_lockless(&qp->req_pkts) > MOST_QUEUED) {
		skb = skb_dequeue_tail(&qp->req_pkts);
		if (!skb)
			break;
		rxe_put(qp);
		kfree_skb(skb);
		ib_device_put(qp->ibqp.device);
	}
	spin_lock_irqsave(&qp->req_pkts.lock, flags);
	skb_queue_walk(&qp->req_pkts, skb)
		skb_orphan(skb);
	spin_unlock_irqrestore(&qp->req_pkts.lock, flags);
}

void rxe_shim_make_rnr_nak(struct rxe_pkt_info *answer, u32 psn, u8 timer)
{
	/* rxe has counted its own. */
	if ((aeth_syn(answer) & AETH_TYPE_MASK) != AETH_RNR_NAK)
		rxe_counter_inc(to_rdev(answer->qp->ibqp.device), RXE_CNT_SND_RNR);
	aeth_set_syn(answer, AETH_RNR_NAK | (~AETH_TYPE_MASK & timer));
	bth_set_psn(answer, psn);
	answer->psn = psn;
}

bool rxe_shim_is_atomic(struct rxe_send_wqe *wqe)
{
	u32 opcode = READ_ONCE(wqe->wr.opcode);

	return opcode == IB_WR_ATOMIC_CMP_AND_SWP || opcode == IB_WR_ATOMIC_FETCH_AND_ADD;
}

bool rxe_shim_done_by(struct rxe_send_wqe *wqe, u32 psn)
{
	return READ_ONCE(wqe->state) == wqe_state_pending &&
	       !(READ_ONCE(wqe->mask) & WR_ATOMIC_OR_READ_MASK) &&
	       psn_compare(psn, READ_ONCE(wqe->last_psn)) > 0;
}

unsigned int rxe_shim_send_index_after(struct rxe_qp *qp, unsigned int index)
{
	return queue_next_index(qp->sq.queue, index);
}

/*
 * Marks that the result of an atomic, whose response the completer is about to see, has been written. While rxe's
 * task runs, the mark is kept in its last return value, which nothing reads and the application cannot write.
 */
#define ENTERED 0x0a70

static bool take_entered(void)
{
	struct rxe_task *task = rxe_shim_current_task();

	if (!task || task->ret != ENTERED)
		return false;
	task->ret = 0;
	return true;
}

/* Replaces copy_data() in rxe_comp.c, which copies a response to the memory of its request. */
int mlx_odp_rxe_copy_answer(struct rxe_pd *pd, int access, struct rxe_dma_info *dma, void *addr,
			    int length, enum rxe_mr_copy_dir dir)
{
	int err;

	if (unlikely(length == sizeof(u64)) &&
	    rxe_shim_is_atomic(container_of(dma, struct rxe_send_wqe, dma)) && take_entered())
		return 0;
	err = copy_data(pd, access, dma, addr, length, dir);
	return likely(!err) ? 0 : mlx_odp_rxe_answer_failed(dma, err);
}

static bool enter_atomic(struct rxe_qp *qp, struct sk_buff *skb)
{
	struct rxe_pkt_info *pkt = SKB_TO_PKT(skb);
	unsigned long flags;

	qp->send_task.ret = 0;
	/* The queue is being drained, perhaps under the state lock. */
	if (!READ_ONCE(qp->valid) || qp_state(qp) == IB_QPS_ERR || qp_state(qp) == IB_QPS_RESET)
		return true;
	if ((aeth_syn(pkt) & AETH_TYPE_MASK) != AETH_ACK)
		return true;
	switch (mlx_odp_rxe_enter_atomic(qp, pkt->psn, atmack_orig(pkt))) {
	case RXE_SHIM_ENTERED:
		qp->send_task.ret = ENTERED;
		return true;
	case RXE_SHIM_NOT_ENTERED:
		return true;
	case RXE_SHIM_PARKED:
		break;
	}
	/* It stays, without holding its sender. A response has come, so nothing has timed out. */
	spin_lock_irqsave(&qp->resp_pkts.lock, flags);
	skb_orphan(skb);
	spin_unlock_irqrestore(&qp->resp_pkts.lock, flags);
	qp->comp.timeout_retry = 0;
	return false;
}

/* Responses come, so nothing has timed out. They are sent again once they are asked for. */
static noinline void drop_answers(struct rxe_qp *qp)
{
	struct sk_buff *skb;

	while ((skb = skb_dequeue(&qp->resp_pkts))) {
		rxe_put(qp);
		kfree_skb(skb);
		ib_device_put(qp->ibqp.device);
	}
	qp->comp.timeout_retry = 0;
}

/*
 * Replaces skb_dequeue() in rxe_comp.c, whose only queue is that of responses. Nothing else removes packets from it,
 * so the first stays the first.
 */
struct sk_buff *mlx_odp_rxe_next_answer(struct sk_buff_head *answers)
{
	struct rxe_qp *qp = container_of(answers, struct rxe_qp, resp_pkts);
	struct sk_buff *skb = READ_ONCE(answers->next);

	if (unlikely(qp->send_task.func == mlx_odp_rxe_send_again)) {
		drop_answers(qp);
		return NULL;
	}
	/* Without the lock: whoever adds a packet schedules the task afterwards. */
	if (skb == (struct sk_buff *)answers)
		return NULL;
	if (unlikely(SKB_TO_PKT(skb)->mask & RXE_ATMACK_MASK) && !enter_atomic(qp, skb))
		return NULL;
	return skb_dequeue(answers);
}

/*
 * Replaces mod_timer() in rxe_comp.c. A responder that is not ready has answered, so nothing is lost, and the time
 * that it takes uses up no retry.
 */
int mlx_odp_rxe_mod_timer(struct timer_list *timer, unsigned long expires)
{
	struct rxe_qp *qp;

	if (unlikely(timer->function == rnr_nak_timer)) {
		qp = container_of(timer, struct rxe_qp, rnr_nak_timer);
		qp->comp.retry_cnt = qp->attr.retry_cnt;
		qp->comp.started_retry = 0;
		timer_delete(&qp->retrans_timer);
	}
	return mod_timer(timer, expires);
}

/* Orphans the packets in queue that qp has sent: they would hold it until they are processed. */
static void orphan(struct sk_buff_head *queue, struct rxe_qp *qp)
{
	struct sk_buff *skb;
	unsigned long flags;

	spin_lock_irqsave(&queue->lock, flags);
	skb_queue_walk(queue, skb) {
		if (skb->sk && skb->destructor && skb->sk->sk_user_data == qp)
			skb_orphan(skb);
	}
	spin_unlock_irqrestore(&queue->lock, flags);
}

static void orphan_packets(struct rxe_qp *qp)
{
	struct rxe_pool *pool = qp->elem.pool;
	struct rxe_pool_elem *elem;
	unsigned long index;

	xa_for_each(&pool->xa, index, elem) {
		struct rxe_qp *other = rxe_pool_get_index(pool, index);

		if (!other)
			continue;
		if (other->recv_task.func) {
			orphan(&other->req_pkts, qp);
			orphan(&other->resp_pkts, qp);
		}
		rxe_put(other);
		cond_resched();
	}
	orphan(&qp->req_pkts, qp);
	orphan(&qp->resp_pkts, qp);
}

/*
 * Replaces wait_for_completion_timeout() where rxe_pool.c waits for the last reference to an object. rxe gives up after
 * 50 s and frees the object all the same; this waits to the end, and makes sure that there is one. The holders of
 * references, and what ends them:
 *
 * - tasks of queue pairs, while they run: they do not sleep for pages (parked.rs). A failed responder releases its
 *   region (responder_wait.rs);
 * - packets on this machine, to the queue pair that sent them, until the receiving one has processed them: they are
 *   orphaned;
 * - bound memory windows, to their region and queue pair: unbound here;
 * - objects that others refer to (a queue pair to its completion queues, all to their domain): the RDMA core destroys
 *   them in order.
 */
unsigned long mlx_odp_rxe_wait_unused(struct completion *unused, unsigned long timeout)
{
	struct rxe_pool_elem *elem = container_of(unused, struct rxe_pool_elem, complete);
	/* Usually the tasks are done at once, and no packet has to be orphaned. */
	unsigned long soon = HZ / 50;

	switch (elem->pool->type) {
	case RXE_TYPE_MR:
		mlx_odp_rxe_unbind_windows(elem);
		break;
	case RXE_TYPE_QP:
		mlx_odp_rxe_unbind_windows(elem);
		mlx_odp_rxe_abandon(elem);
		while (!wait_for_completion_timeout(unused, soon)) {
			orphan_packets(container_of(elem, struct rxe_qp, elem));
			soon = HZ / 10;
		}
		return 1;
	default:
		break;
	}
	wait_for_completion(unused);
	return 1;
}
