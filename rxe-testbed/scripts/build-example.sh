# SPDX-License-Identifier: GPL-2.0
# Builds the example in /build/example as its user does, with make and libibverbs-dev.
#
#   build-example.sh          (in the chroot)
set -eu
work=$(mktemp -d)
cd "$work"
apt-get -q -y -o APT::Sandbox::User=root download libibverbs-dev
dpkg-deb -x libibverbs-dev_*.deb .
ln -sf /usr/lib/x86_64-linux-gnu/libibverbs.so.1 usr/lib/x86_64-linux-gnu/libibverbs.so
make -C /build/example CC=gcc-14 CPPFLAGS="-I$work/usr/include" LDFLAGS="-L$work/usr/lib/x86_64-linux-gnu"
