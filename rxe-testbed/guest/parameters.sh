#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The parameters of mlx_odp: what makes no sense is refused, with one line in the log that says why; what
# makes sense has its effect.
set -eu
fail() {
	echo "$*" >&2
	exit 1
}
names="fault_around chunk_size fault_workers prefetch_workers region_memory"
options=/etc/modprobe.d/mlx_odp.conf
mkdir -p "${options%/*}"
trap 'rm -f "$options"; rxe-driver ours' EXIT

# refused PARAMETER=VALUE... WORDS: the module is not loaded, and the log has WORDS.
refused() {
	local words=${*: -1} error lines
	set -- "${@:1:$#-1}"
	dmesg --clear
	if error=$(modprobe mlx_odp "$@" 2>&1); then
		fail "mlx_odp was loaded with $*"
	fi
	[[ $error = *"Invalid argument"* ]] || fail "with $*, modprobe says: $error"
	lines=$(dmesg | grep 'mlx_odp: ') || fail "with $*, nothing is in the log"
	[ "$(wc -l <<<"$lines")" = 1 ] || fail "with $*, not one line is in the log: $lines"
	[[ $lines = *"$words"* ]] || fail "with $*, the log says: $lines"
	[ ! -d /sys/module/mlx_odp ] || fail "mlx_odp is loaded with $*"
}

# effect PARAMETER=VALUE...: that is what the module is loaded with, and what odp-test sees; it reads in debugfs
# what it has to expect.
effect() {
	local option
	echo "options mlx_odp $*" >"$options"
	rxe-driver ours
	for option; do
		grep -qx "${option/=/ }" /sys/kernel/debug/mlx_odp/parameters ||
			fail "with $option: $(cat /sys/kernel/debug/mlx_odp/parameters)"
	done
	odp-test limits-fault-around limits-chunk-size limits-fault-workers limits-prefetch-workers \
		limits-region-memory || fail "with $*"
}

described=$(modinfo -p mlx_odp)
for name in $names; do
	[[ $described = *"$name:"*"default "* ]] || fail "modinfo does not describe $name: $described"
	grep -q "^$name " /sys/kernel/debug/mlx_odp/parameters || fail "debugfs does not have $name"
done

rxe-driver none
refused fault_around=513 "fault_around=513 is not possible: it has to be 0 to 512 (pages)"
refused chunk_size=3 "chunk_size=3 is not possible: it has to be a power of two from 2 to 1024 (MiB)"
refused chunk_size=0 "chunk_size=0 is not possible"
refused fault_workers=513 "fault_workers=513 is not possible: it has to be 1 to 512"
refused fault_workers=0 "fault_workers=0 is not possible"
refused prefetch_workers=0 "prefetch_workers=0 is not possible: it has to be 1 to 32"
refused region_memory=1048577 "region_memory=1048577 is not possible: it has to be 1 to 1048576 (MiB)"
refused chunk_size=1024 region_memory=7 "region_memory=7 is not possible"
# What is no number of that kind at all is refused by the kernel itself.
refused fault_workers=many "invalid for parameter"
refused fault_around=-1 "invalid for parameter"
rmmod hmm

effect fault_around=0 chunk_size=2 fault_workers=1 prefetch_workers=1 region_memory=1
effect fault_around=20 chunk_size=1024 fault_workers=2 prefetch_workers=3 region_memory=8
