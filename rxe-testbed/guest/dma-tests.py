#!/usr/bin/env python3
"""Has QEMU's edu device move a process's memory through the mappings of hmm, and checks every byte.

    dma-tests direct|iommu|peers

What is mapped and unmapped is counted by hmm_edu and, where there is an IOMMU, by the tracepoints of
the kernel's own IOMMU code.
"""

import ctypes
import errno
import glob
import mmap
import os
import re
import subprocess
import sys
import time

PAGE = 4096
HUGE = 2 << 20
FILES = "/sys/kernel/debug/hmm_edu/"
TRACES = "/sys/kernel/tracing/"
MADV_COLLAPSE = 25

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
    """Anonymous memory at an aligned address, page by page as the kernel gives it."""

    def __init__(self, size, huge=False):
        start = libc.mmap(None, size + HUGE, 3, 0x22, -1, 0)
        check(start not in (None, 2**64 - 1), "no memory")
        self.start, self.size = -(-start // HUGE) * HUGE, size
        system("madvise", self.start, size, mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)

    def __getitem__(self, part):
        return ctypes.string_at(self.start + part.start, part.stop - part.start)

    def __setitem__(self, part, data):
        check(len(data) == part.stop - part.start, "sizes differ")
        ctypes.memmove(self.start + part.start, data, len(data))


def pattern(seed, start, size):
    """Bytes that depend on where they are."""
    first, last = start // 8, -(-(start + size) // 8)
    words = (
        ((seed << 40 | word) * 0x9E3779B97F4A7C15 & (1 << 64) - 1).to_bytes(8, "little")
        for word in range(first, last)
    )
    return b"".join(words)[start % 8:][:size]


def command(text):
    with open(FILES + "command", "wb", buffering=0) as file:
        file.write(text.encode())
    with open(FILES + "result") as file:
        return file.read()


def fails(number, text):
    try:
        command(text)
    except OSError as error:
        check(error.errno == number, f"{text}: {error}")
        return
    raise Failed(f"{text}: no error")


def mappings():
    """What is mapped: address, bytes, where the device finds it, and what kind it is."""
    rows = (line.split() for line in command("list").splitlines())
    return sorted(
        (int(start), int(pages) * PAGE, int(bus), perm, route, int(pfn))
        for start, pages, bus, perm, route, pfn in rows
    )


def address(user):
    for start, size, bus, *_ in mappings():
        if start <= user < start + size:
            return bus + user - start
    return None


def pages_mapped():
    return sum(size for _, size, *_ in mappings()) // PAGE


class Trace:
    """The IOMMU code's own account of what it maps and unmaps; nothing else in the VM uses it."""

    EVENT = re.compile(
        r" (map|unmap): IOMMU: iova=(0x[0-9a-f]+) .* size=(\d+)(?: unmapped_size=(\d+))?"
    )

    def __init__(self):
        self.there = os.path.isdir(TRACES)
        if not self.there:
            return
        if not os.path.exists(TRACES + "trace"):
            subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACES], check=True)
        self.write("trace", "")
        for event in "map", "unmap":
            self.write(f"events/iommu/{event}/enable", "1")

    def write(self, name, text):
        with open(TRACES + name, "w") as file:
            file.write(text)

    def check(self):
        """All that was mapped was unmapped, once. Gives how many bytes each call mapped."""
        live, calls = set(), []
        with open(TRACES + "trace") as file:
            events = filter(None, map(self.EVENT.search, file))
            for kind, first, size, unmapped in (event.groups() for event in events):
                first, size = int(first, 16), int(size)
                pages = set(range(first, first + size, PAGE))
                if kind == "map":
                    check(not live & pages, f"mapped twice: {first:#x} {size}")
                    live |= pages
                    calls.append(size)
                else:
                    check(size == int(unmapped), f"{unmapped} of {size} bytes unmapped")
                    check(pages <= live, f"unmapped, but not mapped: {first:#x} {size}")
                    live -= pages
        check(not live, f"{len(live)} pages were never unmapped")
        return calls


