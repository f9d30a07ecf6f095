# SPDX-License-Identifier: GPL-2.0
# Unpacks packages as the chroot's suite has them in /build/out, without what is for people.
#
#   unpack-packages.sh PACKAGE...          (in the chroot)
set -eu
cd /build/out
apt-get -q -y -o APT::Sandbox::User=root download "$@"
for deb in *.deb; do
	dpkg-deb -x "$deb" .
done
rm -rf ./*.deb usr/share etc
