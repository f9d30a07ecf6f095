#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# odp-bench's options: each message that they describe is sent and checked, what is not possible is refused before
# anything is measured, and what is made of a result is all there.
cd "$(mktemp -d)" || exit
failed=0

# measures METRIC ARGUMENTS...: a run succeeds, and its result has the metric with the samples asked for, in both
# states, warm and cold.
measures() {
	local metric=$1 state
	shift
	if ! odp-bench run --quiet --json run.json "$@" >said 2>&1; then
		echo "run $*:"
		cat said
		failed=1
		return
	fi
	odp-bench report run.json --csv run.csv
	for state in warm cold; do
		if ! grep -q "^traffic,traffic/${metric/STATE/$state}," run.csv; then
			echo "run $*: no traffic/${metric/STATE/$state}:"
			cat said run.csv
			failed=1
		fi
	done
}

measures write-rc-2-qps-4-deep/STATE/explicit/4KiB --size 64,4k -q 2 -t 4 -n 16 --warm-up 1
measures write-rc-inline/STATE/implicit/64B -I 64 -n 3
measures write-uc/STATE/implicit/64B -c UC -n 3
measures read-rc/STATE/explicit/1KiB --op read -s 1k -n 3 --mtu 1024
measures send-rc/STATE/explicit/512B --op send -s 512 -n 3
measures send-uc-2-qps/STATE/implicit/64B --op send -c uc -q 2 -n 4
measures send-ud/STATE/explicit/64B --op send -c UD -n 3
measures cmp-and-swap-rc/STATE/explicit/8B --op cmp-and-swap -D 300ms --cpu 1
odp-bench report run.json | grep -Ex 'placement +on processors 1, as --cpu asks' || failed=1
odp-bench report run.json | grep -Ex 'cpus allowed +1' || failed=1
measures send-ud/STATE/explicit/64B --op send -c UD -n 3 --numa 0 traffic
odp-bench report run.json | grep -E '^placement +on processors .* and memory of NUMA node 0' || failed=1
# With a peer, who has to answer what nobody here sees arrive.
odp-bench run --server --no-pin --port 18522 2>/dev/null &
measures send-ud-2-qps-answered/STATE/implicit/64B --connect 10.77.0.1 --port 18522 -c UD --op send -q 2 -n 4
wait
odp-bench report run.json | grep -Eq '^peer placement +not pinned, as --no-pin asks' || {
	echo "the peer's place is not told"
	failed=1
}

# refuses TEXT ARGUMENTS...: a run ends with status 2 and one error with the text, and has measured nothing.
refuses() {
	local text=$1 ended
	shift
	odp-bench run --json refused.json "$@" >said 2>errors
	ended=$?
	if [ $ended != 2 ] || [ "$(grep -c '^odp-bench: ' errors)" != 1 ] || ! grep -qF -- "$text" errors ||
		[ -e refused.json ]; then
		echo "run $*: status $ended, or not '$text', or something was measured:"
		cat errors
		failed=1
	fi
}

refuses "rxe0 has no port 2: it has ports 1 to 1" -i 2
refuses "there is no read over it" -c UC --op read
refuses "there is no write over it" -c UD
refuses "rxe0 has no extended reliable connections" -c XRC
refuses "rxe0 has no dynamic connections" -c DC
refuses "each of two machines takes one device" -d rxe0,rxe1 --server
refuses "one packet, here of 1024 bytes at most" -c UD --op send -s 1025 -m 1024
refuses "makes no queue pair as it is asked for" -I 100000
refuses "does not fit" -I 32 -s 64
refuses "a cmp-and-swap has 8 bytes" --op cmp-and-swap -s 64
refuses "work requests, of which half is used" -t 900000000
refuses "of memory are needed" -s 1g -q 8
refuses "--size says what is measured" --server -s 64
refuses "those of warm are always the same" -s 64 warm
refuses "the processors that are online are" --cpu 900
refuses "the NUMA nodes are 0" --numa 7
refuses "not a folder" --folder /etc/passwd

# What is said beforehand, and of the cases that did not begin.
odp-bench run --time 1s --effort 4 --json short.json warm >said 2>told
if ! grep -q '^# 6 cases, about .*, of which --time allows 1s' told || ! grep -q 'the time of --time was over' short.json; then
	echo "not said how long it takes:"
	cat told
	failed=1
fi

# As many samples as fit into the time: these pages are late for a time that no host changes.
odp-bench run --time 3s --quiet --json fits.json late/explicit/write late/explicit/read >said 2>told
if ! grep -q '^# .* cases, about .* with --effort 0\..*, as --time allows 3s$' told || ! grep -q '^# that took ' told ||
	! grep -q '"effort": *"0\.' fits.json; then
	echo "not as many as fit:"
	cat told
	failed=1
fi

