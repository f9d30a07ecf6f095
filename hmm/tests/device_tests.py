# SPDX-License-Identifier: GPL-2.0
"""What the tests of drivers on hmm share: memory, what is in it, and allocations that fail."""

import ctypes
import errno
import mmap
import os
import sys

PAGE = 4096
HUGE = 2 << 20
SKIPPED = 77

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2


class Failed(Exception):
    pass


def check(holds, what):
    if not holds:
        raise Failed(what)


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def system(name, *arguments):
    """A function of the C library that says 0 if all is well."""
    arguments = [ctypes.c_size_t(argument) for argument in arguments]
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def mapped(size, flags, file=-1):
    """The address of memory that is mapped to be read and written."""
    start = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, 0)
    check(start not in (None, 2**64 - 1), "no memory")
    return start


class Memory:
    """Anonymous memory from a multiple of 2 MiB on, in huge pages as far as there are any, or in small ones."""

    def __init__(self, size, huge=False):
        start = mapped(size + HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.start, self.size = -(-start // HUGE) * HUGE, size
        system("madvise", self.start, size, mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)

    def __getitem__(self, part):
        return ctypes.string_at(self.start + part.start, part.stop - part.start)

    def __setitem__(self, part, data):
        check(len(data) == part.stop - part.start, "sizes differ")
        ctypes.memmove(self.start + part.start, data, len(data))

    def holds(self, data):
        return self[0:self.size] == data

    def write(self, data):
        self[0:len(data)] = data

    def unmap(self):
        system("munmap", self.start, self.size)

    def move(self, to):
        """Its pages come in place of what is at `to`."""
        moved = libc.mremap(self.start, self.size, self.size, MREMAP_MAYMOVE | MREMAP_FIXED, to)
        check(moved == to, "the pages were not moved")
        self.start = to


def pattern(seed, start=0, size=HUGE):
    """Bytes that depend on where they are."""
    first, last = start // 8, -(-(start + size) // 8)
    words = (
        ((seed << 40 | word) * 0x9E3779B97F4A7C15 & (1 << 64) - 1).to_bytes(8, "little")
        for word in range(first, last)
    )
    return b"".join(words)[start % 8:][:size]


NTH = "/proc/thread-self/fail-nth"
INJECTORS = "failslab", "fail_page_alloc"


def put(path, text):
    with open(path, "w") as file:
        file.write(str(text))


def let_allocations_fail():
    """Has them fail, quietly, when `failing` says so, if a function of hmm's modules is among the callers."""
    if not os.path.exists(NTH):
        skip("this kernel has no fault injection (CONFIG_FAULT_INJECTION)")
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


def each(what, make, act, then, known=(errno.ENOMEM,)):
    """Each allocation of `act`, on what `make` makes, fails in turn; `then` checks that no harm was done."""
    refused, n = 0, 1
    while True:
        made = make()
        error, hit = failing(n, lambda: act(made))
        check(error is None or hit and error.errno in known, f"{what}, allocation {n}: {error}")
        refused += error is not None
        try:
            then(made, error)
        except (Failed, OSError) as problem:
            raise Failed(f"{what}, after allocation {n} failed with {error}: {problem}") from problem
        if not hit:
            print(f"{what}: {n - 1} allocations, {refused} refused", flush=True)
            return n - 1
        n += 1
