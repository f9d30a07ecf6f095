#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs a program of the UCX in /opt/ucx.
#
#   ucx PROGRAM ARGUMENTS...
here=/opt/ucx/usr
libraries=$here/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH=$libraries:$libraries/pmix2/lib UCX_MODULE_DIR=$libraries/ucx
export UCX_IB_GID_INDEX=1
exec "$here/bin/$1" "${@:2}"
