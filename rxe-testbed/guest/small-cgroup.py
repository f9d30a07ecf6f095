#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""A NIC that fills the memory of a process whose memory cgroup is too small for it. The kernel has to kill that process;
whoever writes to it gets an error, and can go on.

    small-cgroup explicit|implicit
"""
import ctypes
import mmap
import os
import signal
import sys
import time
import traceback
from array import array

from pyverbs.addr import AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.libibverbs_enums import ibv_access_flags as access
from pyverbs.libibverbs_enums import ibv_qp_type, ibv_send_flags, ibv_wc_status, ibv_wr_opcode
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

CGROUPS = "/run/cgroups"
SMALL = f"{CGROUPS}/small"
LIMIT = 32 << 20
SIZE = 128 << 20
PIECE = 256 << 10
PORT, GID = 1, 1
PATIENCE = 60 * int(os.environ.get("TESTBED_PATIENCE", 1))


def put(path, text):
    with open(path, "w") as file:
        file.write(text)


def make_cgroup():
    os.makedirs(CGROUPS, exist_ok=True)
    if not os.path.ismount(CGROUPS):
        assert os.system(f"mount -t cgroup2 cgroups {CGROUPS}") == 0
    put(f"{CGROUPS}/cgroup.subtree_control", "+memory")
    os.makedirs(SMALL, exist_ok=True)
    put(f"{SMALL}/memory.max", str(LIMIT))
    put(f"{SMALL}/memory.swap.max", "0")


def killed():
    """How many processes of the cgroup the kernel has killed."""
    with open(f"{SMALL}/memory.events") as file:
        events = dict(line.split() for line in file)
    return int(events["oom_kill"])


class Side:
    """On-demand memory that nobody has touched, and a queue pair."""

    def __init__(self, kind, size):
        self.context = Context(name="rxe0")
        self.pd = PD(self.context)
        self.cq = CQ(self.context, 16)
        self.memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        flags = access.IBV_ACCESS_LOCAL_WRITE | access.IBV_ACCESS_REMOTE_WRITE | access.IBV_ACCESS_ON_DEMAND
        if kind == "implicit":
            self.mr = MR(self.pd, 0, flags, implicit=True)
        else:
            self.mr = MR(self.pd, size, flags, address=self.address)
        cap = QPCap(max_send_wr=16, max_recv_wr=1)
        init = QPInitAttr(qp_type=ibv_qp_type.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=cap)
        attr = QPAttr(port_num=PORT)
        attr.qp_access_flags = access.IBV_ACCESS_LOCAL_WRITE | access.IBV_ACCESS_REMOTE_WRITE
        self.qp = QP(self.pd, init, attr)

    def name(self):
        return self.qp.qp_num, self.address, self.mr.rkey

    def connect(self, number):
        attr = QPAttr(port_num=PORT)
        attr.qp_access_flags = access.IBV_ACCESS_LOCAL_WRITE | access.IBV_ACCESS_REMOTE_WRITE
        attr.path_mtu = 3
        attr.max_dest_rd_atomic = attr.max_rd_atomic = 1
        attr.min_rnr_timer, attr.timeout, attr.retry_cnt, attr.rnr_retry = 12, 14, 7, 7
        route = GlobalRoute(dgid=self.context.query_gid(PORT, GID), sgid_index=GID)
        attr.ah_attr = AHAttr(port_num=PORT, is_global=1, gr=route)
        attr.dest_qp_num = number
        attr.rq_psn = attr.sq_psn = 0
        self.qp.to_rts(attr)

    def write(self, at, other, size):
        """Writes the first `size` bytes of its memory to `at` in the other's; gives the status."""
        _, address, rkey = other
        request = SendWR(
            opcode=ibv_wr_opcode.IBV_WR_RDMA_WRITE,
            num_sge=1,
            sg=[SGE(self.address, size, self.mr.lkey)],
            send_flags=ibv_send_flags.IBV_SEND_SIGNALED,
        )
        request.set_wr_rdma(rkey, address + at)
        self.qp.post_send(request)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            count, completions = self.cq.poll()
            if count:
                return completions[0].status
        sys.exit(f"a write of {size} bytes at {at} has not ended after {PATIENCE} s")


def victim(kind, said, told):
    """Enters the cgroup, and does nothing but have memory."""
    put(f"{SMALL}/cgroup.procs", "0")
    side = Side(kind, SIZE)
    print(*side.name(), file=said, flush=True)
    side.connect(int(told.readline()))
    print("connected", file=said, flush=True)
    told.readline()


def start_victim(kind):
    """Gives its number, and both ends of what is said."""
    from_child, to_child = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(from_child[0])
        os.close(to_child[1])
        try:
            victim(kind, os.fdopen(from_child[1], "w"), os.fdopen(to_child[0]))
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(from_child[1])
    os.close(to_child[0])
    return pid, os.fdopen(from_child[0]), os.fdopen(to_child[1], "w")


def main(kind):
    make_cgroup()
    before = killed()
    pid, said, told = start_victim(kind)
    other = [int(word) for word in said.readline().split()]
    side = Side(kind, PIECE)
    side.memory[:] = array("Q", range(PIECE // 8)).tobytes()
    side.connect(other[0])
    print(side.name()[0], file=told, flush=True)
    assert said.readline() == "connected\n"
    good = 0
    for at in range(0, SIZE, PIECE):
        status = side.write(at, other, PIECE)
        if status != ibv_wc_status.IBV_WC_SUCCESS:
            break
        good += 1
    print(f"{good} of {SIZE // PIECE} writes went well, then: {status}")
    assert status != ibv_wc_status.IBV_WC_SUCCESS, "more was written than the cgroup may have"
    assert good, "none went well"
    _, ended = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL, f"the process ended with {ended:#x}"
    assert killed() == before + 1, f"the kernel has killed {killed() - before} processes"
    # Whoever wrote has lost a queue pair, nothing else.
    from_here, to_here = Side(kind, PIECE), Side(kind, PIECE)
    from_here.memory[:] = side.memory[:]
    from_here.connect(to_here.name()[0])
    to_here.connect(from_here.name()[0])
    status = from_here.write(0, to_here.name(), PIECE)
    assert status == ibv_wc_status.IBV_WC_SUCCESS, f"a write to itself: {status}"
    assert to_here.memory[:] == side.memory[:], "it wrote something else to itself"
    os.rmdir(SMALL)


main(*sys.argv[1:])
