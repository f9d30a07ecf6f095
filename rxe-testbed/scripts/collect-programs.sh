# SPDX-License-Identifier: GPL-2.0
# Takes those of the built programs that exist to /build/out, stripped.
#
#   collect-programs.sh PROGRAM...          (in the chroot)
set -eu
mkdir -p /build/out/bin
for program; do
	if [ -x "/build/target/release/$program" ]; then
		install -s "/build/target/release/$program" /build/out/bin/
	fi
done
# A benchmark's file has a name that ends with a hash.
benchmark=$(find /build/target/release/deps -name 'access-*' -type f -executable)
install -s "$benchmark" /build/out/bin/odp-criterion
# The names of the tests are wanted before a VM is booted.
if [ -x /build/out/bin/odp-test ]; then
	/build/out/bin/odp-test --list >/build/out/tests
fi
if [ -x /build/out/bin/hmm-mirror ]; then
	/build/out/bin/hmm-mirror --list >/build/out/mirror
fi
