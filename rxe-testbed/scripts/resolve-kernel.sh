# Prints, in the chroot, the package index entries from which the kernel version is chosen.
#
#   resolve-kernel.sh SERIES FLAVOUR UPDATE
set -eu
series=$1 flavour=$2 update=$3

if [ "$update" = yes ]; then
	apt-get -q -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o APT::Update::Error-Mode=any \
		-o Acquire::Check-Valid-Until=false update >&2
fi
names=$(apt-cache pkgnames linux-headers-"$series". | grep -E "^linux-headers-[0-9.]+\+[^-]+-$flavour\$" || true)
# shellcheck disable=SC2086 # one word per package
apt-cache show --all-versions "linux-source-$series" $names 2>/dev/null || true
