# SPDX-License-Identifier: Apache-2.0
"""The command line: what is said where, which status is answered, for each thing that can happen.

The tool runs on an engine of its own (tests/tool/engine.c) which decides by process number what
happens: 10xx done, 11xx nothing to do, 12xx busy, 13xx refused, 14xx gone, 15xx waits until it is
cancelled, 16xx takes a second.
"""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness.tool import BUSY, FAILED, NOTHING, OK, ROOT, USAGE, Suture

COMMANDS = ["build", "show", "check", "apply", "list", "revert", "help", "version"]
BUILD = ["build", "--patch", "fix.diff", "--compdb", ".", "--target", "prog"]


def built(name):
    build = Path(os.environ.get("MESON_BUILD_ROOT") or ROOT / "build")
    path = build / name
    if not path.exists():
        pytest.fail(f"no {path}: build first")
    return path


@pytest.fixture
def tool(live_session):
    return Suture(built("tests/tool/suture-scripted"), live_session.tmp)


@pytest.fixture
def patch(work):
    """A patch file with everything in it."""
    path = work / "a.suture"
    subprocess.run([built("tests/unit/unit-format-patch"), "--write", path], check=True)
    return path


# ---- help and usage ----


def test_help_names_every_command(tool):
    text = tool.ok("--help").out
    assert tool.ok("help").out == text and tool.ok("-h").out == text
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", text, re.M), command


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(tool, command):
    by_option, by_command = tool.ok(command, "--help"), tool.ok("help", command)
    assert by_option.out == by_command.out and not by_option.err
    assert by_option.out.startswith(f"usage: suture {command}")


def test_version(tool):
    assert re.fullmatch(r"suture \d+\.\d+\.\d+\n", tool.ok("--version").out)
    assert tool.ok("version").out == tool.ok("-V").out


@pytest.mark.parametrize("args, message", [
    ([], "no command"),
    (["nonsense"], "no such command: nonsense"),
    (["--nonsense"], "no option --nonsense before the command"),
    (["help", "nonsense"], "no such command: nonsense"),
    (["help", "apply", "list"], "one command at a time"),
    (["version", "x"], "what is 'x' for?"),
    (["apply"], "apply: the patch file is missing"),
    (["apply", "a.suture"], "which processes? -p PID or --all"),
    (["apply", "a.suture", "-p", "1", "--all"], "exclude each other"),
    (["apply", "a.suture", "1", "--all"], "exclude each other"),
    (["apply", "a.suture", "-p"], "-p needs an argument"),
    (["apply", "a.suture", "-p", "x"], "'x' is no process id"),
    (["apply", "a.suture", "-p", "0"], "'0' is no process id"),
    (["apply", "a.suture", "-p", "-1"], "'-1' is no process id"),
    (["apply", "a.suture", "-p", "12x"], "'12x' is no process id"),
    (["apply", "a.suture", "-p", "1,,2"], "'' is no process id"),
    (["apply", "a.suture", "-p", "99999999999999999999"], "is no process id"),
    (["apply", "a.suture", "-p", "1", "--timeout", "soon"], "'soon' is no number of seconds"),
    (["apply", "a.suture", "-p", "1", "--timeout", "-1"], "'-1' is no number of seconds"),
    (["apply", "a.suture", "-p", "1", "--timeout", "nan"], "'nan' is no number of seconds"),
    (["apply", "a.suture", "-p", "1", "--timeout", "1.2.3"], "is no number of seconds"),
    (["apply", "a.suture", "-p", "1", "--timeout", ""], "'' is no number of seconds"),
    (["apply", "a.suture", "-p", "1", "--timeout", "1e9"], "is no number of seconds"),
    (["apply", "a.suture", "-p", "1", "--timeout=99999999"], "is no number of seconds"),
    (["apply", "a.suture", "-p", "1", "--diff"], "--diff: no such option"),
    (["apply", "a.suture", "-p", "1", "-x"], "no option -x"),
    (["apply", "a.suture", "-p", "1", "-qv"], "exclude each other"),
    (["apply", "a.suture", "-p", "1", "--color=blue"], "'blue' is not auto, always or never"),
    (["check", "a.suture", "-p", "1", "--timeout", "1"], "--timeout: no such option"),
    (["revert", "-p", "1"], "revert: the name of a patch is missing"),
    (["list", "all"], "'all' is no process id"),
    (["show"], "one patch file is needed"),
    (["show", "a", "b"], "one patch file is needed"),
    (["build"], "--patch FIX.diff is missing"),
    (["build", "--patch", "x.diff"], "--compdb DIR|FILE is missing"),
    (["build", "--patch", "x.diff", "--compdb", "."], "--target ELF is missing"),
    (BUILD + ["x"], "what is 'x' for?"),
    (["build", "--patch", "-.diff", "--compdb", ".", "--target", "p"], "makes no patch name"),
])
def test_wrong_usage(tool, args, message):
    result = tool(*args)
    assert result.status == USAGE, str(result)
    first, hint = result.err.splitlines()
    assert first.startswith("suture: ") and message in first
    assert hint.startswith("  hint: suture help")
    assert not result.out


