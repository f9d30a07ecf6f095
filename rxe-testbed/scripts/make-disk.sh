# SPDX-License-Identifier: GPL-2.0
# Makes a disk image with one partition, which a PC's BIOS boots from, of a directory.
#
#   make-disk.sh LABEL GIGABYTES          (in the chroot)
#
# /build/out/root is the directory, /build/tools has GRUB, sfdisk and qemu-img. Leaves /build/out/disk.qcow2.
set -eu
label=$1 gigabytes=$2
root=/build/out/root disk=/build/out/disk.raw
tools=/build/tools/usr
grub=$tools/lib/grub/i386-pc
PATH=$tools/bin:$tools/sbin:$PATH
export LD_LIBRARY_PATH=$tools/lib/x86_64-linux-gnu

echo "making the file system"
# The partition begins after 1 MiB, the first of which is the boot loader's.
truncate -s "${gigabytes}G" $disk
mke2fs -q -t ext4 -L "$label" -m 1 -E offset=$((1 << 20)) -d $root $disk "$(((gigabytes << 20) - 1024))k"
echo '2048,,L,*' | sfdisk -q --label dos $disk

echo "making it boot"
grub-mkimage -O i386-pc -d $grub -p '(,msdos1)/boot/grub' -o /build/out/core.img biosdisk part_msdos ext2 normal linux
# The first sector's code reads the next ones. After it there is the table of partitions.
dd if=$grub/boot.img of=$disk bs=440 count=1 conv=notrunc status=none
dd if=/build/out/core.img of=$disk bs=512 seek=1 conv=notrunc status=none

echo "packing it"
# zstd, as each read unpacks a whole cluster; QEMU has it from 5.1 on.
qemu-img convert -c -f raw -O qcow2 -o compression_type=zstd $disk /build/out/disk.qcow2
rm $disk
