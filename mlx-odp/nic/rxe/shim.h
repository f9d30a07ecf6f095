/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Wrappers of rxe's and the kernel's inline functions and macros, for odp.rs. bindgen makes rxe_bindings.rs of
 * this file. The only logic here is how rxe's objects are waited for, the step from one window to the next, and what
 * is done with rxe's queues of packets.
 */
#ifndef MLX_ODP_RXE_SHIM_H
#define MLX_ODP_RXE_SHIM_H

#include <linux/libnvdimm.h>
#include <rdma/ib_umem.h>
#include <rdma/rdma_netlink.h>

#include "rxe.h"
#include "rxe_queue.h"

/* The lock under which rxe does atomics on pinned regions: a page can be in regions of both kinds. */
void rxe_shim_atomic_lock(void);
void rxe_shim_atomic_unlock(void);

/* Whether the object with this element is still in its pool. The caller has a reference to it. */
bool rxe_shim_in_pool(struct rxe_pool_elem *elem);

/*
 * Around a change of the attributes of a queue pair or a shared receive queue: one at a time for each. A waiter can
 * be killed (-EINTR): the change before it may sleep in a copy to its own memory.
 */
int rxe_shim_begin_change(struct rxe_pool_elem *elem);
void rxe_shim_end_change(struct rxe_pool_elem *elem);

bool rxe_shim_writable(int access);

/*
 * Copies of requests in memory that an application may write to at the same time. The compiler of the caller does not
 * see that they are copies, so it looks at nothing but the result.
 *
 * A send request, with its elements or inline data as far as there is room for so many bytes: what rxe itself sets is
 * left out, and what only datagrams have.
 */
void rxe_shim_snapshot_send(struct rxe_send_wqe *to, const struct rxe_send_wqe *from, size_t room,
			    bool datagram);
/* A receive, with so many elements. */
void rxe_shim_snapshot_receive(struct rxe_recv_wqe *to, const struct rxe_recv_wqe *from, size_t elements);

/* The lock of a window. */
void rxe_shim_init_window_lock(struct rxe_mw *mw);
void rxe_shim_lock_window(struct rxe_mw *mw);
void rxe_shim_unlock_window(struct rxe_mw *mw);
/* The first window at or after *index, with a reference, or NULL; *index becomes the one after it. */
struct rxe_mw *rxe_shim_next_window(struct rxe_dev *rxe, unsigned long *index);
/* Whether the current request of the responder of qp is a FLUSH of a whole region. */
bool rxe_shim_flushes_region(struct rxe_qp *qp);

/* The operations of the RDMA core that say more of an MR; nothing of pinned memory (netlink.rs). */
int rxe_shim_fill_stat_mr_entry(struct sk_buff *msg, struct ib_mr *mr);
int rxe_shim_fill_res_mr_entry(struct sk_buff *msg, struct ib_mr *mr);

/* The current name of a device. */
const char *rxe_shim_name(struct ib_device *ibdev);

/* The driver data of a device. Neither rxe nor the RDMA core uses it. */
void rxe_shim_set_driver_data(struct ib_device *ibdev, void *data);
void *rxe_shim_driver_data(struct ib_device *ibdev);

/* The task of a queue pair that the current thread runs, NULL if it runs none. */
struct rxe_task *rxe_shim_current_task(void);
/* Schedules both tasks of qp, if there are references to it. */
void rxe_shim_run_tasks(struct rxe_qp *qp);
/* Whether qp is neither being destroyed nor in the error or the reset state. */
bool rxe_shim_runs(struct rxe_qp *qp);

/* The parts of a queue pair. */
enum rxe_shim_engine {
	RXE_SHIM_RESPONDER,
	RXE_SHIM_REQUESTER,
	RXE_SHIM_COMPLETER,
};

/* What became of the result of an atomic. */
enum rxe_shim_atomic {
	RXE_SHIM_ENTERED,
	/* The completer finds out why. */
	RXE_SHIM_NOT_ENTERED,
	/* The response waits for its page. */
	RXE_SHIM_PARKED,
};

/* Resumes this engine of the queue pair with this number, if there is one. Does not sleep. */
void rxe_shim_resume(struct rxe_dev *rxe, u32 number, enum rxe_shim_engine engine);

/*
 * The queue of request packets of qp, whose responder runs here.
 * first: the first packet; NULL if there is none.
 * take: removes the first. An empty packet takes its place, and its references to queue pair and device. NULL if there
 * is no memory.
 * give back: puts a packet in front, with new references. If the device is going, frees it and returns false.
 */
