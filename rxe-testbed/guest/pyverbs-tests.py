#!/usr/bin/python3
"""Runs rdma-core's own tests of one module and prints one line per test.

    pyverbs-tests.py MODULE        for example test_odp

Each line is `RESULT CLASS.TEST DETAIL`, RESULT one of ok, skip, FAIL.
"""
import gzip
import os
import shutil
import sys
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

    def line(self, result, test, detail=""):
        name = ".".join(test.id().split(".")[-2:])
        print(result, name, one_line(detail), flush=True)

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


def main():
    module = sys.argv[1]
    unpack()
    sys.path[:0] = [os.path.dirname(TARGET), TARGET]
    sys.argv[1:] = ["--dev", "rxe0", "--gid", "1"]
    from args_parser import parser

    parser.parse_args()
    suite = unittest.defaultTestLoader.loadTestsFromName(f"tests.{module}")
    suite.run(Lines())


main()
