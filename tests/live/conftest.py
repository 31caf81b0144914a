# SPDX-License-Identifier: Apache-2.0
"""Live tests: real victims, patched by the real tool, judged by what the victim shows.

Everything a test makes lives in its own directory below one session directory, which any user may
enter (some tests run as an ordinary user). When the session ends no victim may be left, and no
temporary file of the tool.
"""

import faulthandler
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import caps, process, toolchain  # noqa: E402
from harness.project import Project  # noqa: E402
from harness.story import Story  # noqa: E402
from harness.tool import Suture  # noqa: E402

TIMEOUT = int(os.environ.get("SUTURE_TEST_TIMEOUT", "60"))


class Session:
    """One directory, one mark in the environment of all that we start."""

    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="suture-live-"))
        self.dir.chmod(0o755)
        self.tmp = self.dir / "tmp"
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        toolchain.include = self.dir / "include"
        shutil.copytree(toolchain.VICTIMS, toolchain.include)
        toolchain.include.chmod(0o755)
        self.mark = self.dir.name
        os.environ["SUTURE_SESSION"] = self.mark

    def leftovers(self):
        """What should not be there any more, as text; living processes are ended."""
        found = []
        for pid, comm in process.of_session(self.mark):
            found.append(f"process {pid} ({comm})")
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        found += [f"temporary file {p.name}" for p in self.tmp.iterdir()]
        return found


def pytest_configure(config):
    config.suture_session = Session()


def pytest_sessionfinish(session, exitstatus):
    left = session.config.suture_session.leftovers()
    if left:
        session.config.suture_leftovers = left
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    for what in getattr(config, "suture_leftovers", []):
        terminalreporter.write_line(f"LEFT BEHIND: {what}")


def pytest_unconfigure(config):
    if not os.environ.get("SUTURE_KEEP"):
        shutil.rmtree(config.suture_session.dir, ignore_errors=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """A test that hangs fails by name; one that cannot be interrupted ends the run with a dump."""

    def too_long(signum, frame):
        raise TimeoutError(f"the test took longer than {TIMEOUT} s")

    old = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(TIMEOUT)
    faulthandler.dump_traceback_later(2 * TIMEOUT, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, old)


@pytest.fixture
def live_session(request):
    return request.config.suture_session


@pytest.fixture
def work(request, live_session):
    """An empty directory of this test's own that any user may enter; gone afterwards."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:60]
    path = Path(tempfile.mkdtemp(prefix=name + "-", dir=live_session.dir))
    path.chmod(0o755)
    yield path
    if not os.environ.get("SUTURE_KEEP"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def suture(live_session):
    """The tool: suture("list", "-p", pid) -> Result(status, out, err, json())."""
    path = Suture.find()
    if not os.access(path, os.X_OK):
        pytest.fail(f"no suture at {path}: build it, or set SUTURE")
    caps.require("ptrace")
    runner = Suture(path, live_session.tmp)
    yield runner
    left = list(live_session.tmp.iterdir())
    assert not left, f"suture left temporary files: {left}"


@pytest.fixture
def spawn():
    """Start victims: spawn(argv, ready="ready", user=None) -> Victim; all are ended and reaped."""
    victims = []

    def start(argv, ready="ready", **kwargs):
        if not isinstance(argv, (list, tuple)):
            argv = [argv]
        victims.append(process.Victim(argv, ready, **kwargs))
        return victims[-1]

    yield start
    for victim in reversed(victims):
        victim.close()


@pytest.fixture
def compile(work):
    """compile(source, name="prog", cc="gcc", flags=[...], kind="exe") -> path of the program.

    `source`: program text, or the name of a file in tests/victims.
    """

    def build(source, name="prog", cc="gcc", flags=("-g", "-O2"), kind="exe", ldflags=()):
        if "\n" in str(source):
            path = work / (name + ".c")
            path.write_text(source)
        else:
            path = toolchain.VICTIMS / source
        return toolchain.compile_program(work / name, [path], cc, flags, kind, ldflags)

    return build


@pytest.fixture
def project(work):
    """project(before, after, cc=..., flags=..., kind=...) -> built Project with its fix.diff."""
    n = 0

    def make(before, after=None, **kwargs):
        nonlocal n
        n += 1
        made = Project(work / f"project{n}", before, after, **kwargs)
        made.build()
        return made

    return make


@pytest.fixture
def build_patch(suture):
    """build_patch(project, *options) -> path of the patch file made from its fix."""

    def build(made, *options, targets=None):
        args = [x for t in (targets or made.targets) for x in ("--target", t)]
        suture.ok("build", "--patch", made.diff, "--compdb", made.src, *args,
                  "-o", made.patch, *options)
        assert made.patch.exists()
        return made.patch

    return build


@pytest.fixture
def story(suture, spawn, build_patch):
    """story(project, asks, pure): build, check, apply, observe, list, revert, observe."""
    return Story(suture, spawn, build_patch)
