#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The device and the modules go while prefetches are in the background. The RDMA core waits for the
# process that uses the device; what that leaves behind must hold up nobody.
set -eu
fail() {
	echo "$*" >&2
	exit 1
}

for round in 1 2 3; do
	coproc prefetcher { exec odp-test --device rxe0 --role prefetcher; }
	pid=$prefetcher_PID
	read -r -t 60 said <&"${prefetcher[0]}" || fail "the process with prefetches says nothing"
	[ "$said" = '"queued"' ] || fail "it says $said"
	rdma link delete rxe0 &
	delete=$!
	sleep 0.2
	kill -KILL "$pid"
	wait "$pid" 2>/dev/null || true
	for _ in $(seq 300); do
		kill -0 "$delete" 2>/dev/null || break
		sleep 0.1
	done
	! kill -0 "$delete" 2>/dev/null || fail "round $round: the device is not gone after 30 s"
	for name in rdma_rxe mlx_odp hmm; do
		rmmod "$name" || fail "round $round: $name stays"
	done
	rxe-driver ours
done
