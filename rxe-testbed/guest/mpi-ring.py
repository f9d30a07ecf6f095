#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Ranks of an MPI program, each of which gives numbers that say whose they are and where they are to the next one, and to all.
Takes python3-mpi4py.

    mpirun ... mpi-ring
"""
import sys
from array import array

from mpi4py import MPI

# Eager and not, less than a page and many.
COUNTS = [1, 25, 1 << 10, (1 << 17) + 13]
ROUNDS = 3

comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
right, left = (rank + 1) % size, (rank - 1) % size


def numbers(of, turn, count):
    first = of << 40 | turn << 32
    return array("Q", range(first, first + count))


def check(how, found, of, turn, count):
    for at, (one, other) in enumerate(zip(found, numbers(of, turn, count))):
        if one != other:
            sys.exit(f"{how}: rank {rank} has {one:#x} from rank {of} at {at} of {count}, not {other:#x}")


def messages(turn, count):
    found = array("Q", bytes(8 * count))
    comm.Sendrecv(numbers(rank, turn, count), right, turn, found, left, turn)
    check("message", found, left, turn, count)


def to_all(turn, count):
    found = array("Q", bytes(8 * count * size))
    comm.Allgather(numbers(rank, turn, count), found)
    for of in range(size):
        check("gather", found[of * count : (of + 1) * count], of, turn, count)


for turn in range(ROUNDS):
    for count in COUNTS:
        for way in [messages, to_all]:
            way(turn, count)
total = comm.allreduce(rank)
assert total == size * (size - 1) // 2, f"the ranks add up to {total}"
print(f"rank {rank} of {size} on {MPI.Get_processor_name()}: right", flush=True)