# ---- one process ----


def test_apply_says_what_it_did(tool, patch):
    result = tool.ok("apply", patch, "-p", 1000)
    assert result.out == (
        "1000 (heartbeatd): applied CVE-2014-0160 1: 2 functions in 1 image, "
        "9 threads frozen for 84 us, 1 attempt, 7.9 ms in all\n")
    assert not result.err
    assert ", 1 thread frozen" in tool.ok("apply", patch, "-p", 1001).out


def test_check_prints_the_plan(tool, patch):
    lines = tool.ok("check", patch, "-p", 1000).out.splitlines()
    assert lines == ["1000 (heartbeatd): can be applied: CVE-2014-0160 1: 2 functions in 1 image",
                     "  detour parse_header at 0x401200"]


def test_revert_by_name_and_by_file(tool, patch):
    by_name = tool.ok("revert", "CVE-2014-0160", "-p", 1000)
    assert "1000 (heartbeatd): reverted CVE-2014-0160 1: " in by_name.out
    by_file = tool.ok("revert", patch, "-p", 1000, "-v")
    assert "name CVE-2014-0160 " in by_file.err


@pytest.mark.parametrize("pid, status, text", [
    # the message names the process itself: once is enough
    (1100, NOTHING, "suture: process 1100: nothing to do\n"),
    (1200, BUSY, "suture: 1200 (heartbeatd): busy after 2.0 s\n"),
    (1300, FAILED, "suture: 1300: no permission\n  hint: run as root\n"),
    (1400, FAILED, "suture: 1400: no such process\n"),
])
def test_a_failure_and_its_hint(tool, patch, pid, status, text):
    for command in (["check", patch], ["apply", patch], ["revert", "CVE-2014-0160"]):
        result = tool(*command, "-p", pid)
        assert result.status == status
        assert result.err.startswith(text)
        assert not result.out


def test_busy_names_thread_and_frames(tool, patch):
    result = tool("apply", patch, "-p", 1200)
    assert result.status == BUSY
    assert result.err.splitlines() == [
        "suture: 1200 (heartbeatd): busy after 2.0 s",
        "  thread 1201 (io-3) is inside parse_header, 1 frame up",
        "    #0  0x7f0000001234 epoll_wait+0x1e (libc.so.6)",
        "    #1  0x000000401234 parse_header+0x34 (heartbeatd)  <- being replaced",
        "    #2  0x000000409999 ?",
        "  hint: give it more time with --timeout",
    ]


def test_a_process_cannot_write_to_the_terminal(tool, patch):
    result = subprocess.run([tool.path, "apply", patch, "-p", "1007"], capture_output=True)
    assert result.stdout.startswith(b"1007 (\\x1b[2Jevil\xff): applied")
    assert tool.ok("apply", patch, "-p", 1007, "--json").json()["processes"][0]["comm"]


def test_timeout_is_passed_on(tool, patch):
    for given, want in (("2", 2.0), ("0", 0.0), ("0.25", 0.25), (".5", 0.5)):
        for command in (["apply", patch], ["revert", "x"]):
            err = tool.ok(*command, "-p", 1000, "-v", "--timeout", given).err
            assert f"timeout {want:.3f}" in err
    assert "timeout -" in tool.ok("apply", patch, "-p", 1000, "-v").err


# ---- several processes ----


def test_all_ways_to_name_processes(tool, patch):
    result = tool.ok("apply", patch, "-p", "1000,1001", "-p", 1003, 1004, "1005,1000")
    told = re.findall(r"^(\d+) \(heartbeatd\): applied", result.out, re.M)
    assert told == ["1000", "1001", "1003", "1004", "1005"]
    assert result.out.endswith("5 processes: 5 applied\n")
    assert tool.ok("apply", "-p", 1000, "--", patch).out.startswith("1000 ")


