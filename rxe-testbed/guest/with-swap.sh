#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs a command while there is swap: compressed memory if the kernel has it, a file otherwise.
#
#   with-swap MiB COMMAND...
set -u
size=$1
shift
device=/dev/zram0
if modprobe zram && echo "${size}M" >/sys/block/zram0/disksize; then
	swap=$device
else
	swap=/var/swap
	rm -f $swap
	fallocate -l "${size}M" $swap && chmod 600 $swap || exit
fi
mkswap -q $swap >/dev/null && swapon $swap || exit
"$@"
status=$?
swapoff $swap || exit
if [ $swap = $device ]; then
	echo 1 >/sys/block/zram0/reset
	modprobe -r zram
else
	rm $swap
fi
exit "$status"
