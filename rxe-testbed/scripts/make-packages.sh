# SPDX-License-Identifier: GPL-2.0
# Makes Debian packages of the modules and of the programs.
#
#   make-packages.sh VERSION RELEASE MAINTAINER TIME BUILD SERIES…          (in the chroot)
#
# Reads /build/modules, /build/programs and /build/repository; leaves the packages in /build/out. TIME, in seconds since
# 1970, is the latest that a file in them has. BUILD is the text of the script that builds the modules where they are
# installed as sources, and SERIES the kernels that they are made for.
set -eu
version=$1 release=$2 maintainer=$3 build=$5
export SOURCE_DATE_EPOCH=$4
shift 5
work=$(mktemp -d)
umask 022

# Prints the licence of everything but what was kept of the kernel's files.
licence() {
	cat <<-EOT
		Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
		Upstream-Name: hmm-odp

		Files: *
		Copyright: 2026, the authors of hmm-odp
		License: GPL-2
	EOT
	[ "$1" != modules ] || cat <<-EOT

		Files: usr/lib/modules/*/updates/hmm-odp/rdma_rxe.ko.xz
		Copyright: 2016, Mellanox Technologies Ltd.
		 2015, System Fabric Works, Inc.
		 the authors of Linux and of hmm-odp
		License: GPL-2
		Comment: The kernel's own soft-RoCE, with two of its objects replaced.
	EOT
	cat <<-EOT

		License: GPL-2
		 On Debian systems, the whole text of version 2 of the GNU General Public License
		 is in /usr/share/common-licenses/GPL-2.
	EOT
}

# Prints what Debian's tools take for the list of changes; the one for people is beside it.
changelog() {
	cat <<-EOT
		hmm-odp ($version) unstable; urgency=medium

		  * The changes are in CHANGELOG.md.gz, beside this file.

		 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
	EOT
}

# Packs $work/NAME, whose control file comes on the standard input without what all packages have.
pack() { # NAME modules|sources|programs
	local root=$work/$1 doc=$work/$1/usr/share/doc/$1
	mkdir -p "$root/DEBIAN" "$doc"
	licence "$2" >"$doc/copyright"
	changelog | gzip -9n >"$doc/changelog.gz"
	gzip -9n </build/repository/CHANGELOG.md >"$doc/CHANGELOG.md.gz"
	{
		cat <<-EOT
			Package: $1
			Source: hmm-odp
			Version: $version
			Architecture: $([ "$2" = sources ] && echo all || echo amd64)
			Maintainer: $maintainer
			Section: $([ "$2" = programs ] && echo net || echo kernel)
			Priority: optional
			Installed-Size: $(du -sk "$root" | cut -f1)
		EOT
		cat
	} >"$root/DEBIAN/control"
	(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
	dpkg-deb --root-owner-group --build "$root" /build/out >/dev/null
}

# A script of a package's, which comes on the standard input.
script() { # FILE
	{
		printf '#!/bin/sh\nset -e\n'
		cat
	} >"$1"
	chmod 755 "$1"
}

modules=hmm-odp-modules-$release
updates=$work/$modules/usr/lib/modules/$release/updates/hmm-odp
mkdir -p "$updates" "$work/$modules/DEBIAN"
for module in hmm mlx_odp rdma_rxe; do
	cp "/build/modules/$module.ko" "$updates/"
	strip --strip-debug "$updates/$module.ko"
	xz --check=crc32 "$updates/$module.ko"
done
script "$work/$modules/DEBIAN/postinst" <<EOT
if [ "\$1" = configure ] && [ -d /usr/lib/modules/$release ]; then
    depmod $release
fi
if [ "\$(cat /sys/module/module/parameters/sig_enforce 2>/dev/null)" = Y ] ||
    grep -q '\[\(integrity\|confidentiality\)\]' /sys/kernel/security/lockdown 2>/dev/null; then
    echo "$modules: this kernel loads signed modules only (Secure Boot?), and these are not signed: see README.Debian in /usr/share/doc/$modules"
fi
EOT
script "$work/$modules/DEBIAN/postrm" <<EOT
if [ "\$1" = remove ] && [ -d /usr/lib/modules/$release ]; then
    depmod $release
fi
EOT
mkdir -p "$work/$modules/usr/share/doc/$modules"
cat >"$work/$modules/usr/share/doc/$modules/README.Debian" <<EOT
The modules of this package are not signed. A kernel that loads signed modules only,
as with Secure Boot, refuses them: "Key was rejected by service". Either

 - sign them with a key that the firmware knows (mokutil --import), and compress
   them again:

     cd /usr/lib/modules/$release/updates/hmm-odp
     unxz *.xz
     for module in *.ko; do
       /usr/src/linux-headers-$release/scripts/sign-file sha256 KEY CERTIFICATE \$module
     done
     xz --check=crc32 *.ko
     depmod $release

 - or install hmm-odp-dkms instead: DKMS signs what it builds with the machine's own
   key, /var/lib/dkms/mok.key, once that is enrolled (mokutil --import
   /var/lib/dkms/mok.pub);

 - or switch Secure Boot off.

When this package is removed, modprobe finds Debian's own soft-RoCE again, which is
signed.
EOT
pack "$modules" modules <<EOT
Depends: kmod, linux-modules-$release
Provides: hmm-odp-modules (= $version)
Conflicts: hmm-odp-dkms
Description: on-demand paging for soft-RoCE, for Linux $release
 Heterogeneous memory management in Rust (hmm.ko), on-demand paging on top of it
 (mlx_odp.ko), and the kernel's soft-RoCE with both (rdma_rxe.ko): explicit and
 implicit ODP, memory windows, prefetch, and faults that hold nobody up.
 .
 They are found before the kernel's own module of the same name, which is used
 again once this package is removed. They are not signed: a kernel that loads
 signed modules only, as with Secure Boot, refuses them.
EOT

# The modules as sources, which DKMS builds for each kernel.
sources=$work/hmm-odp-dkms/usr/src/hmm-odp-$version
mkdir -p "$sources" "$work/hmm-odp-dkms/DEBIAN"
(cd /build/repository && cp -r --parents Kbuild hmm/core hmm/kernel mlx-odp/core mlx-odp/kernel mlx-odp/nic "$sources")
find "$sources" \( -name tests -o -name tests.rs -o -type l \) -prune -exec rm -r {} +
printf '%s' "$build" >"$sources/build-for-kernel"
chmod 755 "$sources/build-for-kernel"
{
	cat <<-EOT
		PACKAGE_NAME="hmm-odp"
		PACKAGE_VERSION="$version"
		BUILD_EXCLUSIVE_KERNEL="^($(printf '%s|' "$@" | sed 's/|$//; s/\./\\./g'))\."
		BUILD_EXCLUSIVE_CONFIG="CONFIG_RUST CONFIG_HMM_MIRROR CONFIG_INFINIBAND_ON_DEMAND_PAGING"
		PRE_BUILD="build-for-kernel --check \$kernelver"
		MAKE[0]="./build-for-kernel \$kernelver"
		POST_REMOVE="build-for-kernel --clean"
		AUTOINSTALL="yes"
	EOT
	number=0
	for module in hmm mlx_odp rdma_rxe; do
		echo "BUILT_MODULE_NAME[$number]=\"$module\""
		echo "DEST_MODULE_LOCATION[$number]=\"/updates/dkms\""
		number=$((number + 1))
	done
} >"$sources/dkms.conf"
script "$work/hmm-odp-dkms/DEBIAN/postinst" <<EOT
if [ "\$1" = configure ]; then
    /usr/lib/dkms/common.postinst hmm-odp $version "" "" "\$2"
fi
EOT
script "$work/hmm-odp-dkms/DEBIAN/prerm" <<EOT
if dkms status -m hmm-odp -v $version | grep -q .; then
    dkms remove -m hmm-odp -v $version --all
fi
EOT
script "$work/hmm-odp-dkms/DEBIAN/postrm" <<EOT
if [ "\$1" = remove ] || [ "\$1" = purge ]; then
    rm -rf /var/cache/hmm-odp
fi
EOT
# The newest first, which is what apt takes if the metapackage is too old. The metapackage brings a new kernel's source
# along with the kernel.
kernel_sources="linux-source (>= $1)"
for series in $(printf '%s\n' "$@" | sort -rV); do
	kernel_sources="$kernel_sources | linux-source-$series"
done
pack hmm-odp-dkms sources <<EOT
Depends: dkms (>= 3.2), $kernel_sources, bc, bindgen, bison, flex, libelf-dev, libssl-dev, make, pahole, rust-src, rustc, xz-utils, zstd
Provides: hmm-odp-modules (= $version)
Description: on-demand paging for soft-RoCE, as sources for DKMS
 Heterogeneous memory management in Rust (hmm.ko), on-demand paging on top of
 it (mlx_odp.ko), and the kernel's soft-RoCE with both (rdma_rxe.ko), built for
 each installed kernel of the series $*.
 .
 Debian's kernel headers lack what modules in Rust need: it is made from the
 kernel's source package, once for each release, which takes some minutes and
 2 GB in /var/cache/hmm-odp. A kernel for which its source, its compiler or its
 rustc is not installed is left alone, and keeps its own soft-RoCE. Where the
 modules are installed, DKMS puts the kernel's own rdma_rxe away, and gives it
 back when they are removed.
EOT

# Prints what has the libraries that the programs of a folder are linked to, as Depends.
libraries() { # FOLDER
	local needed library package
	needed=$(for program in "$1"/*; do readelf -d "$program"; done | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u)
	for library in $needed; do
		package=$(dpkg-query -S "*/$library" 2>/dev/null | head -n 1 | cut -d: -f1)
		[ -n "$package" ] || {
			echo "E: no package has $library" >&2
			exit 1
		}
		dpkg-query -W -f '${Package} (>= ${source:Upstream-Version})\n' "$package"
	done | sort -u | paste -sd, | sed 's/,/, /g'
}

