#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Builds the driver and loads it in a VM. The testbed is `cargo testbed`, or what $TESTBED says.
set -eu
cd "$(dirname "$0")"
testbed=${TESTBED:-cargo testbed}

# shellcheck disable=SC2086 # a command and its arguments
$testbed module .
# shellcheck disable=SC2086
$testbed exec --put ./toy.ko:/root/driver/toy.ko --put ./load.py:/root/driver/load.py -- /root/driver/load.py
