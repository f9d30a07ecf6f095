/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Wrappers of mlx5's and the kernel's inline functions and macros, for mlx5_odp.rs. bindgen makes mlx5_bindings.rs of
 * this file. mlx5's structures are only passed on by the Rust code; what it needs of them it asks for here. The only
 * logic is that of the event queue, from the interrupt to the entry.
 */
#ifndef MLX_ODP_MLX5_SHIM_H
#define MLX_ODP_MLX5_SHIM_H

#include <rdma/ib_umem_odp.h>
#include <rdma/restrack.h>

#include "mlx5_ib.h"

/* The services that ODP has capabilities for. */
enum mlx5_odp_shim_service {
	MLX5_ODP_SHIM_RC,
	MLX5_ODP_SHIM_UD,
	MLX5_ODP_SHIM_XRC,
};

/* Whether the device reports page faults, and its keys can be changed by UMR. */
bool mlx5_odp_shim_can_page(struct mlx5_ib_dev *dev);
/* Whether it uses the memory scheme. */
bool mlx5_odp_shim_memory_scheme(struct mlx5_ib_dev *dev);
/* The IB_ODP_SUPPORT_* bits of a service, in the scheme that the device uses. */
u32 mlx5_odp_shim_service_caps(struct mlx5_ib_dev *dev, enum mlx5_odp_shim_service service);
/* Announces capabilities, before the device is registered. */
void mlx5_odp_shim_announce(struct mlx5_ib_dev *dev, const struct ib_odp_caps *caps);
struct mlx5_ib_dev *mlx5_odp_shim_dev_of(struct ib_pd *pd);
bool mlx5_odp_shim_announces(struct mlx5_ib_dev *dev);
u32 mlx5_odp_shim_max_indirection(struct mlx5_ib_dev *dev);
/* The key that ends a list to receive into. */
u32 mlx5_odp_shim_terminator(struct mlx5_ib_dev *dev);

/*
 * The driver data of a device. Neither mlx5_ib nor the RDMA core uses it.
 */
void mlx5_odp_shim_set_driver_data(struct mlx5_ib_dev *dev, void *data);
void *mlx5_odp_shim_driver_data(struct mlx5_ib_dev *dev);
const char *mlx5_odp_shim_name(struct mlx5_ib_dev *dev);

/*
 * The event queue of page faults and the queue that its work runs on. Created once, by the first that asks; every later
 * call finds it. Returns 1 to the first, 0 to the others, or an errno. Destroying returns when no event is being handled
 * and none comes any more.
 */
int mlx5_odp_shim_create_eq(struct mlx5_ib_dev *dev, struct mlx5_ib_pf_eq *eq);
void mlx5_odp_shim_destroy_eq(struct mlx5_ib_dev *dev);
/* The queue of work; valid while there is an event queue. */
struct workqueue_struct *mlx5_odp_shim_queue(struct mlx5_ib_dev *dev);

int mlx5_odp_shim_resume_transport(struct mlx5_ib_dev *dev, u8 type, u32 wq_number, u32 token,
				   bool error);
int mlx5_odp_shim_resume_memory(struct mlx5_ib_dev *dev, u64 token, bool error);

/* How the WQEs of a work queue look. */
enum mlx5_odp_shim_kind {
	MLX5_ODP_SHIM_CONNECTED,
	MLX5_ODP_SHIM_ADDRESSED,
	MLX5_ODP_SHIM_XRC_INITIATOR,
};

/* What was read of a WQE. */
struct mlx5_odp_shim_wqe {
	enum mlx5_odp_shim_kind kind;
	/* Bytes read, and in a receive queue the bytes of a WQE. */
	size_t copied;
	size_t size;
};

/* A reference to a queue pair, or to a shared receive queue; NULL if there is none of this number. */
struct mlx5_core_rsc_common *mlx5_odp_shim_hold_wq(struct mlx5_ib_dev *dev, u32 number, bool shared);
void mlx5_odp_shim_put_wq(struct mlx5_core_rsc_common *wq);
/* Reads a WQE of a work queue that is held. */
int mlx5_odp_shim_read_wqe(struct mlx5_core_rsc_common *wq, bool send, u16 index, void *buffer,
			   size_t length, struct mlx5_odp_shim_wqe *wqe);

/*
 * A key of mlx5_ib's table, which is held until it is put: its deregistration waits for that. NULL if there is none;
 * -EFAULT if the table has another variant of it.
 */
struct mlx5_ib_mkey *mlx5_odp_shim_find_mkey(struct mlx5_ib_dev *dev, u32 key);
/*
 * The same for the memory scheme: the key of the region that key belongs to, as its own key, a leaf, or its key without
 * memory. NULL if there is none, or if its deregistration no longer waits for references.
 */
struct mlx5_ib_mkey *mlx5_odp_shim_find_root(struct mlx5_ib_dev *dev, u32 key);
void mlx5_odp_shim_put_mkey(struct mlx5_ib_mkey *mkey);
enum mlx5_mkey_type mlx5_odp_shim_mkey_type(const struct mlx5_ib_mkey *mkey);
/* The MR of a key of that type. */
struct mlx5_ib_mr *mlx5_odp_shim_mr_of(struct mlx5_ib_mkey *mkey);
/* How many pieces an indirect key has, and these, with the address of the first byte. */
u32 mlx5_odp_shim_klms(const struct mlx5_ib_mkey *mkey);
int mlx5_odp_shim_query_klms(struct mlx5_ib_dev *dev, struct mlx5_ib_mkey *mkey, u64 *start,
			     void *klms, u32 count);

