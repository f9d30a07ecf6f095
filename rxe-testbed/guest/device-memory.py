#!/usr/bin/env python3
"""Has hmm_dmirror move huge pages that two processes share, whole and in pieces.

The kernel's own hmm-tests have huge pages go in pieces, but never after a fork.

With the argument `inject`, every allocation of what hmm_dmirror can do fails once instead. This takes a
kernel with fault injection.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys

PAGE = 4096
HUGE = 2 << 20
PAGES = HUGE // PAGE
BLOCKS = 256  # of the device's memory
READ, WRITE, TO_DEVICE, TO_SYSTEM, SNAPSHOT, EXCLUSIVE, RELEASE, FLAGS = 0, 1, 2, 3, 4, 5, 7, 8
FAIL_ALLOC = 1
WHOLE, ON_DEVICE, WHICH_MEMORY = 0x04, 0x20, 0xF0

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]


class Failed(Exception):
    pass


def check(holds, what):
    if not holds:
        raise Failed(what)


def system(name, *arguments):
    arguments = [ctypes.c_size_t(argument) for argument in arguments]
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


class Memory:
    """Anonymous memory at an aligned address."""

    def __init__(self, size, advice=mmap.MADV_HUGEPAGE):
        start = libc.mmap(None, size + HUGE, 3, 0x22, -1, 0)
        check(start not in (None, 2**64 - 1), "no memory")
        self.start, self.size = -(-start // HUGE) * HUGE, size
        system("madvise", self.start, size, advice)

    def holds(self, data):
        return ctypes.string_at(self.start, self.size) == data

    def write(self, data):
        ctypes.memmove(self.start, data, len(data))


class Device:
    """/dev/hmm_dmirror0, with the memory of the process that opens it."""

    def __init__(self):
        self.file = os.open("/dev/hmm_dmirror0", os.O_RDWR)
        self.buffer = Memory(HUGE)

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


def pattern(seed):
    """A huge page's bytes, which depend on where they are."""
    words = ((seed << 40 | word) * 0x9E3779B97F4A7C15 & (1 << 64) - 1 for word in range(HUGE // 8))
    return b"".join(word.to_bytes(8, "little") for word in words)


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
    memory, data = Memory(HUGE), pattern(way)
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
    system("munmap", memory.start, memory.size)
    device(RELEASE, device.buffer.start, 1)


def no_room(device):
    """The device has room for the pages, but not for the huge page."""
    print("no room for a huge page", flush=True)
    blocks = Memory((BLOCKS - 2) * HUGE)
    for block in range(BLOCKS - 2):
        device(TO_DEVICE, blocks.start + block * HUGE, PAGES)
    # The last two blocks: one full, one begun, and then as many free pages as a huge one has.
    single = Memory((PAGES + 2) * PAGE, mmap.MADV_NOHUGEPAGE)
    single.write(b"x" * single.size)
    for first, pages in (0, PAGES), (PAGES, 2):
        device(TO_DEVICE, single.start + first * PAGE, pages)
    system("munmap", single.start, 2 * PAGE)
    memory, data = Memory(HUGE), pattern(5)
    memory.write(data)
    child = Child(memory, data)
    device.to_device(memory, data)
    check(device.where(memory) == {(True, False)}, "the huge page did not arrive in pieces")
    for rest in blocks, single:
        system("munmap", rest.start, rest.size)
    used(device, memory, data, child, "no room", True)


NTH = "/proc/thread-self/fail-nth"
INJECTORS = "failslab", "fail_page_alloc"
ACTS = {
    "to the device": TO_DEVICE,
    "to the system": TO_SYSTEM,
    "exclusive": EXCLUSIVE,
    "read": READ,
    "write": WRITE,
    "snapshot": SNAPSHOT,
}


def put(path, text):
    with open(path, "w") as file:
        file.write(str(text))


def prepare():
    """Lets allocations fail, quietly, that hmm's modules have a part in."""
    code = []
    for line in open("/proc/modules"):
        name, size, *_, start = line.split("(")[0].split()
        if name.startswith("hmm"):
            code += int(start, 16), int(start, 16) + int(size)
    for injector in INJECTORS:
        settings = {"verbose": 0, "task-filter": "Y", "ignore-gfp-wait": "N", "stacktrace-depth": 32}
        settings |= {"require-start": min(code), "require-end": max(code)}
        if injector == "fail_page_alloc":
            settings |= {"ignore-gfp-highmem": "N", "min-order": 0}
        for name, value in settings.items():
            put(f"/sys/kernel/debug/{injector}/{name}", value)


def failing(n, act):
    """The error of `act`, if any, and whether its n-th allocation was made, and failed."""
    put(NTH, n)
    try:
        act()
        error = None
    except OSError as failed:
        error = failed
    left = int(open(NTH).read())
    put(NTH, 0)
    return error, left == 0


def each(name, pages, advice):
    """Each allocation of one act fails in turn, and the memory is right afterwards."""
    data, refused, n, tried = pattern(3), 0, 1, 0
    while True:
        device = Device()
        device.buffer.write(data)
        memory = Memory(HUGE, advice)
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
        system("munmap", memory.start, memory.size)
        system("munmap", device.buffer.start, device.buffer.size)
        os.close(device.file)
        if not hit:
            print(f"{name}, {pages} pages: {tried} of {n - 1} tried, {refused} refused", flush=True)
            return
        tried += 1
        # A huge page that goes in pieces makes the same allocation for each of them.
        n += 1 if n < 24 else 97


def inject():
    if not os.path.exists(NTH):
        print("skipped: this kernel has no fault injection (CONFIG_FAULT_INJECTION)")
        sys.exit(77)
    prepare()
    for name in ACTS:
        each(name, 4, mmap.MADV_NOHUGEPAGE)
        each(name, PAGES, mmap.MADV_HUGEPAGE)


def main():
    if sys.argv[1:] == ["inject"]:
        return inject()
    # With DEBUG_VM the kernel has a check of its own that fails by mistake when a huge page that a fork
    # has shared arrives on a device: it takes the soft-dirty mark of the entry (the same bit as the right
    # to write in one that is present) for a right to write (remove_migration_pmd, also for C's driver).
    if os.path.exists("/proc/lockdep"):
        print("skipped: this kernel takes a soft-dirty mark of device memory for a right to write")
        sys.exit(77)
    device = Device()
    for way in TO_DEVICE, TO_SYSTEM:
        for in_pieces in False, True:
            for child_first in False, True:
                shared(device, way, in_pieces, child_first)
    no_room(device)


if __name__ == "__main__":
    main()