@pytest.mark.parametrize("pids, status", [
    ("1000,1100", NOTHING),
    ("1000,1100,1200", BUSY),
    ("1200,1100", BUSY),
    ("1300,1200,1100,1000", FAILED),
    ("1000,1400", FAILED),
    ("1200,1300", FAILED),
])
def test_the_worst_status_counts_and_all_are_tried(tool, patch, pids, status):
    for args in (["apply", patch], ["check", patch], ["revert", "CVE-2014-0160"]):
        result = tool(*args, "-p", pids)
        assert result.status == status, str(result)
        for pid in pids.split(","):
            assert re.search(rf"^(suture: )?(process )?{pid}\b", result.out + result.err, re.M), pid
        doc = tool(*args, "-p", pids, "--json").json()
        assert doc["status"] == status
        assert [str(p["pid"]) for p in doc["processes"]] == pids.split(",")


def test_tally(tool, patch):
    out = tool("apply", patch, "-p", "1000,1001,1100,1200,1300,1400").out
    assert out.splitlines()[-1] == (
        "6 processes: 2 applied, 1 had nothing to do, 1 busy, 2 failed")


def test_all_processes(tool, patch):
    env = {"ENGINE_PIDS": "1000 1001 1400"}
    result = tool.ok("apply", patch, "--all", env=env)
    assert "1000 (" in result.out and "1001 (" in result.out
    # one that ended since it was found is not missed
    assert "1400" not in result.out + result.err
    assert tool("revert", "x", "--all", env={"ENGINE_PIDS": "1000 1100"}).status == NOTHING


def test_all_finds_none(tool, patch):
    for args in (["apply", patch], ["check", patch], ["revert", "CVE-2014-0160"]):
        result = tool(*args, "--all")
        assert result.status == NOTHING
        assert re.match(r"suture: no process .* CVE-2014-0160\n$", result.err)
        doc = tool(*args, "--all", "--json").json()
        assert doc["status"] == NOTHING and doc["processes"] == []


# ---- JSON ----

REPORT_KEYS = {
    "pid", "comm", "result", "status", "error", "patch", "version", "images", "functions",
    "threads", "attempts", "freeze_ns", "longest_freeze_ns", "total_ns", "payload_bytes",
    "blockers", "plan"}


def test_json_of_apply(tool, patch):
    result = tool("apply", patch, "-p", "1000,1200,1300", "--json")
    doc = result.json()
    assert result.status == doc["status"] == FAILED and not result.err
    assert doc["command"] == "apply" and doc["error"] is None
    assert doc["patch"] == "CVE-2014-0160" and doc["not_tried"] == 0
    done, busy, refused = doc["processes"]
    assert set(done) == set(busy) == REPORT_KEYS
    assert (done["result"], busy["result"], refused["result"]) == ("applied", "busy", "failed")
    assert done["freeze_ns"] == 84000 and done["error"] is None
    assert busy["error"] == {"code": "busy", "message": "busy after 2.0 s",
                             "hint": "give it more time with --timeout"}
    blocker = busy["blockers"][0]
    assert blocker["function"] == "parse_header" and blocker["depth"] == 1
    assert blocker["frames"][0] == {"address": "0x7f0000001234", "symbol": "epoll_wait",
                                    "offset": 30, "image": "libc.so.6"}
    assert blocker["frames"][2]["symbol"] is None
    assert refused["error"]["code"] == "permission"


def test_json_of_check_and_revert(tool, patch):
    doc = tool.ok("check", patch, "-p", 1000, "--json").json()
    assert doc["command"] == "check"
    assert doc["processes"][0]["result"] == "can be applied"
    assert doc["processes"][0]["plan"] == ["detour parse_header at 0x401200"]
    doc = tool.ok("revert", "CVE-2014-0160", "-p", 1000, "--json").json()
    assert doc["command"] == "revert" and doc["processes"][0]["result"] == "reverted"