/* What a registration is for. */
struct mlx5_odp_shim_mr {
	struct mlx5_ib_dev *dev;
	struct device *dma_device;
	u64 va;
	u64 length;
	u64 iova;
	u32 lkey;
	bool writable;
};

/* The head of an ODP region's memory: those fields that mr.c, umr.c and the RDMA core look at. */
void mlx5_odp_shim_init_head(struct ib_umem_odp *head, struct ib_device *device, unsigned long addr,
			     size_t size, int access);
bool mlx5_odp_shim_is_odp(const struct ib_umem *umem);
/* The head of mr's memory; NULL if it is of another kind. */
struct ib_umem_odp *mlx5_odp_shim_head(const struct mlx5_ib_mr *mr);
void mlx5_odp_shim_describe(struct mlx5_ib_mr *mr, struct mlx5_odp_shim_mr *about);
struct ib_pd *mlx5_odp_shim_pd(struct mlx5_ib_mr *mr);

/*
 * Writes the first count entries of a key, for 1 << shift bytes each, and enables it. Writes some. Both wait for the
 * device. -EINVAL for more than umr.c can count.
 */
int mlx5_odp_shim_enable(struct mlx5_ib_mr *mr, size_t count, unsigned int shift, bool ksm);
int mlx5_odp_shim_update(struct mlx5_ib_mr *mr, size_t first, size_t count, bool ksm);

enum {
	/* In the flags of mlx5_odp_populate_xlt: the entries are keys. */
	MLX5_ODP_SHIM_INDIRECT = MLX5_IB_UPD_XLT_INDIRECT,
};

/* Whether keys can lead on to others (KSM); the most that a part of one can have, as a power of two. */
bool mlx5_odp_shim_can_lead_on(struct mlx5_ib_dev *dev);
u32 mlx5_odp_shim_max_log_ksm(struct mlx5_ib_dev *dev);
/* The end of the addresses that a process may have. */
u64 mlx5_odp_shim_user_end(void);
/* The key without memory: mr's own, or the device's. */
u32 mlx5_odp_shim_null_mkey(struct mlx5_ib_mr *mr);
struct ib_pd *mlx5_odp_shim_ib_pd(struct mlx5_ib_pd *pd);
/* What mr.c does before a registration on demand. */
int mlx5_odp_shim_prepare(struct mlx5_ib_dev *dev);
struct ib_device *mlx5_odp_shim_ib_device(struct mlx5_ib_dev *dev);
struct ib_device *mlx5_odp_shim_device_of(struct mlx5_ib_mr *mr);
int mlx5_odp_shim_access(struct mlx5_ib_mr *mr);
u32 mlx5_odp_shim_lkey(struct mlx5_ib_mr *mr);

/*
 * The root of a region, and a key below it, with count entries. They are not enabled. The memory is theirs, also if
 * they cannot be made.
 */
struct mlx5_ib_mr *mlx5_odp_shim_new_root(struct ib_pd *pd, struct ib_umem_odp *head, int access,
					  size_t count);
struct mlx5_ib_mr *mlx5_odp_shim_new_below(struct mlx5_ib_mr *root, struct ib_umem_odp *head,
					   bool ksm, size_t count);
/* The addresses of a key; a length of 0 is all of them from iova on. */
void mlx5_odp_shim_set_range(struct mlx5_ib_mr *mr, u64 iova, u64 length);
void mlx5_odp_shim_set_implicit(struct mlx5_ib_mr *mr);
/* Publishes the root for faults; faults of the memory scheme also find it by its leaves. */
int mlx5_odp_shim_store_root(struct mlx5_ib_mr *mr);
int mlx5_odp_shim_store_leaf(struct mlx5_ib_mr *mr);
/* Makes the key without memory that faults of the memory scheme name. It goes with the MR. */
int mlx5_odp_shim_make_null_mkey(struct mlx5_ib_mr *mr);
void mlx5_odp_shim_free_mr(struct mlx5_ib_mr *mr);

/* Holds mr's key, if its deregistration has not begun to wait for it. */
bool mlx5_odp_shim_hold_mr(struct mlx5_ib_mr *mr);
void mlx5_odp_shim_put_mr(struct mlx5_ib_mr *mr);
/* Takes the mutex under which mr.c revokes mr's key. Returns false, without the mutex, if it has done so. */
bool mlx5_odp_shim_lock(struct mlx5_ib_mr *mr);
void mlx5_odp_shim_unlock(struct mlx5_ib_mr *mr);

/* Adds a counter to a message; false if there is no room. */
bool mlx5_odp_shim_put_counter(struct sk_buff *msg, const char *name, u64 value);

/*
 * Defined in the files of mlx5_odp.rs or in shim.c, and called by shim.c or, renamed by a compiler flag in Kbuild, by
 * mr.c and main.c.
 * mlx5_ib.h declares the other functions that mlx5_odp.rs defines.
 */
void mlx_odp_mlx5_remove(struct mlx5_ib_dev *dev);
bool mlx_odp_mlx5_put_counters(struct sk_buff *msg, struct mlx5_ib_mr *mr);
void mlx_odp_mlx5_event(struct mlx5_ib_dev *dev, const void *eqe);
struct ib_umem_odp *mlx_odp_mlx5_umem_get(struct ib_device *device, unsigned long addr, size_t size,
					  int access, const struct mmu_interval_notifier_ops *ops);
void mlx_odp_mlx5_umem_release(struct ib_umem *umem);
void mlx_odp_mlx5_unregister_device(struct ib_device *device);
struct mlx5_ib_mr *mlx_odp_mlx5_register(struct ib_pd *pd, u64 start, u64 length, u64 iova,
					 int access);

#endif
