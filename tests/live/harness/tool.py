# SPDX-License-Identifier: Apache-2.0
"""The suture command, as a script would call it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from .process import as_user

ROOT = Path(__file__).resolve().parents[3]

# The exit statuses of the command line (suture.h).
OK, FAILED, USAGE, NOTHING, BUSY = range(5)


class Result:
    def __init__(self, argv, status, out, err):
        self.argv, self.status, self.out, self.err = argv, status, out, err

    def json(self):
        """The one document on standard output."""
        return json.loads(self.out)

    def error(self):
        """The error of a --json document: the command's own, or the first process's."""
        document = self.json()
        found = [document["error"], *(p["error"] for p in document.get("processes", []))]
        return next((e for e in found if e), None)

    def process(self):
        """What a --json document says of its only process."""
        (one,) = self.json()["processes"]
        return one

    def __str__(self):
        return f"$ {' '.join(self.argv)}\nstatus {self.status}\n{self.out}{self.err}"


class Suture:
    """suture(*arguments) runs the tool and returns a Result; it never raises for a status."""

    def __init__(self, path, tmp):
        self.path = Path(path)
        self.tmp = Path(tmp)  # TMPDIR of every call: must be empty again afterwards
        self._copy = None

    @staticmethod
    def find():
        given = os.environ.get("SUTURE")
        if given:
            return Path(given)
        for build in (os.environ.get("MESON_BUILD_ROOT"), ROOT / "build"):
            for place in ("src/tool/suture", "suture"):
                if build and (Path(build) / place).exists():
                    return Path(build) / place
        return ROOT / "build/src/tool/suture"

    def __call__(self, *args, user=None, timeout=60, env=None, cwd=None):
        argv = [str(self._for(user)), *map(str, args)]
        done = subprocess.run(
            as_user(argv, user), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout, cwd=cwd, env={**os.environ, "TMPDIR": str(self.tmp), **(env or {})})
        return Result(argv, done.returncode, done.stdout, done.stderr)

    def start(self, *args, user=None, env=None):
        """In the background: a Popen; the caller waits for it."""
        argv = [str(self._for(user)), *map(str, args)]
        return subprocess.Popen(
            as_user(argv, user), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(self.tmp), **(env or {})})

    def ok(self, *args, **kwargs):
        result = self(*args, **kwargs)
        assert result.status == OK, str(result)
        return result

    def refused(self, code, *args, status=FAILED, **kwargs):
        """The call ends with this status and error code; returns message and hint as one text."""
        result = self(*args, "--json", **kwargs)
        assert result.status == status, str(result)
        error = result.error()
        assert error and error["code"] == code, str(result)
        return f"{error['message']}\n{error['hint'] or ''}"

    def _for(self, user):
        """A copy in a place that every user can reach."""
        if user is None:
            return self.path
        if not self._copy:
            self._copy = self.tmp.parent / "bin" / self.path.name
            self._copy.parent.mkdir(exist_ok=True)
            shutil.copy2(self.path, self._copy)
            for library in self.path.parent.parent.glob("**/libsuture.so*"):
                shutil.copy2(library, self._copy.parent, follow_symlinks=True)
            os.chmod(self._copy, 0o755)
        return self._copy
