# SPDX-License-Identifier: Apache-2.0
"""What all benchmarks need: the tool, the helper programs, victims with a patch each, commands
that are measured. Everything made goes into build/bench."""

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
sys.path.insert(0, str(ROOT / "tests/live"))

from harness import toolchain  # noqa: E402
from harness.process import Victim  # noqa: E402
from harness.project import Project  # noqa: E402
from harness.tool import Suture  # noqa: E402

Run = namedtuple("Run", "start end wall cpu peak out")  # ns of CLOCK_MONOTONIC, bytes


class BenchError(Exception):
    """A figure could not be taken."""


class Workshop:
    def __init__(self, directory, rounds=None, quick=False):
        self.dir = Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.quick = quick
        self._rounds = rounds
        self._made, self._programs = {}, {}
        self.suture_path = Suture.find().resolve()
        if not os.access(self.suture_path, os.X_OK):
            raise BenchError(f"no suture at {self.suture_path}: build it, or set SUTURE")

    def rounds(self, usual, quick=3):
        return self._rounds or (quick if self.quick else usual)

    # ---- programs ----

    def program(self, name):
        """bench/NAME.c as a program; made once a run."""
        if name not in self._programs:
            self._programs[name] = self._compile(name)
        return self._programs[name]

    def _compile(self, name):
        return toolchain.compile_program(
            self.dir / name, [BENCH / f"{name}.c"], flags=["-g", "-O2", "-D_GNU_SOURCE"])

    def victim(self, name, old, new, ldflags=()):
        """bench/NAME.c as a target, and the patch that makes `old` in it `new`: as project()."""
        return self.project(name, (BENCH / f"{name}.c").read_text(), old, new, ldflags)

    def project(self, name, source, old, new, ldflags=()):
        """(program, patch file, Run of the build); made once a run."""
        if name not in self._made:
            if source.count(old) != 1:
                raise BenchError(f"{name}: {old!r} is there {source.count(old)} times, not once")
            project = Project(self.dir / name, {f"{name}.c": source},
                              {f"{name}.c": source.replace(old, new)},
                              flags=["-g", "-O2", "-D_GNU_SOURCE"], ldflags=ldflags)
            program = project.build()
            built = self.suture("build", "--patch", project.diff, "--compdb", project.src,
                                "--target", program, "--name", name, "-o", project.patch,
                                alone=True)
            self._made[name] = program, project.patch, built
        return self._made[name]

    # ---- commands ----

    def measure(self, *argv, alone=False):
        """Run it; BenchError when it fails. `alone`: the peak leaves its children out."""
        read, write = os.pipe()
        os.set_inheritable(write, True)
        try:
            done = subprocess.run(
                [str(self.program("measure")), *(["-a"] if alone else []), str(write),
                 *map(str, argv)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                pass_fds=(write,), timeout=300)
        finally:
            os.close(write)
            with os.fdopen(read) as pipe:
                line = pipe.read()
        if done.returncode or not line:
            raise BenchError(f"measure: {done.stderr.strip()}")
        got = json.loads(line)
        if got["status"]:
            raise BenchError(f"{' '.join(map(str, argv))}: status {got['status']}\n"
                             f"{done.stdout}{done.stderr}".rstrip())
        return Run(got["start"], got["end"], got["wall_ns"], got["cpu_ns"], got["peak_bytes"],
                   done.stdout)

    def suture(self, *arguments, alone=False):
        return self.measure(self.suture_path, *arguments, alone=alone)

    def suture_json(self, *arguments):
        """(Run, the document)"""
        run = self.suture(*arguments, "--json")
        try:
            return run, json.loads(run.out)
        except ValueError as error:
            raise BenchError(f"suture {arguments[0]} --json: {error}: {run.out[:200]!r}") from None


def find(document, key):
    """All values of that key, wherever in the document."""
    if isinstance(document, dict):
        here = [document[key]] if key in document else []
        return here + [v for part in document.values() for v in find(part, key)]
    if isinstance(document, list):
        return [v for part in document for v in find(part, key)]
    return []


__all__ = ["BENCH", "BenchError", "ROOT", "Run", "Victim", "Workshop", "find"]
