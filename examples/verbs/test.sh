#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs the program in a VM that has an RDMA device, on both drivers. The testbed is `cargo testbed`, as `cargo install
# --path hmm-odp/rxe-testbed` makes it, or what $TESTBED says.
set -eu
cd "$(dirname "$0")"
testbed=${TESTBED:-cargo testbed}

# shellcheck disable=SC2086 # a command and its arguments
$testbed exec --put ./on-demand:/root/on-demand -- /root/on-demand rxe0

# Debian's own driver has no implicit on-demand paging, as the program has to see.
status=0
# shellcheck disable=SC2086
$testbed exec --driver stock --put ./on-demand:/root/on-demand -- /root/on-demand rxe0 || status=$?
[ $status = 77 ]
