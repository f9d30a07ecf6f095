# SPDX-License-Identifier: GPL-2.0
# Fills the root of a machine that boots by itself: the guest's root, the kernel, what the session's archive brings.
#
#   fill-root.sh RELEASE          (in the chroot)
#
# /build/root is the guest's root, /build/modules the kernel's own modules, /build/out/session.tar the archive. Leaves
# the root in /build/out/root.
set -eu
umask 022
release=$1
root=/build/out/root
modules=$root/usr/lib/modules/$release

echo "copying the root"
cp -a /build/root $root
mkdir -p "$root/usr/lib/modules"
cp -a /build/modules "$modules"
# The links lead to the kernel's sources, which are not there.
rm -f "$modules/build" "$modules/source"
mv "$modules/vmlinuz" $root/boot/vmlinuz
mv "$modules/config" "$root/boot/config-$release"
# Files of whoever builds it are root's there.
tar -xf /build/out/session.tar --no-same-owner -C $root

# What another machine is not to share with this one: its mirror's settings, keys, and a name.
rm -f $root/etc/apt/apt.conf.d/99mmdebstrap $root/etc/ssh/ssh_host_*
: >$root/etc/machine-id
# A root in which a command ran has a file there.
ln -sf ../run/systemd/resolve/stub-resolv.conf $root/etc/resolv.conf

echo "making the initramfs"
unshare --mount --propagation unchanged bash -euc '
	for dir in dev proc sys; do
		mount --rbind "/$dir" "$0/$dir"
	done
	chroot "$0" systemctl enable rxe.service systemd-networkd.service
	# Nothing changes, and nothing is looked up, unless somebody asks for it.
	chroot "$0" systemctl disable apt-daily.timer apt-daily-upgrade.timer
	chroot "$0" mkinitramfs -o /boot/initrd.img "$1"
' $root "$release"
