# SPDX-License-Identifier: GPL-2.0
# Makes depmod's index of the stock modules with ours in `updates`, which take precedence.
#
#   index-modules.sh RELEASE          (in the chroot; ours are in /build/out/updates)
set -eu
release=$1
base=$(mktemp -d)
modules=$base/lib/modules/$release
mkdir -p "$modules" /build/out/index
stock=/build/kernel/pkg/usr/lib/modules/$release
ln -s "$stock/kernel" "$modules/kernel"
ln -s /build/out/updates "$modules/updates"
cp "$stock/modules.order" "$stock"/modules.builtin "$stock"/modules.builtin.modinfo "$modules/"
strip --strip-debug /build/out/updates/*.ko
depmod -b "$base" "$release"
cp "$modules"/modules.dep "$modules"/modules.*.bin /build/out/index/
grep '^updates/' /build/out/index/modules.dep
