#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Chooses the soft-RoCE driver of this VM and brings up rxe0, and as many more as the kernel's command line says
# (testbed.rxe=N).
#
#   rxe-driver stock    the modules as Debian ships them
#   rxe-driver ours     the repository's hmm, mlx_odp and rdma_rxe
#   rxe-driver none     remove the device and unload the modules
#   rxe-driver status   print which one is loaded
#
# Plain `modprobe rdma_rxe` loads whichever was chosen last: the two differ in depmod's index.
set -u
modules=/usr/lib/modules/$(uname -r)

loaded() {
	[ -d "/sys/module/$1" ]
}

status() {
	if ! loaded rdma_rxe; then
		echo none
	elif loaded mlx_odp; then
		echo ours
	else
		echo stock
	fi
}

# What follows `testbed.$1=` in the kernel's command line.
setting() {
	grep -o "testbed\.$1=[0-9]*" /proc/cmdline | cut -d= -f2
}

devices() {
	local number
	number=$(setting rxe)
	seq 0 $((${number:-1} - 1))
}

down() {
	local name number
	for number in $(devices); do
		rdma link delete "rxe$number" 2>/dev/null
	done
	for name in rdma_rxe mlx_odp hmm; do
		if loaded "$name"; then
			rmmod "$name" || exit
		fi
	done
}

select_index() {
	local set=/usr/local/lib/testbed/index/$1
	if ! [ -d "$set" ]; then
		echo "rxe-driver: this VM was started without the modules of '$1'" >&2
		exit 1
	fi
	# The image comes with the stock index in place.
	if [ "$(cat "$modules/index" 2>/dev/null || echo stock)" != "$1" ]; then
		cp "$set"/modules.* "$modules/"
		echo "$1" >"$modules/index"
	fi
}

# The network devices: a card if there is another VM at its other end, else those that lead nowhere.
# An Ethernet MTU of 9000 allows a path MTU of 4096, so that a page fits in a packet.
network() {
	local host number
	host=$(setting host)
	if [ -n "$host" ]; then
		modprobe virtio_net || exit
		ip link set eth0 name roce0 mtu 9000 || exit
	fi
	for number in $(devices); do
		[ -d "/sys/class/net/roce$number" ] || ip link add "roce$number" mtu 9000 type dummy || exit
		ip address add "10.77.$number.${host:-1}/24" dev "roce$number"
		ip link set "roce$number" up
	done
}

up() {
	local number
	[ -d /sys/class/net/roce0 ] || network
	modprobe -a rdma_rxe ib_uverbs rdma_ucm || exit
	for number in $(devices); do
		rdma link add "rxe$number" type rxe netdev "roce$number" || exit
	done
}

case ${1-} in
stock | ours)
	down
	select_index "$1"
	up
	;;
none) down ;;
status) status ;;
*)
	echo "usage: rxe-driver stock|ours|none|status" >&2
	exit 2
	;;
esac