def collapse(start):
    system("madvise", start, HUGE, MADV_COLLAPSE)


def opened(memory, kind):
    said = command(f"open {memory.start} {memory.size // PAGE}").split()
    check(said == [kind, "narrow-refused"], f"the device's addressing: {said}")


def closed():
    _, mapped, _, unmapped = command("close").split()
    check(int(mapped) > 0, "nothing was mapped")
    check(mapped == unmapped, f"{mapped} pages were mapped and {unmapped} unmapped")


def copies(memory, seed):
    """The device copies pieces at odd places from page to page."""
    for source, target, at, size in [(0, 9, 0, 4096), (3, 12, 1, 4095), (7, 8, 1234, 777)]:
        around = memory[target * PAGE:(target + 1) * PAGE]
        place = memory.start + source * PAGE + at
        command(f"copy {place} {size} from")
        command(f"copy {memory.start + target * PAGE + at} {size} to")
        moved = pattern(seed, source * PAGE + at, size)
        expected = around[:at] + moved + around[at + size:]
        check(memory[target * PAGE:(target + 1) * PAGE] == expected, f"page {target} is wrong")


def small_pages(kind):
    """Single pages: data arrives, what the CPU takes away goes, and nothing else."""
    memory = Memory(64 * PAGE)
    memory[0:memory.size] = pattern(1, 0, memory.size)
    opened(memory, kind)
    command(f"map {memory.start} 64 write")
    check(pages_mapped() == 64, "not all pages are mapped")
    copies(memory, 1)
    system("munmap", memory.start + 20 * PAGE, 3 * PAGE)
    check(pages_mapped() == 61, "not exactly what was unmapped is gone")
    check(address(memory.start + 19 * PAGE), "the page before is gone")
    check(address(memory.start + 23 * PAGE), "the page behind is gone")
    fails(errno.EFAULT, f"copy {memory.start + 21 * PAGE} 8 from")
    fails(errno.EFAULT, f"map {memory.start + 21 * PAGE} 1 read")
    system("madvise", memory.start + 30 * PAGE, PAGE, mmap.MADV_DONTNEED)
    check(pages_mapped() == 60, "not exactly the page that is not needed is gone")
    # A new page, which reads as zeroes.
    command(f"map {memory.start + 30 * PAGE} 1 write")
    command(f"copy {memory.start + 30 * PAGE} 4096 from")
    command(f"copy {memory.start} 4096 to")
    check(memory[0:PAGE] == bytes(PAGE), "the device did not see the new page")
    system("mprotect", memory.start + 40 * PAGE, PAGE, mmap.PROT_READ)
    command(f"map {memory.start + 40 * PAGE} 1 read")
    fails(errno.EPERM, f"copy {memory.start + 40 * PAGE} 8 to")
    fails(errno.EPERM, f"map {memory.start + 40 * PAGE} 1 write")
    command(f"copy {memory.start + 40 * PAGE} 64 from")
    closed()


def huge_page(kind):
    """A huge page is one mapping; a part of it goes without the rest of the memory."""
    memory = Memory(2 * HUGE, huge=True)
    memory[0:memory.size] = b"x" * memory.size
    memory[0:16 * PAGE] = pattern(2, 0, 16 * PAGE)
    collapse(memory.start)
    collapse(memory.start + HUGE)
    opened(memory, kind)
    command(f"map {memory.start} {memory.size // PAGE} write")
    check(pages_mapped() == 1024, "not all pages are mapped")
    rows = mappings()
    frames = {start: pfn for start, _, _, _, _, pfn in rows}
    check(all(pfn % 512 == 0 for pfn in frames.values()), "these are no huge pages")
    check(len(rows) <= 2, f"two huge pages are {len(rows)} mappings")
    copies(memory, 2)
    system("madvise", memory.start + HUGE + 5 * PAGE, PAGE, mmap.MADV_DONTNEED)
    check(address(memory.start + HUGE + 5 * PAGE) is None, "the page is still mapped")
    check(address(memory.start + HUGE - PAGE), "the other huge page is gone")
    memory[0:16 * PAGE] = pattern(3, 0, 16 * PAGE)
    copies(memory, 3)
    # The rest of the split huge page comes back as small ones.
    command(f"map {memory.start + HUGE} 512 write")
    check(pages_mapped() == 1024, "not all pages are mapped again")
    command(f"copy {memory.start + HUGE + 6 * PAGE} 100 from")
    command(f"copy {memory.start} 100 to")
    check(memory[0:100] == b"x" * 100, "the split page's data is wrong")
    closed()


