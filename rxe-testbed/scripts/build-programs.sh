# Builds or checks userspace-bench with the chroot's cargo, from crates that the host has fetched.
#
#   build-programs.sh build PROGRAM...    leaves those that exist in /build/out/bin
#   build-programs.sh clippy
set -eu
export CARGO_HOME=/build/cargo CARGO_TARGET_DIR=/build/target
cd /build/repository/userspace-bench
if [ "$1" = clippy ]; then
	exec /usr/bin/cargo clippy --locked --offline --all-targets -- -D warnings
fi
shift
/usr/bin/cargo build --release --locked --offline --bins
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
