#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs a command as somebody who may pin next to nothing: a user who is not root, in a user and a network namespace of his
# own, with 64 KiB as RLIMIT_MEMLOCK.
#
#   as-user COMMAND...
#
# The address of rxe0 is there, too, on a network that leads nowhere.
ulimit -l 64 || exit
exec setpriv --reuid=1000 --regid=1000 --clear-groups unshare --user --map-root-user --net bash -c '
	ip link set lo up && ip address add 10.77.0.1/32 dev lo || exit
	[ "$(ulimit -l)" = 64 ] || exit
	exec "$@"' as-user "$@"
