#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What the tests share in which applications, the device and the modules go; to be sourced.

# Tries a command for so many seconds, on an ordinary kernel.
within() {
	local until=$(($(date +%s) + $1 * ${TESTBED_PATIENCE:-1}))
	shift
	until "$@"; do
		[ "$(date +%s)" -lt "$until" ] || return 1
		sleep 0.05
	done
}

# Whether a process that was started here is no more.
ended() {
	! kill -0 "$1" 2>/dev/null
}

# Whether no application has a device open.
no_context() {
	[ "$(rdma resource show 2>/dev/null | grep -o ' ctx [0-9]*' | grep -vc ' ctx 0')" = 0 ]
}

# The modules, in the order in which they can be unloaded.
modules="rdma_rxe mlx_odp hmm"

unload() {
	local name
	for name in $modules; do
		[ ! -d "/sys/module/$name" ] || rmmod "$name" 2>/dev/null || return
	done
}
