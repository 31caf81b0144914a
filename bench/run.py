#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What suture costs the target and the operator, as ratios taken in one run.

A machine is never quiet, so no figure stands alone: each is measured side by side with what it is
compared to, in interleaved rounds on the same victim, and reported as median (min / p99).

    freeze    how long a target with 1, 10, 100, 500, 2000 threads stands still for apply and for
              revert: the tool's own figure, and the longest gap that a ticker thread in the target
              saw. Compared with the bare limit: a minimal program that seizes, interrupts all, waits
              for all and resumes all. Criterion: at most max(2 x limit, limit + 100 us).
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
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / os.environ.get("BUILD", "build")

# name -> function(options) that returns the figures; see the text above
BENCHMARKS = {}


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", choices=sorted(BENCHMARKS),
                        help="this benchmark alone; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", default=BUILD / "bench.json",
                        help="where the figures go (default: %(default)s)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each measurement")
    parser.add_argument("--quick", action="store_true",
                        help="few rounds, few threads: shows that all works, the figures mean little")
    return parser.parse_args(argv)


def main(argv=None):
    options = parse(argv)
    result = {"when": int(time.time()), "quick": options.quick, "benchmarks": {}}
    for name in options.only or BENCHMARKS:
        result["benchmarks"][name] = BENCHMARKS[name](options)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
