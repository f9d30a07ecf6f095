#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What odp-bench says where it cannot do what it is asked for: one line, and a status that is not 0.
cd "$(mktemp -d)" || exit
failed=0

# expect STATUS TEXT COMMAND...: the command ends with the status; of what it says as an error one line holds
# the text, and there is no other.
expect() {
	local status=$1 text=$2 ended lines
	shift 2
	"$@" >/dev/null 2>errors
	ended=$?
	lines=$(grep -c '^odp-bench: ' errors)
	if [ $ended != "$status" ] || [ "$lines" != 1 ] || ! grep '^odp-bench: ' errors | grep -qF -- "$text"; then
		echo "$*: status $ended instead of $status, or not '$text':"
		cat errors
		failed=1
	fi
}

# What clap says of arguments has its own form.
refuse() {
	"$@" >/dev/null 2>errors
	local ended=$?
	if [ $ended != 2 ] || ! grep -q '^error: ' errors; then
		echo "$*: status $ended instead of 2:"
		cat errors
		failed=1
	fi
}

refuse odp-bench measure
refuse odp-bench run --effort 0
refuse odp-bench run --effort many
refuse odp-bench run --time soon
refuse odp-bench run --gid 1000
refuse odp-bench run --server --connect there
refuse odp-bench compare only-one.json
refuse odp-bench compare a b --threshold nan
expect 2 "no suite and no case is called nosuch" odp-bench run nosuch
expect 2 "no suite and no case is called faul" odp-bench list faul
expect 2 "no RDMA device named nosuch" odp-bench run --device nosuch
expect 2 "no usable GID" odp-bench run --gid 200
expect 2 "cannot write /proc/none.json" odp-bench run --json /proc/none.json warm/read
expect 2 "cannot write" odp-bench run --json no/such/folder.json warm/read
expect 2 "cannot read none.json" odp-bench report none.json
expect 2 "is not a result of odp-bench" odp-bench report /etc/passwd
expect 2 "nobody answers at port 1 of localhost" timeout 120 odp-bench run --connect localhost --port 1 warm/read

# An ordinary user with little memory to lock: the pinned part fails, and says why; what was measured is kept.
cat >limited <<'END'
cd "$1" && ulimit -l 64
exec odp-bench run --effort 0.01 --json limited.json registration/explicit/4KiB warm/write-1MiB
END
chmod 777 .
chmod 666 /dev/infiniband/uverbs*
setpriv --reuid=65534 --regid=65534 --clear-groups true 2>/dev/null &&
	expect 1 "the locked-memory limit is 64 KiB" \
		setpriv --reuid=65534 --regid=65534 --clear-groups bash limited "$PWD"
odp-bench report limited.json | grep -q registration/explicit/register/4KiB || {
	echo "what was measured before the limit struck was not kept"
	failed=1
}

# A user who may not use the device.
chmod 600 /dev/infiniband/uverbs*
expect 2 "cannot open rxe0: " setpriv --reuid=65534 --regid=65534 --clear-groups odp-bench run warm/read
chmod 666 /dev/infiniband/uverbs*

# holds STATUS COMMAND...: the command ends with the status.
holds() {
	local status=$1 ended
	shift
	"$@" >said 2>&1
	ended=$?
	if [ $ended != "$status" ]; then
		echo "$*: status $ended instead of $status:"
		cat said
		failed=1
	fi
}

# What has become worse is a regression, what has become better or is the same is none. The samples are made up: how many
# there are and how they spread is chance, and decides what can be told.
holds 0 odp-bench run --effort 0.02 --quiet --json old.json --html old.html warm/write registration/implicit
python3 - <<'END'
import json

run = json.load(open("old.json"))
for name, factor in (("old.json", 1), ("slow.json", 1000)):
    for metric in run["metrics"]:
        metric["samples"] = [factor * (1e6 + 1e3 * (7 * i % 11)) for i in range(200)]
    json.dump(run, open(name, "w"))
END
holds 0 odp-bench compare old.json old.json
holds 0 odp-bench run --time 0s --quiet --json late.json warm/write
odp-bench report late.json >late
holds 0 grep '^skipped  warm/write: the time' late
# Of one sample nothing is said.
holds 0 odp-bench run --effort 0.01 --quiet --json one.json registration/implicit
odp-bench compare one.json one.json >one
holds 0 grep 'not enough samples: 5 more' one
holds 1 odp-bench compare old.json slow.json
holds 0 odp-bench compare slow.json old.json
holds 0 grep '<svg' old.html

# A driver that moves wrong bytes at odd offsets, and has no implicit regions.
rxe-driver stock || exit
expect 1 "warm/write: wrong data at offset 0x" odp-bench run --effort 0.05 --json wrong.json warm/write
holds 0 odp-bench run --aligned --effort 0.05 --json right.json warm/write
odp-bench report right.json >right
holds 0 grep '^skipped  warm/write/implicit: the device has no implicit' right
holds 0 grep 'limited to aligned' right
rxe-driver none || exit
expect 2 "no RDMA device: " odp-bench run
rxe-driver ours || exit

# A machine that goes away in the middle.
odp-bench run --server --port 18521 2>/dev/null &
server=$!
# No word from the shell that it was killed.
disown
expect 1 "the peer does not answer" bash -c "(sleep 4; kill -KILL $server) & \
	exec odp-bench run --connect 10.77.0.1 --port 18521 --effort 20 --json gone.json warm/read warm/write"
odp-bench report gone.json >/dev/null || failed=1

# A run that is killed: the cases that were over are kept, and the next run does not take them for its own.
odp-bench run --effort 20 --json killed.json registration/explicit/4KiB warm >/dev/null 2>&1 &
killed=$!
disown
for _ in $(seq $((600 * ${TESTBED_PATIENCE:-1}))); do
	[ "$(wc -l 2>/dev/null <killed.json.part)" -ge 2 ] 2>/dev/null && break
	sleep 0.1
done
kill -KILL $killed
odp-bench report killed.json >kept
holds 0 grep 'registration/explicit/register/4KiB' kept
holds 0 grep 'the run was not finished' kept
holds 0 odp-bench run --effort 0.01 --quiet --json killed.json warm/read
holds 1 test -e killed.json.part
exit $failed
