#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Loads the driver for a page of this process, takes the page away, and looks at what the driver says of it."""

import ctypes
import mmap
import os
import subprocess
import sys

FINIT_MODULE = 313  # on x86-64


def load(module, arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open(module, os.O_RDONLY)
    if libc.syscall(FINIT_MODULE, file, arguments.encode(), 0):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), module)


def said():
    log = subprocess.run(["dmesg"], check=True, capture_output=True, text=True).stdout
    return [line.split("toy: ")[1] for line in log.splitlines() if "toy: " in line]


def main():
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    subprocess.run(["modprobe", "hmm"], check=True)
    load(os.path.join(os.path.dirname(__file__), "toy.ko"), f"address={address}")
    memory.madvise(mmap.MADV_DONTNEED)
    subprocess.run(["rmmod", "toy"], check=True)
    print(*said(), sep="\n")
    expected = ["the device has the page", "the device has lost the page: Clear"]
    sys.exit(said() != expected)


main()