@pytest.mark.parametrize("command", [["apply", "-p", 1], ["check", "-p", 1], ["show"]])
def test_a_bad_patch_file(tool, work, patch, command):
    damaged = work / "damaged.suture"
    content = bytearray(patch.read_bytes())
    content[100] ^= 1
    cases = [(b"", "malformed-input", "empty"), (b"#!/bin/sh\n", "malformed-input", "no ELF"),
             (patch.read_bytes()[:-1], "malformed-input", "truncated"),
             (bytes(content), "malformed-input", "damaged"), (None, "system", "No such file")]
    for data, code, message in cases:
        damaged.unlink(missing_ok=True)
        if data is not None:
            damaged.write_bytes(data)
        result = tool(command[0], damaged, *command[1:])
        assert result.status == FAILED and not result.out
        assert result.err.startswith("suture: ") and str(damaged) in result.err
        assert message in result.err
        doc = tool(command[0], damaged, *command[1:], "--json").json()
        assert doc["status"] == FAILED and doc["error"]["code"] == code


def test_json_keys_are_sorted(tool, patch):
    """Stable keys in a stable order: two runs give the same text."""
    first, second = (tool.ok("list", "-p", 1002, "--json").out for _ in range(2))
    assert first == second
    keys = list(json.loads(first))
    assert keys == sorted(keys)


# ---- list, show, build ----


def test_list(tool):
    out = tool.ok("list", "-p", "1000,1001", 1002, env={"TZ": "UTC"}).out.splitlines()
    assert out[0] == "1000 (heartbeatd): no live patches"
    assert out[1] == "1001 (heartbeatd):"
    assert out[2].split() == ["CVE-2014-0160", "1", "interrupted", "2023-11-14", "22:13:20", "1",
                              "function,", "8192", "bytes"]
    assert "applied" in out[4]
    more = tool.ok("list", 1002, "-v").out
    assert re.search(r"parse_header +heartbeatd +0x000000401200 -> 0x0000007f0000", more)
    assert "check the length" in more


def test_list_without_pids(tool):
    assert "no process" in tool.ok("list").out
    assert "1002 (heartbeatd):" in tool.ok("list", env={"ENGINE_PIDS": "1002 1400"}).out
    result = tool("list", "-p", "1002,1400")
    assert result.status == FAILED
    assert "1002 (heartbeatd):" in result.out and "suture: 1400: no such process" in result.err


def test_list_json(tool):
    result = tool("list", "-p", "1002,1300", "--json")
    doc = result.json()
    assert result.status == doc["status"] == FAILED
    good, bad = doc["processes"]
    assert set(good) == set(bad) == {"pid", "comm", "status", "error", "patches"}
    assert good["patches"][0] == {
        "name": "CVE-2014-0160", "version": "1", "id": "00ff", "description": "check the length",
        "state": "applied", "applied_at": 1700000000, "payload_bytes": 8192,
        "functions": [{"name": "parse_header", "image": "heartbeatd",
                       "old_address": "0x401200", "new_address": "0x7f0000"}]}
    assert bad["error"]["code"] == "permission" and bad["patches"] == []
    assert tool.ok("list", "--json").json()["processes"] == []


def test_show(tool, patch):
    assert tool.ok("show", patch).out.startswith("CVE-2014-0160 1\n")
    assert "@@ parse, heartbeatd" in tool.ok("show", "--diff", patch).out
    doc = tool.ok("show", patch, "--json").json()
    assert doc["manifest"]["format"] == 1 and doc["manifest"]["name"] == "CVE-2014-0160"
    assert doc["file"] == str(patch) and "diff" not in doc
    assert "@@ parse" in tool.ok("show", patch, "--diff", "--json").json()["diff"]


def test_build_passes_everything_on(tool):
    args = BUILD + ["--target", "lib.so", "--name", "N", "--patch-version", "2", "--description",
                    "D", "--reference", "CVE-1", "--reference", "CVE-2", "--source", "S",
                    "-o", "out.suture"]
    result = tool.ok(*args)
    notes = [line[6:] for line in result.out.splitlines() if line.startswith("note: ")]
    assert notes == ["fix.diff", ".", "N", "2", "D", "S", "prog", "lib.so", "CVE-2"]
    assert ("built out.suture (12345 bytes): 2 functions from 1 unit in 1.25 s, "
            "0.50 s of it compiling") in result.out
    assert re.search(r"parse +heartbeatd +312 -> 330 +bytes +changed", result.out)
    doc = tool.ok(*args, "--json").json()
    assert doc["output"] == "out.suture" and doc["bytes"] == 12345 and doc["notes"] == notes
    assert doc["units"] == ["src/hb.c"]
    assert doc["functions"][0] == {"name": "parse", "unit": "src/hb.c", "image": "heartbeatd",
                                   "reason": "changed", "old_size": 312, "new_size": 330}
    assert tool.ok(*args, "-q").out == ""


