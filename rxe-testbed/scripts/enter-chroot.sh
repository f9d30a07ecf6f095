# SPDX-License-Identifier: GPL-2.0
# Runs a command in the build chroot, inside a mount namespace that `unshare` has made.
#
#   enter-chroot.sh ROOT [HOST:INSIDE:ro|rw]... -- COMMAND...
#
# Whatever is mounted here goes away with the namespace, so nothing has to be cleaned up.
set -eu
root=$1
shift

for dir in proc sys dev; do
	mount --rbind "/$dir" "$root/$dir"
done
mount -t tmpfs tmpfs "$root/tmp"

# The host's names and certificates, so that the network works inside as it does outside.
for file in /etc/resolv.conf /etc/hosts; do
	[ -e "$file" ] || continue
	rm -f "$root$file"
	: >"$root$file"
	mount --bind "$(readlink -f "$file")" "$root$file"
done
if [ -d /etc/ssl/certs ] && [ -d "$root/etc/ssl/certs" ]; then
	mount --bind /etc/ssl/certs "$root/etc/ssl/certs"
fi

while [ "$1" != -- ]; do
	host=${1%%:*}
	rest=${1#*:}
	inside=${rest%%:*}
	mkdir -p "$root$inside"
	mount --rbind "$host" "$root$inside"
	if [ "${rest#*:}" = ro ]; then
		# A user namespace may not change the flags of some mounts: then it stays writable.
		mount -o remount,bind,ro "$root$inside" 2>/dev/null || true
	fi
	shift
done
shift

exec chroot "$root" "$@"
