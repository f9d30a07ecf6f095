#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Runs modules of rdma-core's own tests and prints one line per test.

    pyverbs-tests.py [--device NAME] SECONDS MODULE...        for example 300 test_odp

Each line is `RESULT MODULE CLASS.TEST DETAIL`, RESULT one of ok, skip, FAIL. A module that does not end by
itself in SECONDS, or dies, has the line `FAIL MODULE run DETAIL`.
"""
import gzip
import os
import shutil
import signal
import sys
import time
import traceback
import unittest

SOURCE = "/usr/share/doc/rdma-core/tests"
TARGET = "/tmp/rdma-core/tests"


def unpack():
    """The package holds most of the files gzipped."""
    os.makedirs(TARGET, exist_ok=True)
    for name in os.listdir(SOURCE):
        path = os.path.join(SOURCE, name)
        target = os.path.join(TARGET, name.removesuffix(".gz"))
        if name.endswith(".gz"):
            with gzip.open(path) as packed, open(target, "wb") as file:
                shutil.copyfileobj(packed, file)
        else:
            shutil.copy(path, target)


def one_line(text):
    lines = [line for line in str(text).splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


class Lines(unittest.TestResult):
    """Prints a line for each result."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.at = None

    def startTest(self, test):
        super().startTest(test)
        self.at = time.monotonic()

    def line(self, result, test, detail=""):
        name = ".".join(test.id().split(".")[-2:])
        print(result, self.module, name, one_line(detail), flush=True)
        if self.at is not None:
            print(f"{name}: {time.monotonic() - self.at:.1f} s", file=sys.stderr, flush=True)

    def addSuccess(self, test):
        self.line("ok", test)

    def addSkip(self, test, reason):
        self.line("skip", test, reason)

    def addFailure(self, test, error):
        traceback.print_exception(*error)
        self.line("FAIL", test, error[1])

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.addFailure(test, error)


def run(module):
    suite = unittest.defaultTestLoader.loadTestsFromName(f"tests.{module}")
    suite.run(Lines(module))


def run_apart(module, seconds):
    """Runs a module in a process of its own: one that crashes or hangs fails alone."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        # Whatever it starts ends with it.
        os.setsid()
        try:
            run(module)
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    deadline = time.monotonic() + seconds
    ended, status = 0, 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)
    if not ended:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print(f"FAIL {module} run it did not end in {seconds} s", flush=True)
    elif status:
        print(f"FAIL {module} run it ended with {os.waitstatus_to_exitcode(status)}", flush=True)


def main():
    arguments = sys.argv[1:]
    device, gid = "rxe0", "1"
    if arguments[0] == "--device":
        device, gid, arguments = arguments[1], "0", arguments[2:]
    seconds, modules = int(arguments[0]), arguments[1:]
    unpack()
    sys.path[:0] = [os.path.dirname(TARGET), TARGET]
    sys.argv[1:] = ["--dev", device, "--gid", gid]
    from args_parser import parser

    parser.parse_args()
    # What nearly all of them import, once for all.
    import tests.base  # noqa: F401

    for module in modules:
        started = time.monotonic()
        run_apart(module, seconds)
        print(f"{module}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


main()
