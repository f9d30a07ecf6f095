#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# A program that runs beside what the host asks for next: the server of a client in another VM.
#
#   beside start COMMAND...   starts it; returns when it listens over TCP or rdma_cm, or has ended
#   beside finish SECONDS     waits until it ends; says what it said, and ends as it ended
here=/run/beside

listens() {
	ss -Hltn | grep -q . || rdma resource show cm_id 2>/dev/null | grep -q LISTEN
}

start() {
	rm -rf $here
	mkdir $here
	setsid bash -c '"$@"; echo $? >'$here/status beside "$@" >$here/output 2>&1 </dev/null &
	echo $! >$here/group
	for _ in $(seq 200); do
		if listens || [ -e $here/status ]; then
			return
		fi
		sleep 0.1
	done
	# Perhaps it talks in other ways. Whoever needs it will notice.
}

finish() {
	for _ in $(seq "$1"0); do
		[ ! -e $here/status ] || break
		sleep 0.1
	done
	if ! [ -e $here/status ]; then
		kill -KILL -- "-$(<$here/group)"
		echo "beside: killed after $1 s" >>$here/output
		echo 124 >$here/status
	fi
	cat $here/output
	return "$(<$here/status)"
}

verb=$1
shift
"$verb" "$@"
