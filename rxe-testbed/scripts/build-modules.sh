# SPDX-License-Identifier: GPL-2.0
# Builds the staged modules out of tree, or checks them with clippy.
#
#   build-modules.sh RELEASE COMPILER JOBS modules|clippy          (in the chroot)
set -eu
release=$1 compiler=$2 jobs=$3 target=$4
case $target in
modules) check= ;;
clippy) check=CLIPPY=1 ;;
esac
exec make -s -C /build/kernel/tree -j"$jobs" M=/build/modules KERNELRELEASE="$release" \
	CC="$compiler" $check modules
