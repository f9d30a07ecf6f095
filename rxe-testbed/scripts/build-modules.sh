# Builds the staged modules out of tree, or checks them with clippy.
#
#   build-modules.sh RELEASE JOBS modules|clippy          (in the chroot)
set -eu
release=$1 jobs=$2 target=$3
case $target in
modules) check= ;;
clippy) check=CLIPPY=1 ;;
esac
exec make -s -C /build/kernel/tree -j"$jobs" M=/build/modules KERNELRELEASE="$release" \
	CC=x86_64-linux-gnu-gcc-14 $check modules
