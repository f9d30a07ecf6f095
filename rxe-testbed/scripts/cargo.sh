# SPDX-License-Identifier: GPL-2.0
# Runs the chroot's cargo on the repository, with crates that the host has fetched.
#
#   cargo.sh ARGUMENTS...          (in the chroot)
set -eu
# The host's crates, but not the programs in its cargo home, nor its settings: those are for its
# own toolchain. Only a replaced crates.io has to be known here too.
export CARGO_HOME=/tmp/cargo CARGO_TARGET_DIR=/build/target CARGO_TERM_COLOR=never
mkdir $CARGO_HOME
ln -s /build/cargo/registry /build/cargo/git $CARGO_HOME/
if grep -qs '^\[source' /build/cargo/config.toml; then
	cp /build/cargo/config.toml $CARGO_HOME/
fi
cd /build/repository
exec /usr/bin/cargo "$@"
