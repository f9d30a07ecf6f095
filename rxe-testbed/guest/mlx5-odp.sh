#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# On-demand paging on the emulated ConnectX, with Debian's drivers. They have to be loaded.
#
#   mlx5-odp pingpong      ibv_rc_pingpong with explicit and implicit regions
#   mlx5-odp pyverbs       rdma-core's tests of it: all pass but those of what mlx5 does not announce
#   mlx5-odp dynamic       rdma-core's tests of dynamic connections: all pass but those of streams
#   mlx5-odp devx          rdma-core's tests of objects that applications make themselves, and of indirect keys
#   mlx5-odp hold          a process that has an on-demand region, and stays
#   mlx5-odp after-failure     a pingpong that may fail, and one that may not
#   mlx5-odp after-recovery    the driver recovers from an error of the firmware's, and pingpongs work
#   mlx5-odp after-overrun     a pingpong fails, as the driver hears of no page faults any more, and works when that is loaded anew
#   mlx5-odp after-reset       the driver is taken from the device, that is reset, and pingpongs work
#   mlx5-odp bench         odp-bench over the transports that soft-RoCE has not, and on both devices
set -eu

fail() {
	echo "$*" >&2
	exit 1
}

# What is not announced.
skipped="atomic_write qp_ex_rc_flush"

pingpong() {
	local server
	ibv_rc_pingpong -d mlx5_0 -g 0 "$@" &
	server=$!
	for _ in $(seq 100); do
		! ibv_rc_pingpong -d mlx5_0 -g 0 "$@" localhost || break
		kill -0 $server 2>/dev/null || fail "the server of ibv_rc_pingpong $* has ended"
		sleep 0.2
	done
	wait $server
}

# listens PORT: waits until a pingpong does.
listens() {
	for _ in $(seq $((30 * ${TESTBED_PATIENCE:-1}))); do
		! ss -ltn | grep -q ":$1 " || return 0
		sleep 1
	done
	fail "ibv_rc_pingpong does not listen"
}

# measures DEVICE METRIC ARGUMENTS...: odp-bench ends well, and leaves the metric of the device, warm and cold.
measures() {
	local device=$1 metric=$2 state
	shift 2
	odp-bench run --quiet --aligned -n 8 --warm-up 1 "$@" || fail "odp-bench run $* has failed"
	for state in warm cold; do
		odp-bench report "$device" | grep "^traffic/$metric " >/dev/null ||
			fail "odp-bench run $*: no traffic/$metric"
		metric=${metric/warm/cold}
	done
}

# Whether a pingpong fails now, or not; the next one has to work.
after_failure() {
	# The processes wait for what never comes, and are killed.
	(
		timeout -s KILL 20 ibv_rc_pingpong -d mlx5_0 -g 0 "$@" &
		sleep 2
		timeout -s KILL 20 ibv_rc_pingpong -d mlx5_0 -g 0 "$@" localhost
		wait
	) || echo "ibv_rc_pingpong $* has failed, as it may"
	pingpong "$@" -c -n 50
}

# Whether the driver has recovered from an error of the firmware's. In a boot it does so once: of a second one within some
# minutes it makes an end.
recovered() {
	dmesg | grep -q "mlx5_core.*health recovery succeeded"
}

# The queue for page faults takes none any more: what lacks a page fails, and is not left to wait. A driver that is loaded
# anew has a new one.
after_overrun() {
	local server said status=0
	ibv_rc_pingpong -d mlx5_0 -g 0 -O &
	server=$!
	listens 18515
	said=$(timeout -s KILL $((60 * ${TESTBED_PATIENCE:-1})) ibv_rc_pingpong -d mlx5_0 -g 0 -O localhost 2>&1) || status=$?
	echo "$said"
	[ $status != 137 ] || fail "a pingpong waits for ever"
	grep -q "Failed status" <<<"$said" || fail "a pingpong works without page faults, or fails for another reason"
	kill -KILL $server 2>/dev/null || true
	wait $server || true
	/usr/local/lib/testbed/mlx5 unload
	/usr/local/lib/testbed/mlx5 load
	pingpong -O -c -n 50
}

# The driver goes while it has page faults to answer, and comes again after the function was reset.
after_reset() {
	local device
	device=$(basename "$(readlink -f /sys/class/infiniband/mlx5_0/device)")
	echo "$device" >/sys/bus/pci/drivers/mlx5_core/unbind
	echo 1 >"/sys/bus/pci/devices/$device/reset"
	echo "$device" >/sys/bus/pci/drivers/mlx5_core/bind
	/usr/local/lib/testbed/mlx5 load
	pingpong -O -c -n 50
}

