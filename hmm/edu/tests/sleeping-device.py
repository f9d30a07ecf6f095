#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A mirror whose translations are QEMU's edu device's own: what the CPU takes away, the device has to forget, and that
sleeps. Checks every byte that the device moves.

    sleeping-device direct|iommu
    sleeping-device inject-direct|inject-iommu

With `inject-`, every allocation of what the mirror does fails once. This takes a kernel with fault injection.
"""

import ctypes
import errno
import mmap
import os
import random
import signal
import sys
import threading
import time

from device_tests import (
    HUGE, PAGE, Memory, check, each, let_allocations_fail, libc, pattern, system,
)
from edu_device import (
    Trace, address, closed, collapse, command, copies, fails, mappings, pages_mapped,
)

CHUNK = 128 << 20
SYS_PROCESS_MRELEASE = 448
READ = mmap.PROT_READ
WRITE = mmap.PROT_READ | mmap.PROT_WRITE


def mirrored(memory, kind, seed):
    memory[0:memory.size] = pattern(seed, 0, memory.size)
    said = command(f"mirror {memory.start} {memory.size // PAGE}")
    check(said == kind, f"the device's addressing: {said}")


def dontneed(memory, page, count=1):
    system("madvise", memory.start + page * PAGE, count * PAGE, mmap.MADV_DONTNEED)


def is_pattern(memory, seed, page):
    return memory[page * PAGE:(page + 1) * PAGE] == pattern(seed, page * PAGE, PAGE)


def is_as_translated(kind):
    """The IOMMU translates what the device has."""
    if kind == "Range":
        for _, size, bus, *_ in mappings():
            check(command(f"translate {bus}") != "", "the device has an address that is not mapped")
            check(command(f"translate {bus + size - PAGE}") != "", "the last page is not mapped")


def small_pages(kind):
    """The device faults; what the CPU takes away goes, and nothing else."""
    memory = Memory(64 * PAGE)
    mirrored(memory, kind, 1)
    copies(memory, 1)
    command(f"map {memory.start} 64 write")
    check(pages_mapped() == 64, "not all pages are on the device")
    is_as_translated(kind)
    copies(memory, 1)
    system("munmap", memory.start + 20 * PAGE, 3 * PAGE)
    check(pages_mapped() == 61, "not exactly what was unmapped is gone")
    check(address(memory.start + 19 * PAGE), "the page before is gone")
    check(address(memory.start + 23 * PAGE), "the page after is gone")
    fails(errno.EFAULT, f"copy {memory.start + 21 * PAGE} 8 from")
    fails(errno.EFAULT, f"map {memory.start + 21 * PAGE} 1 read")
    dontneed(memory, 30)
    check(pages_mapped() == 60, "not exactly the page that is not needed is gone")
    # A new page, which reads as zeroes.
    command(f"copy {memory.start + 30 * PAGE} 4096 from")
    command(f"copy {memory.start} 4096 to")
    check(memory[0:PAGE] == bytes(PAGE), "the device did not see the new page")
    is_as_translated(kind)
    closed()


def rights(kind):
    """Rights go with the CPU's, and come again."""
    memory = Memory(16 * PAGE)
    mirrored(memory, kind, 2)
    page = memory.start + 4 * PAGE
    command(f"map {memory.start} 16 write")
    system("mprotect", page, PAGE, READ)
    fails(errno.EPERM, f"copy {page} 8 to")
    command(f"copy {page} 4096 from")
    command(f"copy {memory.start + 7 * PAGE} 4096 from")
    check([row[3] for row in mappings() if row[0] == page] == ["ReadOnly"], "the device may write")
    system("mprotect", page, PAGE, WRITE)
    # From read-only to writable, at a place where both neighbours stay.
    command(f"copy {page + 8} 8 to")
    expected = bytearray(pattern(2, 4 * PAGE, PAGE))
    expected[8:16] = pattern(2, 7 * PAGE + 8, 8)
    check(memory[4 * PAGE:5 * PAGE] == bytes(expected), "the device wrote elsewhere")
    check(pages_mapped() == 16, "a page is gone")
    is_as_translated(kind)
    closed()


def forked(kind):
    """After a fork, what the device writes is the parent's alone."""
    memory = Memory(16 * PAGE)
    mirrored(memory, kind, 3)
    command(f"map {memory.start} 16 write")
    end, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(end, 1)
        os._exit(0 if all(is_pattern(memory, 3, page) for page in range(16)) else 1)
    command(f"copy {memory.start} 4096 from")
    command(f"copy {memory.start + 9 * PAGE} 4096 to")
    os.close(go)
    os.close(end)
    check(os.waitpid(child, 0)[1] == 0, "the child sees what the device wrote")
    check(memory[9 * PAGE:10 * PAGE] == pattern(3, 0, PAGE), "the parent does not")
    closed()


