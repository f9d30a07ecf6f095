#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs a command while a module of the repository is loaded.
#
#   with-module MODULE COMMAND...
set -u
module=$1
shift
modprobe "$module" || exit
"$@"
status=$?
rmmod "$module" || exit
exit "$status"
