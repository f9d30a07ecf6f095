#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The life of the three modules: one `modprobe` loads them, `rmmod` takes them away without a trace.
set -eu
fail() {
	echo "$*" >&2
	exit 1
}
modules="rdma_rxe mlx_odp hmm"

rxe-driver none
for name in $modules; do
	[ ! -d "/sys/module/$name" ] || fail "$name is still loaded"
done
slabs() {
	tail -n +3 /proc/slabinfo | cut -d' ' -f1 | sort
}
before=$(slabs)
dmesg --clear

modprobe rdma_rxe
for name in $modules; do
	[ -d "/sys/module/$name" ] || fail "modprobe rdma_rxe did not load $name"
	case $(modinfo -F filename "$name") in
	*/updates/*) ;;
	*) fail "$name is not the repository's" ;;
	esac
	lines=$(dmesg | grep -c "$name: " || true)
	loads=$(dmesg | grep -c "$name: .*loaded" || true)
	[ "$lines" -le 1 ] || [ "$lines" = "$loads" ] || fail "$name prints more than one line: $(dmesg)"
done

# Who reads a file of debugfs keeps the module that shows it.
exec 9</sys/kernel/debug/mlx_odp/parameters
rmmod rdma_rxe
! rmmod mlx_odp 2>/dev/null || fail "mlx_odp goes while one of its files is open"
grep -q region_memory <&9 || fail "the open file shows nothing"
exec 9<&-
modprobe rdma_rxe

for name in $modules; do
	rmmod "$name"
done
for name in $modules; do
	[ ! -d "/sys/module/$name" ] || fail "$name is still loaded"
done
rdma link show | grep rxe0 && fail "rxe0 is still there"
left=$(comm -13 <(echo "$before") <(slabs) | grep -E 'hmm|odp|rxe' || true)
[ -z "$left" ] || fail "slab caches left behind: $left"
[ -z "$(find /sys/kernel/debug -maxdepth 1 -name '*odp*' -o -maxdepth 1 -name 'hmm*')" ] ||
	fail "files left behind in debugfs"
! pgrep -l 'hmm|odp|rxe' || fail "kernel threads left behind"
rxe-driver ours
