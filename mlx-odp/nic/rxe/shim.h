/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What odp.rs needs of rxe's and the kernel's inline functions and macros. bindgen makes
 * rxe_bindings.rs of it. No logic lives here, but for how rxe's objects are waited for, the step
 * from one window to the next, and what is done with rxe's queues of packets.
 */
#ifndef MLX_ODP_RXE_SHIM_H
#define MLX_ODP_RXE_SHIM_H

#include <linux/libnvdimm.h>
#include <rdma/ib_umem.h>
#include <rdma/rdma_netlink.h>

#include "rxe.h"

/* The lock under which rxe does atomics on pinned regions: a page can be in both kinds. */
void rxe_shim_atomic_lock(void);
void rxe_shim_atomic_unlock(void);

/* Whether nobody has begun to destroy the object with this element, to which the caller has a reference. */
bool rxe_shim_in_pool(struct rxe_pool_elem *elem);

bool rxe_shim_writable(int access);

/* The lock of a window. */
void rxe_shim_init_window_lock(struct rxe_mw *mw);
void rxe_shim_lock_window(struct rxe_mw *mw);
void rxe_shim_unlock_window(struct rxe_mw *mw);
/* The first window at or after *index, with a reference, or NULL; *index becomes that of the next. */
struct rxe_mw *rxe_shim_next_window(struct rxe_dev *rxe, unsigned long *index);
/* Whether the request that the responder of qp is at is a FLUSH of a whole region. */
bool rxe_shim_flushes_region(struct rxe_qp *qp);

/* A netlink attribute that holds others; NULL if msg is full. */
struct nlattr *rxe_shim_begin_nest(struct sk_buff *msg, int attribute);
void rxe_shim_end_nest(struct sk_buff *msg, struct nlattr *nest);
void rxe_shim_cancel_nest(struct sk_buff *msg, struct nlattr *nest);

/* What a device is called now. */
const char *rxe_shim_name(struct ib_device *ibdev);

/* What a driver keeps of a device. Neither rxe nor the RDMA core uses it. */
void rxe_shim_set_driver_data(struct ib_device *ibdev, void *data);
void *rxe_shim_driver_data(struct ib_device *ibdev);

bool rxe_shim_fatal_signal_pending(void);

/* The task of a queue pair that the current thread runs, NULL if it runs none. */
struct rxe_task *rxe_shim_current_task(void);
/* Has both tasks of qp run, if anybody has a reference to it still. */
void rxe_shim_run_tasks(struct rxe_qp *qp);
/* Whether qp is neither being taken down nor in the error or the reset state. */
bool rxe_shim_runs(struct rxe_qp *qp);

/* Who of a queue pair is at work. */
enum rxe_shim_side {
	RXE_SHIM_RESPONDER,
	RXE_SHIM_REQUESTER,
	RXE_SHIM_COMPLETER,
};

/* What has become of the answer to an atomic. */
enum rxe_shim_atomic {
	RXE_SHIM_ENTERED,
	/* The completer finds out for itself why. */
	RXE_SHIM_NOT_ENTERED,
	/* It waits for its page. */
	RXE_SHIM_PARKED,
};

/* This side of the queue pair with this number goes on, if there is one. Does not sleep. */
void rxe_shim_resume(struct rxe_dev *rxe, u32 number, enum rxe_shim_side side);

/*
 * The queue of requests of qp, whose responder this is. The first; NULL if there is none. Taken out, with an empty
 * one left in its place and its references to queue pair and device left to that; NULL if there is no memory. Given
 * back, with references of its own; false, and it is freed, if the device goes.
 */
