#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The kernel knows the types of our modules' functions, as it does those of its own: bpftrace's fentry and the like
# need that. A probe that asks for a function's arguments by their names is refused without.
set -u
types=/sys/kernel/btf
if ! [ -e $types/vmlinux ]; then
	echo "this kernel has no type information"
	exit 77
fi
tracing=/sys/kernel/tracing
status=0
for module in hmm mlx_odp rdma_rxe; do
	if ! [ -s "$types/$module" ]; then
		echo "$module: no type information"
		status=1
	fi
done
# A call that every program begins with.
if echo 'f:testbed/context rxe_alloc_ucontext $arg*' >>$tracing/dynamic_events; then
	grep testbed/context $tracing/dynamic_events
	grep -q 'testbed/context rxe_alloc_ucontext.* ibuc=' $tracing/dynamic_events || status=1
	echo 1 >$tracing/events/testbed/context/enable
	ibv_devinfo -d rxe0 >/dev/null || status=1
	echo 0 >$tracing/events/testbed/context/enable
	if ! grep 'context: (rxe_alloc_ucontext.* ibuc=' $tracing/trace; then
		echo "a call was not seen"
		status=1
	fi
	echo '-:testbed/context' >>$tracing/dynamic_events
else
	cat $tracing/error_log
	status=1
fi
exit $status
