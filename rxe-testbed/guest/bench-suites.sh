#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Cases of odp-bench with few samples: each is measured, all data is right, and nothing is skipped for which
# this machine has all that it takes. Wants swap.
#
#   bench-suites [NTH]          every NTH case, from the first one on; all without
set -u
nth=${1:-1}
cd "$(mktemp -d -p /root)" || exit
# What ran before may have left free memory in pieces that are too small for huge pages.
echo 3 >/proc/sys/vm/drop_caches && echo 1 >/proc/sys/vm/compact_memory || exit

mapfile -t suites < <(odp-bench list | sed -n 's/^\([a-z]*\)  .*/\1/p')
odp-bench list "${suites[@]}" >all || exit
awk "NR % $nth == 1 % $nth" all >cases
mapfile -t cases <cases
odp-bench run --effort 0.01 --quiet "${cases[@]}" 2>told || {
	status=$?
	grep -e ': FAILED: ' -e '^odp-bench: ' told || tail -n 3 told
	exit $status
}
# What is said before the first case; then a line for each case, perhaps with a remark.
grep -q '^# rxe0 port 1 (Ethernet), path MTU [0-9]*, ' told && grep -q '^# [0-9]* cases, about ' told || {
	echo "bench-suites: not said beforehand: where, and how long:"
	grep '^#' told
	exit 1
}
if ! sed '/^# /d; s/: .*//' told | diff cases -; then
	echo "bench-suites: these cases of 'odp-bench list' were not run (<), or were not asked for (>)"
	exit 1
fi
odp-bench report odp-bench.json >report || exit
# More memory than the machine has cannot be pinned.
if grep '^skipped' report | grep -v '^skipped  registration/pinned/4GiB: .* too little to pin 4GiB$'; then
	echo "bench-suites: this should not have been skipped"
	exit 1
fi
# What was written is what the schema says.
odp-bench schema >schema.json || exit
python3 - <<'END' || exit
import json
import jsonschema

result, schema = (json.load(open(name)) for name in ("odp-bench.json", "schema.json"))
jsonschema.validators.validator_for(schema).check_schema(schema)
# Not each of the hundred thousand numbers.
for metric in result["metrics"]:
    metric["samples"] = metric["samples"][:9]
jsonschema.validate(result, schema)
result["metrics"] = result["metrics"][:1]
result["metrics"][0]["more"] = 1
try:
    jsonschema.validate(result, schema)
except jsonschema.ValidationError:
    raise SystemExit(0)
raise SystemExit("bench-suites: the schema allows what is not written")
END
echo "$(wc -l <cases) cases of ${#suites[@]} suites"
