#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The process, the device or the driver goes, while somebody waits for a page that does not come: in each way to wait
# there is. What the process had of the device goes with it, though the page still does not come.
#
# Until Linux 7.2 both wait for the process that uses the device, as with the kernel's own driver; it is killed then.
# From 7.3 on they wait for nobody. In both cases nothing but the page keeps hmm.ko and mlx_odp.ko loaded.
#
#   waiting-removal [all]
#
# Each way to wait is tried with one way to go, the next one with the next; all: each with each.
set -u
. "$(dirname "$0")/removal"

fail() {
	echo "$kind, $way: $*" >&2
	exit 1
}

# Starts a process that waits for a page in this way: $victim, a child of $keeper, which withholds the page until "end".
begin() {
	rxe-driver ours || fail "rxe0 does not come up"
	coproc waiter { exec odp-test --device rxe0 --role "waiting.stays.$kind"; }
	keeper=$waiter_PID
	read -r -t $((60 * ${TESTBED_PATIENCE:-1})) victim <&"${waiter[0]}" || fail "nobody waits"
}

end() {
	exec {waiter[1]}>&-
	within 30 ended "$keeper" || fail "who waited does not end"
	wait "$keeper" || fail "who waited: status $?"
}

# Whether a driver whose device is open can be unloaded.
kind=write-target way=unload
begin
if rmmod rdma_rxe 2>/dev/null; then
	goes=true ways=(kill delete unload)
else
	goes=false ways=(kill delete)
fi
end

kinds=$(odp-test --role waiting.kinds) || exit
turn=0
for kind in $kinds; do
	for number in "${!ways[@]}"; do
		[ "${1-}" = all ] || [ $((turn % ${#ways[@]})) = "$number" ] || continue
		way=${ways[number]}
		begin
		case $way in
		kill)
			kill -KILL "$victim"
			within 30 no_context || fail "what the process had is left"
			rdma link delete rxe0 &
			;;
		delete) rdma link delete rxe0 & ;;
		unload) rmmod rdma_rxe & ;;
		esac
		removal=$!
		if [ "$way" != kill ] && ! $goes; then
			sleep 0.2
			kill -KILL "$victim"
		fi
		within 30 ended "$removal" || fail "it waits"
		wait "$removal" || fail "status $?"
		[ ! -d /sys/module/rdma_rxe ] || within 30 rmmod rdma_rxe 2>/dev/null || fail "the driver stays"
		end
		within 30 unload || fail "a module stays"
	done
	turn=$((turn + 1))
done
echo "a driver in use goes: $goes"
rxe-driver ours
