# SPDX-License-Identifier: Apache-2.0
"""How long the target stands still, against the bare limit.

Each round on one victim: limit, apply, limit, revert. The victim is victim_freeze.c twice: all its
threads blocked (the tool's own figure against the limit's own), and with one of them watching the
clock (the longest time that it was held, from the start to the end of each command; and the same
with the time that it then waited for a processor, which the machine's load adds).
"""

import json
import mmap
import struct
import time
from collections import defaultdict

from figures import Figure, Samples
from workshop import BenchError, Victim, find

THREADS = (1, 10, 100, 500, 2000)
THREADS_QUICK = (1, 10)
OLD, NEW = "return 1;", "return 2;"
SLACK = 100_000  # ns
CRITERION = "at most 2 x limit, or limit + 100 us where that is more"


class Page:
    """struct page of victim_freeze.c."""

    HEAD = struct.Struct("<IIQQQ")  # request, answered, version, looked, n_gaps
    GAP = struct.Struct("<QQQ")  # start, end, of it waited for a processor
    GAPS = 1 << 16

    def __init__(self, path):
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 0)
        if len(self.map) != self.HEAD.size + self.GAPS * self.GAP.size:
            raise BenchError(f"{path}: {len(self.map)} bytes: not struct page of victim_freeze.c")

    def head(self):
        return self.HEAD.unpack_from(self.map)

    def ask(self):
        request = self.head()[0] + 1
        struct.pack_into("<I", self.map, 0, request)
        return request

    def n_gaps(self):
        return self.head()[4]

    def longest(self, since, start, end):
        """(held, gap): longest of the gaps after number `since` that meet [start, end], in ns.

        Held is the gap without the time that the ticker waited for a processor.
        """
        deadline = time.monotonic() + 10
        while self.head()[3] <= end:  # it may not have had the processor since
            if time.monotonic() > deadline:
                raise BenchError("the ticker does not tick any more")
            time.sleep(0.0002)
        n = self.n_gaps()
        if n - since > self.GAPS:
            raise BenchError("more gaps than the ticker can keep: the machine is too busy")
        held = gap = 0
        for i in range(since, n):
            a, b, waited = self.GAP.unpack_from(
                self.map, self.HEAD.size + i % self.GAPS * self.GAP.size)
            if b > start and a < end:
                held, gap = max(held, b - a - waited), max(gap, b - a)
        if not gap:
            raise BenchError("the target was frozen and its ticker saw nothing of it")
        return held, gap


class Target:
    """A running victim_freeze, and what it says about itself."""

    def __init__(self, shop, program, threads, ticks):
        path = shop.dir / "page"
        path.unlink(missing_ok=True)
        self.victim = Victim([program, threads, path, *(["tick"] if ticks else [])])
        self.page = Page(path)
        self.pid, self.ticks = self.victim.pid, ticks
        path.unlink()
        time.sleep(0.05 + threads / 10000)  # the last threads reach their waits

    def expect(self, version):
        """What runs is this version of the function."""
        request = self.page.ask()
        if not self.ticks:
            self.victim.send("")
        deadline = time.monotonic() + 10
        while self.page.head()[1] != request:
            if time.monotonic() > deadline:
                raise BenchError("the victim does not answer any more")
            time.sleep(0.0005)
        if self.page.head()[2] != version:
            raise BenchError(f"the victim runs version {self.page.head()[2]}, not {version}")

    def seen(self, work):
        """work() returns (Run, document): (document, Page.longest() meanwhile)"""
        since = self.page.n_gaps()
        run, document = work()
        return document, *(self.page.longest(since, run.start, run.end) if self.ticks else (0, 0))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.victim.close()


def limit_run(shop, program, pid):
    run = shop.measure(program, pid)
    return run, json.loads(run.out)


def freeze_ns(document, what):
    values = [v for v in find(document, "freeze_ns") if v]
    if len(values) != 1:
        raise BenchError(f"suture {what} --json: {len(values)} values of freeze_ns, not one")
    return values[0]


def one_round(shop, target, limit, patch):
    """[(name, the command's own figure, how long the ticker was held, its gap)]"""
    got = []
    for name, what, version in (("apply", patch, 2), ("revert", "victim_freeze", 1)):
        for who, work in (
                ("limit", lambda: limit_run(shop, limit, target.pid)),
                (name, lambda: shop.suture_json(name, what, "-p", target.pid))):
            document, held, gap = target.seen(work)
            got.append((who, freeze_ns(document, who), held, gap))
        target.expect(version)
    return got


def measure(shop, threads, ticks):
    """({name: own figures}, {name: ticker held}, {name: its gap})"""
    program, patch, _ = shop.victim("victim_freeze", OLD, NEW)
    limit = shop.program("limit")
    own, held, gap = defaultdict(list), defaultdict(list), defaultdict(list)
    with Target(shop, program, threads, ticks) as target:
        one_round(shop, target, limit, patch)  # fills the page cache
        for _ in range(shop.rounds(30)):
            for name, *got in one_round(shop, target, limit, patch):
                for figure, ns in zip((own, held, gap), got):
                    figure[name].append(ns)
        target.victim.assert_same()
    return own, held, gap


def compare(name, values, judged=True):
    limit = Samples("limit", values["limit"])
    allowed = max(2 * limit.median, limit.median + SLACK) if judged else None
    return [Figure(f"{name}, {command}", "us", Samples(command, values[command]), limit, allowed,
                   CRITERION if judged else None) for command in ("apply", "revert")]


def run(shop):
    figures = []
    for threads in THREADS_QUICK if shop.quick else THREADS:
        many = f"{threads} thread{'s' * (threads > 1)}"
        own, _, _ = measure(shop, threads, ticks=False)
        figures += compare(f"freeze, {many}", own)
        _, held, gap = measure(shop, threads, ticks=True)
        figures += compare(f"seen by target, {many}", held)
        figures += compare(f"seen with load, {many}", gap, judged=False)
    return figures
