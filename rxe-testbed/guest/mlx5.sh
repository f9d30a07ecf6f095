#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The emulated ConnectX on Debian's drivers.
#
#   mlx5 load           load mlx5_ib and wait until the port is active
#   mlx5 unload         take the drivers out again
#   mlx5 reload N       both, N times, and see that nothing stays behind
#   mlx5 pyverbs MODULE...    rdma-core's tests, on mlx5_0: a line for each
set -eu
port=/sys/class/infiniband/mlx5_0/ports/1

fail() {
	echo "$*" >&2
	exit 1
}

load() {
	local n
	modprobe mlx5_ib
	for ((n = 0; n < 60 * ${TESTBED_PATIENCE:-1}; n++)); do
		if [ "$(cat $port/state 2>/dev/null)" = "4: ACTIVE" ]; then
			return
		fi
		sleep 1
	done
	fail "mlx5_0's port does not become active"
}

unload() {
	modprobe -r mlx5_ib
	[ ! -d /sys/module/mlx5_ib ] || fail "mlx5_ib is still loaded"
	! [ -d /sys/module/mlx5_core ] || rmmod mlx5_core
	[ ! -d /sys/module/mlx5_core ] || fail "mlx5_core is still loaded"
	[ ! -e /sys/class/infiniband/mlx5_0 ] || fail "mlx5_0 is still there"
}

# From here on the kernel log counts.
echo "testbed: driver mlx5" >/dev/kmsg
case ${1-} in
load)
	host=$(grep -o 'testbed\.host=[0-9]*' /proc/cmdline | cut -d= -f2)
	host=${host:-1}
	# Where `pair` has its server, unless soft-RoCE or a card is there with that address.
	ip -brief address | grep -q " 10\.77\.0\.$host/" || ip address add 10.77.0.1/32 dev lo
	load
	[ "$(cat $port/link_layer)" = InfiniBand ] || fail "the link is no InfiniBand"
	[ "$(cat $port/lid)" = "$(printf '0x%x' "$host")" ] || fail "wrong LID: $(cat $port/lid)"
	[ "$(cat $port/gids/0)" = "fe80:0000:0000:0000:0002:c903:$(printf '0000:%02x00' "$host")" ] ||
		fail "wrong address: $(cat $port/gids/0)"
	[ "$(cat $port/rate)" = "100 Gb/sec (4X EDR)" ] || fail "wrong rate: $(cat $port/rate)"
	;;
unload) unload ;;
reload)
	for ((round = 0; round < $2; round++)); do
		load
		unload
	done
	;;
pyverbs)
	/usr/local/lib/testbed/pyverbs-tests --device mlx5_0 $((150 * ${TESTBED_PATIENCE:-1})) "${@:2}"
	;;
*)
	echo "usage: mlx5 load|unload|reload N|pyverbs MODULE..." >&2
	exit 2
	;;
esac
