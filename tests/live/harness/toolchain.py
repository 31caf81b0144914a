# SPDX-License-Identifier: Apache-2.0
"""Compilers, and the kinds of ELF file that victims are.

A kind says how code is compiled and linked:

    exe         whatever the compiler does by default
    pie nopie   position-independent executable, or one at a fixed address
    static      static at a fixed address
    static-pie  static and position-independent
    shared      shared library
"""

import os
import shlex
import subprocess
from pathlib import Path

from . import caps

VICTIMS = Path(__file__).resolve().parents[2] / "victims"
# Where victim.h is found. A test session names a copy that every user can reach.
include = VICTIMS

KINDS = {
    "exe": ([], []),
    "pie": (["-fPIE"], ["-pie"]),
    "nopie": (["-fno-pie"], ["-no-pie"]),
    "static": (["-fno-pie"], ["-static", "-no-pie"]),
    "static-pie": (["-fPIE"], ["-static-pie"]),
    "shared": (["-fPIC"], ["-shared"]),
}


class CompileError(AssertionError):
    pass


def require(cc, kind="exe"):
    """Skip when this machine has no such compiler or cannot make this kind with it."""
    name = os.path.basename(cc)
    if name in caps.CHECKS:
        caps.require(name)
    if kind in ("static", "static-pie"):
        caps.require("musl-gcc -static" if name == "musl-gcc" else "-" + kind)


def run(argv, cwd=None):
    done = subprocess.run(
        argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise CompileError(f"{shlex.join(map(str, argv))}\n{done.stdout}")
    return done.stdout


def compile_flags(kind, flags=()):
    return [*KINDS[kind][0], "-pthread", f"-I{include}", *flags]


def link_flags(kind, flags=()):
    return [*KINDS[kind][1], "-Wl,--build-id=sha1", "-pthread", *flags]


def compile_program(out, sources, cc="gcc", flags=("-g", "-O2"), kind="exe", ldflags=()):
    """Compile and link in one go; returns the path of the result."""
    require(cc, kind)
    run([cc, *compile_flags(kind, flags), "-o", str(out), *map(str, sources),
         *link_flags(kind, ldflags)])
    os.chmod(out, 0o755)
    return Path(out)
