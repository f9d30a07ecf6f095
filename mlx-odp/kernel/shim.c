// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>
#include <linux/sched/signal.h>
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
