#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What a VM has that is reached from outside.
#
#   reach host        the host's network, by QEMU's user-mode network: the host is 10.0.2.2
#   reach share       the host's folder, in /mnt/share
#   reach name NAME   the name of the VM
#   reach ssh         an ssh server, for who has the key
set -eu

# The card, which has the address that the testbed gave it.
host() {
	local device
	modprobe virtio_net
	for device in /sys/class/net/*; do
		if [ "$(<"$device/address")" = 52:54:00:77:01:00 ]; then
			ip link set "${device##*/}" name host0
		fi
	done
	ip address add 10.0.2.15/24 dev host0
	ip link set host0 up
	ip route add default via 10.0.2.2
	rm -f /etc/resolv.conf
	echo "nameserver 10.0.2.3" >/etc/resolv.conf
}

share() {
	modprobe -a 9pnet_virtio 9p
	mkdir -p /mnt/share
	mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /mnt/share
}

name() {
	hostname "$1"
	grep -q "[[:space:]]$1\$" /etc/hosts || echo "10.77.0.1 $1" >>/etc/hosts
}

# The keys are those that the testbed has brought. Nothing is asked of PAM, which would take its time under emulation.
ssh() {
	local keys=/etc/testbed/ssh patience
	# Not this script's own, which depends on what else the host did at this moment.
	patience=$(grep -o 'testbed\.patience=[0-9]*' /proc/cmdline | cut -d= -f2)
	mkdir -p /run/sshd
	cat >$keys/config <<-EOF
		HostKey $keys/host_key
		AuthorizedKeysFile $keys/authorized_keys
		AuthenticationMethods publickey
		PasswordAuthentication no
		KbdInteractiveAuthentication no
		PermitRootLogin prohibit-password
		UsePAM no
		UseDNS no
		LoginGraceTime 600
		MaxStartups 1000
		PerSourcePenalties no
		PrintMotd no
		PrintLastLog no
		PidFile /run/sshd.pid
		Subsystem sftp internal-sftp
		SetEnv PATH=$1 LANG=C.UTF-8 TESTBED_PATIENCE=${patience:-1}
	EOF
	/usr/sbin/sshd -f $keys/config -E /run/sshd.log
}

case $1 in
host | share) "$1" ;;
name) name "$2" ;;
# The scripts of the testbed are among the commands of this one only.
ssh) ssh "${PATH#/usr/local/lib/testbed:}" ;;
*)
	echo "usage: reach host|share|name NAME|ssh" >&2
	exit 2
	;;
esac
