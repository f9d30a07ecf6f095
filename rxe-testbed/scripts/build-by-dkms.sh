# SPDX-License-Identifier: GPL-2.0
# Has a Debian root with a kernel's headers do what a machine does with hmm-odp-dkms, from installing it to removing it.
#
#   build-by-dkms.sh RELEASE          (in that root)
#
# Reads /build/packages, the kernel's image in /build/kernel and its own modules in /build/own; leaves the modules in
# /build/out.
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

# What modprobe would load.
expect() { # FILE
	local found
	found=$(modinfo -k "$release" -n rdma_rxe)
	[ "${found#*"/$release/"}" = "$1" ] || fail "modprobe would load $found, not $1"
}

# DKMS has to have given back the kernel's own module.
expect_own() {
	cmp "/build/own/$own" "$modules/$own" || fail "DKMS has not given back $own"
	expect "$own"
}

# What DKMS goes by on a machine that has this kernel: it packs modules as the kernel's own are packed, brings up to date
# the index of a kernel that has one, and puts away the module that it replaces. The kernel's other modules are nothing to
# it.
own=$(cd /build/own && find kernel -name 'rdma_rxe.ko.xz')
[ -n "$own" ] || fail "the kernel has no rdma_rxe.ko.xz"
mkdir -p "$modules/${own%/*}"
cp "/build/own/$own" "$modules/$own"
cp /build/own/modules.order /build/own/modules.builtin /build/own/modules.builtin.modinfo /build/kernel/vmlinuz "$modules/"
depmod "$release"
expect "$own"

apt install --no-install-recommends /build/packages/hmm-odp-dkms_*.deb
dkms status
for module in hmm mlx_odp rdma_rxe; do
	cp "$modules/updates/dkms/$module.ko.xz" /build/out/ || fail "DKMS has not installed $module"
done
expect updates/dkms/rdma_rxe.ko.xz
[ ! -e "$modules/$own" ] || fail "DKMS has not put away $own"
find "/var/lib/dkms/hmm-odp/original_module/$release" -name rdma_rxe.ko.xz | grep . ||
	fail "DKMS has lost $own"

echo "without the kernel's source it is left alone, and nothing fails"
dkms unbuild "hmm-odp/$version" -k "$release"
[ ! -e "$modules/updates/dkms/hmm.ko.xz" ] || fail "DKMS leaves modules"
expect_own
[ -e "/var/cache/hmm-odp/$release/prepared" ] || fail "the prepared tree is gone with the modules"
dpkg --force-depends --remove "linux-source-$series"
dkms autoinstall -k "$release" || fail "a kernel without its source fails: $?"
grep -q "apt install linux-source-$series=" "$log" || fail "$(cat "$log")"
expect_own

echo "removed, it leaves nothing"
dpkg --force-depends --remove hmm-odp-dkms
expect_own
left=$(find "$modules/updates" /var/lib/dkms/hmm-odp /var/cache/hmm-odp /usr/src/hmm-odp-* -type f 2>/dev/null || true)
[ -z "$left" ] || fail "left: $left"
