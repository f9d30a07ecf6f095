#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Builds the modules in this folder for an installed Debian kernel. DKMS calls it.
#
#   build-for-kernel --check RELEASE   says what keeps them from being built for it, with exit status 77: DKMS then
#                                      leaves this kernel alone, and the kernel's installation goes on
#   build-for-kernel RELEASE           builds them
#   build-for-kernel --clean           forgets the prepared trees of kernels that have gone
set -eu
# The compilers have to be Debian's, whatever else root has.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
cache=/var/cache/hmm-odp

refuse() {
	echo "hmm-odp: not built for $release: $*; then: dkms autoinstall -k $release" >&2
	exit 77
}

# A string or a number of the kernel's configuration.
setting() { # NAME
	sed -n "s/^CONFIG_$1=\"\{0,1\}\([^\"]*\).*/\1/p" "$headers/.config"
}

# The version of the source that an installed package was made from.
source_version() { # PACKAGE
	dpkg-query -W -f '${db:Status-Status} ${source:Version}\n' "$1" 2>/dev/null |
		sed -n 's/^\(installed\|unpacked\|half-configured\|triggers-[a-z]*\) //p'
}

# 1.85.1 as the kernel writes it: 108501.
rust_number() {
	rustc --version 2>/dev/null |
		sed -n 's/^rustc \([0-9]*\)\.\([0-9]*\)\.\([0-9]*\).*/\1 \2 \3/p' |
		while read -r major minor patch; do
			echo $((major * 100000 + minor * 100 + patch))
		done
}

# Source, compiler and rustc have to be those of the kernel, or the modules do not fit it.
check() {
	[ -e "$headers/.config" ] || refuse "apt install linux-headers-$release"
	wanted=$(source_version "linux-headers-$release")
	found=$(source_version "linux-source-$series")
	[ "$wanted" = "$found" ] ||
		refuse "it is linux $wanted, and linux-source-$series is ${found:-not installed}: apt install linux-source-$series=$wanted"
	compiler=$(setting CC_VERSION_TEXT)
	compiler=${compiler%% *}
	command -v "$compiler" >/dev/null ||
		refuse "its compiler $compiler is not installed: apt install ${compiler#x86_64-linux-gnu-}"
	[ "$(rust_number)" = "$(setting RUSTC_VERSION)" ] ||
		refuse "it was built by $(setting RUSTC_VERSION_TEXT | cut -d' ' -f1,2), and this is $(rustc --version | cut -d' ' -f1,2): install that rustc"
}

make_kernel() {
	make -C "$tree" -j"$(nproc)" KERNELRELEASE="$release" CC="$compiler" "$@"
}

# Makes of the kernel's source what Debian's headers lack: a tree with what its crates in Rust compile to.
prepare() {
	rm -rf "$tree"
	mkdir -p "$tree"
	tar -xf "$(ls "/usr/src/linux-source-$series".tar.* | head -n 1)" -C "$tree" --strip-components=1
	cp "$headers/.config" "$headers/Module.symvers" "$tree/"
	make_kernel olddefconfig
	if ! grep -q '^CONFIG_RUST=y' "$tree/.config"; then
		echo "hmm-odp: bindgen or rust-src do not fit linux $wanted" >&2
		exit 1
	fi
	make_kernel prepare modules_prepare
	kernel_types || echo "hmm-odp: the modules get no type information (BTF)"
	echo "$wanted" >"$tree/prepared"
}

# Kbuild describes the modules' types in terms of the kernel's, which it takes from where the kernel's build would have
# left vmlinux.
kernel_types() {
	if [ "$(uname -r)" = "$release" ] && [ -r /sys/kernel/btf/vmlinux ]; then
		cp /sys/kernel/btf/vmlinux "$tree/vmlinux"
		return
	fi
	for image in "/usr/lib/modules/$release/vmlinuz" "/boot/vmlinuz-$release"; do
		[ -r "$image" ] || continue
		sh "$tree/scripts/extract-vmlinux" "$image" >"$tree/vmlinux.elf" &&
			objcopy -O binary --only-section=.BTF "$tree/vmlinux.elf" "$tree/vmlinux.types" &&
			[ -s "$tree/vmlinux.types" ] && mv "$tree/vmlinux.types" "$tree/vmlinux"
		rm -f "$tree/vmlinux.elf" "$tree/vmlinux.types"
		break
	done
	[ -e "$tree/vmlinux" ]
}

clean() {
	for prepared in "$cache"/*/; do
		[ -e "$prepared" ] || continue
		[ -e "/usr/src/linux-headers-$(basename "$prepared")/.config" ] || rm -rf "$prepared"
	done
	rmdir "$cache" 2>/dev/null || true
}

case $1 in
--clean)
	clean
	exit
	;;
--check) release=$2 ;;
*) release=$1 ;;
esac
series=$(echo "$release" | cut -d . -f 1,2)
headers=/usr/src/linux-headers-$release
tree=$cache/$release
check
[ "$1" != --check ] || exit 0
clean
if [ ! -e "$tree/prepared" ] || [ "$(cat "$tree/prepared")" != "$wanted" ]; then
	prepare
fi
make_kernel M="$PWD" ODP_MODULES="hmm mlx_odp rdma_rxe" modules
