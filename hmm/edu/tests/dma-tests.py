#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Has QEMU's edu device move a process's memory through the mappings of hmm, and checks every byte.

    dma-tests direct|iommu|peers
    dma-tests inject-direct|inject-iommu

With `inject-`, every allocation of what hmm_edu can do fails once: the command fails or does without, nothing
stays mapped that is not said to be, and it works the next time. This takes a kernel with fault injection.

What is mapped and unmapped is counted by hmm_edu and, where there is an IOMMU, by the tracepoints of
the kernel's own IOMMU code.
"""

import errno
import functools
import glob
import mmap
import os
import re
import subprocess
import sys
import time

from device_tests import (
    HUGE, PAGE, Failed, Memory, check, each, let_allocations_fail, mapped, pattern, put, skip, system,
)
from edu_device import (
    FILES, Trace, address, closed, collapse, command, copies, fails, mappings, pages_mapped,
)

def opened(memory, kind):
    said = command(f"open {memory.start} {memory.size // PAGE}").split()
    check(said == [kind, "narrow-refused"], f"the device's addressing: {said}")


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
    check(address(memory.start + 23 * PAGE), "the page after is gone")
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
            self.start, self.size = mapped(size, mmap.MAP_SHARED, file.fileno()), size


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
        skip("this kernel has no NVMe driver")
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


remembered = functools.cache(pattern)
WHOLE = f"open 0 {(1 << 35) - 1}"


class Scene:
    """A session with memory of its own. The last page is mapped: it tells where the device finds the others."""

    def __init__(self, memory, whole=False, first=0):
        self.memory, self.data = memory, remembered(11, 0, memory.size)
        self.memory.write(self.data)
        self.first = memory.start + first
        self.kind = command(WHOLE if whole else f"open {memory.start} {memory.size // PAGE}").split()[0]
        self.last = memory.start + memory.size - PAGE
        command(f"map {self.last} 1 write")

    def is_as_listed(self):
        """The IOMMU translates what is listed as mapped, and of a range nothing else."""
        if self.kind != "Range":
            return
        rows = mappings()
        ahead = address(self.last) - self.last
        # Of many pages, only some.
        for user in range(self.memory.start, self.last, max(PAGE, self.memory.size // 16)):
            listed = [str(pfn + (user - start) // PAGE)
                      for start, size, *_, pfn in rows if start <= user < start + size]
            said = command(f"translate {ahead + user}")
            check(said == "".join(listed), f"{user:#x}: listed as {listed}, translated to {said}")

    def works(self, pages):
        """All of it can be mapped, and the device moves the right bytes."""
        command(f"map {self.first} {pages} write")
        check(pages_mapped() == pages + 1, "not all pages are mapped")
        check(self.memory.holds(self.data), "the memory is wrong")
        # From the last page to the second.
        at = self.first - self.memory.start
        source, target = at + (pages - 1) * PAGE, at + PAGE
        command(f"copy {self.memory.start + source + 5} 4000 from")
        command(f"copy {self.memory.start + target + 5} 4000 to")
        moved = self.data[source + 5:source + 4005]
        check(self.memory[target + 5:target + 4005] == moved, "other bytes were moved")
        self.memory[target:target + PAGE] = self.data[target:target + PAGE]
        check(self.memory.holds(self.data), "other memory was written")

    def end(self):
        closed()
        self.memory.unmap()


def opening(whole):
    """A session is made, or there is none."""
    def act(memory):
        command(WHOLE if whole else f"open {memory.start} 16")

    def then(memory, error):
        if error is not None:
            fails(errno.ENODEV, "close")
            act(memory)
        command(f"map {memory.start} 16 write")
        check(pages_mapped() == 16, "not all pages are mapped")
        closed()
        memory.unmap()

    check(each(f"open, whole address space {whole}", lambda: Memory(16 * PAGE), act, then) > 1, "too few")


def mapping(what, memory, pages, whole=False, there=True, first=0):
    """Pages are mapped and found in the list, or neither."""
    def make():
        scene = Scene(memory(), whole, first)
        if not there:
            system("madvise", scene.first, pages * PAGE, mmap.MADV_DONTNEED)
        return scene

    def act(scene):
        command(f"map {scene.first} {pages} write")

    def then(scene, error):
        scene.is_as_listed()
        if not there:
            scene.memory.write(scene.data)
        scene.works(pages)
        scene.is_as_listed()
        scene.end()

    # The kernel has one answer only to whatever a mapping by itself fails for. A fault handler that gets no memory
    # gives no page, as for C's walk.
    known = (errno.ENOMEM, errno.EIO) if there else (errno.ENOMEM, errno.EIO, errno.EFAULT)
    what = f"map {pages} pages{what}{', whole address space' * whole}{', not there yet' * (not there)}"
    check(each(what, make, act, then, known) > 1, "too few")


def small():
    return Memory(64 * PAGE)


def distant():
    """The last page is in another table of the IOMMU's than the first ones."""
    return Memory(2 * HUGE)


