# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run and take every figure. Their values are no test's business."""

import json
import os
import subprocess
import sys

import pytest
from harness.tool import ROOT

FIGURES = {
    "freeze": [f"{what}, {threads}, {command}" for threads in ("1 thread", "10 threads")
               for what in ("freeze", "seen by target", "seen with load")
               for command in ("apply", "revert")],
    "call": ["call, by way of one jump", "call, patched", "call, after revert"],
    "command": [f"command, {name}" for name in ("check", "apply", "list", "revert", "build")],
    "memory": [f"memory, {name}" for name in ("apply", "list", "revert", "build")],
}


def test_quick_run_takes_all_figures(suture, work):
    done = subprocess.run(
        [sys.executable, ROOT / "bench/run.py", "--quick", "--json", work / "bench.json"],
        env={**os.environ, "SUTURE": str(suture.path), "TMPDIR": str(suture.tmp),
             "BUILD": str(work)}, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    got = json.loads((work / "bench.json").read_text())["benchmarks"]
    assert {n: [f["name"] for f in b["figures"]] for n, b in got.items()} == FIGURES
    for figure in (f for b in got.values() for f in b["figures"]):
        assert figure["n"] > 0 and 0 < figure["min"] <= figure["median"] <= figure["p99"], figure


def test_verdicts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from figures import Figure, Samples, table

    limit = Samples("limit", [100, 300, 200])
    met = Figure("a", "ns", Samples("tool", [390, 9000, 400]), limit, 400)
    missed = Figure("b", "ns", Samples("tool", [401, 401]), limit, 400)
    assert (met.met, missed.met, Figure("c", "ns", limit).met) == (True, False, None)
    assert (met.ratio, limit.dict()["p99"], limit.median) == (2.0, 300, 200)
    assert [line.split()[-1] for line in table([met, missed]).splitlines()[1:]] == ["met", "met"]
    assert "NOT met" in table([missed]) and "NOT met" not in table([met])
    with pytest.raises(ValueError, match="nothing was measured"):
        Samples("nothing", [])


def test_failure_to_measure_is_an_error(work):
    done = subprocess.run(
        [sys.executable, ROOT / "bench/run.py", "--quick", "--only", "call",
         "--json", work / "bench.json"],
        env={**os.environ, "SUTURE": "/bin/false", "BUILD": str(work)},
        capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and "status 1" in done.stderr, done.stdout + done.stderr
    assert json.loads((work / "bench.json").read_text())["benchmarks"]["call"]["error"]
