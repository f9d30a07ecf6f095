#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Loads and unloads the modules again and again, with applications that come, go, and stay too long.
#
#   come-and-go TIMES
#
# Whether a driver whose device is open is unloaded, and whether a device is gone before the last application has
# closed it, is as with the kernel's own driver: until Linux 7.2 neither, from 7.3 on both, and what applications
# had of the device is taken from them. Nothing may be left behind in the end.
set -u
times=${1:-50}
ways=(idle killed waiting netdev refused unloaded)
here=$(dirname "$0")
PATH=$here:$PATH
. removal

fail() {
	echo "cycle $cycle ($how): $*" >&2
	kill_applications
	exit 1
}

# One with traffic on pages that come and go, one with all kinds of regions, windows and prefetches.
start_applications() {
	odp-storm --seconds 600 --owners 2 --peers 1 >/dev/null 2>&1 &
	storm=$!
	odp-fuzz --requests 100000000 >/dev/null 2>&1 &
	fuzz=$!
}

# The processes that they have started go with them.
kill_applications() {
	kill -KILL "${storm-}" "${fuzz-}" 2>/dev/null
	wait "${storm-}" "${fuzz-}" 2>/dev/null
	# Their children die with them, but nobody waits for those.
	within 20 no_context
}

contexts() {
	! no_context
}

gone() {
	local name
	for name in $modules; do
		[ ! -d "/sys/module/$name" ] || return 1
	done
}

# Kernel memory that modules and devices could leave behind, in KiB: slabs, per-CPU and vmalloc memory.
memory() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
	awk '/^(SUnreclaim|Percpu|VmallocUsed|KernelStack|PageTables):/ { n += $2 } END { print n }' /proc/meminfo
}

# Asks the kernel's own driver whether it goes while its device is open.
stock_goes() {
	local holder goes=false
	rxe-driver stock || fail "the stock driver's rxe0 does not come up"
	ibv_rc_pingpong -d rxe0 -g 1 >/dev/null 2>&1 &
	holder=$!
	within 30 contexts || fail "nobody opens the stock driver's rxe0"
	! rmmod rdma_rxe 2>/dev/null || goes=true
	kill -KILL "$holder"
	wait "$holder" 2>/dev/null
	within 20 no_context
	rxe-driver none || fail "the stock driver stays"
	$goes
}

cycle=0 how=begin
rxe-driver none || fail "the modules cannot be unloaded to begin with"
if stock_goes; then
	goes=true
else
	goes=false
fi
settled=0
for cycle in $(seq "$times"); do
	how=${ways[cycle % ${#ways[@]}]}
	rxe-driver ours || fail "rxe0 does not come up"
	if [ "$how" != idle ]; then
		start_applications
		within 30 contexts || fail "the applications do not begin"
		sleep 0.$((cycle * 37 % 9 + 1))
		$goes || ! rmmod rdma_rxe 2>/dev/null || fail "a driver in use was unloaded"
	fi
	case $how in
	killed)
		# The applications die in the middle of their work.
		kill_applications || fail "contexts are left of killed applications"
		;;
	waiting)
		# The device goes first, with traffic on its way, and has to wait for the applications, or not.
		rdma link delete rxe0 &
		delete=$!
		if $goes; then
			within 30 ended "$delete" || fail "the device waits for its applications"
		else
			sleep 0.2
		fi
		kill_applications
		wait "$delete" || fail "rdma link delete: status $?"
		;;
	netdev)
		# The network interface goes, and the device with it, in the background.
		ip link delete roce0 || fail "the network interface stays"
		sleep 0.1
		kill_applications
		;;
	refused)
		# Someone tries to unload all the while.
		while ! unload; do sleep 0.02; done &
		unloader=$!
		sleep 0.2
		rdma link delete rxe0 2>/dev/null &
		delete=$!
		kill_applications
		# It fails if the modules went first, and the device with them.
		wait "$delete"
		wait "$unloader"
		;;
	unloaded)
		# The driver goes, with traffic on its way, if it can.
		if $goes; then
			rmmod rdma_rxe || fail "the driver stays: status $?"
		fi
		kill_applications
		;;
	esac
	rdma link delete rxe0 2>/dev/null
	within 30 unload || fail "the modules stay: $(lsmod | grep -E 'hmm|odp|rxe')"
	gone || fail "some modules stay"
	rdma link show | grep rxe0 && fail "rxe0 is still there"
	if [ "$cycle" = $((times / 2)) ]; then
		settled=$(memory)
	fi
done
how=end
# What is lost once in each cycle would be more than this.
most=$((settled + times * 20))
left=$(memory)
echo "a driver in use goes: $goes"
echo "$times cycles; kernel memory after $((times / 2)): $settled KiB, after all: $left KiB"
# Where the kernel's checks keep what is freed, its account does not tell what is in use; kmemleak finds the rest.
if [ ! -e /sys/kernel/debug/kmemleak ]; then
	for _ in 1 2 3 4 5; do
		[ "$left" -gt "$most" ] || break
		sleep 2
		left=$(memory)
	done
	[ "$left" -le "$most" ] || fail "kernel memory grew from $settled to $left KiB"
fi
# The kernel's own workers keep the name of what they worked on last.
! pgrep -l 'hmm|odp|rxe' | grep -v ' kworker/' || fail "kernel threads left behind"
rxe-driver ours
