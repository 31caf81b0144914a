#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What suture costs the target and the operator, as ratios taken in one run.

A machine is never quiet, so no figure stands alone: each is measured side by side with what it is
compared to, in interleaved rounds on the same victim, and reported as median (min / p99).

    freeze    how long a target with 1, 10, 100, 500, 2000 threads stands still for apply and for
              revert: the tool's own figure, and the longest gap that a thread in the target saw.
              Compared with the bare limit: a minimal program that seizes, interrupts all, waits for
              all and resumes all. Criterion: at most max(2 x limit, limit + 100 us).
    call      ns per call of a function: before, patched, after revert. Criterion: patched costs one
              direct jump, reverted costs nothing.
    command   wall time of the whole command (start of the process included) for a one-function
              patch on a small target: check, apply, list, revert. Criterion: apply under 20 ms.
    memory    peak resident memory of the tool (apply, list, revert) on a target with 200 MiB of
              DWARF, made once and kept in the build directory. Criterion: under 64 MiB.

A criterion that is not met is reported as such and is not an error: the exit status is 0 when every
figure could be taken, 1 when not, 2 for wrong usage.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench")]
sys.dont_write_bytecode = True

import call  # noqa: E402
import command  # noqa: E402
import freeze  # noqa: E402
import memory  # noqa: E402
from figures import table  # noqa: E402
from workshop import BenchError, Workshop  # noqa: E402

BUILD = ROOT / os.environ.get("BUILD", "build")
BENCHMARKS = {"freeze": freeze.run, "call": call.run, "command": command.run, "memory": memory.run}


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", choices=BENCHMARKS,
                        help=f"this benchmark alone ({', '.join(BENCHMARKS)}); may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", default=BUILD / "bench.json",
                        help="where the figures go (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, metavar="N", help="rounds of each measurement")
    parser.add_argument("--quick", action="store_true",
                        help="few rounds, few threads, little DWARF: shows that all works; "
                             "the figures mean little")
    return parser.parse_args(argv)


def positive(text):
    n = int(text)
    if n < 1:
        raise ValueError
    return n


def machine():
    """What the figures depend on."""
    model = [line.split(":", 1)[1].strip() for line in
             Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {"kernel": platform.release(), "cpu": model[0] if model else platform.machine(),
            "cpus": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}


def one(name, shop):
    """Run one benchmark, print its table; returns what goes into the JSON."""
    start = time.monotonic()
    try:
        figures = BENCHMARKS[name](shop)
    except (BenchError, OSError, AssertionError, EOFError, ValueError) as error:
        print(f"{name}: {type(error).__name__}: {error}\n", file=sys.stderr, flush=True)
        return {"error": str(error), "figures": []}
    print(f"{table(figures)}\n", flush=True)
    return {"seconds": round(time.monotonic() - start, 1),
            "figures": [figure.dict() for figure in figures]}


def main(argv=None):
    options = parse(argv)
    try:
        shop = Workshop(BUILD / "bench", options.rounds, options.quick)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    result = {"time": int(time.time()), "quick": options.quick, "machine": machine(),
              "benchmarks": {}}
    print("{cpu}, {cpus} CPUs, Linux {kernel}, load {load:.2f}\n".format(**result["machine"]))
    for name in dict.fromkeys(options.only or BENCHMARKS):
        result["benchmarks"][name] = one(name, shop)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")

    figures = [f for b in result["benchmarks"].values() for f in b["figures"]]
    judged = [f for f in figures if f["met"] is not None]
    missed = [f for f in judged if not f["met"]]
    print(f"{len(figures)} figures in {options.json}; criteria: {len(judged) - len(missed)} met, "
          f"{len(missed)} NOT met")
    for f in missed:
        print(f"NOT met: {f['name']} ({f['criterion']})")
    return 1 if any("error" in b for b in result["benchmarks"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
