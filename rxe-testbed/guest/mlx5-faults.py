#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Faults of Debian's mlx5 driver in on-demand paging, on the emulated ConnectX: they show with that driver, and not with
ours.

    mlx5-faults stock FAULT...    ends with 0 if all of them show; else the device is wrong, or the driver was mended
    mlx5-faults ours FAULT...     ends with 0 if none does
"""
import os
import re
import statistics
import subprocess
import sys
import time

from pyverbs.addr import AHAttr
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.libibverbs_enums import ibv_access_flags as Access
from pyverbs.libibverbs_enums import ibv_qp_type, ibv_wc_status, ibv_wr_opcode
from pyverbs.mem_alloc import MAP_ANONYMOUS_, MAP_HUGETLB_, MAP_PRIVATE_, madvise
from pyverbs.mem_alloc import mmap as map_memory
from pyverbs.mem_alloc import munmap as unmap
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

PAGE = 4096
HUGE = 2 << 20
# A part of an implicit region is at most so long: 16 GiB, with five levels of page tables.
PART = 16 << 30
MAP_NORESERVE = 0x4000
ALL = (
    Access.IBV_ACCESS_LOCAL_WRITE
    | Access.IBV_ACCESS_REMOTE_READ
    | Access.IBV_ACCESS_REMOTE_WRITE
    | Access.IBV_ACCESS_ON_DEMAND
)
SUCCESS = ibv_wc_status.IBV_WC_SUCCESS
REMOTE_ACCESS = ibv_wc_status.IBV_WC_REM_ACCESS_ERR


# Whose driver it is.
STOCK = sys.argv[1:2] == ["stock"]


class Fault(Exception):
    """The driver does not do what it should, or Debian's does."""


def shows(condition, what):
    if STOCK and not condition:
        raise Fault(f"{what}: the driver has been mended, or the device is wrong")
    if condition and not STOCK:
        raise Fault(f"not so: {what}")


def holds(condition, what):
    if not condition:
        raise Fault(f"not so: {what}")


class Scene:
    """Two connected queue pairs, and pinned memory for what the first one reads."""

    def __init__(self, beside=None):
        self.context = beside.context if beside else Context(name="mlx5_0")
        self.pd = beside.pd if beside else PD(self.context)
        self.cq = CQ(self.context, 16)
        init = QPInitAttr(qp_type=ibv_qp_type.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=QPCap(max_send_wr=8))
        attr = QPAttr(port_num=1)
        attr.qp_access_flags = ALL & ~Access.IBV_ACCESS_ON_DEMAND
        attr.path_mtu = 3
        attr.max_dest_rd_atomic = attr.max_rd_atomic = 1
        attr.min_rnr_timer = 12
        attr.timeout, attr.retry_cnt, attr.rnr_retry = 18, 7, 7
        with open("/sys/class/infiniband/mlx5_0/ports/1/lid") as file:
            attr.ah_attr = AHAttr(dlid=int(file.read(), 16), port_num=1)
        self.pairs = [QP(self.pd, init, attr) for _ in range(2)]
        for own, other in [(0, 1), (1, 0)]:
            attr.dest_qp_num = self.pairs[other].qp_num
            self.pairs[own].to_rts(attr)
        self.own = MR(self.pd, PAGE, Access.IBV_ACCESS_LOCAL_WRITE)

    def region(self, address, length, more=0, implicit=False):
        return MR(self.pd, length, ALL | more, address=address, implicit=implicit)

    def start(self, mr, address, length, opcode=ibv_wr_opcode.IBV_WR_RDMA_READ):
        wr = SendWR(opcode=opcode, num_sge=1, sg=[SGE(self.own.buf, length, self.own.lkey)])
        wr.set_wr_rdma(mr.rkey, address)
        self.pairs[0].post_send(wr)

    def end(self, seconds=60):
        """How it ended; nothing if it has not in time."""
        deadline = time.monotonic() + seconds * int(os.environ.get("TESTBED_PATIENCE", 1))
        while time.monotonic() < deadline:
            count, completions = self.cq.poll(1)
            if count:
                return completions[0].status
        return None

    def read(self, mr, address, length=8):
        """Bytes as the device reads them."""
        self.start(mr, address, length)
        status = self.end()
        if status != SUCCESS:
            raise RuntimeError(f"a read ended with {status}")
        return self.own.read(length, 0)


def memory(length, more=0):
    return map_memory(length=length, flags=MAP_ANONYMOUS_ | MAP_PRIVATE_ | more)


def at(address):
    """What a place is filled with: its own address."""
    return address.to_bytes(8, "little")


def poke(address, data):
    with open("/proc/self/mem", "r+b", buffering=0) as file:
        file.seek(address)
        file.write(data)


def peek(address, length):
    with open("/proc/self/mem", "rb", buffering=0) as file:
        file.seek(address)
        return file.read(length)


