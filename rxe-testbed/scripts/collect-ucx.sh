# SPDX-License-Identifier: GPL-2.0
# Unpacks UCX as the chroot's suite has it in /build/out, with the libraries that the guest lacks.
#
#   collect-ucx.sh PACKAGE...          (in the chroot)
set -eu
cd /build/out
apt-get -q -y -o APT::Sandbox::User=root download "$@"
for deb in *.deb; do
	dpkg-deb -x "$deb" .
done
rm -rf ./*.deb usr/share etc
