# SPDX-License-Identifier: GPL-2.0
"""What the tests of QEMU's edu device share: the files by which hmm_edu is told what to do, and the IOMMU's account."""

import mmap
import os
import re
import subprocess

from device_tests import HUGE, PAGE, Failed, check, pattern, put, system

FILES = "/sys/kernel/debug/hmm_edu/"
TRACES = "/sys/kernel/tracing/"
MADV_COLLAPSE = 25


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
        put(TRACES + "trace", "")
        for event in "map", "unmap":
            put(f"{TRACES}events/iommu/{event}/enable", 1)

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
    """Makes a huge page, and keeps khugepaged from making one again once it has been split."""
    system("madvise", start, HUGE, MADV_COLLAPSE)
    system("madvise", start, HUGE, mmap.MADV_NOHUGEPAGE)


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
