/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What odp.rs needs of rxe's and the kernel's inline functions and macros. bindgen makes
 * rxe_bindings.rs of it. No logic lives here, but for how rxe's objects are waited for, the step
 * from one window to the next, and the work queue of prefetches.
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
bool rxe_shim_registered(struct rxe_pool_elem *elem);

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

/* Where prefetches in the background run; there while the module is. */
struct workqueue_struct *rxe_shim_prefetch_queue(void);

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
int mlx_odp_rxe_register_device(struct rxe_dev *rxe, const char *name, struct net_device *ndev);
void mlx_odp_rxe_set_device_ops(struct ib_device *device, const struct ib_device_ops *ops);
void *mlx_odp_rxe_find(struct rxe_pool *pool, u32 index);
int mlx_odp_rxe_put(struct rxe_pool_elem *elem);
void mlx_odp_rxe_umem_release(struct ib_umem *umem);
void mlx_odp_rxe_request_failed(struct rxe_qp *qp);
void mlx_odp_rxe_unbind_windows(struct rxe_pool_elem *elem);
int mlx_odp_rxe_check_message(struct rxe_mr *mr, u64 iova, size_t length);
unsigned int mlx_odp_rxe_prefetch_workers(void);
int mlx_odp_rxe_make_queues(void);
void mlx_odp_rxe_destroy_queues(void);
void mlx_odp_rxe_enable_task(struct rxe_task *task);
int mlx_odp_rxe_register_by_pointer(struct rxe_qp *qp, struct rxe_send_wqe *wqe);
unsigned long mlx_odp_rxe_wait_unused(struct completion *unused, unsigned long timeout);

#endif
