#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Mounts the NVDIMM of this VM at /mnt/pmem so that its files are mapped directly (DAX). One that comes for the first time
# gets a namespace with descriptors for its pages, which devices need (`fsdax`), and a file system.
set -u
bus=/sys/bus/nd
name=namespace0.0
device=/dev/pmem0

fail() {
	echo "pmem: $1" >&2
	exit 1
}

# Waits until a file is there: the bus is looked through in the background.
there() {
	local try
	for try in $(seq 300); do
		[ -e "$1" ] && return
		sleep 0.1
	done
	fail "there is no $1 after $((try / 10)) s"
}

# The namespace's place on the bus goes to one with descriptors, which are kept in ordinary memory.
describe_pages() {
	local seed
	echo $name >$bus/drivers/nd_pmem/unbind || fail "$name stays as it is"
	seed=$(cat $bus/devices/region0/pfn_seed)
	cd "$bus/devices/$seed" || fail "there is no $seed"
	cat /proc/sys/kernel/random/uuid >uuid &&
		echo ram >mode &&
		echo $((2 << 20)) >align &&
		echo $name >namespace || fail "$seed does not take $name"
	echo "$seed" >$bus/drivers/nd_pmem/bind || fail "nobody drives $seed"
	cd /
}

# Whether there is ext4 on the device: by the number that its superblock begins with.
has_ext4() {
	[ "$(dd if=$device bs=2 skip=540 count=1 2>/dev/null | od -An -tx2)" = " ef53" ]
}

modprobe -a nfit nd_pmem || fail "the kernel has no drivers for it"
there $bus/devices/$name
udevadm settle 2>/dev/null
there $device
[ "$(cat $bus/devices/$name/mode)" = memory ] || describe_pages
there $device
# Allocated so that an entry of the page table may map 2 MiB.
has_ext4 || mke2fs -q -t ext4 -b 4096 -E stride=512,stripe_width=512 $device || fail "no file system"
mkdir -p /mnt/pmem
mount -t ext4 -o dax=always $device /mnt/pmem || fail "it cannot be mounted"
