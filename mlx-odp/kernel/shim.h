/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What mlx_odp needs of the kernel's inline functions and macros. bindgen makes shim_bindings.rs of it. Declared
 * only where there is no more to it.
 */
#ifndef MLX_ODP_SHIM_H
#define MLX_ODP_SHIM_H

#include <linux/types.h>

struct completion;
struct workqueue_struct;

/* A queue of work that may wait for a long time; NULL if there is no memory. Destroying it waits for the work. */
struct workqueue_struct *mlx_odp_shim_make_queue(void);
void mlx_odp_shim_destroy_queue(struct workqueue_struct *queue);

/*
 * From the first call until the second, mlx_odp_watch_jobs() is called a few times a second, for as long as it says that
 * there is something to watch.
 */
void mlx_odp_shim_watch(void);
void mlx_odp_shim_stop_watching(void);
bool mlx_odp_watch_jobs(void);

void mlx_odp_shim_init_completion(struct completion *done);
/* 0 when it is done, a negative errno if the current thread was killed before. */
int mlx_odp_shim_wait_killable(struct completion *done);

/* The module stays loaded between the two. The caller runs in it, or in one that uses it. */
void mlx_odp_shim_hold_module(void);
void mlx_odp_shim_release_module(void);

/*
 * Between the two, the current thread of the kernel can be killed, by mlx_odp_shim_kill(): it ends its waits as a
 * user's thread would, and goes on. The second forgets that it was. task is a struct task_struct.
 */
void mlx_odp_shim_allow_kill(void);
void mlx_odp_shim_forbid_kill(void);
void mlx_odp_shim_kill(void *task);

#endif
