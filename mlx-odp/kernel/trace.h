/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints: /sys/kernel/tracing/events/mlx_odp. trace.rs calls them. A region is named by its lkey;
 * addresses are virtual addresses of the process.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM mlx_odp

#if !defined(MLX_ODP_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define MLX_ODP_TRACE_H

/* For local_clock(), by which faults are timed. */
#include <linux/sched/clock.h>
#include <linux/tracepoint.h>

#ifndef MLX_ODP_TRACE_KINDS
#define MLX_ODP_TRACE_KINDS
/* The reason of an invalidation; see hmm's event.rs. */
enum mlx_odp_event {
	MLX_ODP_EVENT_UNMAP,
	MLX_ODP_EVENT_CLEAR,
	MLX_ODP_EVENT_PROTECT_VMA,
	MLX_ODP_EVENT_PROTECT_PAGE,
	MLX_ODP_EVENT_SOFT_DIRTY,
	MLX_ODP_EVENT_RELEASE,
	MLX_ODP_EVENT_MIGRATE,
	MLX_ODP_EVENT_EXCLUSIVE,
};

/* The advice of ibv_advise_mr. */
enum mlx_odp_advice {
	MLX_ODP_ADVICE_READ,
	MLX_ODP_ADVICE_WRITE,
	MLX_ODP_ADVICE_NO_FAULT,
};
#endif

TRACE_EVENT(mlx_odp_fault_begin,
	TP_PROTO(u32 lkey, u64 address, bool write),
	TP_ARGS(lkey, address, write),
	TP_STRUCT__entry(
		__field(u64, address)
		__field(u32, lkey)
		__field(bool, write)
	),
	TP_fast_assign(
		__entry->address = address;
		__entry->lkey = lkey;
		__entry->write = write;
	),
	TP_printk("lkey=0x%x address=0x%llx access=%s", __entry->lkey, __entry->address,
		  __entry->write ? "write" : "read")
);

/* result is 0 or a negative errno; around is how many of the pages were not asked for. */
TRACE_EVENT(mlx_odp_fault_end,
	TP_PROTO(u32 lkey, u64 address, bool write, u64 pages, u64 around, int result,
		 u64 nanoseconds),
	TP_ARGS(lkey, address, write, pages, around, result, nanoseconds),
	TP_STRUCT__entry(
		__field(u64, address)
		__field(u64, pages)
		__field(u64, around)
		__field(u64, nanoseconds)
		__field(u32, lkey)
		__field(int, result)
		__field(bool, write)
	),
	TP_fast_assign(
		__entry->address = address;
		__entry->pages = pages;
		__entry->around = around;
		__entry->nanoseconds = nanoseconds;
		__entry->lkey = lkey;
		__entry->result = result;
		__entry->write = write;
	),
	TP_printk("lkey=0x%x address=0x%llx access=%s pages=%llu around=%llu result=%d ns=%llu",
		  __entry->lkey, __entry->address, __entry->write ? "write" : "read",
		  __entry->pages, __entry->around, __entry->result, __entry->nanoseconds)
);

/* pages is the number of translations removed. */
TRACE_EVENT(mlx_odp_invalidate,
	TP_PROTO(u32 lkey, u64 start, u64 end, u32 event, u64 pages),
	TP_ARGS(lkey, start, end, event, pages),
	TP_STRUCT__entry(
		__field(u64, start)
		__field(u64, end)
		__field(u64, pages)
		__field(u32, lkey)
		__field(u32, event)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
		__entry->pages = pages;
		__entry->lkey = lkey;
		__entry->event = event;
	),
	TP_printk("lkey=0x%x range=0x%llx-0x%llx event=%s pages=%llu", __entry->lkey,
		  __entry->start, __entry->end,
		  __print_symbolic(__entry->event,
			{ MLX_ODP_EVENT_UNMAP, "unmap" },
			{ MLX_ODP_EVENT_CLEAR, "clear" },
			{ MLX_ODP_EVENT_PROTECT_VMA, "protect-vma" },
			{ MLX_ODP_EVENT_PROTECT_PAGE, "protect-page" },
			{ MLX_ODP_EVENT_SOFT_DIRTY, "soft-dirty" },
			{ MLX_ODP_EVENT_RELEASE, "release" },
			{ MLX_ODP_EVENT_MIGRATE, "migrate" },
			{ MLX_ODP_EVENT_EXCLUSIVE, "exclusive" }),
		  __entry->pages)
);

/* The end of a prefetch. pages is the number of translations it added, result 0 or a negative errno. */
TRACE_EVENT(mlx_odp_prefetch,
	TP_PROTO(u32 lkey, u64 start, u64 end, u32 advice, u64 pages, int result),
	TP_ARGS(lkey, start, end, advice, pages, result),
	TP_STRUCT__entry(
		__field(u64, start)
		__field(u64, end)
		__field(u64, pages)
		__field(u32, lkey)
		__field(u32, advice)
		__field(int, result)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
		__entry->pages = pages;
		__entry->lkey = lkey;
		__entry->advice = advice;
		__entry->result = result;
	),
	TP_printk("lkey=0x%x range=0x%llx-0x%llx advice=%s pages=%llu result=%d", __entry->lkey,
		  __entry->start, __entry->end,
		  __print_symbolic(__entry->advice,
			{ MLX_ODP_ADVICE_READ, "read" },
			{ MLX_ODP_ADVICE_WRITE, "write" },
			{ MLX_ODP_ADVICE_NO_FAULT, "no-fault" }),
		  __entry->pages, __entry->result)
);

/* A chunk was made: the NIC uses this part of the region for the first time, or again after it was reaped. */
TRACE_EVENT(mlx_odp_chunk_add,
	TP_PROTO(u32 lkey, u64 start, u64 end),
	TP_ARGS(lkey, start, end),
	TP_STRUCT__entry(
		__field(u64, start)
		__field(u64, end)
		__field(u32, lkey)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
		__entry->lkey = lkey;
	),
	TP_printk("lkey=0x%x range=0x%llx-0x%llx", __entry->lkey, __entry->start, __entry->end)
);

/* reaped: by the reaper, not with the region. pages is the number of translations removed with the chunk. */
TRACE_EVENT(mlx_odp_chunk_remove,
	TP_PROTO(u32 lkey, u64 start, u64 end, bool reaped, u64 pages),
	TP_ARGS(lkey, start, end, reaped, pages),
	TP_STRUCT__entry(
		__field(u64, start)
		__field(u64, end)
		__field(u64, pages)
		__field(u32, lkey)
		__field(bool, reaped)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
		__entry->pages = pages;
		__entry->lkey = lkey;
		__entry->reaped = reaped;
	),
	TP_printk("lkey=0x%x range=0x%llx-0x%llx why=%s pages=%llu", __entry->lkey,
		  __entry->start, __entry->end, __entry->reaped ? "reaped" : "deregistered",
		  __entry->pages)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
