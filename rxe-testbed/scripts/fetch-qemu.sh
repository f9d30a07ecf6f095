# SPDX-License-Identifier: GPL-2.0
# Downloads Debian's newer QEMU, from backports, and unpacks it: the chroot's own stays what it is.
#
#   fetch-qemu.sh          (in the chroot)
#
# Its libraries are those of the chroot's QEMU. Leaves the packages' files in /build/qemu.
set -eu
cd /build/qemu
packages="qemu-system-x86 qemu-system-common qemu-system-data seabios"
mkdir dl
cd dl
# shellcheck disable=SC2086 # one word per package
apt-get -q -y -o APT::Sandbox::User=root download $(printf '%s/trixie-backports ' $packages)
cd ..
for deb in dl/*.deb; do
	dpkg-deb -x "$deb" .
done
rm -r dl
grep -q vfio-user-pci usr/bin/qemu-system-x86_64 || {
	echo "E: this QEMU has no vfio-user-pci"
	exit 1
}
