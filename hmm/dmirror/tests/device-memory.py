#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Has hmm_dmirror move huge pages that two processes share, whole and in pieces.

The kernel's own hmm-tests have huge pages go in pieces, but never after a fork.

With the argument `inject`, every allocation of what hmm_dmirror can do fails once instead. This takes a
kernel with fault injection.
"""

import ctypes
import errno
import fcntl
import os
import struct
import sys

from device_tests import (
    HUGE, PAGE, Memory, check, failing, let_allocations_fail, pattern, system,
)

PAGES = HUGE // PAGE
BLOCKS = 256  # of the device's memory
READ, WRITE, TO_DEVICE, TO_SYSTEM, SNAPSHOT, EXCLUSIVE, RELEASE, FLAGS = 0, 1, 2, 3, 4, 5, 7, 8
FAIL_ALLOC = 1
WHOLE, ON_DEVICE, WHICH_MEMORY = 0x04, 0x20, 0xF0


class Device:
    """/dev/hmm_dmirror0, with the memory of the process that opens it."""

    def __init__(self):
        self.file = os.open("/dev/hmm_dmirror0", os.O_RDWR)
        self.buffer = Memory(HUGE, huge=True)

    def __call__(self, number, start, pages):
        request = 3 << 30 | 40 << 16 | ord("H") << 8 | number
        command = struct.pack("5Q", start, self.buffer.start, pages, 0, 0)
        fcntl.ioctl(self.file, request, command)

    def fail_next(self):
        """The next huge page to move finds no huge page at the other end."""
        self(FLAGS, self.buffer.start, FAIL_ALLOC)

    def where(self, memory):
        """Where the pages are, and whether they are whole huge pages."""
        self(SNAPSHOT, memory.start, memory.size // PAGE)
        found = ctypes.string_at(self.buffer.start, memory.size // PAGE)
        return {(word & WHICH_MEMORY == ON_DEVICE, bool(word & WHOLE)) for word in found}

    def to_device(self, memory, expected):
        self(TO_DEVICE, memory.start, memory.size // PAGE)
        check(self.buffer.holds(expected), "the device has other data")


class Child:
    """A process with the same memory, which looks at it and writes to it when it is told to."""

    def __init__(self, memory, data):
        there, self.tell = os.pipe()
        self.said, here = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.tell)
            while step := os.read(there, 1):
                if step == b"w":
                    data = data[::-1]
                    memory.write(data)
                os.write(here, b"y" if memory.holds(data) else b"n")
            os._exit(0)
        os.close(there)
        os.close(here)

    def step(self, step, what):
        os.write(self.tell, step)
        check(os.read(self.said, 1) == b"y", f"{what}: the child's memory is wrong")

    def end(self):
        os.close(self.tell)
        os.close(self.said)
        check(os.waitpid(self.pid, 0)[1] == 0, "the child died")


def shared(device, way, in_pieces, child_first):
    """A huge page moves while a child has it, too; then both write."""
    what = f"way {way}, in pieces {in_pieces}, child first {child_first}"
    print(what, flush=True)
    memory, data = Memory(HUGE, huge=True), pattern(way)
    memory.write(data)
    check(device.where(memory) == {(False, True)}, "the memory is no huge page")
    if way == TO_SYSTEM:
        device.to_device(memory, data)
        check(device.where(memory) == {(True, True)}, f"{what}: no huge page went to the device")
    child = Child(memory, data)
    if in_pieces:
        device.fail_next()
    if way == TO_DEVICE:
        device.to_device(memory, data)
    else:
        device(TO_SYSTEM, memory.start, PAGES)
    arrived = (way == TO_DEVICE, not in_pieces)
    check(device.where(memory) == {arrived}, f"{what}: it did not arrive so")
    used(device, memory, data, child, what, child_first)


def used(device, memory, data, child, what, child_first):
    """Both read what was written before the fork, and each sees its own writes only."""
    if child_first:
        child.step(b"r", what)
        child.step(b"w", what)
    check(memory.holds(data), f"{what}: the memory is wrong")
    other = pattern(9)
    memory.write(other)
    for step in b"r", b"w", b"r":
        child.step(step, what)
    check(memory.holds(other), f"{what}: the child wrote here")
    child.end()
    memory.unmap()
    device(RELEASE, device.buffer.start, 1)


def no_room(device):
    """The device has room for the pages, but not for the huge page."""
    print("no room for a huge page", flush=True)
    blocks = Memory((BLOCKS - 2) * HUGE, huge=True)
    for block in range(BLOCKS - 2):
        device(TO_DEVICE, blocks.start + block * HUGE, PAGES)
    # The last two blocks: one full, one begun, and then as many free pages as a huge one has.
    single = Memory((PAGES + 2) * PAGE)
    single.write(b"x" * single.size)
    for first, pages in (0, PAGES), (PAGES, 2):
        device(TO_DEVICE, single.start + first * PAGE, pages)
    system("munmap", single.start, 2 * PAGE)
    memory, data = Memory(HUGE, huge=True), pattern(5)
    memory.write(data)
    child = Child(memory, data)
    device.to_device(memory, data)
    check(device.where(memory) == {(True, False)}, "the huge page did not arrive in pieces")
    for rest in blocks, single:
        rest.unmap()
    used(device, memory, data, child, "no room", True)


ACTS = {
    "to the device": TO_DEVICE,
    "to the system": TO_SYSTEM,
    "exclusive": EXCLUSIVE,
    "read": READ,
    "write": WRITE,
    "snapshot": SNAPSHOT,
}


def each(name, pages, huge):
    """Each allocation of one act fails in turn, and the memory is right afterwards."""
    data, refused, n, tried = pattern(3), 0, 1, 0
    while True:
        device = Device()
        device.buffer.write(data)
        memory = Memory(HUGE, huge)
        memory.write(data)
        if ACTS[name] == TO_SYSTEM:
            device(TO_DEVICE, memory.start, pages)
        error, hit = failing(n, lambda: device(ACTS[name], memory.start, pages))
        what = f"{name}, {pages} pages, allocation {n}"
        check(error is None or hit and error.errno == errno.ENOMEM, f"{what}: {error}")
        check(memory.holds(data), f"{what}: the memory is wrong")
        refused += error is not None
        device(TO_DEVICE, memory.start, pages)
        check(memory.holds(data), f"{what}: the memory is wrong after it went to the device")
        memory.unmap()
        device.buffer.unmap()
        os.close(device.file)
        if not hit:
            print(f"{name}, {pages} pages: {tried} of {n - 1} tried, {refused} refused", flush=True)
            return
        tried += 1
        # A huge page that goes in pieces makes the same allocation for each of them.
        n += 1 if n < 24 else 97


def inject():
    let_allocations_fail()
    for name in ACTS:
        each(name, 4, huge=False)
        each(name, PAGES, huge=True)


def check_is_mistaken():
    """Whether a check of the kernel's own fails by mistake when a huge page that a fork has shared arrives
    on a device: with DEBUG_VM, remove_migration_pmd takes the soft-dirty mark of the entry (the same bit as
    the right to write in one that is present) for a right to write, also for C's driver.
    """
    with open("/proc/kallsyms") as symbols:
        # Only kernels with DEBUG_VM have this function.
        return any(line.split()[2] == "dump_mm" for line in symbols)


def main():
    if sys.argv[1:] == ["inject"]:
        return inject()
    device, mistaken = Device(), check_is_mistaken()
    for way in TO_DEVICE, TO_SYSTEM:
        for in_pieces in False, True:
            if mistaken and way == TO_DEVICE and not in_pieces:
                print("left out, as this kernel would take a mark for a right to write: whole, to the device")
                continue
            for child_first in False, True:
                shared(device, way, in_pieces, child_first)
    no_room(device)


if __name__ == "__main__":
    main()
