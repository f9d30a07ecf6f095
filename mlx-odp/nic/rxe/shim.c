// SPDX-License-Identifier: GPL-2.0
#include <linux/wait_bit.h>

#include "shim.h"

#include "../netlink.h"

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

/* A word of each object that rxe does not use; the core makes objects of zeroes. */
static unsigned long *changes(struct rxe_pool_elem *elem)
{
	return (unsigned long *)&elem->list.next;
}

int rxe_shim_begin_change(struct rxe_pool_elem *elem)
{
	return wait_on_bit_lock(changes(elem), 0, TASK_KILLABLE);
}

void rxe_shim_end_change(struct rxe_pool_elem *elem)
{
	clear_and_wake_up_bit(0, changes(elem));
}

/* Word by word, each read once. */
static __always_inline void snapshot(void *to, const void *from, size_t length)
{
	const u64 *source = from;
	u64 *target = to;
	size_t i;

#pragma GCC unroll 8
	for (i = 0; i < length / sizeof(u64); i++)
		target[i] = READ_ONCE(source[i]);
}

/* The parameters of all operations but those of datagrams are in the first bytes of a request. */
#define CONNECTED_SIZE 64

void rxe_shim_snapshot_send(struct rxe_send_wqe *to, const struct rxe_send_wqe *from, size_t room,
			    bool datagram)
{
	size_t size;

	snapshot(to, from, CONNECTED_SIZE);
	if (datagram)
		snapshot((void *)to + CONNECTED_SIZE, (void *)from + CONNECTED_SIZE,
			 sizeof(to->wr) - CONNECTED_SIZE);
	snapshot(&to->dma, &from->dma, sizeof(to->dma));
	/* Whether it has elements or inline data also depends on its operation, which is checked later. */
	size = (size_t)to->dma.num_sge * sizeof(struct rxe_sge);
	if (to->wr.send_flags & IB_SEND_INLINE)
		size = max(size, round_up((size_t)to->dma.length, sizeof(u64)));
	/* The value of an ATOMIC WRITE has no length of its own. An element of the queue has room for whole words. */
	size = max(min(size, round_up(room, sizeof(u64))), sizeof(u64));
	snapshot(to->dma.sge, from->dma.sge, size);
}

void rxe_shim_snapshot_receive(struct rxe_recv_wqe *to, const struct rxe_recv_wqe *from, size_t elements)
{
	snapshot(to, from, sizeof(*to) + elements * sizeof(struct rxe_sge));
}

static_assert(offsetofend(struct rxe_send_wr, wr.atomic) <= CONNECTED_SIZE);
static_assert(offsetofend(struct rxe_send_wr, wr.mw) <= CONNECTED_SIZE);
static_assert(offsetofend(struct rxe_send_wr, wr.flush) <= CONNECTED_SIZE);

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

int rxe_shim_fill_stat_mr_entry(struct sk_buff *msg, struct ib_mr *mr)
{
	if (!is_odp_mr(to_rmr(mr)))
		return 0;
	return mlx_odp_put_nested(msg, RDMA_NLDEV_ATTR_STAT_HWCOUNTERS, mlx_odp_rxe_put_counters,
				  mr);
}

