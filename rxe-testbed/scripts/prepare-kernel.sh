# SPDX-License-Identifier: GPL-2.0
# Downloads Debian's kernel packages and prepares their source tree for building modules.
#
#   prepare-kernel.sh SERIES RELEASE VERSION JOBS          (in the chroot)
#
# Leaves in /build/kernel:
#   pkg/   the unpacked packages: vmlinuz, the modules and their depmod index
#   tree/  linux-source, configured as the packaged kernel, Rust metadata rebuilt
set -eu
series=$1 release=$2 version=$3 jobs=$4
out=/build/kernel
mkdir -p $out/pkg $out/tree $out/dl
cd $out/dl

echo "downloading linux $version"
apt-get -q -y -o APT::Sandbox::User=root download \
	"linux-source-$series=$version" "linux-headers-$release=$version" \
	"linux-modules-$release=$version" "linux-base-$release=$version" \
	"linux-binary-$release=$version"

echo "unpacking the packages"
for deb in linux-headers-* linux-modules-* linux-base-* linux-binary-*; do
	dpkg-deb -x "$deb" $out/pkg
done
depmod -b $out/pkg/usr "$release"

echo "unpacking the source"
dpkg-deb --fsys-tarfile linux-source-* | tar -xf - -O --wildcards "./usr/src/linux-source-$series.tar.*" |
	xz -dc -T0 | tar -xf - -C $out/tree --strip-components=1
rm -rf $out/dl

echo "configuring"
headers=$out/pkg/usr/src/linux-headers-$release
cp "$headers/.config" "$headers/Module.symvers" $out/tree/
cd $out/tree
kmake() {
	make -j"$jobs" KERNELRELEASE="$release" CC=x86_64-linux-gnu-gcc-14 "$@"
}
kmake olddefconfig
for symbol in RUST MMU_NOTIFIER HMM_MIRROR INFINIBAND_ON_DEMAND_PAGING; do
	grep -q "^CONFIG_$symbol=y" .config || {
		echo "E: CONFIG_$symbol is lost: the chroot's tools do not fit this kernel"
		exit 1
	}
done
grep -q '^CONFIG_RDMA_RXE=m' .config || {
	echo "E: this kernel has no rdma_rxe module"
	exit 1
}

echo "building the tools and the Rust metadata"
kmake prepare modules_prepare
