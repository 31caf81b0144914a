# SPDX-License-Identifier: Apache-2.0
"""The harness itself: victims answer and are ended, projects build both ways, kinds are what they
are called. None of this needs the tool."""

import os
import subprocess

import pytest
from harness import process, toolchain
from harness.caps import NOBODY, needs

ECHO = """
#include <unistd.h>
#include "victim.h"
int value(void);
static void answer(const char *line) { printf("%s %d", line, value()); }
int main(void) { return victim_serve(answer); }
"""
BEFORE = {"main.c": ECHO, "value.c": "int value(void)\n{\n\treturn 1;\n}\n"}
AFTER = {"value.c": "int value(void)\n{\n\treturn 2;\n}\n"}


def test_victim_answers_and_is_reaped(project, spawn):
    victim = spawn(project(BEFORE).program)
    assert victim.ask("hello") == "hello 1"
    victim.assert_same()
    victim.close()
    assert victim.state() == "gone"


def test_after_program_gives_the_expected_outcome(project, spawn):
    made = project(BEFORE, AFTER)
    assert spawn(made.program).ask("x") == "x 1"
    assert spawn(made.build_after()).ask("x") == "x 2"


def test_diff_applies_with_patch(project):
    made = project(BEFORE, {"value.c": None, "new.c": "int value(void) { return 3; }"})
    subprocess.run(["patch", "-p1", "--dry-run", "-s", "-i", made.diff], cwd=made.src, check=True)


# musl-gcc's specs file makes a dynamic program when asked for -static-pie: not a kind it has
@pytest.mark.parametrize("cc,kind,etype,interp", [
    (cc, *kind) for cc in ("gcc", "clang", "musl-gcc")
    for kind in (("pie", 3, True), ("nopie", 2, True), ("static", 2, False),
                 ("static-pie", 3, False)) if (cc, kind[0]) != ("musl-gcc", "static-pie")
])
def test_kinds_are_what_they_say(compile, spawn, cc, kind, etype, interp):
    path = compile(ECHO + "int value(void) { return 4; }\n", cc=cc, kind=kind)
    data = path.read_bytes()
    assert data[16] == etype
    assert (b"/ld-" in data[:1024]) == interp
    assert spawn(path).ask("x") == "x 4"


@needs("setpriv")
def test_victim_as_ordinary_user(compile, spawn):
    victim = spawn(compile(ECHO + "int value(void) { return getuid(); }\n"), user=NOBODY)
    assert victim.ask("uid") == f"uid {NOBODY}"


def test_leftovers_are_found(live_session, compile):
    victim = process.Victim([compile(ECHO + "int value(void) { return 0; }\n")])
    assert victim.pid in [pid for pid, _ in process.of_session(live_session.mark)]
    victim.close()
    assert victim.pid not in [pid for pid, _ in process.of_session(live_session.mark)]


def test_compile_errors_are_shown(compile):
    with pytest.raises(toolchain.CompileError, match="undefined"):
        compile("int f(void);\nint main(void) { return f(); }\n")
    assert os.environ["SUTURE_SESSION"].startswith("suture-live-")