def faults():
    """How many page faults the driver has counted for all regions."""
    said = subprocess.run(["rdma", "-j", "statistic", "show", "mr"], capture_output=True, check=True, text=True).stdout
    return sum(int(count) for count in re.findall(r'"page_faults": *"?(\d+)', said))


def absent_pages():
    """Pages that were never touched get the translations of others, in a region whose table is written in pieces."""
    scene = Scene()
    length, resident = 700 << 20, 4096
    base = memory(length, MAP_NORESERVE)
    for page in range(resident):
        poke(base + page * PAGE, at(page + 1))
    mr = scene.region(base, length)
    # A piece is 1 MiB less 64 bytes of entries.
    piece = ((1 << 20) - 64) // 8
    page = piece + 2200
    found = int.from_bytes(scene.read(mr, base + page * PAGE), "little")
    shows(found != 0, "an untouched page reads as zeroes")
    print(f"page {page} reads as page {found - 1}")


def huge_pages():
    """A region of huge pages: what lies in the second one is not what the device reads."""
    scene = Scene()
    base = memory(2 * HUGE, MAP_HUGETLB_)
    offsets = [0, PAGE, HUGE - 8, HUGE, HUGE + PAGE, HUGE + (1 << 20), 2 * HUGE - 8]
    for offset in offsets:
        poke(base + offset, at(base + offset))
    mr = scene.region(base, 2 * HUGE, Access.IBV_ACCESS_HUGETLB)
    wrong = [offset for offset in offsets if scene.read(mr, base + offset) != at(base + offset)]
    print("wrong bytes at", [hex(offset) for offset in wrong])
    shows(wrong, f"all bytes are right (wrong at {wrong})")


def huge_page_untouched():
    """The same, and none is there yet: a fault in the second one is resumed again and again, and nothing comes of it."""
    scene = Scene()
    base = memory(2 * HUGE, MAP_HUGETLB_)
    mr = scene.region(base, 2 * HUGE, Access.IBV_ACCESS_HUGETLB)
    scene.start(mr, base + HUGE, 8)
    shows(scene.end(5 if STOCK else 60) is None, "the read ends")
    if not STOCK:
        holds(scene.own.read(8, 0) == bytes(8), "the page is zeroes")


def neighbours():
    """A page that goes takes those of its block with it: the next one faults again."""
    scene = Scene()
    base = memory(16 * PAGE)
    mr = scene.region(base, 16 * PAGE)
    for page in range(16):
        poke(base + page * PAGE, at(page))
        scene.read(mr, base + page * PAGE)
    before = faults()
    scene.read(mr, base + PAGE)
    if faults() != before:
        raise RuntimeError("a page that is there has faulted")
    madvise(base, PAGE)
    scene.read(mr, base + PAGE)
    shows(faults() > before, "the next page stays")


KIB, MIB = 1, 1024


def available(unit=MIB):
    said = open("/proc/meminfo").read()
    return int(re.search(r"MemAvailable: *(\d+)", said)[1]) // unit


def children():
    """A part of an implicit region of which two pages of a block have come one after the other never goes again."""
    scene = Scene()
    mr = scene.region(0, 0, implicit=True)
    parts = 8

    def taken(pages):
        """MiB that are not given back."""
        base = memory((parts + 1) * PART, MAP_NORESERVE)
        base = (base + PART - 1) // PART * PART
        before = available()
        for part in range(parts):
            for page in range(pages):
                address = base + part * PART + page * PAGE
                poke(address, at(address))
                scene.read(mr, address)
            madvise(base + part * PART, pages * PAGE)
        time.sleep(1)
        return before - available()

    # What is only needed once.
    taken(1)
    one, two = taken(1), taken(2)
    print(f"{parts} parts keep {one} MiB after a page each, {two} MiB after two")
    shows(two > one + parts, "both go")


def read_only():
    """Memory that may only be read cannot be read through an implicit region that may be written."""
    scene = Scene()
    base = memory(PAGE)
    poke(base, at(base))
    mr = scene.region(0, 0, implicit=True)
    if scene.read(mr, base) != at(base):
        raise RuntimeError("wrong bytes")
    scene.start(mr, read_only_page(), 8)
    status = scene.end()
    shows(status == REMOTE_ACCESS, f"the read ends with {status}")
    if not STOCK:
        # Nobody may write there.
        scene.start(mr, read_only_page(), 8, ibv_wr_opcode.IBV_WR_RDMA_WRITE)
        status = scene.end()
        holds(status == REMOTE_ACCESS, f"a write is refused ({status})")


def read_only_page():
    """A page of a program's text."""
    with open("/proc/self/maps") as file:
        for line in file:
            if " r--p " in line and "lib" in line:
                return int(line.split("-")[0], 16)
    raise RuntimeError("no page that may only be read")