def huge_page(kind):
    """A huge page is on the device as a whole, and goes as a whole when the CPU splits it."""
    memory = Memory(2 * HUGE, huge=True)
    memory[0:memory.size] = b"x" * memory.size
    collapse(memory.start)
    collapse(memory.start + HUGE)
    mirrored(memory, kind, 4)
    command(f"copy {memory.start + HUGE + 5 * PAGE} 8 from")
    check(pages_mapped() == 512, "the huge page is not on the device as a whole")
    command(f"map {memory.start} {memory.size // PAGE} write")
    check(pages_mapped() == 1024, "not all pages are on the device")
    is_as_translated(kind)
    copies(memory, 4)
    dontneed(memory, 512 + 5)
    check(address(memory.start + HUGE + 5 * PAGE) is None, "the page is still on the device")
    check(address(memory.start + HUGE - PAGE), "the other huge page is gone")
    command(f"map {memory.start + HUGE} 512 write")
    check(pages_mapped() == 1024, "not all pages are on the device again")
    command(f"copy {memory.start + HUGE + 6 * PAGE} 100 from")
    command(f"copy {memory.start + HUGE} 100 to")
    check(memory[HUGE:HUGE + 100] == pattern(4, HUGE + 6 * PAGE, 100), "the split page's data is wrong")
    is_as_translated(kind)
    closed()


