# SPDX-License-Identifier: GPL-2.0
# Builds the debug kernel from the stock kernel's source tree, with a configuration of its own.
#
#   build-debug-kernel.sh RELEASE JOBS CONFIG          (in the chroot)
#
# CONFIG is the text of the configuration. The stock kernel is in /build/stock. Leaves in /build/kernel, as
# prepare-kernel.sh does for the stock kernel:
#   pkg/     vmlinuz, the modules and their depmod index
#   tree/    what building modules takes
#   clang/   the compiler: the kernel has KASAN and Rust together only with it
set -eu
release=$1 jobs=$2 config=$3
out=/build/kernel
modules=$out/pkg/usr/lib/modules/$release
mkdir -p $out/clang $out/dl "$modules"

echo "downloading clang"
cd $out/dl
# Of the version whose libraries the chroot has for bindgen.
version=$(dpkg-query -f '${Version}' -W libclang-19-dev)
apt-get -q -y -o APT::Sandbox::User=root download "clang-19=$version" "libclang-cpp19=$version"
for deb in *.deb; do
	dpkg-deb -x "$deb" $out/clang
done
rm -rf $out/dl

echo "copying the source"
cp -a /build/stock/tree $out/tree
cd $out/tree
kmake() {
	make -j"$jobs" KERNELRELEASE="$release" CC=$out/clang/usr/bin/clang-19 "$@"
}
kmake mrproper

echo "configuring"
printf '%s' "$config" >.config
kmake olddefconfig
lost=
while read -r line; do
	case $line in
	CONFIG_*) grep -qxF -- "$line" .config || lost="$lost ${line%%=*}" ;;
	'# CONFIG_'*' is not set')
		symbol=${line#'# '}
		symbol=${symbol%% *}
		! grep -q "^$symbol=" .config || lost="$lost $symbol"
		;;
	esac
done <<<"$config"
[ -z "$lost" ] || {
	echo "E: the configuration of the debug kernel is not what was asked for, look at:$lost"
	exit 1
}

echo "compiling"
kmake bzImage modules
kmake INSTALL_MOD_PATH=$out/pkg/usr INSTALL_MOD_STRIP=1 modules_install
rm -f "$modules/build"
cp arch/x86/boot/bzImage "$modules/vmlinuz"
cp System.map "$modules/"

echo "tidying up"
# Building modules takes the headers, the makefiles, the sources of rxe, and the results in three directories.
rm -rf vmlinux* .tmp_vmlinux* arch/x86/boot Documentation sound
find arch -mindepth 1 -maxdepth 1 -type d ! -name x86 -exec rm -r {} +
find drivers -mindepth 1 -maxdepth 1 -type d ! -name infiniband -exec rm -r {} +
find . \( -path ./scripts -o -path ./tools -o -path ./rust \) -prune -o -type f \
	\( -name '*.o' -o -name '*.a' -o -name '*.ko' -o -name '*.mod' -o -name '*.mod.c' -o -name '.*.cmd' \) \
	-exec rm {} +
