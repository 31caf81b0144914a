# SPDX-License-Identifier: Apache-2.0
"""The command line on real processes: several at a time, busy ones, signals, what JSON says."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness.tool import BUSY, FAILED, NOTHING, OK, ROOT

# "in" makes a thread enter work() and stay there until "out"
SOURCE = r"""
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "victim.h"

static volatile int stay, inside;

__attribute__((noinline)) static int work(int x)
{
	inside = 1;
	while (stay)
		usleep(1000);
	inside = 0;
	return x * 3 + 1;
}

static void *worker(void *arg)
{
	(void)arg;
	pthread_setname_np(pthread_self(), "stubborn");
	work(1);
	return NULL;
}

static void answer(const char *line)
{
	pthread_t thread;

	if (!strcmp(line, "in")) {
		stay = 1;
		pthread_create(&thread, NULL, worker, NULL);
		while (!inside)
			usleep(1000);
		printf("inside");
	} else if (!strcmp(line, "out")) {
		stay = 0;
		while (inside)
			usleep(1000);
		printf("outside");
	} else {
		printf("%d", work(5));
	}
}

int main(void)
{
	return victim_serve(answer);
}
"""
FIXED = SOURCE.replace("x * 3 + 1", "x * 3 + 1000")


@pytest.fixture
def fix(project, build_patch):
    made = project({"prog.c": SOURCE}, {"prog.c": FIXED},
                   flags=("-g", "-O2", f"-I{ROOT}/tests/victims"))
    return made, build_patch(made, "--name", "fix", "--reference", "CVE-1")


def prog(made):
    return made.targets[0]


def test_several_processes(suture, spawn, fix):
    made, patch = fix
    first, second, third = (spawn(prog(made)) for _ in range(3))
    suture.ok("apply", patch, "-p", first.pid)
    result = suture("apply", patch, "-p", first.pid, second.pid, third.pid)
    assert result.status == NOTHING
    assert f"process {first.pid} (prog)" in result.err and "already applied" in result.err
    assert f"{second.pid} (prog): applied fix 1: 1 function in 1 image" in result.out
    assert "3 processes: 2 applied, 1 had nothing to do" in result.out
    assert [v.ask("?") for v in (first, second, third)] == ["1015"] * 3

    listed = {p["pid"]: p for p in suture.ok("list", "--json").json()["processes"]}
    for victim in (first, second, third):
        applied = listed[victim.pid]["patches"][0]
        assert (applied["name"], applied["version"], applied["state"]) == ("fix", "1", "applied")
        assert abs(applied["applied_at"] - time.time()) < 60
        assert [f["name"] for f in applied["functions"]] == ["work"]

    result = suture.ok("revert", "fix", "--all", "--json")
    reverted = [p["pid"] for p in result.json()["processes"] if p["result"] == "reverted"]
    assert {first.pid, second.pid, third.pid} <= set(reverted)
    assert [v.ask("?") for v in (first, second, third)] == ["16"] * 3
    for victim in (first, second, third):
        victim.assert_same()


def test_json_says_what_happened(suture, spawn, fix):
    made, patch = fix
    victim = spawn(prog(made))
    manifest = suture.ok("show", patch, "--json").json()["manifest"]
    assert manifest["references"] == ["CVE-1"]
    (did,) = suture.ok("apply", patch, "-p", victim.pid, "--json").json()["processes"]
    assert (did["pid"], did["comm"], did["patch"]) == (victim.pid, "prog", "fix")
    assert (did["images"], did["functions"], did["threads"]) == (1, 1, 1)
    assert did["attempts"] == 1 and did["blockers"] == [] and did["error"] is None
    assert 0 < did["freeze_ns"] <= did["longest_freeze_ns"] < did["total_ns"] < 10**10
    (shown,) = suture.ok("list", "-p", victim.pid, "--json").json()["processes"]
    applied = shown["patches"][0]
    assert applied["id"] == manifest["id"]
    assert applied["payload_bytes"] == did["payload_bytes"] > 0
    assert victim.ask("?") == "1015"
    new = int(applied["functions"][0]["new_address"], 16)
    assert any(m.start <= new < m.end and "x" in m.perms for m in victim.maps())


def test_check_changes_nothing(suture, spawn, fix):
    made, patch = fix
    victim = spawn(prog(made))
    maps, text = victim.maps_text(), victim.text()
    result = suture.ok("check", patch, "-p", victim.pid)
    assert "can be applied: fix 1" in result.out and "replace work in " in result.out
    assert victim.maps_text() == maps and victim.text() == text
    assert victim.ask("?") == "16"
    victim.assert_same()


def test_busy_names_the_thread(suture, spawn, fix):
    made, patch = fix
    victim, idle = spawn(prog(made)), spawn(prog(made))
    victim.ask("in")
    maps, text = victim.maps_text(), victim.text()
    begin = time.monotonic()
    result = suture("apply", patch, "-p", victim.pid, idle.pid, "--timeout", "0.4")
    assert 0.3 < time.monotonic() - begin < 5
    assert result.status == BUSY
    stubborn = [t for t in victim.threads() if t != victim.pid]
    assert re.search(rf"thread {stubborn[0]} \(stubborn\) is inside work", result.err)
    assert re.search(r"#\d+ +0x[0-9a-f]+ work\+0x[0-9a-f]+ \(prog\)  <- being replaced", result.err)
    # the other one is patched all the same
    assert idle.ask("?") == "1015"
    assert victim.text() == text and victim.maps_text() == maps
    victim.assert_same()
    victim.ask("out")
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("?") == "1015"


def test_ctrl_c_ends_the_waiting(suture, spawn, fix):
    made, patch = fix
    victim = spawn(prog(made))
    victim.ask("in")
    maps, text = victim.maps_text(), victim.text()
    proc = suture.start("apply", patch, "-p", victim.pid, "--timeout", "50")
    time.sleep(0.5)
    begin = time.monotonic()
    proc.send_signal(signal.SIGINT)
    out, err = proc.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    assert proc.returncode == -signal.SIGINT
    assert "cancelled" in err and not out
    assert victim.text() == text and victim.maps_text() == maps
    victim.assert_same()
    victim.ask("out")
    assert victim.ask("?") == "16"


def test_a_stopped_tool_does_not_stop_its_target(suture, spawn, fix):
    """Ctrl-Z at any moment: the tool stops between two processes, never with one in its hands."""
    made, patch = fix
    for _ in range(8):
        victims = [spawn(prog(made)) for _ in range(4)]
        proc = suture.start("apply", patch, "-p", *(v.pid for v in victims))
        time.sleep(0.002)
        proc.send_signal(signal.SIGTSTP)
        deadline = time.monotonic() + 5
        while proc.poll() is None and time.monotonic() < deadline:
            state = Path(f"/proc/{proc.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            if state == "T":
                break
            time.sleep(0.001)
        for victim in victims:
            victim.assert_same()
            assert victim.ask("?") in ("16", "1015")
        proc.send_signal(signal.SIGCONT)
        proc.communicate(timeout=20)
        for victim in victims:
            victim.close()


def test_names_that_are_not_what_they_should_be(suture, spawn, fix, work):
    made, patch = fix
    victim = spawn(prog(made))
    for name in ("fix", "no such", "", "\033[2J", "x" * 300):
        result = suture("revert", name, "-p", victim.pid)
        assert result.status in (NOTHING, FAILED) and "\033" not in result.err
    copy = work / "other-name.suture"
    copy.write_bytes(patch.read_bytes())
    suture.ok("apply", copy, "-p", victim.pid)
    suture.ok("revert", copy, "-p", victim.pid)
    victim.assert_same()


def test_the_library_has_what_the_header_declares(compile, work):
    """A program of somebody else's, with the installed header and the shared library."""
    build = Path(os.environ.get("MESON_BUILD_ROOT") or ROOT / "build")
    header = (ROOT / "include/suture/suture.h").read_text()
    names = set(re.findall(r"^SUTURE_API.*?\b(suture_[a-z_]+)\(", header, re.M | re.S))
    exported = subprocess.run(["nm", "-D", "--defined-only", build / "libsuture.so"], check=True,
                              capture_output=True, text=True).stdout
    defined = set(re.findall(r" T (suture_[a-z_]+)", exported))
    assert names == defined and len(names) > 20
    program = compile(
        "#include <suture/suture.h>\n#include <stdio.h>\n"
        "int main(void)\n{\n"
        "\tstruct suture *a = suture_create(), *b = suture_create();\n"
        "\tstruct suture_error *err = suture_list(a, -1, &(struct suture_listing *){0});\n"
        "\tprintf(\"%d %s\\n\", suture_error_status(err), suture_version());\n"
        "\tsuture_error_destroy(err);\n\tsuture_destroy(a);\n\tsuture_destroy(b);\n"
        "\treturn 0;\n}\n",
        flags=("-g", f"-I{ROOT}/include"),
        ldflags=(f"-L{build}", "-lsuture", f"-Wl,-rpath,{build.resolve()}"))
    out = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(rf"{FAILED} \d+\.\d+\.\d+\n", out)


def test_installed(work, spawn, fix):
    """`meson install` puts tool, library, header, man page and pkg-config file in their places."""
    build = Path(os.environ.get("MESON_BUILD_ROOT") or ROOT / "build")
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--quiet",
                    "--destdir", work / "root"], check=True, capture_output=True)
    files = {p.name: p for p in (work / "root").rglob("*") if p.is_file()}
    for name in ("suture", "libsuture.so.0", "suture.h", "suture.1", "suture.pc"):
        assert name in files, name
    made, patch = fix
    victim = spawn(prog(made))
    done = subprocess.run([files["suture"], "apply", patch, "-p", str(victim.pid)])
    assert done.returncode == OK and victim.ask("?") == "1015"