def chunks(kind):
    """Pages at both sides of the end of a chunk; chunks that go because they are empty, and come again."""
    memory = Memory(2 * CHUNK)
    # There is room for pages before it, too, wherever the memory begins.
    edge = -(-(memory.start + HUGE) // CHUNK) * CHUNK
    first = (edge - memory.start) // PAGE - 8
    memory[first * PAGE:(first + 16) * PAGE] = pattern(5, first * PAGE, 16 * PAGE)
    command(f"mirror {memory.start} {memory.size // PAGE}")
    for _ in range(3):
        command(f"map {memory.start + first * PAGE} 16 write")
        check(pages_mapped() == 16, "not all pages are on the device")
        is_as_translated(kind)
        source, target = first + 3, first + 12
        memory[source * PAGE:(source + 1) * PAGE] = pattern(5, source * PAGE, PAGE)
        command(f"copy {memory.start + source * PAGE + 7} 4000 from")
        command(f"copy {memory.start + target * PAGE + 7} 4000 to")
        moved = memory[target * PAGE + 7:target * PAGE + 4007]
        check(moved == pattern(5, source * PAGE + 7, 4000), "other bytes were moved")
        dontneed(memory, first, 16)
        check(pages_mapped() == 0, "the pages are still on the device")
        time.sleep(0.3)
    closed()


def state(process):
    with open(f"/proc/{process}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def child_that(memory, first, act):
    """A process with 16 pages of its own on the device, in the middle of `act`, where it cannot be killed."""
    end, begun = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            memory[0:memory.size] = pattern(6, 0, memory.size)
            command(f"mirror {memory.start} 16")
            command(f"map {memory.start} 16 write")
            command(first)
            os.write(begun, b"x")
            act()
        finally:
            os._exit(1)
    os.close(begun)
    check(os.read(end, 1) == b"x", "the child failed")
    os.close(end)
    seen = 0
    while seen < 5:
        seen = seen + 1 if state(child) == "D" else 0
        time.sleep(0.02)
    return child


def killed(child):
    check(os.waitpid(child, 0)[1] == signal.SIGKILL, "the child was not killed")


def release(process):
    """Has the OOM reaper's work done: the memory of a process that is being killed is freed. The error, or 0."""
    if libc.syscall(SYS_PROCESS_MRELEASE, process, 0) == 0:
        return 0
    return ctypes.get_errno()


def anonymous(child):
    with open(f"/proc/{child}/status") as file:
        line, = (line for line in file if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def not_to_sleep(kind):
    """The OOM reaper must not sleep: what the device uses is not taken, and all else is."""
    memory = Memory(16 * PAGE)
    child = child_that(memory, "list", lambda: command("hold"))
    process = os.pidfd_open(child)
    os.kill(child, signal.SIGKILL)
    before = anonymous(child)
    check(release(process) == errno.EAGAIN, "what the device uses was taken, or nothing was tried")
    left = anonymous(child)
    check(memory.size <= left < before, f"{left} of {before} bytes are left")
    check(pages_mapped() == 16, "the device has lost pages")
    is_as_translated(kind)
    closed()
    # The device has forgotten them.
    check(release(process) == 0, "what nobody uses was not taken")
    check(anonymous(child) < left, "the pages are still there")
    os.close(process)
    command("let-go")
    killed(child)


def not_to_wait(_kind):
    """Nor does it wait for who has the device forget a page."""
    memory = Memory(16 * PAGE)
    child = child_that(memory, "zaps 600000 0 0 0", lambda: dontneed(memory, 3))
    process = os.pidfd_open(child)
    os.kill(child, signal.SIGKILL)
    check(release(process) == errno.EAGAIN, "it was not refused")
    # It looks at the clock from time to time, so it need not be asleep.
    check(state(child) not in "XZ", "it waited for the device")
    os.close(process)
    command("zaps 0 0 0 0")
    killed(child)
    check(pages_mapped() == 0, "pages of a dead process are on the device")
    closed()


def killed_in_a_zap(_kind):
    """Who is killed while the device forgets a page dies, and leaves nothing on the device."""
    memory = Memory(16 * PAGE)
    gone = memory.start + 3 * PAGE
    child = child_that(memory, "zaps 600000 0 0 0", lambda: system("munmap", gone, PAGE))
    os.kill(child, signal.SIGKILL)
    check(pages_mapped() == 16, "the device has forgotten a page at once")
    command("zaps 0 0 0 0")
    killed(child)
    check(pages_mapped() == 0, "pages of a dead process are on the device")
    fails(errno.ESRCH, f"copy {memory.start} 8 from")
    closed()


def not_confirmed(kind):
    """A device that does not confirm loses the chunk, which is made anew."""
    memory = Memory(16 * PAGE)
    mirrored(memory, kind, 7)
    command(f"map {memory.start} 16 write")
    command("zaps 0 1 0 0")
    dontneed(memory, 3)
    check(pages_mapped() == 0, "the device has not been cut off")
    check(all(is_pattern(memory, 7, page) for page in range(16) if page != 3), "pages are wrong")
    deadline = time.monotonic() + 60
    while True:
        try:
            command(f"copy {memory.start + 5 * PAGE} 4096 from")
            break
        except OSError as error:
            # Until the reaper has come.
            check(error.errno == errno.EIO and time.monotonic() < deadline, f"{error}")
            time.sleep(0.02)
    command(f"copy {memory.start + 3 * PAGE} 4096 to")
    check(memory[3 * PAGE:4 * PAGE] == pattern(7, 5 * PAGE, PAGE), "other bytes were moved")
    closed()


def held(kind, why):
    """If nothing keeps the device from its pages, nobody else gets their frames. Either the fences are not confirmed, or
    the engine does not end a copy, so that nothing can be."""
    memory = Memory(16 * PAGE)
    mirrored(memory, kind, 8)
    command(f"map {memory.start} 16 write")
    if why == "lost":
        command("zaps 0 0 0 1")
        fails(errno.ETIMEDOUT, f"copy {memory.start + 9 * PAGE} 8 from")
    else:
        command(f"zaps 0 1 {9 if why == 'for ever' else 1} 0")
    bus = address(memory.start + 3 * PAGE)
    frame = command(f"translate {bus}")
    dontneed(memory, 3)
    check(pages_mapped() == 16, "the device has lost pages")
    check(memory[3 * PAGE:4 * PAGE] == bytes(PAGE), "the CPU has the old page")
    # All that is free is used by somebody else.
    other = Memory(64 << 20)
    other[0:other.size] = b"y" * other.size
    command(f"copy {memory.start + 3 * PAGE} 4096 from")
    command(f"copy {memory.start + 5 * PAGE} 4096 to")
    check(memory[5 * PAGE:6 * PAGE] == pattern(8, 3 * PAGE, PAGE), "the frame is somebody else's")
    command(f"copy {memory.start + 3 * PAGE} 4096 to")
    check(memory[3 * PAGE:4 * PAGE] == bytes(PAGE), "the device wrote the new page")
    check(other[0:other.size] == b"y" * other.size, "the device wrote somebody else's page")
    check(command(f"translate {bus}") == frame, "the page is not mapped any more")
    other.unmap()
    # The mirror takes no pages any more.
    system("munmap", memory.start + 9 * PAGE, PAGE)
    check(pages_mapped() == 16, "the device has lost pages")
    if why != "once":
        _, given, _, forgotten = command("close").split()
        check((given, forgotten) == ("16", "0"), f"{given} given, {forgotten} forgotten")
        return
    closed()
    memory.unmap()


def storm(kind):
    """The device copies while the CPU takes pages away and writes them anew."""
    seed, pages = 9, 24
    memory = Memory(32 * PAGE)
    mirrored(memory, kind, seed)
    over = threading.Event()

    def disturb(dice):
        while not over.is_set():
            page = dice.randrange(pages)
            what = dice.randrange(3)
            if what == 0:
                dontneed(memory, page)
            elif what == 1:
                system("mprotect", memory.start + page * PAGE, PAGE, READ)
                system("mprotect", memory.start + page * PAGE, PAGE, WRITE)
            else:
                memory[page * PAGE:(page + 1) * PAGE] = pattern(seed, page * PAGE, PAGE)
            time.sleep(0.003)

    disturber = threading.Thread(target=disturb, args=(random.Random(seed),))
    disturber.start()
    try:
        dice = random.Random(seed + 1)
        for _ in range(40):
            source, target = dice.randrange(pages), pages + dice.randrange(32 - pages)
            command(f"copy {memory.start + source * PAGE} 4096 from")
            command(f"copy {memory.start + target * PAGE} 4096 to")
            moved = memory[target * PAGE:(target + 1) * PAGE]
            wanted = pattern(seed, source * PAGE, PAGE)
            # A page that is being written is part old, part new.
            wrong = [at for at in range(PAGE) if moved[at] not in (0, wanted[at])]
            check(not wrong, f"page {source} to {target}: bytes {wrong[:8]} are somebody else's")
    finally:
        over.set()
        disturber.join()
    closed()


def inject():
    let_allocations_fail()

    def opened():
        memory = Memory(16 * PAGE)
        memory[0:memory.size] = pattern(11, 0, memory.size)
        command(f"mirror {memory.start} 16")
        return memory

    def mapped():
        memory = opened()
        command(f"map {memory.start} 16 write")
        return memory

    def works(memory, _error):
        command(f"map {memory.start} 16 write")
        check(pages_mapped() == 16, "not all pages are on the device")
        copies(memory, 11)
        closed()
        memory.unmap()

    def open_again(memory, error):
        if error is not None:
            fails(errno.ENODEV, "close")
            command(f"mirror {memory.start} 16")
        memory[0:memory.size] = pattern(11, 0, memory.size)
        works(memory, error)

    def taken(memory, error):
        check(error is None, f"{error}")
        check(pages_mapped() == 15, "not exactly the page that is not needed is gone")
        memory[5 * PAGE:6 * PAGE] = pattern(11, 5 * PAGE, PAGE)
        works(memory, error)

    def ended(memory, error):
        fails(errno.ENODEV, "list")
        memory.unmap()

    known = (errno.ENOMEM, errno.EIO, errno.EFAULT)
    def open_it(memory):
        command(f"mirror {memory.start} 16")

    opens = each("mirror", lambda: Memory(16 * PAGE), open_it, open_again)
    maps = each("map", opened, lambda memory: command(f"map {memory.start} 16 write"), works, known)
    check(opens > 1 and maps > 1, "too few")
    each("copy", opened, lambda memory: command(f"copy {memory.start} 64 from"), works, known)
    each("pages taken away", mapped, lambda memory: dontneed(memory, 5), taken)
    each("list", mapped, lambda _: command("list"), works)
    each("close", mapped, lambda _: command("close"), ended)


def main(how):
    if how.startswith("inject-"):
        return inject()
    kind = "Range"
    if how == "direct":
        # A kernel that checks the use of its DMA functions keeps account of every mapping.
        kind = "Each" if os.path.isdir("/sys/kernel/debug/dma-api") else "Frames"
    trace = Trace() if how == "iommu" else None
    for test in small_pages, rights, forked, huge_page, chunks:
        print(test.__name__, flush=True)
        test(kind)
    for test in not_to_sleep, not_to_wait, killed_in_a_zap, not_confirmed, storm:
        print(test.__name__, flush=True)
        test(kind)
    print("held", flush=True)
    held(kind, "once")
    if trace is not None and trace.there:
        calls = trace.check()
        print(f"{len(calls)} calls mapped {sum(calls)} bytes, all of which were unmapped once")
    # What is never freed is a leak to a kernel that looks for such.
    if not os.path.exists("/sys/kernel/debug/kmemleak"):
        for why in "for ever", "lost":
            print(f"held: {why}", flush=True)
            held(kind, why)


if __name__ == "__main__":
    main(sys.argv[1])