@pytest.mark.parametrize("diff, name", [
    ("fix.diff", "fix"), ("a/b/CVE-1.patch", "CVE-1"), ("my fix v2.diff", "my-fix-v2"),
    ("plain", "plain"), ("x.diff.patch", "x.diff")])
def test_build_names_the_patch_after_the_diff(tool, diff, name):
    out = tool.ok("build", "--patch", diff, "--compdb", ".", "--target", "prog").out
    assert f"note: {name}\n" in out and f"built {name}.suture " in out


def test_build_without_a_change(tool):
    result = tool("build", "--patch", "none.diff", "--compdb", ".", "--target", "p", "--json")
    assert result.status == NOTHING
    assert result.json()["error"]["code"] == "no-functional-change"


# ---- how much is said, and in which colours ----


def test_quiet_and_verbose(tool, patch):
    quiet = tool.ok("apply", patch, "-q", "-p", "1000,1002")
    assert quiet.out == "" and quiet.err == ""
    assert "no permission" in tool("apply", patch, "-q", "-p", 1300).err
    normal = tool.ok("apply", patch, "-p", 1002)
    assert normal.err == "suture: warning: something odd\n"
    assert "a detail" not in tool.ok("apply", patch, "-v", "-p", 1000).err
    assert "suture: a detail" in tool.ok("apply", patch, "-vv", "-p", 1000).err


def test_colours_only_when_asked_or_on_a_terminal(tool, patch):
    assert "\033" not in tool.ok("apply", patch, "-p", 1000).out
    assert "\033[32mapplied\033[0m" in tool.ok("apply", patch, "-p", 1000, "--color=always").out
    assert "\033[1;31msuture:" in tool("apply", patch, "-p", 1300, "--color=always").err


def on_a_terminal(argv, env=None):
    """Output of a command whose standard output and error are a terminal."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(env or {})
        os.execv(argv[0], [str(a) for a in argv])
    out = b""
    while select.select([fd], [], [], 10)[0]:
        try:
            data = os.read(fd, 65536)
        except OSError:
            break
        if not data:
            break
        out += data
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()


def test_terminal(tool, patch):
    argv = [tool.path, "apply", patch, "-p", "1000"]
    env = {"TERM": "xterm", "NO_COLOR": ""}
    status, out = on_a_terminal(argv, env)
    assert status == OK
    assert "\033[32mapplied" in out
    # progress, taken back before the result
    assert "\r\033[Kapply: process 1000 ..." in out
    assert out.rindex("\r\033[K") < out.index("1000 (heartbeatd)")
    assert "\033[32m" not in on_a_terminal(argv, {**env, "NO_COLOR": "1"})[1]
    assert "\033[32m" not in on_a_terminal(argv, {**env, "TERM": "dumb"})[1]
    assert "process 1000 ..." not in on_a_terminal(argv + ["-q"], env)[1]
    assert "\033" not in on_a_terminal(argv + ["--json"], env)[1]


def test_a_full_disk_is_an_error(tool, patch):
    with open("/dev/full", "w") as full:
        done = subprocess.run([tool.path, "apply", patch, "-p", "1000"], stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == FAILED
    assert "cannot write to standard output" in done.stderr


def test_a_closed_pipe_does_not_kill_in_the_middle(tool, patch):
    """SIGPIPE of `suture apply | head -1` must wait until the target is whole."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([tool.path, "apply", patch, "-p", "1000,1001"], stdout=write,
                          stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == FAILED


# ---- signals ----


def started(tool, *args, until):
    proc = tool.start(*args)
    line = proc.stderr.readline()
    assert until in line, line
    return proc


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_the_wait(tool, patch, sig):
    proc = started(tool, "apply", patch, "-p", "1000,1500,1001", until="engine: waiting")
    begin = time.monotonic()
    proc.send_signal(sig)
    out, err = proc.communicate(timeout=10)
    assert time.monotonic() - begin < 5
    assert proc.returncode == -sig
    assert "1000 (heartbeatd): applied" in out
    assert "suture: 1500 (heartbeatd): cancelled" in err
    # the next one is left alone, and that is said
    assert "1001 (" not in out + err and "1 not tried" in out