def huge():
    memory = Memory(2 * HUGE, huge=True)
    memory.write(b"x" * memory.size)
    collapse(memory.start)
    return memory


def across():
    """The small pages of what was a huge page, a quarter of them past the end of a table of the IOMMU's.

    They are linked by two calls, of which the second has them in two tables (`Links`).
    """
    memory, block = Memory(3 * HUGE), Memory(HUGE, huge=True)
    block.write(b"x" * HUGE)
    collapse(block.start)
    for rights in mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE:
        system("mprotect", block.start + 99 * PAGE, PAGE, rights)
    block.move(memory.start + HUGE // 4)
    return memory


def others():
    """What neither opens nor maps."""
    def make():
        scene = Scene(small())
        scene.works(16)
        return scene

    def then(scene, error):
        scene.is_as_listed()
        scene.works(16)
        scene.end()

    def taken(scene, error):
        check(error is None, f"{error}")
        check(pages_mapped() == 16, "not exactly the page that is not needed is gone")
        scene.memory[5 * PAGE:6 * PAGE] = scene.data[5 * PAGE:6 * PAGE]
        then(scene, error)

    def ended(scene, error):
        fails(errno.ENODEV, "list")
        scene.memory.unmap()

    each("list", make, lambda _: command("list"), then)
    each("copy", make, lambda scene: command(f"copy {scene.memory.start} 64 from"), then)
    each("translate", make, lambda scene: command(f"translate {scene.memory.start}"), then)
    each("pages taken away", make, lambda scene: system(
        "madvise", scene.memory.start + 5 * PAGE, PAGE, mmap.MADV_DONTNEED), taken)
    each("close", make, lambda _: command("close"), ended)


def binding():
    """The driver takes the device, or leaves it; what it has made by then goes."""
    folder = "/sys/bus/pci/drivers/hmm_edu/"
    device, = (name for name in os.listdir(folder) if ":" in name)

    def make():
        put(folder + "unbind", device)

    def then(_, error):
        # Whoever makes files in debugfs is not told that there are none.
        if error is None and not all(map(os.path.exists, (FILES + "command", FILES + "result"))):
            put(folder + "unbind", device)
        if not os.path.exists(folder + device):
            put(folder + "bind", device)
        memory = Memory(16 * PAGE)
        command(f"open {memory.start} 16")
        command(f"map {memory.start} 16 write")
        closed()
        memory.unmap()

    # Registers that no memory was had to claim count as somebody else's.
    known = (errno.ENOMEM, errno.EBUSY)
    check(each("bind", make, lambda _: put(folder + "bind", device), then, known) > 1, "too few")


def inject():
    let_allocations_fail()
    for whole in False, True:
        opening(whole)
        mapping("", small, 16, whole, there=False)
        mapping("", small, 16, whole)
        mapping(" of a huge page", huge, HUGE // PAGE, whole)
    mapping(" in a table of their own", distant, 16)
    mapping(" in a row, of two tables", across, HUGE // PAGE, first=HUGE // 4)
    others()
    binding()


def main(kind):
    if kind.startswith("inject-"):
        return inject()
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
