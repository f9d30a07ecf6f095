# Builds or checks userspace-bench with the chroot's cargo, from crates that the host has fetched.
#
#   build-programs.sh build PROGRAM...    leaves those that exist in /build/out/bin
#   build-programs.sh clippy
#   build-programs.sh test ARGUMENTS...   runs its tests, with these arguments for `cargo test`
set -eu
# The host's crates, but not the programs in its cargo home, nor its settings: those are for its
# own toolchain. Only a replaced crates.io has to be known here too.
export CARGO_HOME=/tmp/cargo CARGO_TARGET_DIR=/build/target
mkdir $CARGO_HOME
ln -s /build/cargo/registry /build/cargo/git $CARGO_HOME/
if grep -qs '^\[source' /build/cargo/config.toml; then
	cp /build/cargo/config.toml $CARGO_HOME/
fi
cd /build/repository/userspace-bench
task=$1
shift
case $task in
clippy) exec /usr/bin/cargo clippy --locked --offline --all-targets -- -D warnings ;;
test) exec /usr/bin/cargo test --locked --offline "$@" ;;
esac
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
