# SPDX-License-Identifier: GPL-2.0
# Builds the staged modules out of tree.
#
#   build-modules.sh RELEASE COMPILER JOBS WITHOUT          (in the chroot)
set -eu
release=$1 compiler=$2 jobs=$3 without=$4
tree=/build/kernel/tree

# Takes the kernel's own type information out of Debian's image: Kbuild describes modules in its terms if it lies
# where the kernel's build would have left vmlinux. The boot protocol says where the packed kernel begins and how
# long it is; its last four bytes are the size of what is in it.
kernel_types() {
	local work
	work=$(mktemp -d)
	python3 - "$1" "$work" <<'EOT'
import struct, sys
image = open(sys.argv[1], "rb").read()
offset, length = struct.unpack_from("<II", image, 0x248)
begin = (image[0x1F1] + 1) * 512 + offset
packed = image[begin : begin + length - 4]
endings = {b"\x28\xb5\x2f\xfd": "zst", b"\xfd7zX": "xz"}
if image[0x202:0x206] != b"HdrS" or packed[:4] not in endings:
    sys.exit("E: the kernel's image is packed in an unknown way")
open(f"{sys.argv[2]}/kernel.{endings[packed[:4]]}", "wb").write(packed)
EOT
	/usr/lib/apt/apt-helper cat-file "$work"/kernel.* >"$work/vmlinux"
	objcopy -O binary --only-section=.BTF "$work/vmlinux" "$work/types"
	[ -s "$work/types" ]
	cp "$work/types" "$2.new"
	mv "$2.new" "$2"
	rm -r "$work"
}
if [ ! -e $tree/vmlinux ] &&
	grep -q '^CONFIG_DEBUG_INFO_BTF_MODULES=y' $tree/.config; then
	kernel_types "/build/kernel/pkg/usr/lib/modules/$release/vmlinuz" $tree/vmlinux
	# Kbuild describes only what it links.
	find /build/modules -name '*.ko' -delete
fi

exec make -s -C $tree -j"$jobs" M=/build/modules KERNELRELEASE="$release" CC="$compiler" \
	ODP_WITHOUT="$without" modules
