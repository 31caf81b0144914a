# SPDX-License-Identifier: Apache-2.0
"""How much memory the tool takes on a target with much debug information.

The target is one small source and as many compiled units full of structs and functions as give
200 MiB of .debug_* sections: the compiler's own work, linked once and kept.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from figures import Figure, Samples
from workshop import BenchError, Victim

MIB = 1 << 20
DWARF, DWARF_QUICK = 200 * MIB, MIB
LIMIT = 64 * MIB
STRUCTS, FUNCTIONS, MEMBERS = 3000, 40, 24  # in one unit: some 1.5 MiB of DWARF
FLAGS = ["-g", "-O1", "-fno-eliminate-unused-debug-types"]

MAIN = """#include <stdio.h>
#include "victim.h"

__attribute__((noipa)) static int version(void)
{
	return 1;
}

static void answer(const char *line)
{
	printf("%s %d", line, version());
}

int main(void)
{
	return victim_serve(answer);
}
"""


def unit(u):
    """Source text of one unit: structs that point at each other, functions that read them."""
    out = ["#include <stdint.h>"]
    for i in range(STRUCTS):
        members = "".join(
            f"\tint64_t v{j}_{u}_{i};\n" if j % 3 else
            f"\tstruct record_{u}_{max(i - j, 0)} *link{j};\n" for j in range(MEMBERS))
        out.append(f"struct record_{u}_{i} {{\n{members}}};")
    for i in range(FUNCTIONS):
        total = " + ".join(f"r->v{j}_{u}_{i}" for j in range(MEMBERS) if j % 3)
        out.append(f"""
static inline int64_t sum_{u}_{i}(struct record_{u}_{i} *r)
{{
	return {total};
}}

int64_t visit_{u}_{i}(struct record_{u}_{i} *r, int64_t limit)
{{
	int64_t total = 0;
	for (int64_t k = 0; k < limit; k++) {{
		int64_t part = sum_{u}_{i}(r) * k;
		if (part > total)
			r->v1_{u}_{i} = part;
		total += part;
	}}
	return total;
}}""")
    return "\n".join(out) + "\n"


def debug_bytes(path):
    """Size of all .debug_* sections in the file."""
    out = subprocess.run(["readelf", "-SW", path], check=True, capture_output=True, text=True)
    return sum(int(m[1], 16) for m in re.finditer(
        r"\] \.debug_\S+ +\S+ +[0-9a-f]+ [0-9a-f]+ ([0-9a-f]+)", out.stdout))


def compile_unit(directory, u):
    source, obj = directory / f"unit{u}.c", directory / f"unit{u}.o"
    source.write_text(unit(u))
    done = subprocess.run(["gcc", *FLAGS, "-c", "-o", obj, source], capture_output=True, text=True)
    source.unlink()
    if done.returncode:
        raise BenchError(done.stderr)
    return obj


def ballast(directory, wanted):
    """One object file with at least `wanted` bytes of DWARF; kept for the next run."""
    gcc = subprocess.run(["gcc", "--version"], check=True, capture_output=True).stdout
    key = hashlib.sha256(gcc + " ".join(FLAGS).encode() + unit(0).encode()).hexdigest()
    name = f"ballast-{wanted // MIB}-"
    kept = directory / f"{name}{key[:16]}.o"
    if kept.exists():
        return kept
    for old in directory.glob(f"{name}*.o"):
        old.unlink()
    parts = directory / f"units-{os.getpid()}"
    parts.mkdir()
    try:
        first = compile_unit(parts, 0)
        n = -(-wanted // debug_bytes(first)) + 1
        print(f"memory: compiling {n} units, once", file=sys.stderr)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            units = [first, *pool.map(lambda u: compile_unit(parts, u), range(1, n))]
        made = parts / "ballast.o"
        subprocess.run(["ld", "-r", "-o", made, *units], check=True)
        made.rename(kept)
    finally:
        shutil.rmtree(parts)
    return kept


def run(shop):
    wanted = DWARF_QUICK if shop.quick else DWARF
    heavy = ballast(shop.dir, wanted)
    program, patch, built = shop.project(
        "victim_memory", MAIN, "return 1;", "return 2;", ldflags=[str(heavy)])
    have = debug_bytes(program)
    if have < wanted:
        raise BenchError(f"{program}: {have} bytes of DWARF, wanted {wanted}")
    peaks = {name: [] for name in ("apply", "list", "revert")}
    victim = Victim([program])
    try:
        for _ in range(shop.rounds(5)):
            peaks["apply"].append(shop.suture("apply", patch, "-p", victim.pid).peak)
            if victim.ask("x") != "x 2":
                raise BenchError("apply did not take effect")
            peaks["list"].append(shop.suture("list", "-p", victim.pid).peak)
            peaks["revert"].append(shop.suture("revert", "victim_memory", "-p", victim.pid).peak)
            if victim.ask("x") != "x 1":
                raise BenchError("revert did not take effect")
        victim.assert_same()
    finally:
        victim.close()
    dwarf = Samples("DWARF", [have])
    criterion = "under 64 MiB on a target with 200 MiB of DWARF"
    peaks["build"] = [built.peak]
    return [Figure(f"memory, {name}", "MiB", Samples(name, values), dwarf,
                   None if shop.quick else LIMIT, criterion) for name, values in peaks.items()]