def registration():
    """The larger a region is, the longer its registration takes, and the more memory."""
    context = Context(name="mlx5_0")
    pd = PD(context)

    def seconds(length):
        base = memory(length, MAP_NORESERVE)
        times = []
        for _ in range(5):
            begun = time.monotonic()
            mr = MR(pd, length, ALL, address=base)
            times.append(time.monotonic() - begun)
            mr.close()
        unmap(base, length)
        return min(times)

    small, large, vast = seconds(256 << 20), seconds(64 << 30), 0 if STOCK else seconds(16 << 40)
    print(f"256 MiB in {small * 1e6:.0f} us, 64 GiB in {large * 1e6:.0f} us, 16 TiB in {vast * 1e6:.0f} us")
    shows(max(large, vast) > 20 * small, "all sizes cost about the same")


def first_touch():
    """The first page of each GiB costs MiBs of kernel memory, and much more time than the one after it."""
    scene = Scene()
    mr = scene.region(0, 0, implicit=True)
    # What the kernel has left is counted, and others take of it, too: not in most of the rounds.
    rounds, each_round, gib = 5, 16, 1 << 30
    parts = 1 + rounds * each_round
    base = memory((parts + 1) * gib, MAP_NORESERVE)
    base = (base + gib - 1) // gib * gib
    # Tables of page tables are there before.
    for part in range(parts):
        for page in range(2):
            poke(base + part * gib + page * PAGE, at(part))
    scene.read(mr, base)

    def touch(some, page):
        begun = time.monotonic()
        for part in some:
            holds(scene.read(mr, base + part * gib + page * PAGE) == at(part), "the bytes are right")
        return (time.monotonic() - begun) / len(some)

    taken, firsts = [], []
    for start in range(1, parts, each_round):
        before = available(KIB)
        firsts.append(touch(range(start, start + each_round), 0))
        taken.append((before - available(KIB)) / each_round)
    each, first = statistics.median(taken), statistics.median(firsts)
    second = touch(range(1, parts), 1)
    each_took = f"{each:.0f} KiB ({min(taken):.0f} to {max(taken):.0f})"
    print(f"a first touch takes {each_took} and {first * 1e6:.0f} us, the next one {second * 1e6:.0f} us")
    shows(each > 64, "a first touch takes up to 64 KiB")


def counters():
    """Those of the device, by their names."""
    with open("/sys/kernel/debug/mlx_odp/mlx5_0/counters") as file:
        return {name: int(value) for name, value in map(str.split, file)}


def together():
    """Many queue pairs that need one cold page."""
    scene = Scene()
    base = memory(64 * PAGE)
    poke(base + 8 * PAGE, at(base))
    mr = scene.region(base, 64 * PAGE)
    scenes = [scene] + [Scene(beside=scene) for _ in range(31)]
    before = counters()
    for one in scenes:
        one.start(mr, base + 8 * PAGE, 8)
    for one in scenes:
        holds(one.end() == SUCCESS and one.own.read(8, 0) == at(base), "all get their bytes")
    after = counters()
    faults, mapped = (after[name] - before[name] for name in ["page_faults", "pages_mapped"])
    print(f"{len(scenes)} queue pairs: {faults} faults, {mapped} pages mapped")
    holds(0 < mapped <= 2, "the page is given to the device once")


def unaligned():
    """A large region that begins and ends anywhere, known by other addresses: right bytes, and no more than the region."""
    scene = Scene()
    length = (700 << 20) + 1000
    base = memory(length + 2 * PAGE, MAP_NORESERVE) + PAGE
    start = base + 456
    mr = scene.region(start, length)
    leaf = 128 << 20
    border = (start + leaf) // leaf * leaf
    places = [start, start + PAGE, border - 4, border + PAGE, border + 3 * leaf - 8, start + length - 8]
    for place in places:
        poke(place, at(place))
    for place in places:
        holds(scene.read(mr, place) == at(place), f"the bytes at {place - start:#x} are right")
        scene.own.write(at(place + 1), 8)
        scene.start(mr, place, 8, ibv_wr_opcode.IBV_WR_RDMA_WRITE)
        holds(scene.end() == SUCCESS and peek(place, 8) == at(place + 1), f"a write to {place - start:#x} arrives")
    for place in [start - 8, start - 1, start + length - 7, start + length, start - 2 * leaf]:
        scene = Scene()
        other = scene.region(start, length)
        scene.start(other, place, 8)
        status = scene.end()
        holds(status == REMOTE_ACCESS, f"an access to {place - start:#x} is refused ({status})")


FAULTS = {
    "absent-pages": absent_pages,
    "huge-pages": huge_pages,
    "huge-page-untouched": huge_page_untouched,
    "neighbours": neighbours,
    "children": children,
    "read-only": read_only,
    "registration": registration,
    "first-touch": first_touch,
}
# Only for ours.
OTHERS = {
    "together": together,
    "unaligned": unaligned,
}

if __name__ == "__main__":
    for name in sys.argv[2:]:
        print(f"{name}:", flush=True)
        (FAULTS if STOCK else FAULTS | OTHERS)[name]()
