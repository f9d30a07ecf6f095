#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs a server and its client in this guest.
#
#   pair PROGRAM ARGUMENTS...                       as ibv_*_pingpong and perftest are run: the client is the
#                                                   same with the server's address appended
#   pair SERVER ARGUMENTS... -- CLIENT ARGUMENTS...
#
# Succeeds if both do. Their output follows, the client's last.
# Both poll for what soft-RoCE does in threads of the kernel. Those go first.
chrt --idle --pid 0 $$
server=()
while [ $# != 0 ] && [ "$1" != -- ]; do
	server+=("$1")
	shift
done
if [ $# = 0 ]; then
	client=("${server[@]}" 10.77.0.1)
else
	client=("${@:2}")
fi
work=$(mktemp -d)
touch "$work/server" "$work/client"

tell() {
	echo "--- server ($1)"
	cat "$work/server"
	echo "--- client ($2)"
	cat "$work/client"
	rm -r "$work"
}
# Whoever takes too long is ended, and what was said until then is told.
trap 'tell "did not end" "did not end"; exit 124' TERM

"${server[@]}" >"$work/server" 2>&1 &
pid=$!

# Whether the server listens, over TCP or rdma_cm.
listens() {
	ss -Hltnp | grep -q "pid=$pid," || rdma resource show cm_id 2>/dev/null | grep LISTEN | grep -q "pid $pid "
}
for _ in $(seq 100); do
	if listens || ! kill -0 $pid 2>/dev/null; then
		break
	fi
	sleep 0.1
done
"${client[@]}" >"$work/client" 2>&1 &
asking=$!
wait $asking
status=$?
if [ $status != 0 ]; then
	kill $pid 2>/dev/null
fi
wait $pid
served=$?
trap - TERM
tell "exit status $served" "exit status $status"
[ $status = 0 ] && [ $served = 0 ]
