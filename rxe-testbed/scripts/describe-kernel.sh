# SPDX-License-Identifier: GPL-2.0
# Has the kernel describe its Rust crates as rust-analyzer wants it.
#
#   describe-kernel.sh RELEASE COMPILER FILE          (in the chroot)
set -eu
cd /build/kernel/tree
make -s KERNELRELEASE="$1" CC="$2" rust-analyzer
mv rust-project.json "$3"
