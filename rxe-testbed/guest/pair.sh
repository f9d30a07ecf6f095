#!/bin/bash
# Runs a program of the ibv_*_pingpong or perftest kind as server and as client in this guest.
#
#   pair PROGRAM ARGUMENTS...
#
# Succeeds if both do. Their output follows, the client's first.
work=$(mktemp -d)
"$@" >"$work/server" 2>&1 &
server=$!
for _ in $(seq 100); do
	if ss -Hltn 'sport = :18515' | grep -q .; then
		break
	fi
	kill -0 $server 2>/dev/null || break
	sleep 0.1
done
"$@" 10.77.0.1 >"$work/client" 2>&1
client=$?
if [ $client != 0 ]; then
	kill $server 2>/dev/null
fi
wait $server
status=$?
echo "--- client (exit status $client)"
cat "$work/client"
echo "--- server (exit status $status)"
cat "$work/server"
rm -r "$work"
[ $client = 0 ] && [ $status = 0 ]
