// SPDX-License-Identifier: GPL-2.0
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/workqueue.h>

#include "shim.h"

struct workqueue_struct *mlx_odp_shim_make_queue(void)
{
	return alloc_workqueue("mlx_odp", WQ_UNBOUND, WQ_MAX_ACTIVE);
}

void mlx_odp_shim_destroy_queue(struct workqueue_struct *queue)
{
	destroy_workqueue(queue);
}

/* The interval of the search for jobs of processes that have exited. */
#define WATCH_INTERVAL (HZ / 4)

static void watch(struct work_struct *work);
static DECLARE_DELAYED_WORK(watcher, watch);

static void watch(struct work_struct *work)
{
	if (mlx_odp_watch_jobs())
		mlx_odp_shim_watch();
}

void mlx_odp_shim_watch(void)
{
	queue_delayed_work(system_dfl_wq, &watcher, WATCH_INTERVAL);
}

void mlx_odp_shim_stop_watching(void)
{
	cancel_delayed_work_sync(&watcher);
}

void mlx_odp_shim_init_completion(struct completion *done)
{
	init_completion(done);
}

int mlx_odp_shim_wait_killable(struct completion *done)
{
	return wait_for_completion_killable(done);
}

bool mlx_odp_shim_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

void mlx_odp_shim_hold_module(void)
{
	__module_get(THIS_MODULE);
}

void mlx_odp_shim_release_module(void)
{
	module_put(THIS_MODULE);
}

void mlx_odp_shim_allow_kill(void)
{
	allow_kernel_signal(SIGKILL);
}

void mlx_odp_shim_forbid_kill(void)
{
	disallow_signal(SIGKILL);
	flush_signals(current);
}

void mlx_odp_shim_kill(void *task)
{
	send_sig(SIGKILL, task, 1);
}

static int file_show(struct seq_file *file, void *unused)
{
	mlx_odp_show_file(file, file->private);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(file);

void *mlx_odp_shim_make_file(const char *name, void *parent, void *content)
{
	return debugfs_create_file(name, 0444, parent, content, &file_fops);
}
