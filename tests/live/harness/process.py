# SPDX-License-Identifier: Apache-2.0
"""Victims: processes that say "ready" and then answer each line of input by one line.

Each is started in the session's environment (SUTURE_SESSION), so that what it leaves behind can be
found at the end, and is ended by its own pid and reaped.
"""

import os
import re
import select
import signal
import subprocess
import time
from collections import namedtuple
from pathlib import Path

from .caps import NOBODY

Map = namedtuple("Map", "start end perms offset path")


def as_user(argv, user):
    """The command line that runs argv as an ordinary user; `user` None: as we are."""
    if user is None:
        return [str(a) for a in argv]
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs",
            *map(str, argv)]


def stat_fields(pid):
    """/proc/PID/stat after the command name: field 3 (state) is [0], 22 (start time) is [19]."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2:].split()


def maps(pid):
    rows = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        m = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ \d+ *(.*)", line)
        rows.append(Map(int(m[1], 16), int(m[2], 16), m[3], int(m[4], 16), m[5]))
    return rows


def children(pid):
    return [int(p) for t in os.listdir(f"/proc/{pid}/task")
            for p in Path(f"/proc/{pid}/task/{t}/children").read_text().split()]


class Victim:
    def __init__(self, argv, ready="ready", user=None, env=None, cwd=None, timeout=20):
        self.argv = [str(a) for a in argv]
        self.proc = subprocess.Popen(
            as_user(argv, user), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=cwd, env={**os.environ, **(env or {})}, bufsize=0)
        self.pid = self.proc.pid
        self._buf = b""
        if ready is not None:
            try:
                line = self.readline(timeout)
                assert line.startswith(ready), f"{self.argv[0]}: {line!r} instead of {ready!r}"
            except BaseException:
                self.close()
                raise
        self.start_time = stat_fields(self.pid)[19] if self.running() else None

    # ---- the line protocol ----

    def readline(self, timeout=10):
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buf:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.proc.stdout], [], [], left)[0]:
                raise TimeoutError(f"{self.argv[0]}: no line within {timeout} s "
                                   f"(state {self.state()}, so far {self._buf!r})")
            data = os.read(self.proc.stdout.fileno(), 65536)
            if not data:
                raise EOFError(f"{self.argv[0]} ended: status {self.proc.wait()}")
            self._buf += data
        line, self._buf = self._buf.split(b"\n", 1)
        return line.decode()

    def send(self, line):
        self.proc.stdin.write(line.encode() + b"\n")

    def ask(self, line, timeout=10):
        self.send(line)
        return self.readline(timeout)

    # ---- seen from outside ----

    def running(self):
        return self.proc.poll() is None

    def state(self):
        """One letter as in proc(5), or "gone"."""
        try:
            return stat_fields(self.pid)[0]
        except (FileNotFoundError, ProcessLookupError):
            return "gone"

    def assert_same(self):
        """Still this very process, not a successor, running, traced by nobody."""
        assert self.running(), f"{self.argv[0]} ended: status {self.proc.returncode}"
        assert stat_fields(self.pid)[19] == self.start_time
        status = Path(f"/proc/{self.pid}/status").read_text()
        assert re.search(r"^TracerPid:\s*0$", status, re.M), "still traced"
        assert self.state() not in "tTZ", f"state {self.state()}"

    def maps(self):
        return maps(self.pid)

    def maps_text(self):
        """/proc/PID/maps without the heap and stacks, which grow as the victim works."""
        return [line for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines()
                if not line.endswith(("[heap]", "[stack]"))]

    def read(self, addr, length):
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as mem:
            mem.seek(addr)
            return mem.read(length)

    def text(self):
        """All executable bytes: {(path, offset): bytes}."""
        return {(m.path, m.offset, m.start): self.read(m.start, m.end - m.start)
                for m in self.maps() if "x" in m.perms and m.path not in ("[vsyscall]",)}

    def threads(self):
        return sorted(int(t) for t in os.listdir(f"/proc/{self.pid}/task"))

    def children(self):
        return children(self.pid)

    # ---- the end ----

    def close(self):
        """End it if it has not ended, reap it; returns the wait status."""
        for pipe in (self.proc.stdin, self.proc.stdout):
            try:
                pipe.close()
            except OSError:
                pass
        if self.running():
            self.proc.send_signal(signal.SIGKILL)
        return self.proc.wait(10)


def of_session(session):
    """Living processes that carry this SUTURE_SESSION in their environment, ours excepted."""
    found = []
    mark = f"SUTURE_SESSION={session}".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found.append((int(entry), Path(f"/proc/{entry}/comm").read_text().strip()))
        except OSError:
            pass
    return found


__all__ = ["NOBODY", "Victim", "as_user", "children", "maps", "of_session", "stat_fields"]
