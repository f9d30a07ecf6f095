#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs a command, and fails if the NIC was given no page on demand meanwhile: a program may pin its memory without
# a word though it was asked for on-demand regions.
#
#   uses-odp COMMAND...
#
# The stock driver does not count; there the command is all.
pages() {
	cat /sys/class/infiniband/rxe0/ports/1/hw_counters/odp_pages_{mapped,prefetched}
}
if [ "$(rxe-driver status)" = stock ]; then
	exec "$@"
fi
before=$(pages) || exit
"$@" || exit
if [ "$(pages)" = "$before" ]; then
	echo "uses-odp: it worked, but no page was given to the NIC on demand"
	exit 1
fi
