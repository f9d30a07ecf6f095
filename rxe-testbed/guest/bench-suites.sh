#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Every case of odp-bench with few samples: each is measured, all data is right, and nothing is skipped for which
# this machine has all that it takes. Wants swap.
set -u
cd "$(mktemp -d -p /root)" || exit
# What ran before may have left free memory in pieces that are too small for huge pages.
echo 3 >/proc/sys/vm/drop_caches && echo 1 >/proc/sys/vm/compact_memory || exit

mapfile -t suites < <(odp-bench list | sed -n 's/^\([a-z]*\)  .*/\1/p')
odp-bench list "${suites[@]}" >cases || exit
odp-bench run --effort 0.01 --quiet 2>told || {
	status=$?
	grep -e ': FAILED: ' -e '^odp-bench: ' told || tail -n 3 told
	exit $status
}
# A line for each case, perhaps with a remark.
if ! sed 's/: .*//' told | diff cases -; then
	echo "bench-suites: these cases of 'odp-bench list' were not run (<), or are none (>)"
	exit 1
fi
odp-bench report odp-bench.json >report || exit
# More memory than the machine has cannot be pinned.
if grep '^skipped' report | grep -v '^skipped  registration/pinned/4GiB: .* too little to pin 4GiB$'; then
	echo "bench-suites: this should not have been skipped"
	exit 1
fi
echo "$(wc -l <cases) cases of ${#suites[@]} suites"
