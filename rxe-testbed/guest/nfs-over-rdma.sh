#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# A folder that this kernel serves over NFS on rxe0, and uses over it: files have to be as they were written when it is
# mounted again, and in the folder itself.
#
# What mountd would tell the server about who may have what is told it beforehand.
set -u
folder=/run/nfs-served
place=/run/nfs-over-rdma

fail() {
	echo "nfs-over-rdma: $*"
	exit 1
}

serve() {
	local forever=2147483647 caches=/proc/net/rpc
	# Read and write, for root too, from any port, whatever is below it; the root of what NFS shows.
	local options=$((0x2 | 0x400 | 0x2000))
	modprobe -a nfsd rpcrdma nfsv4 || fail "the modules"
	mkdir -p $folder $place
	mount -t tmpfs -o size=64m tmpfs $folder || exit
	mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd || exit
	echo "nfsd 10.77.0.1 $forever all" >$caches/auth.unix.ip/channel || exit
	echo "all $folder $forever $options 65534 65534 0" >$caches/nfsd.export/channel || exit
	echo "all 1 \\x00000000 $forever $folder" >$caches/nfsd.fh/channel || exit
	# Nobody has anything from before that would be waited for; this is the least, and can be said only before it listens.
	echo 10 >/proc/fs/nfsd/nfsv4gracetime || exit
	# It would take a lockd, and that rpcbind.
	echo "-3" >/proc/fs/nfsd/versions || exit
	echo "rdma 20049" >/proc/fs/nfsd/portlist || exit
	echo 4 >/proc/fs/nfsd/threads || exit
}

# The kernel's own mount, without the helper.
attach() {
	mount -i -t nfs4 -o vers=4.2,proto=rdma,port=20049,addr=10.77.0.1,clientaddr=10.77.0.1,sec=sys 10.77.0.1:/ $place ||
		fail "it cannot be mounted"
	grep -q "$place nfs4 .*proto=rdma" /proc/mounts || fail "that is not over RDMA"
}

end() {
	mountpoint -q $place && umount $place
	echo 0 >/proc/fs/nfsd/threads
	for cache in auth.unix.ip nfsd.export nfsd.fh; do
		date +%s >/proc/net/rpc/$cache/flush
	done
	umount $folder /proc/fs/nfsd
	modprobe -r nfsv4 nfsd rpcrdma
}
# The debug kernel has neither.
if ! modinfo nfsd rpcrdma >/dev/null 2>&1; then
	echo "this kernel has no NFS over RDMA"
	exit 77
fi
trap end EXIT
serve
attach
numbered-files write $place && umount $place || exit
attach
numbered-files check $place && umount $place || exit
numbered-files check $folder || fail "that was in the folder itself"