struct rxe_pkt_info *rxe_shim_first_req_pkt(struct rxe_qp *qp);
struct sk_buff *rxe_shim_take_req_pkt(struct rxe_qp *qp);
bool rxe_shim_give_back_req_pkt(struct rxe_qp *qp, struct sk_buff *skb);
void rxe_shim_free_packet(struct sk_buff *skb);
/* The mask of a packet, including that of its opcode. */
u32 rxe_shim_mask(const struct rxe_pkt_info *pkt);
/* Orphans the packets in the queue, so that they do not hold their sender, and drops those that are too many. */
void rxe_shim_keep_req_pkts(struct rxe_qp *qp);
/* The address, the length and the key that a READ or a WRITE asks for; another address; false if there is no memory. */
u64 rxe_shim_reth_va(struct rxe_pkt_info *pkt);
u32 rxe_shim_reth_len(struct rxe_pkt_info *pkt);
u32 rxe_shim_reth_rkey(struct rxe_pkt_info *pkt);
bool rxe_shim_set_reth_va(struct rxe_pkt_info *pkt, u64 va);
/* Whether a key is one of windows, and not of regions. */
bool rxe_shim_is_window_key(u32 rkey);
/* Turns an answer into an RNR NAK for the packet psn, with this timer code. */
void rxe_shim_make_rnr_nak(struct rxe_pkt_info *answer, u32 psn, u8 timer);
bool rxe_shim_is_atomic(struct rxe_send_wqe *wqe);
/* Whether the response psn, to a later request, also acknowledges this one, which is a WRITE or a SEND. */
bool rxe_shim_done_by(struct rxe_send_wqe *wqe, u32 psn);
unsigned int rxe_shim_send_index_after(struct rxe_qp *qp, unsigned int index);

/* Puts qp into the reset state, from any state. */
void rxe_shim_set_reset_state(struct rxe_qp *qp);

/* The send queue: the index before this one, that of the oldest WQE, that after the newest, the WQE at an index. */
unsigned int rxe_shim_send_index_before(struct rxe_qp *qp, unsigned int index);
unsigned int rxe_shim_oldest_send_index(struct rxe_qp *qp);
unsigned int rxe_shim_end_of_send_queue(struct rxe_qp *qp);
struct rxe_send_wqe *rxe_shim_send_wqe(struct rxe_qp *qp, unsigned int index);

/*
 * Defined in the files of odp.rs and shim.c, and called where a compiler flag in Kbuild renames a call of rxe's.
 * rxe_loc.h declares the other functions that odp.rs defines.
 */
int mlx_odp_rxe_init(void);
void mlx_odp_rxe_exit(void);
void mlx_odp_rxe_remove_device(struct ib_device *ibdev);
int mlx_odp_rxe_register_device(struct rxe_dev *rxe, const char *name, struct net_device *ndev);
void mlx_odp_rxe_set_device_ops(struct ib_device *device, const struct ib_device_ops *ops);
void *mlx_odp_rxe_find(struct rxe_pool *pool, u32 index);
bool mlx_odp_rxe_put_counters(struct sk_buff *msg, struct ib_mr *mr);
bool mlx_odp_rxe_put_kind(struct sk_buff *msg, struct ib_mr *mr);
void mlx_odp_rxe_put_view(struct rxe_pool_elem *elem);
void mlx_odp_rxe_umem_release(struct ib_umem *umem);
void mlx_odp_rxe_wqe_failed(struct rxe_qp *qp);
void mlx_odp_rxe_unbind_windows(struct rxe_pool_elem *elem);
int mlx_odp_rxe_announce(struct ib_umem *umem, u64 iova, size_t length);
int mlx_odp_rxe_copy_on_demand(struct ib_umem *umem, u64 iova, void *addr, unsigned int length,
			       enum rxe_mr_copy_dir dir);
int mlx_odp_rxe_init_task(struct rxe_task *task, struct rxe_qp *qp, int (*func)(struct rxe_qp *));
int mlx_odp_rxe_prepare_answer(struct rxe_av *av, struct rxe_pkt_info *answer, struct sk_buff *skb);
void mlx_odp_rxe_responder_failed(struct rxe_qp *qp);
int mlx_odp_rxe_copy(struct rxe_pd *pd, int access, struct rxe_dma_info *dma, void *addr, int length,
		     enum rxe_mr_copy_dir dir);
int mlx_odp_rxe_copy_received(struct rxe_pd *pd, int access, struct rxe_dma_info *dma, void *addr,
			      int length, enum rxe_mr_copy_dir dir);
int mlx_odp_rxe_complete_receive(struct rxe_cq *cq, struct rxe_cqe *cqe, int solicited);
int mlx_odp_rxe_sender(struct rxe_qp *qp);
int mlx_odp_rxe_copy_answer(struct rxe_pd *pd, int access, struct rxe_dma_info *dma, void *addr,
			    int length, enum rxe_mr_copy_dir dir);
int mlx_odp_rxe_answer_failed(struct rxe_dma_info *dma, int error);
struct sk_buff *mlx_odp_rxe_next_answer(struct sk_buff_head *answers);
enum rxe_shim_atomic mlx_odp_rxe_enter_atomic(struct rxe_qp *qp, u32 psn, u64 original);
int mlx_odp_rxe_send_again(struct rxe_qp *qp);
int mlx_odp_rxe_mod_timer(struct timer_list *timer, unsigned long expires);
void mlx_odp_rxe_queue_request(struct rxe_qp *qp, struct sk_buff *skb);
void mlx_odp_rxe_queue_response(struct rxe_qp *qp, struct sk_buff *skb);
void mlx_odp_rxe_qp_cleanup(struct rxe_pool_elem *elem);
void mlx_odp_rxe_abandon(struct rxe_pool_elem *elem);
void mlx_odp_rxe_enable_task(struct rxe_task *task);
unsigned long mlx_odp_rxe_wait_unused(struct completion *unused, unsigned long timeout);

#endif
