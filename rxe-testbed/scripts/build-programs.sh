# Builds userspace-bench with the chroot's cargo, from crates that the host has fetched.
#
#   build-programs.sh PROGRAM...          (in the chroot)
#
# Leaves those of the programs that exist in /build/out.
set -eu
export CARGO_HOME=/build/cargo CARGO_TARGET_DIR=/build/target
cd /build/repository/userspace-bench
/usr/bin/cargo build --release --locked --offline --bins
for program; do
	if [ -x "/build/target/release/$program" ]; then
		install -s "/build/target/release/$program" /build/out/
	fi
done
