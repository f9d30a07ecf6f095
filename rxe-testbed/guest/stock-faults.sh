#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What the kernel's own soft-RoCE gets wrong: a line for each test of odp-test that shows a fault, for the table of the
# book's chapter "What the kernel's soft-RoCE gets wrong". The lines of two kernels can be compared.
#
#   stock-faults             all that leave the kernel alive
#   stock-faults NAME...     only these; here also those that may take it down, best alone in a VM
#
# `right`: the test passes, so the fault is not there. `wrong`: what the test said, and what the kernel had to say to it.
set -u

# The order is that of the table. What is left behind by those that wait is in nobody's way at the end.
harmless='
odd-write
odd-read
odd-send
long-message
iova-remote
iova-local
large-4-gib
large-64-gib
large-16-tib
large-time
munmap-local
userfault
window-bounds
window-zero-based
rereg-translation
by-attributes
reset-after-failure
too-long
long-receive
pinned-3-gib
short-receive
statuses-local
statuses-local-later
statuses-receive
userfault-retries
strange-peer-repeats-reads
strange-peer-leaves-the-window
strange-peer-sends-no-bytes
long-result
counters-of-device
longest-write
longest-send
longest-read
window-queue-pair-destroyed
waiting.reserved-blocks
waiting.sender-goes
waiting.address-handle
waiting.reset
waiting.orphan
'
dangerous='
window-invalidate-refused
statuses-takes-no-reads
statuses-takes-many-reads
changed-at-once
resized-at-once
reset-with-requests
shared-queue-scribbled
strange-peer-floods
'

# A test that has not ended by then will not end.
limit=150

# What odp-test calls the test: it may have cases for explicit and implicit regions.
case_of() {
	if odp-test --list | grep -qx "$1.explicit"; then
		echo "$1.explicit"
	else
		echo "$1"
	fi
}

complaints() {
	dmesg --level emerg,alert,crit,err,warn | tail -n "+$1" | grep -v -e 'cut here' -e 'speed is unknown' | head -n 1
}

show() {
	local name=$1 before said status log
	before=$(dmesg --level emerg,alert,crit,err,warn | wc -l)
	said=$(timeout "$limit" odp-test "$(case_of "$name")" 2>&1 </dev/null)
	status=$?
	said=$(tail -n 1 <<<"$said")
	log=$(complaints $((before + 1)))
	case $status in
	0) said=right ;;
	2) said="not a test: $said" ;;
	77) said="skipped: $said" ;;
	124) said="wrong: has not ended after $limit s" ;;
	*) said="wrong: $said" ;;
	esac
	printf '%-32s %s%s\n' "$name" "$said" "${log:+ -- kernel: $log}"
	[ "$status" != 2 ]
}

# What a registration of a whole address space is answered with, which odp-test takes for a device without it.
implicit() {
	printf '%-32s ' implicit
	python3 - 2>&1 <<-END | tail -n 1
		from pyverbs.device import Context
		from pyverbs.mr import MR
		from pyverbs.pd import PD
		from pyverbs.libibverbs_enums import ibv_access_flags as Access
		with Context(name='rxe0') as context, PD(context) as pd:
		    MR(pd, 0, Access.IBV_ACCESS_LOCAL_WRITE | Access.IBV_ACCESS_ON_DEMAND, implicit=True)
		    print('right')
	END
}

if [ "$(rxe-driver status)" != stock ]; then
	echo "stock-faults: for the stock driver (exec --driver stock)" >&2
	exit 2
fi
result=0
if [ $# = 0 ]; then
	uname -r
	implicit
fi
for name in ${*:-$harmless}; do
	# shellcheck disable=SC2086
	if ! printf '%s\n' $harmless $dangerous | grep -qx -- "$name"; then
		echo "stock-faults: $name shows none" >&2
		exit 2
	fi
	show "$name" || result=1
done
exit $result