# Prints a manual page of a program that has none of its own: what it says of itself.
page() { # PROGRAM WHAT
	cat <<-EOT
		.TH $1 1 "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)" "hmm-odp $version"
		.SH NAME
		$1 \\- $2
		.SH DESCRIPTION
		.nf
	EOT
	"/build/programs/$1" --help | fold -s -w 76 | sed "s/\\\\/\\\\e/g; s/-/\\\\-/g; s/^[.']/\\\\\&&/"
	cat <<-EOT
		.fi
		.SH "SEE ALSO"
		.BR odp-bench (1)
	EOT
}

programs=$work/odp-bench/usr/bin
share=$work/odp-bench/usr/share
mkdir -p "$programs" "$share/man/man1" "$share/bash-completion/completions" \
	"$share/fish/vendor_completions.d" "$share/zsh/vendor-completions"
for program in odp-bench odp-demo odp-test; do
	install -m 755 "/build/programs/$program" "$programs/"
	strip "$programs/$program"
done
bench=/build/programs/odp-bench
$bench man "$share/man/man1"
page odp-demo "shows what on-demand paging does on an RDMA device" >"$share/man/man1/odp-demo.1"
page odp-test "tests on-demand paging on an RDMA device" >"$share/man/man1/odp-test.1"
gzip -9n "$share"/man/man1/*
$bench completions bash >"$share/bash-completion/completions/odp-bench"
$bench completions fish >"$share/fish/vendor_completions.d/odp-bench.fish"
$bench completions zsh >"$share/zsh/vendor-completions/_odp-bench"
depends=$(libraries "$programs")
pack odp-bench programs <<EOT
Depends: $depends, ibverbs-providers
Description: measures and tests on-demand paging of an RDMA device
 odp-bench tells what a page fault, a registration and an invalidation cost on a
 device, and whether on-demand paging pays. odp-test checks every byte that a
 device with on-demand paging moves. odp-demo shows what it is for.
EOT
