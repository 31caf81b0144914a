# SPDX-License-Identifier: Apache-2.0
"""What this machine can do. A test that needs more is skipped, and says what was missing."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NOBODY = 65534


def _links(*command, source="int main(void) { return 0; }\n"):
    """The compiler is there and makes a program this way."""
    if not shutil.which(command[0]):
        return False
    with tempfile.TemporaryDirectory(prefix="suture-caps-") as tmp:
        src = Path(tmp) / "t.c"
        src.write_text(source)
        done = subprocess.run([*command, str(src), "-o", f"{tmp}/t"], capture_output=True)
        return done.returncode == 0


def _ptrace():
    """A process may write the memory of one that it did not start (as the tool does)."""
    victim = subprocess.Popen(["sleep", "30"])
    try:
        opened = subprocess.run(["sh", "-c", f": <>/proc/{victim.pid}/mem"], capture_output=True)
        return opened.returncode == 0
    finally:
        victim.kill()
        victim.wait()


CHECKS = {
    "ptrace": _ptrace,
    "root": lambda: os.geteuid() == 0,
    # root can become somebody else
    "setpriv": lambda: os.geteuid() == 0 and shutil.which("setpriv") is not None,
    "gcc": lambda: _links("gcc"),
    "g++": lambda: shutil.which("g++") is not None,
    "clang": lambda: _links("clang"),
    "musl-gcc": lambda: _links("musl-gcc"),
    "musl-gcc -static": lambda: _links("musl-gcc", "-static"),
    "-static": lambda: _links("gcc", "-static"),
    "-static-pie": lambda: _links("gcc", "-static-pie"),
    "objcopy": lambda: shutil.which("objcopy") is not None,
    "strip": lambda: shutil.which("strip") is not None,
    "readelf": lambda: shutil.which("readelf") is not None,
    "gdb": lambda: shutil.which("gdb") is not None,
    "two cpus": lambda: len(os.sched_getaffinity(0)) > 1,
}


@functools.lru_cache(maxsize=None)
def have(capability):
    return CHECKS[capability]()


def require(*capabilities):
    """Inside a test: skip it when something is missing."""
    for cap in capabilities:
        if not have(cap):
            import pytest  # only here: the benchmarks use this module and do without pytest

            pytest.skip(f"needs {cap}")


def needs(*capabilities):
    """On a test: @needs("clang", "root")."""
    import pytest

    missing = [cap for cap in capabilities if not have(cap)]
    return pytest.mark.skipif(bool(missing), reason="needs " + ", ".join(missing))
