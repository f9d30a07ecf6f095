# SPDX-License-Identifier: GPL-2.0
# Builds the example in /build/example as its user does, with make and libibverbs-dev, which is unpacked in /build/libibverbs.
#
#   build-example.sh          (in the chroot)
set -eu
# The library itself is the chroot's: the package's link leads nowhere where it is unpacked.
library=$(mktemp -d)
ln -s /usr/lib/x86_64-linux-gnu/libibverbs.so.1 "$library/libibverbs.so"
make -C /build/example CC=gcc-14 CPPFLAGS=-I/build/libibverbs/usr/include LDFLAGS="-L$library"
