#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Looks for memory that nothing points to any more. The kernel says in its log that there is some; this says
# where it comes from.
leaks=/sys/kernel/debug/kmemleak
# What changes between two scans, or is younger than five seconds, is in use.
for _ in 1 2; do
	sleep 6
	echo scan >$leaks || exit
done
cat $leaks
! grep -q . $leaks