struct rxe_pkt_info *rxe_shim_first_req_pkt(struct rxe_qp *qp);
struct sk_buff *rxe_shim_take_req_pkt(struct rxe_qp *qp);
bool rxe_shim_give_back_req_pkt(struct rxe_qp *qp, struct sk_buff *skb);
void rxe_shim_free_packet(struct sk_buff *skb);
/* What a packet is, whatever has become of it. */
u32 rxe_shim_mask(const struct rxe_pkt_info *pkt);
/* The packets that wait hold nothing of who sent them, and are not too many. */
void rxe_shim_let_senders_go(struct rxe_qp *qp);
/* Makes an answer one that says that the receiver is not ready for the packet psn, until a time with this code. */
void rxe_shim_make_rnr_nak(struct rxe_pkt_info *answer, u32 psn, u8 timer);
bool rxe_shim_is_atomic(struct rxe_send_wqe *wqe);
/* Whether the answer psn, to a later request, says that this one, a WRITE or a SEND, has been done, too. */
bool rxe_shim_done_by(struct rxe_send_wqe *wqe, u32 psn);
unsigned int rxe_shim_send_index_after(struct rxe_qp *qp, unsigned int index);

/* Puts qp into the reset state, whatever state it is in. */
void rxe_shim_set_reset_state(struct rxe_qp *qp);

/* The send queue: the index before this one, that of the oldest request, the request at an index. */
unsigned int rxe_shim_send_index_before(struct rxe_qp *qp, unsigned int index);
unsigned int rxe_shim_oldest_send_index(struct rxe_qp *qp);
struct rxe_send_wqe *rxe_shim_send_wqe(struct rxe_qp *qp, unsigned int index);

/*
 * Defined beside odp.rs and called where a compiler flag in the Kbuild file has renamed a call of rxe's;
 * the rest of what is defined there is declared in rxe_loc.h.
 */
int mlx_odp_rxe_init(void);
void mlx_odp_rxe_exit(void);
void mlx_odp_rxe_remove_device(struct ib_device *ibdev);
int mlx_odp_rxe_register_device(struct rxe_dev *rxe, const char *name, struct net_device *ndev);
void mlx_odp_rxe_set_device_ops(struct ib_device *device, const struct ib_device_ops *ops);
void *mlx_odp_rxe_find(struct rxe_pool *pool, u32 index);
int mlx_odp_rxe_put(struct rxe_pool_elem *elem);
void mlx_odp_rxe_umem_release(struct ib_umem *umem);
void mlx_odp_rxe_wqe_failed(struct rxe_qp *qp);
void mlx_odp_rxe_unbind_windows(struct rxe_pool_elem *elem);
int mlx_odp_rxe_check_message(struct rxe_mr *mr, u64 iova, size_t length);
int mlx_odp_rxe_init_task(struct rxe_task *task, struct rxe_qp *qp, int (*func)(struct rxe_qp *));
int mlx_odp_rxe_prepare_answer(struct rxe_av *av, struct rxe_pkt_info *answer, struct sk_buff *skb);
void mlx_odp_rxe_responder_failed(struct rxe_qp *qp);
int mlx_odp_rxe_copy_answer(struct rxe_pd *pd, int access, struct rxe_dma_info *dma, void *addr,
			    int length, enum rxe_mr_copy_dir dir);
int mlx_odp_rxe_answer_failed(struct rxe_dma_info *dma, int error);
struct sk_buff *mlx_odp_rxe_next_answer(struct sk_buff_head *answers);
enum rxe_shim_atomic mlx_odp_rxe_enter_atomic(struct rxe_qp *qp, u32 psn, u64 original);
int mlx_odp_rxe_send_again(struct rxe_qp *qp);
int mlx_odp_rxe_mod_timer(struct timer_list *timer, unsigned long expires);
void mlx_odp_rxe_qp_cleanup(struct rxe_pool_elem *elem);
void mlx_odp_rxe_abandon(struct rxe_pool_elem *elem);
void mlx_odp_rxe_enable_task(struct rxe_task *task);
int mlx_odp_rxe_register_by_pointer(struct rxe_qp *qp, struct rxe_send_wqe *wqe);
unsigned long mlx_odp_rxe_wait_unused(struct completion *unused, unsigned long timeout);

#endif
