# SPDX-License-Identifier: GPL-2.0
# Builds the driver in /build/driver on hmm, which has been built in /build/modules.
#
#   build-driver.sh RELEASE COMPILER JOBS          (in the chroot)
set -eu
exec make -s -C /build/kernel/tree -j"$3" M=/build/driver HMM=/build/modules \
	KBUILD_EXTRA_SYMBOLS=/build/modules/Module.symvers KERNELRELEASE="$1" CC="$2" modules
