/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Wrappers of the kernel's inline functions and macros. bindgen makes shim_bindings.rs of this file. What has no
 * comment does what its name says.
 */
#ifndef MLX_ODP_SHIM_H
#define MLX_ODP_SHIM_H

#include <linux/types.h>

struct completion;
struct workqueue_struct;

/* A workqueue for work that may sleep for a long time; NULL if there is no memory. Destroying it waits for the work. */
struct workqueue_struct *mlx_odp_shim_make_queue(void);
void mlx_odp_shim_destroy_queue(struct workqueue_struct *queue);

/*
 * mlx_odp_shim_watch() has mlx_odp_watch_jobs() called a few times a second until it returns false or
 * mlx_odp_shim_stop_watching() is called.
 */
void mlx_odp_shim_watch(void);
void mlx_odp_shim_stop_watching(void);
bool mlx_odp_watch_jobs(void);

void mlx_odp_shim_init_completion(struct completion *done);
/* 0 once it is complete, a negative errno if the current thread is killed first. */
int mlx_odp_shim_wait_killable(struct completion *done);

bool mlx_odp_shim_fatal_signal_pending(void);

/* Take and drop a reference to this module. The caller runs in it, or in a module that uses it. */
void mlx_odp_shim_hold_module(void);
void mlx_odp_shim_release_module(void);

/*
 * Between the first two, mlx_odp_shim_kill() can kill the current kernel thread: its waits end as those of a user
 * thread would, and it goes on. The second discards the signal. task is a struct task_struct.
 */
void mlx_odp_shim_allow_kill(void);
void mlx_odp_shim_forbid_kill(void);
void mlx_odp_shim_kill(void *task);

/*
 * A file of debugfs in parent that shows what mlx_odp_show_file() writes to it, a struct seq_file, of content. An error,
 * which debugfs_remove() takes, if there is no memory, no debugfs or no parent. While it is open, this module stays.
 * Both are of struct dentry, which is empty as the kernel crate has it.
 */
void *mlx_odp_shim_make_file(const char *name, void *parent, void *content);
void mlx_odp_show_file(void *file, const void *content);

#endif
