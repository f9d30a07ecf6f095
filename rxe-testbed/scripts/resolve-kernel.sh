# SPDX-License-Identifier: GPL-2.0
# Prints, in the chroot, the package index entries from which the kernel version is chosen.
#
#   resolve-kernel.sh FLAVOUR UPDATE
set -eu
flavour=$1 update=$2

if [ "$update" = yes ]; then
	apt-get -q -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o APT::Update::Error-Mode=any \
		-o Acquire::Check-Valid-Until=false update >&2
fi
headers=$(apt-cache pkgnames linux-headers- | grep -E "^linux-headers-[0-9.]+\+[^-]+-$flavour\$" || true)
sources=$(apt-cache pkgnames linux-source- | grep -E '^linux-source-[0-9]+\.[0-9]+$' || true)
# shellcheck disable=SC2086 # one word per package
apt-cache show --all-versions $headers $sources 2>/dev/null || true
