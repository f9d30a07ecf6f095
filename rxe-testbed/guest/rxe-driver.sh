#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Chooses the soft-RoCE driver of this VM and brings up rxe0.
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

down() {
	rdma link delete rxe0 2>/dev/null
	local name
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

# The network device: a card if there is another VM at its other end, else one that leads nowhere.
# An Ethernet MTU of 9000 allows a path MTU of 4096, so that a page fits in a packet.
network() {
	local host
	host=$(grep -o 'testbed\.host=[0-9]*' /proc/cmdline | cut -d= -f2)
	if [ -n "$host" ]; then
		modprobe virtio_net || exit
		ip link set eth0 name roce0 mtu 9000 || exit
	else
		host=1
		ip link add roce0 mtu 9000 type dummy
	fi
	ip address add "10.77.0.$host/24" dev roce0
	ip link set roce0 up
}

up() {
	[ -d /sys/class/net/roce0 ] || network
	modprobe -a rdma_rxe ib_uverbs rdma_ucm || exit
	rdma link add rxe0 type rxe netdev roce0 || exit
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