def test_a_signal_does_not_interrupt_work(tool, patch):
    proc = started(tool, "apply", patch, "-p", 1600, "--json", until="engine: working")
    for _ in range(3):
        proc.send_signal(signal.SIGINT)
        proc.send_signal(signal.SIGTSTP)
        time.sleep(0.05)
        state = Path(f"/proc/{proc.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        assert state != "T", "stopped while it worked on a process"
    time.sleep(1.2)
    proc.send_signal(signal.SIGCONT)
    out, _ = proc.communicate(timeout=10)
    doc = json.loads(out)
    assert doc["processes"][0]["result"] == "applied" and doc["status"] == OK
    assert proc.returncode in (-signal.SIGINT, -signal.SIGTSTP)


def test_an_ignored_signal_stays_ignored(tool, patch):
    proc = subprocess.Popen(
        [tool.path, "apply", patch, "-p", "1600"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert "working" in proc.stderr.readline()
    proc.send_signal(signal.SIGHUP)
    out, _ = proc.communicate(timeout=10)
    assert proc.returncode == OK and "applied" in out


def test_build_can_be_cancelled(tool):
    proc = started(tool, "build", "--patch", "wait.diff", "--compdb", ".", "--target", "p",
                   until="engine: waiting")
    proc.send_signal(signal.SIGTERM)
    _, err = proc.communicate(timeout=10)
    assert proc.returncode == -signal.SIGTERM and "suture: cancelled" in err


# ---- the documentation ----


def man_page():
    """The source of the man page as plain text: no fonts, no escapes, no macro names."""
    text = (ROOT / "man/suture.1").read_text().replace("\\-", "-")
    text = re.sub(r"\\f[BIR]", "", text)
    return re.sub(r"^\.[BI][RI]* (.*)$", lambda m: m[1].replace('"', "").replace(" ", " "),
                  text, flags=re.M)


def options_of(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*|(?<![\w-])-[a-zA-Z]\b(?!-)", text))


def test_help_and_man_page_name_the_same_options(tool):
    in_help = {option for command in COMMANDS
               for option in options_of(tool.ok("help", command).out.split("options:")[1])}
    section = man_page().split(".SH OPTIONS")[1].split(".SH EXIT STATUS")[0]
    in_man = set()
    for entry in re.findall(r"^\.TP\n(.*)$", section, re.M):
        in_man |= options_of(entry)
    assert in_help and in_help == in_man


def keys(value):
    """All keys of all objects in a document."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def test_man_page_names_every_json_key(tool, patch):
    documents = [
        tool("apply", patch, "-p", "1000,1200,1300", "--json").json(),
        tool.ok("check", patch, "-p", 1000, "--json").json(),
        tool.ok("list", "-p", 1002, "--json").json(),
        tool.ok(*BUILD, "--json").json(),
        {**tool.ok("show", patch, "--diff", "--json").json(), "manifest": None},
    ]

    page = man_page().split(".SH JSON")[1].split(".SH SECURITY")[0]
    words = set(re.findall(r"[a-z_]+", page))
    missing = set().union(*map(keys, documents)) - words
    assert not missing


def test_format_page_names_every_manifest_key(tool, patch):
    page = (ROOT / "docs/FORMAT.md").read_text()

    manifest = tool.ok("show", patch, "--json").json()["manifest"]
    missing = {key for key in keys(manifest) if f"`{key}`" not in page}
    assert not missing


def test_man_page_is_well_formed():
    if not shutil.which("groff"):
        pytest.skip("needs groff")
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", ROOT / "man/suture.1"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


# ---- the library ----


def declared():
    header = (ROOT / "include/suture/suture.h").read_text()
    return set(re.findall(r"\b(suture_[a-z_]+)\(\s*(?:const |struct |enum |void|$)",
                          header, re.M)) - {"suture_log_fn"}


def test_the_library_shows_what_the_header_declares(tool):
    """Nothing else is exported; what is missing is not written yet and refused by the linker."""
    table = subprocess.run(["nm", "-D", "--defined-only", built("libsuture.so")], check=True,
                           capture_output=True, text=True).stdout
    exported = {line.split()[2].split("@")[0] for line in table.splitlines()
                if line.split()[1] != "A"}
    assert exported <= declared(), exported - declared()
    assert {"suture_create", "suture_patch_open", "suture_patch_describe"} <= exported


def test_readme_names_tests_that_exist():
    readme = (ROOT / "README.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", readme)
    assert named
    for name, test in named:
        assert f"\ndef {test}(" in (ROOT / "tests/live" / name).read_text(), f"{name}::{test}"
    for path in re.findall(r"`((?:tests|docs|man|include|fuzz)/[\w./-]*)`", readme):
        assert (ROOT / path).exists(), path
