# SPDX-License-Identifier: GPL-2.0
# Has a Debian root with a kernel's headers do what a machine does with hmm-odp-dkms, from installing it to removing it.
#
#   build-by-dkms.sh RELEASE          (in that root)
#
# Reads /build/packages and the kernel's image in /build/kernel; leaves the modules in /build/out.
set -eu
release=$1
series=$(echo "$release" | cut -d . -f 1,2)
modules=/usr/lib/modules/$release
version=$(dpkg-deb -f /build/packages/hmm-odp-dkms_*.deb Version)
log=/var/lib/dkms/hmm-odp/$version/build/make.log

fail() {
	echo "E: $*" >&2
	exit 1
}

apt() {
	apt-get -q -y -o APT::Sandbox::User=root "$@"
}

cp /build/kernel/vmlinuz "$modules/"
apt install --no-install-recommends /build/packages/hmm-odp-dkms_*.deb
dkms status
for module in hmm mlx_odp rdma_rxe; do
	cp "$modules/updates/dkms/$module.ko.xz" /build/out/ || fail "DKMS has not installed $module"
done

echo "without the kernel's source it is left alone, and nothing fails"
dkms unbuild "hmm-odp/$version" -k "$release"
[ ! -e "$modules/updates/dkms/hmm.ko.xz" ] || fail "DKMS leaves modules"
[ -e "/var/cache/hmm-odp/$release/prepared" ] || fail "the prepared tree is gone with the modules"
dpkg --force-depends --remove "linux-source-$series"
dkms autoinstall -k "$release" || fail "a kernel without its source fails: $?"
grep -q "apt install linux-source-$series=" "$log" || fail "$(cat "$log")"

echo "removed, it leaves nothing"
dpkg --force-depends --remove hmm-odp-dkms
left=$(find "$modules/updates" /var/lib/dkms/hmm-odp /var/cache/hmm-odp /usr/src/hmm-odp-* -type f 2>/dev/null || true)
[ -z "$left" ] || fail "left: $left"
