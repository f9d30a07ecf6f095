#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# How the network to the other VM behaves.
#
#   network good      as it is
#   network bad       what this VM sends is lost, doubled and put in another order, now and then
#   network suffered  whether the device has seen that it was bad: packets that came twice, and gaps
set -u
case $1 in
good) tc qdisc delete dev roce0 root 2>/dev/null || true ;;
bad)
	# A delayed packet comes after those that were sent later.
	tc qdisc replace dev roce0 root netem limit 10000 delay 2ms reorder 97% loss 1% duplicate 1%
	;;
suffered)
	counters=/sys/class/infiniband/rxe0/ports/1/hw_counters
	sent=$(tc -s qdisc show dev roce0)
	echo "$sent"
	grep -H . $counters/* | sed 's:.*/::'
	if ! grep -q 'dropped [1-9]' <<<"$sent"; then
		echo "network: nothing was lost"
		exit 1
	fi
	for name in duplicate_request out_of_seq_request; do
		if [ "$(<$counters/$name)" = 0 ]; then
			echo "network: $name is 0"
			exit 1
		fi
	done
	;;
*)
	echo "usage: network good|bad|suffered" >&2
	exit 2
	;;
esac
