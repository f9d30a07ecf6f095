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
# The names of the tests are wanted before a VM is booted.
if [ -x /build/out/bin/odp-test ]; then
	/build/out/bin/odp-test --list >/build/out/tests
fi
if [ -x /build/out/bin/hmm-mirror ]; then
	/build/out/bin/hmm-mirror --list >/build/out/mirror
fi
