#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# /init of the initramfs: load what the root needs, mount it, unpack what this boot brings, go.
b=/bin/busybox
$b mount -t devtmpfs devtmpfs /dev
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
echo "testbed: init" >/dev/kmsg
if $b grep -qw testbed.probe /proc/cmdline; then
	# A probe only wants to know whether the kernel gets as far as here.
	echo b >/proc/sysrq-trigger
fi
while read -r module; do
	$b insmod "/modules/$module"
done </modules/order

fail() {
	echo "testbed: boot failed: $1" >"$dev/kmsg"
	$b sleep 1
	echo b >"$proc/sysrq-trigger"
}
dev=/dev proc=/proc
$b mount -t ext4 /dev/vda /newroot || fail "cannot mount the root file system"
for dir in dev proc sys; do
	$b mount -o move "/$dir" "/newroot/$dir"
done
dev=/newroot/dev proc=/newroot/proc
# Before the files are unpacked: some of them may belong there.
$b mkdir -p $dev/shm
for dir in dev/shm tmp run; do
	$b mount -t tmpfs -o mode=1777 tmpfs "/newroot/$dir"
done
$b tar -xf $dev/vdb -C /newroot || fail "cannot unpack the session's files"
exec $b switch_root /newroot /usr/local/lib/testbed/runner