def split_huge_page(kind):
    """The small pages of what was a huge page are one mapping, but each can go alone."""
    memory = Memory(HUGE, huge=True)
    memory[0:HUGE] = pattern(7, 0, HUGE)
    collapse(memory.start)
    system("mprotect", memory.start + 99 * PAGE, PAGE, mmap.PROT_READ)
    system("mprotect", memory.start + 99 * PAGE, PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
    opened(memory, kind)
    command(f"map {memory.start} 512 write")
    if kind != "Each":
        (_, size, _, _, _, pfn), = mappings()
        check(size == HUGE and pfn % 512 == 0, "the frames are not contiguous")
    copies(memory, 7)
    system("madvise", memory.start + 200 * PAGE, PAGE, mmap.MADV_DONTNEED)
    check(pages_mapped() == 511, "not exactly the page that is not needed is gone")
    command(f"copy {memory.start + 199 * PAGE} 4096 from")
    command(f"copy {memory.start + 201 * PAGE} 4096 to")
    moved = pattern(7, 199 * PAGE, PAGE)
    check(memory[201 * PAGE:202 * PAGE] == moved, "the pages around it do not work")
    closed()


def refused_by_iommu():
    """What is not mapped, or not to be written, the IOMMU keeps from the device."""
    memory = Memory(16 * PAGE)
    memory[0:memory.size] = pattern(4, 0, memory.size)
    opened(memory, "Range")
    command(f"map {memory.start} 8 write")
    bus = address(memory.start)
    check(address(memory.start + 3 * PAGE) == bus + 3 * PAGE, "the addresses are not contiguous")
    for start, _, at, _, _, pfn in mappings():
        check(command(f"translate {at}") == str(pfn), "the IOMMU translates to another frame")
    gone = bus + 2 * PAGE
    system("madvise", memory.start + 2 * PAGE, PAGE, mmap.MADV_DONTNEED)
    memory[2 * PAGE:3 * PAGE] = pattern(5, 0, PAGE)
    check(command(f"translate {gone}") == "", "the IOMMU still translates what was unmapped")
    check(command(f"translate {gone + PAGE}") != "", "the IOMMU has lost the next page")
    logged(f"access {gone} 64 to", gone)
    logged(f"access {gone} 64 from", gone)
    check(memory[2 * PAGE:3 * PAGE] == pattern(5, 0, PAGE), "the device wrote what is not mapped")
    # Read-only for the CPU, read-only for the device.
    system("mprotect", memory.start + 4 * PAGE, PAGE, mmap.PROT_READ)
    command(f"map {memory.start + 4 * PAGE} 1 read")
    # The emulator's IOMMU says nothing of a write that its cache refuses, so that comes before a read.
    logged(f"access {bus + 4 * PAGE} 64 to", bus + 4 * PAGE)
    check(memory[4 * PAGE:4 * PAGE + 64] == pattern(4, 4 * PAGE, 64), "a read-only page changed")
    command(f"access {bus + 4 * PAGE} 64 from")
    command(f"access {bus} 64 to")
    check(memory[0:64] == pattern(4, 4 * PAGE, 64), "the device did not read a read-only page")
    closed()
    opened(Memory(16 * PAGE), "Range")
    for page in range(16):
        check(command(f"translate {bus + page * PAGE}") == "", "translated after the end")
    command("close")


def logged(text, bus):
    """The device's access is refused, and the kernel says so."""
    before = faults(bus)
    command(text)
    check(faults(bus) > before, f"{text}: no fault was reported")


def faults(bus):
    log = subprocess.run(["dmesg"], capture_output=True, check=True, text=True).stdout
    return len(re.findall(f"DMAR: .* fault addr {bus:#x}", log))


def whole_address_space():
    """More pages than the IOMMU has addresses for: each page gets its own."""
    memory = Memory(16 * PAGE)
    memory[0:memory.size] = pattern(6, 0, memory.size)
    said = command(f"open 0 {(1 << 35) - 1}").split()
    check(said[0] == "Each", f"the device's addressing: {said}")
    command(f"map {memory.start} 16 write")
    copies(memory, 6)
    system("munmap", memory.start + 5 * PAGE, PAGE)
    check(pages_mapped() == 15, "not exactly what was unmapped is gone")
    closed()


class Peer(Memory):
    """Memory of the NVMe device with this serial number."""

    def __init__(self, serial, size):
        with open(f"{nvme(serial)}/device/p2pmem/allocate", "rb+", buffering=0) as file:
            start = libc.mmap(None, size, 3, mmap.MAP_SHARED, file.fileno(), 0)
        check(start not in (None, 2**64 - 1), "the device gives no memory")
        self.start, self.size = start, size


def nvme(serial):
    """The device's folder, once its driver has found it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for path in glob.glob("/sys/class/nvme/*/serial"):
            with open(path) as file:
                if file.read().strip() == serial:
                    return path.removesuffix("/serial")
        time.sleep(0.1)
    raise Failed(f"no NVMe device {serial}")


def peers():
    """Memory of another device: reached where there is a way, refused where there is none."""
    if subprocess.run(["modprobe", "nvme"]).returncode != 0:
        print("this kernel has no NVMe driver")
        sys.exit(77)
    near, far = Peer("near", 16 * PAGE), Peer("far", PAGE)
    memory = Memory(16 * PAGE)
    near[0:near.size] = pattern(8, 0, near.size)
    memory[0:memory.size] = pattern(9, 0, memory.size)
    command(f"open 0 {(1 << 35) - 1}")
    command(f"map {near.start} 16 write")
    (_, size, bus, _, route, pfn), = mappings()
    check((size, route) == (near.size, "Bus"), f"{size} bytes by way of {route}")
    check(bus == pfn * PAGE, "the device is told another address than the bus has")
    command(f"map {memory.start} 16 write")
    copies(near, 8)
    place = 5 * PAGE + 321
    command(f"copy {near.start + place} 1000 from")
    command(f"copy {memory.start + place} 1000 to")
    expected = pattern(9, 0, place) + pattern(8, place, 1000)
    expected += pattern(9, place + 1000, memory.size - place - 1000)
    check(memory[0:memory.size] == expected, "the peer's data did not arrive")
    fails(errno.EOPNOTSUPP, f"map {far.start} 1 read")
    near[0:near.size] = bytes(near.size)
    system("munmap", near.start + PAGE, PAGE)
    check(pages_mapped() == 31, "not exactly what was unmapped is gone")
    closed()


def main(kind):
    if kind == "peers":
        peers()
        return
    if kind == "direct":
        # A kernel that checks the use of its DMA functions keeps account of every mapping.
        way = "Each" if os.path.isdir("/sys/kernel/debug/dma-api") else "Frames"
        small_pages(way)
        huge_page(way)
        split_huge_page(way)
        return
    trace = Trace()
    small_pages("Range")
    huge_page("Range")
    split_huge_page("Range")
    refused_by_iommu()
    whole_address_space()
    if not trace.there:
        return
    calls = trace.check()
    check(max(calls) >= HUGE, "a huge page took more than one call")
    print(f"{len(calls)} calls mapped {sum(calls)} bytes, all of which were unmapped once")


if __name__ == "__main__":
    main(sys.argv[1])