int rxe_shim_fill_res_mr_entry(struct sk_buff *msg, struct ib_mr *mr)
{
	if (!is_odp_mr(to_rmr(mr)))
		return 0;
	return mlx_odp_put_nested(msg, RDMA_NLDEV_ATTR_DRIVER, mlx_odp_rxe_put_kind, mr);
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

unsigned int rxe_shim_end_of_send_queue(struct rxe_qp *qp)
{
	return queue_get_producer(qp->sq.queue, QUEUE_TYPE_FROM_CLIENT);
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

void rxe_shim_resume(struct rxe_dev *rxe, u32 number, enum rxe_shim_engine engine)
{
	struct rxe_qp *qp = rxe_pool_get_index(&rxe->qp_pool, number);
	unsigned long flags;

	if (!qp)
		return;
	spin_lock_irqsave(&qp->state_lock, flags);
	if (qp->valid) {
		/* As after a timeout: asks again for what was dropped. */
		if (engine == RXE_SHIM_COMPLETER && READ_ONCE(qp->send_task.func) == mlx_odp_rxe_send_again)
			qp->req.need_retry = 1;
		rxe_sched_task(engine == RXE_SHIM_RESPONDER ? &qp->recv_task : &qp->send_task);
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

/* A packet that a queue pair had in one of its queues. */
static void drop_queued(struct rxe_qp *qp, struct sk_buff *skb)
{
	rxe_put(qp);
	kfree_skb(skb);
	ib_device_put(qp->ibqp.device);
}

/* How many packets wait while an earlier one waits for its page. */
#define MOST_QUEUED 256

/*
 * Packets that a queue pair keeps for as long as a page takes: they do not hold their senders, and those that are too many
 * are dropped, the latest first. Returns whether some were.
 */
static bool keep_packets(struct rxe_qp *qp, struct sk_buff_head *queue)
{
	struct sk_buff *skb;
	bool dropped = false;
	unsigned long flags;

	while (skb_queue_len_lockless(queue) > MOST_QUEUED) {
		skb = skb_dequeue_tail(queue);
		if (!skb)
			break;
		dropped = true;
		drop_queued(qp, skb);
	}
	spin_lock_irqsave(&queue->lock, flags);
	skb_queue_walk(queue, skb)
		skb_orphan(skb);
	spin_unlock_irqrestore(&queue->lock, flags);
	return dropped;
}

/* Unacknowledged transports allow that some are dropped. */
void rxe_shim_keep_req_pkts(struct rxe_qp *qp)
{
	keep_packets(qp, &qp->req_pkts);
}

u64 rxe_shim_reth_va(struct rxe_pkt_info *pkt)
{
	return reth_va(pkt);
}

u32 rxe_shim_reth_len(struct rxe_pkt_info *pkt)
{
	return reth_len(pkt);
}

u32 rxe_shim_reth_rkey(struct rxe_pkt_info *pkt)
{
	return reth_rkey(pkt);
}

bool rxe_shim_set_reth_va(struct rxe_pkt_info *pkt, u64 va)
{
	struct sk_buff *skb = PKT_TO_SKB(pkt);
	ptrdiff_t offset = (unsigned char *)pkt->hdr - skb->data;

	/* A listener on the network device may have the same bytes. */
	if (skb_unclone(skb, GFP_KERNEL))
		return false;
	pkt->hdr = skb->data + offset;
	reth_set_va(pkt, va);
	return true;
}

bool rxe_shim_is_window_key(u32 rkey)
{
	return rkey_is_mw(rkey);
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
	return wqe->wr.opcode == IB_WR_ATOMIC_CMP_AND_SWP ||
	       wqe->wr.opcode == IB_WR_ATOMIC_FETCH_AND_ADD;
}

bool rxe_shim_done_by(struct rxe_send_wqe *wqe, u32 psn)
{
	return wqe->state == wqe_state_pending && !(wqe->mask & WR_ATOMIC_OR_READ_MASK) &&
	       psn_compare(psn, wqe->last_psn) > 0;
}

unsigned int rxe_shim_send_index_after(struct rxe_qp *qp, unsigned int index)
{
	return queue_next_index(qp->sq.queue, index);
}

/*
 * Marks that the result of an atomic, whose response the completer is about to see, has been written. While rxe's
 * task runs, the mark is kept in its last return value, which nothing reads.
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
	err = mlx_odp_rxe_copy(pd, access, dma, addr, length, dir);
	return likely(!err) ? 0 : mlx_odp_rxe_answer_failed(dma, err);
}

/* A response that has waited for its page while later ones were dropped. No packet has this bit. */
#define DROPPED_AFTER BIT(31)

static_assert(RXE_ATOMIC_WRITE_MASK < DROPPED_AFTER);

static bool enter_atomic(struct rxe_qp *qp, struct sk_buff *skb)
{
	struct rxe_pkt_info *pkt = SKB_TO_PKT(skb);

	qp->send_task.ret = 0;
	/* The queue is being drained, perhaps under the state lock. */
	if (!READ_ONCE(qp->valid) || qp_state(qp) == IB_QPS_ERR || qp_state(qp) == IB_QPS_RESET)
		return true;
	if ((aeth_syn(pkt) & AETH_TYPE_MASK) != AETH_ACK)
		return true;
	switch (mlx_odp_rxe_enter_atomic(qp, pkt->psn, atmack_orig(pkt))) {
	case RXE_SHIM_ENTERED:
		qp->send_task.ret = ENTERED;
		break;
	case RXE_SHIM_NOT_ENTERED:
		break;
	case RXE_SHIM_PARKED:
		/* It stays, and so do those after it. A response has come, so nothing has timed out. */
		if (keep_packets(qp, &qp->resp_pkts))
			pkt->mask |= DROPPED_AFTER;
		qp->comp.timeout_retry = 0;
		return false;
	}
	/* As after a timeout, but no retry is used up: the peer has answered. */
	if (unlikely(pkt->mask & DROPPED_AFTER))
		qp->req.need_retry = 1;
	return true;
}

/* Responses come, so nothing has timed out. They are sent again once they are asked for. */
static noinline void drop_answers(struct rxe_qp *qp)
{
	struct sk_buff *skb;

	while ((skb = skb_dequeue(&qp->resp_pkts)))
		drop_queued(qp, skb);
	qp->comp.timeout_retry = 0;
}

/*
 * Replaces skb_dequeue() in rxe_comp.c, whose only queue is that of responses. Only the completer removes packets from
 * it, so the first stays the first.
 */
struct sk_buff *mlx_odp_rxe_next_answer(struct sk_buff_head *answers)
{
	struct rxe_qp *qp = container_of(answers, struct rxe_qp, resp_pkts);
	struct sk_buff *skb = READ_ONCE(answers->next);

	if (unlikely(qp->send_task.func == mlx_odp_rxe_send_again)) {
		drop_answers(qp);
		return NULL;
	}
	/* Without the lock: the task is scheduled after a packet was added. */
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

/*
 * Replace rxe_resp_queue_pkt() and rxe_comp_queue_pkt() in rxe_recv.c, whose reference to qp becomes the packet's. A
 * task that runs may take the packet, and with it the last reference, before it is scheduled for it.
 */
void mlx_odp_rxe_queue_request(struct rxe_qp *qp, struct sk_buff *skb)
{
	rxe_get(qp);
	rxe_resp_queue_pkt(qp, skb);
	rxe_put(qp);
}

void mlx_odp_rxe_queue_response(struct rxe_qp *qp, struct sk_buff *skb)
{
	rxe_get(qp);
	rxe_comp_queue_pkt(qp, skb);
	rxe_put(qp);
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
 * - packets, to the queue pair that sent them. Those that wait on this machine for the queue pair that receives them are
 *   orphaned. Those on their way to another one are the network device's, and the queue's before it, until they are
 *   sent: they cannot be found there. A link that is paused, or a queue that its administrator stops, holds the queue pair
 *   for as long;
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