# What is registered and used when a device falls ill is lost, and what comes afterwards works.
after_recovery() {
	for _ in $(seq $((60 * ${TESTBED_PATIENCE:-1}))); do
		! recovered || break
		sleep 1
	done
	recovered || fail "the driver has not recovered"
	# The port comes up again after that.
	/usr/local/lib/testbed/mlx5 load
	for how in -o -O; do
		pingpong $how -c -n 50
	done
}

case ${1-} in
pingpong)
	# -c: the bytes are looked at.
	for how in -o -O; do
		pingpong $how -c -n 200
	done
	;;
pyverbs)
	results=$(/usr/local/lib/testbed/pyverbs-tests --device mlx5_0 600 test_odp) || fail "$results"
	echo "$results"
	! grep "^FAIL" <<<"$results" || fail "something failed"
	[ "$(grep -c "^ok" <<<"$results")" = 20 ] || fail "20 were to pass"
	[ "$(grep -c "^skip" <<<"$results")" = 3 ] || fail "3 were to be skipped"
	for name in $skipped; do
		grep -q "^skip.*$name" <<<"$results" || fail "$name was not skipped"
	done
	;;
dynamic)
	results=$(/usr/local/lib/testbed/pyverbs-tests --device mlx5_0 300 test_mlx5_dc) || fail "$results"
	echo "$results"
	for name in rdma_write send atomic; do
		grep -q "^ok.*test_dc_$name\b" <<<"$results" || fail "test_dc_$name does not pass"
	done
	grep -q "^ok.*test_odp_dc_traffic" <<<"$results" || fail "test_odp_dc_traffic does not pass"
	# Neither streams nor another way to map addresses are announced.
	[ "$(grep -c "^skip" <<<"$results")" = 4 ] || fail "4 were to be skipped"
	;;
bench)
	cd "$(mktemp -d)"
	result=odp-bench.json
	measures $result write-xrc-2-qps-4-deep/warm/explicit/4KiB -d mlx5_0 -c XRC -q 2 -t 4 -s 64,4k
	measures $result read-xrc/warm/implicit/1KiB -d mlx5_0 -c XRC --op read -s 1k
	measures $result send-xrc/warm/explicit/64B -d mlx5_0 -c xrc --op send
	measures $result cmp-and-swap-xrc/warm/implicit/8B -d mlx5_0 -c xrc --op cmp-and-swap
	measures $result write-dc-2-qps-4-deep/warm/explicit/4KiB -d mlx5_0 -c DC -q 2 -t 4 -s 64,4k
	measures $result write-dc-inline/warm/implicit/64B -d mlx5_0 -c dc -I 64
	measures $result read-dc/warm/implicit/1KiB -d mlx5_0 -c dc --op read -s 1k -m 1024
	measures $result send-dc/warm/explicit/64B -d mlx5_0 -c dc --op send
	measures $result cmp-and-swap-dc/warm/implicit/8B -d mlx5_0 -c dc --op cmp-and-swap
	rxe-driver stock
	measures odp-bench.rxe0.json write-rc/warm/explicit/64B -d mlx5_0,rxe0
	odp-bench report odp-bench.mlx5_0.json | grep '^traffic/write-rc/cold/implicit/64B '
	rxe-driver none
	;;
devx)
	results=$(/usr/local/lib/testbed/pyverbs-tests --device mlx5_0 300 test_mlx5_devx test_mlx5_mkey) || true
	echo "$results"
	# One wants a counter of flows, which the device has not.
	! grep "^FAIL" <<<"$results" | grep -v test_devx_obj_export_import || fail "something failed"
	for name in devx_rc_qp_send_imm_traffic devx_rc_qp_odp_traffic devx_async_query umem_export_import mkey_interleaved \
		mkey_list mkey_list_new_api odp_mkey_list_new_api mkey_remote_invalidate; do
		grep -q "^ok.*test_$name\b" <<<"$results" || fail "test_$name does not pass"
	done
	;;
hold)
	# A region that stays: that of a server that nobody calls.
	setsid ibv_rc_pingpong -d mlx5_0 -g 0 -o -p 18600 >/dev/null 2>&1 &
	listens 18600
	;;
after-failure)
	for how in -o -O; do
		after_failure $how
	done
	;;
after-recovery) after_recovery ;;
after-overrun) after_overrun ;;
after-reset) after_reset ;;
*)
	echo "usage: mlx5-odp pingpong|pyverbs|dynamic|bench|devx|hold|after-failure|after-recovery|after-overrun|after-reset" >&2
	exit 2
	;;
esac
