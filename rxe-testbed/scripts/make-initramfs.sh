# SPDX-License-Identifier: GPL-2.0
# Packs the initramfs: busybox, the modules that mounting the root needs, and /init.
#
#   make-initramfs.sh RELEASE OUTPUT          (in the chroot; OUTPUT's directory holds init)
set -eu
release=$1 output=$2
root=$(mktemp -d)
mkdir -p "$root/bin" "$root/modules" "$root/dev" "$root/proc" "$root/sys" "$root/newroot"
cp /usr/bin/busybox "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
cp "$(dirname "$output")/init" "$root/init"
chmod 755 "$root/init"

# Nothing is in it if the kernel has them built in.
: >"$root/modules/order"
for module in virtio_blk ext4; do
	modprobe -d /build/kernel/pkg/usr -S "$release" --show-depends "$module"
done | while read -r verb path _; do
	[ "$verb" = insmod ] || continue
	name=$(basename "${path%.xz}")
	[ -e "$root/modules/$name" ] && continue
	# Unpacked here: decompressing in an emulated guest takes longer than reading.
	xz -dc "$path" >"$root/modules/$name"
	echo "$name" >>"$root/modules/order"
done
cd "$root"
find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 >"$output"