# Pages that are late for as long as is asked for; what is sent again, and what is lost, is counted.
if ! odp-bench run --effort 0.1 --quiet --delay 50us,3ms --json late.json late/cpu late/implicit/write late/implicit/receive-ud \
	late/implicit/second-read-sink late/implicit/one-page-sink >said 2>&1; then
	echo "late:"
	cat said
	failed=1
fi
odp-bench report late.json --csv late.csv
for metric in cpu/50us/beyond implicit/write/3ms/beyond implicit/write/3ms/retransmissions implicit/receive-ud/50us/lost \
	implicit/second-read-sink/2ms/beyond implicit/one-page-sink/64-qps/retransmissions; do
	grep -q "^late,late/$metric," late.csv || {
		echo "no late/$metric"
		failed=1
	}
done

# Whether on-demand paging pays: ten lines, of which none is missing where all was measured.
read -ra cases < <(odp-bench advise short.json | sed -n 's/^To measure all of this: odp-bench run //p')
odp-bench run --effort 0.05 --json advised.json "${cases[@]}" >said 2>told || failed=1
odp-bench advise advised.json >advice
if [ "$(wc -l <advice)" != 10 ] || grep 'not measured' advice || ! tail -n 10 said | diff - advice; then
	echo "the advice of 'run ${cases[*]}':"
	cat advice
	failed=1
fi

# Pinning brings untouched pages in, each time.
python3 - <<'END' || failed=1
import json

run = {metric["name"]: metric["summary"] for metric in json.load(open("advised.json"))["metrics"]}
first, again = (run[f"registration/pinned/register{state}/16MiB"]["min"] for state in ("", "-resident"))
if first < 1.3 * again:
    raise SystemExit(f"pinning 16 MiB takes {first} ns untouched, {again} ns resident: the first were not untouched")
END

# Files for people.
mkdir man && odp-bench man man && odp-bench report advised.json --svg new/svg --html page.html || failed=1
man -l man/odp-bench-run.1 2>/dev/null >page.txt || cp man/odp-bench-run.1 page.txt
grep -q tx page.txt || failed=1
for file in man/odp-bench.1 man/odp-bench-run.1 man/odp-bench-compare.1 new/svg/fault-distributions-nanoseconds.svg; do
	[ -s $file ] || {
		echo "no $file"
		failed=1
	}
done
odp-bench completions bash >complete && bash -n complete || failed=1

# Many results, of which the later ones are slower.
mkdir history
python3 - <<'END'
import json, random

run = json.load(open("advised.json"))
dice = random.Random(5)
for number in range(24):
    run["environment"]["date"] = f"2026-01-{number + 1:02}T00:00:00Z"
    for metric in run["metrics"]:
        slow = 1.3 if number >= 16 and metric["name"] == "warm/write/explicit" else 1
        metric["samples"] = [1000 * slow * dice.uniform(1, 1.02) for _ in range(9)]
    json.dump(run, open(f"history/{number:02}.json", "w"))
END
odp-bench compare --history history >steps
if [ $? != 1 ] || ! grep -qx 'REGRESSION  warm/write/explicit' steps || ! grep -q 'from 16 on: .* worse' steps; then
	echo "the history:"
	cat steps
	failed=1
fi
# The other way round they become faster.
seq -f %02.0f 23 -1 0 >order
odp-bench compare --history history --order order >steps || {
	echo "the history backwards:"
	cat steps
	failed=1
}
odp-bench compare --history history --recent 4 --metric warm/write/explicit | grep -q '^  16 .*a new level' || failed=1

# Two sides of many runs each, of which one is slower; a metric that one run lacks is named.
mkdir sides
python3 - <<'END'
import json, random

run = json.load(open("advised.json"))
dice = random.Random(7)
names = "warm/write/pinned", "warm/write/explicit", "warm/write/implicit"
metrics = [metric for metric in run["metrics"] if metric["name"] in names]
for side, slow in ("old", 1), ("same", 1), ("new", 1.3):
    for number in range(30):
        run["metrics"] = [metric for metric in metrics if (side, number, metric["name"]) != ("old", 2, names[0])]
        for metric in run["metrics"]:
            by = slow if metric["name"] == names[1] else 1
            metric["samples"] = [1000 * by * dice.uniform(1, 1.02) for _ in range(9)]
        json.dump(run, open(f"sides/{side}-{number:02}.json", "w"))
END
odp-bench compare --old sides/old-* --new sides/new-* >sides.txt
if [ $? != 1 ] || ! grep -q '^warm/write/explicit .*slower  REGRESSION' sides.txt ||
	! grep -q '^warm/write/pinned .*not in all runs' sides.txt; then
	echo "two sides:"
	cat sides.txt
	failed=1
fi
odp-bench compare --old sides/old-* --new sides/same-* >sides.txt || {
	echo "two sides that are the same:"
	cat sides.txt
	failed=1
}
exit $failed
