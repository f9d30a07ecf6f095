#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Files in which every eight bytes say whose they are and where they are.

    numbered-files write FOLDER     makes them there, on the disk when it ends
    numbered-files check FOLDER     fails, and says where, unless they are as they were made

Some are written and read past the page cache.
"""
import mmap
import os
import sys
from array import array

# Pages and others, less than one and many.
CACHED = [0, 1, 4095, 4097, (1 << 20) + 3, (8 << 20) + 12345] + [number * 511 for number in range(1, 49)]
DIRECT = [4096, 2 << 20]
PIECE = 256 << 10


def contents(number, size):
    words = range(number << 40, (number << 40) + size // 8 + 1)
    return array("Q", words).tobytes()[:size]


def write(path, flags, data):
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flags, 0o644)
    # What goes past the page cache has to begin at a page's beginning.
    page = mmap.mmap(-1, PIECE)
    for at in range(0, len(data), PIECE):
        piece = data[at : at + PIECE]
        page[: len(piece)] = piece
        with memoryview(page) as view:
            written = os.write(file, view[: len(piece)])
        assert written == len(piece), f"{path}: {written} of {len(piece)} bytes were written at {at}"
    os.fsync(file)
    os.close(file)


def read(path, flags):
    file = os.open(path, os.O_RDONLY | flags)
    page = mmap.mmap(-1, PIECE)
    data = bytearray()
    while count := os.readv(file, [page]):
        data += page[:count]
    os.close(file)
    return bytes(data)


def check(path, flags, data):
    found = read(path, flags)
    if found == data:
        return
    pairs = enumerate(zip(found, data))
    at = next((at for at, (one, other) in pairs if one != other), min(len(found), len(data)))
    sys.exit(
        f"{path}, {len(data)} bytes, is wrong from byte {at} on: {found[at : at + 16].hex()} "
        f"instead of {data[at : at + 16].hex()}, {len(found)} bytes in all"
    )


def main(verb, folder):
    act = {"write": write, "check": check}[verb]
    kinds = [(size, 0) for size in CACHED] + [(size, os.O_DIRECT) for size in DIRECT]
    for number, (size, flags) in enumerate(kinds, 1):
        act(os.path.join(folder, f"file{number}"), flags, contents(number, size))
    print(f"{verb}: {len(kinds)} files")


main(*sys.argv[1:])
