#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# A disk that this kernel serves over NVMe-oF on rxe0, and uses over it: the file system on it has to be as it was written
# when the disk comes again, and on the disk itself.
set -u
name=testbed
disk=/dev/ram0
served=/sys/kernel/config/nvmet
subsystem=$served/subsystems/$name
port=$served/ports/1
place=/run/nvme-over-rdma

fail() {
	echo "nvme-over-rdma: $*"
	exit 1
}

serve() {
	modprobe brd rd_nr=1 rd_size=65536 && modprobe -a nvmet-rdma nvme-rdma || fail "the modules"
	mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config || exit
	mkdir -p "$place" "$subsystem" "$subsystem/namespaces/1" "$port" || exit
	echo 1 >"$subsystem/attr_allow_any_host"
	echo -n $disk >"$subsystem/namespaces/1/device_path"
	echo 1 >"$subsystem/namespaces/1/enable" || exit
	echo rdma >"$port/addr_trtype"
	echo ipv4 >"$port/addr_adrfam"
	echo 10.77.0.1 >"$port/addr_traddr"
	echo 4420 >"$port/addr_trsvcid"
	ln -s "$subsystem" "$port/subsystems/$name" || fail "nobody can connect to $name"
}

# The disk as it is seen over the network.
far() {
	local far
	for far in /dev/nvme*n1; do
		[ -b "$far" ] && echo "$far"
	done
}

connect() {
	exec 7<>/dev/nvme-fabrics
	echo -n "nqn=$name,transport=rdma,traddr=10.77.0.1,trsvcid=4420,nr_io_queues=2,queue_size=32" >&7 ||
		fail "it cannot connect"
	exec 7>&-
	local n
	for ((n = 0; n < 300 * ${TESTBED_PATIENCE:-1}; n++)); do
		[ -z "$(far)" ] || break
		sleep 0.1
	done
	[ "$(far)" ] || fail "it is connected, and the disk does not come"
	[ "$(cat /sys/class/nvme/nvme*/transport)" = rdma ] || fail "that is not over RDMA"
}

disconnect() {
	local controller
	for controller in /sys/class/nvme/nvme*; do
		[ ! -e "$controller" ] || echo 1 >"$controller/delete_controller"
	done
}

end() {
	mountpoint -q $place && umount $place
	disconnect
	rm -f "$port/subsystems/$name"
	[ ! -e "$subsystem/namespaces/1" ] || echo 0 >"$subsystem/namespaces/1/enable"
	rmdir "$port" "$subsystem/namespaces/1" "$subsystem" 2>/dev/null
	modprobe -r nvme-rdma nvmet-rdma brd
}
# The debug kernel has neither.
if ! modinfo nvmet-rdma nvme-rdma >/dev/null 2>&1; then
	echo "this kernel has no NVMe-oF over RDMA"
	exit 77
fi
trap end EXIT
serve
connect
mkfs.ext4 -q "$(far)" && mount "$(far)" $place || exit
numbered-files write $place || exit
umount $place && disconnect || exit
[ -z "$(far)" ] || fail "the disk stays"
connect
e2fsck -fn "$(far)" || exit
mount "$(far)" $place && numbered-files check $place || exit
umount $place && disconnect || exit
mount $disk $place && numbered-files check $place || fail "that was on the disk itself"
