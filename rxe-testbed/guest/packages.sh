#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Installs the packages in /root/packages that need no compiler, uses what is in them, and removes them; or uses modules
# that DKMS has built, which are there instead. The VM has Debian's own modules only.
#
#   packages install|upgrade|unsigned|remove|dkms
set -u
packages=(/root/packages/hmm-odp-modules-*.deb /root/packages/odp-bench_*.deb)

fail() {
	echo "packages: $*" >&2
	exit 1
}

# The file that `modprobe` would load.
file() {
	modinfo -n "$1" 2>/dev/null
}

# Loads the soft-RoCE that modprobe finds, and brings up its device.
reload() {
	rdma link delete rxe0 2>/dev/null
	modprobe -r rdma_rxe || fail "soft-RoCE stays"
	modprobe rdma_rxe || fail "soft-RoCE is not loaded"
	rdma link add rxe0 type rxe netdev roce0 || fail "no device"
}

# depmod reads every module that there is, which takes minutes under emulation: those that nobody needs here go.
prune() {
	local folder
	cd "/usr/lib/modules/$(uname -r)/kernel" || fail "no modules"
	for folder in sound drivers/{gpu,hid,hwmon,iio,input,media,mtd,scsi,staging,usb} drivers/net/{can,ethernet,wireless} fs net/{bluetooth,mac80211,netfilter,sched}; do
		rm -rf "$folder"
	done
}

# The kernel's package is none of the VM's: its modules came with the VM.
install_all() {
	dpkg --force-depends -i "${packages[@]}" 2>/run/dpkg || fail "dpkg: $(cat /run/dpkg)"
	case $(file rdma_rxe) in
	*/updates/hmm-odp/rdma_rxe.ko.xz) ;;
	*) fail "modprobe would load $(file rdma_rxe)" ;;
	esac
}

# The same package as a later version.
later() { # PACKAGE FILE
	local folder=/run/later
	rm -rf $folder
	dpkg-deb -R "$1" $folder
	sed -i 's/^Version: .*/&.1/' $folder/DEBIAN/control
	dpkg-deb -Znone -b $folder "$2" >/dev/null
}

upgrade_all() {
	local package
	mkdir -p /run/newer
	for package in "${packages[@]}"; do
		later "$package" "/run/newer/${package##*/}"
	done
	dpkg --force-depends -i /run/newer/*.deb 2>/run/dpkg || fail "dpkg: $(cat /run/dpkg)"
	case $(dpkg-query -W -f '${Version} ' 'hmm-odp-modules-*' odp-bench) in
	*.1\ *.1\ ) ;;
	*) fail "not upgraded: $(dpkg-query -W 'hmm-odp-modules-*' odp-bench)" ;;
	esac
}

# A kernel that loads signed modules only, as with Secure Boot: it says why it refuses ours, and so does the package.
enforce_signatures() {
	local said
	rdma link delete rxe0
	modprobe -r rdma_rxe || fail "soft-RoCE stays"
	echo Y >/sys/module/module/parameters/sig_enforce || fail "this kernel does not check signatures"
	said=$(modprobe rdma_rxe 2>&1) && fail "unsigned modules are loaded"
	case $said in
	*"Key was rejected by service"*) ;;
	*) fail "modprobe says: $said" ;;
	esac
	said=$(dpkg --force-depends -i /run/newer/hmm-odp-modules-*.deb 2>&1) || fail "dpkg: $said"
	case $said in
	*"loads signed modules only"*) ;;
	*) fail "the package says nothing of signatures: $said" ;;
	esac
}

check_remains() {
	local left
	left=$(find /usr/lib/modules -path '*hmm-odp*'; ls /usr/bin/odp-* 2>/dev/null)
	[ -z "$left" ] || fail "left: $left"
	case $(file rdma_rxe) in
	*/kernel/*) ;;
	*) fail "modprobe would load $(file rdma_rxe)" ;;
	esac
}

case ${1-} in
install)
	prune
	install_all
	reload
	[ -d /sys/module/mlx_odp ] || fail "soft-RoCE came up without mlx_odp"
	/usr/bin/odp-test --device rxe0 rc-write || fail "odp-test"
	/usr/bin/odp-bench --version
	;;
upgrade)
	upgrade_all
	reload
	/usr/bin/odp-test --device rxe0 rc-write || fail "odp-test"
	;;
unsigned)
	enforce_signatures
	;;
remove)
	names=$(for package in "${packages[@]}"; do dpkg-deb -f "$package" Package; done)
	dpkg -r $names >/dev/null || fail "dpkg cannot remove them"
	check_remains
	reload
	[ ! -d /sys/module/mlx_odp ] || rmmod mlx_odp hmm || fail "our modules stay"
	rdma link show rxe0/1 >/dev/null || fail "no device with Debian's own"
	;;
dkms)
	prune
	mkdir -p "/usr/lib/modules/$(uname -r)/updates/dkms"
	cp /root/packages/*.ko.xz "/usr/lib/modules/$(uname -r)/updates/dkms/"
	depmod
	reload
	[ -d /sys/module/mlx_odp ] || fail "soft-RoCE came up without mlx_odp"
	[ -s /sys/kernel/btf/rdma_rxe ] || fail "the modules have no type information"
	odp-test --device rxe0 rc-write || fail "odp-test"
	;;
*)
	echo "usage: packages install|upgrade|unsigned|remove|dkms" >&2
	exit 2
	;;
esac
