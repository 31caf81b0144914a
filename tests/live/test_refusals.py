# SPDX-License-Identifier: Apache-2.0
"""Every bad input has its own message and status, and leaves the target as it was."""

import os
import random
import re
import subprocess
from pathlib import Path

import pytest
from harness import process, toolchain
from harness.caps import NOBODY, needs
from harness.story import names, untouched

MAIN = """
#include "victim.h"
int f(int x);
static void answer(const char *line) { printf("%d", f(1)); }
int main(void) { return victim_serve(answer); }
"""
F = "int f(int x)\n{{\n\treturn x + {};\n}}\n"
TREE = {"main.c": MAIN, "f.c": F.format(1)}
FIX = {"f.c": F.format(41)}


@pytest.fixture
def made(project, build_patch):
    made = project(TREE, FIX)
    build_patch(made)
    return made


@pytest.fixture
def victim(made, spawn):
    victim = spawn(made.program)
    victim.patch = made.patch
    return victim


ALL_THREE = pytest.mark.parametrize("command", ["check", "apply", "revert"])


def refused(suture, command, code, patch, pid, status=1, **kwargs):
    """check, apply or revert is refused with this code; the message names the process."""
    what = "fix" if command == "revert" else patch
    message = suture.refused(code, command, what, "-p", pid, status=status, **kwargs)
    plain = suture(command, what, "-p", pid, **kwargs)
    assert plain.status == status and str(pid) in plain.err, str(plain)
    assert plain.out == ""
    return message


# ---- which process ----

def unused_pid():
    top = int(Path("/proc/sys/kernel/pid_max").read_text())
    return next(p for p in range(top - 1, 1, -1) if not os.path.exists(f"/proc/{p}"))


@ALL_THREE
def test_no_such_process(suture, made, command):
    refused(suture, command, "no-process", made.patch, unused_pid())


def test_list_of_no_such_process(suture):
    result = suture("list", "-p", unused_pid())
    assert result.status == 1 and "process" in result.err


def kernel_thread():
    """One that this process can see: in most containers there is none."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if not Path(f"/proc/{entry}/maps").read_bytes() and \
                    int(process.stat_fields(entry)[6]) & 0x00200000:  # PF_KTHREAD
                return int(entry)
        except OSError:
            pass
    pytest.skip("needs a visible kernel thread")


@ALL_THREE
def test_kernel_thread(suture, made, command):
    assert "kernel thread" in refused(suture, command, "not-patchable", made.patch, kernel_thread())


@ALL_THREE
def test_zombie(suture, made, command):
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.stat_fields(child.pid)[0] == "Z"
    message = refused(suture, command, "not-patchable", made.patch, child.pid)
    child.wait()
    assert "zombie" in message


THIRTY_TWO = """
	.globl _start
	.data
ready:	.ascii "ready\\n"
	.text
_start:	mov $4, %eax
	mov $1, %ebx
	mov $ready, %ecx
	mov $6, %edx
	int $0x80
again:	mov $29, %eax
	int $0x80
	jmp again
"""


@ALL_THREE
def test_32_bit_process(suture, made, spawn, work, command):
    source = work / "thirty-two.s"
    source.write_text(THIRTY_TWO)
    toolchain.run(["as", "--32", "-o", work / "32.o", source])
    toolchain.run(["ld", "-m", "elf_i386", "-o", work / "32", work / "32.o"])
    try:
        victim = spawn(work / "32")
    except (OSError, EOFError):
        pytest.skip("needs a kernel that runs 32-bit programs")
    assert "32-bit" in refused(suture, command, "not-patchable", made.patch, victim.pid)
    victim.assert_same()


@needs("setpriv")
@ALL_THREE
def test_process_of_somebody_else(suture, victim, command):
    with untouched(victim):
        message = refused(suture, command, "permission", victim.patch, victim.pid, user=NOBODY)
    assert "root" in message or "ptrace" in message.lower()


TRACER = """
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include "victim.h"
static void answer(const char *line) { printf("%s", line); }
int main(int argc, char **argv)
{
	prctl(PR_SET_NAME, "debugger");
	if (argc < 2 || ptrace(PTRACE_SEIZE, atoi(argv[1]), NULL, NULL))
		return 1;
	return victim_serve(answer);
}
"""


@ALL_THREE
def test_traced_by_a_debugger(suture, victim, spawn, compile, command):
    """The message says by whom."""
    text = victim.text()
    debugger = spawn([compile(TRACER), victim.pid])
    message = refused(suture, command, "traced", victim.patch, victim.pid)
    assert str(debugger.pid) in message and "debugger" in message
    debugger.close()
    victim.assert_same()
    assert victim.text() == text and victim.ask("x") == "2"


def test_process_without_the_image(suture, made, spawn, compile):
    """The process does not map the target at all."""
    other = spawn(compile(MAIN + F.format(7), name="other"))
    with untouched(other):
        for command in ("check", "apply"):
            message = suture.refused("no-image", command, made.patch, "-p", other.pid, status=3)
            assert "prog" in message


def test_no_process_maps_the_image(suture, made):
    result = suture("apply", made.patch, "--all")
    assert result.status == 3, str(result)


# ---- which code ----

def test_another_build_of_the_same_program(suture, made, project, spawn):
    rebuilt = project({**TREE, "main.c": MAIN + "int added;\n"})
    victim = spawn(rebuilt.program)
    with untouched(victim):
        for command in ("check", "apply"):
            message = refused(suture, command, "build-id-mismatch", made.patch, victim.pid)
            assert "prog" in message


def symbol(path, name):
    for line in toolchain.run(["nm", path]).splitlines():
        if line.split()[-1] == name:
            return int(line.split()[0], 16)
    raise AssertionError(f"{path} has no {name}")


def load_bias(victim, path):
    first = next(m for m in victim.maps() if m.path == str(path) and m.offset == 0)
    return first.start if Path(path).read_bytes()[16] == 3 else 0


@pytest.mark.parametrize("at", [0, 4])
def test_bytes_differ_from_what_the_patch_expects(suture, made, victim, at):
    """Somebody else has changed the function: a breakpoint, another patcher."""
    address = load_bias(victim, made.program) + symbol(made.program, "f") + at
    with open(f"/proc/{victim.pid}/mem", "r+b", buffering=0) as mem:
        mem.seek(address)
        old = mem.read(1)
        mem.seek(address)
        mem.write(b"\xcc")
    with untouched(victim):
        for command in ("check", "apply"):
            message = refused(suture, command, "code-mismatch", victim.patch, victim.pid)
            assert re.search(r"\bf\b", message), message
    with open(f"/proc/{victim.pid}/mem", "r+b", buffering=0) as mem:
        mem.seek(address)
        mem.write(old)
    suture.ok("apply", victim.patch, "-p", victim.pid)
    assert victim.ask("x") == "42"


def test_detour_gone_when_reverting(suture, made, victim):
    """The patched entry is not what was written there: not overwritten blindly."""
    address = load_bias(victim, made.program) + symbol(made.program, "f")
    original = victim.read(address, 16)
    suture.ok("apply", victim.patch, "-p", victim.pid)
    with open(f"/proc/{victim.pid}/mem", "r+b", buffering=0) as mem:
        mem.seek(address)
        mem.write(original)
    with untouched(victim):
        refused(suture, "revert", "code-mismatch", None, victim.pid)


# ---- which patch file ----

def test_no_patch_file(suture, victim, work):
    with untouched(victim):
        result = suture("apply", work / "missing.suture", "-p", victim.pid)
    assert result.status == 1 and "missing.suture" in result.err


def test_not_a_patch_file(suture, victim, work):
    with untouched(victim):
        for content in (b"", b"hello\n", Path("/bin/true").read_bytes(), bytes(100000)):
            (work / "bad.suture").write_bytes(content)
            message = suture.refused("malformed-input", "apply", work / "bad.suture",
                                     "-p", victim.pid)
            assert "bad.suture" in message


def test_truncated_patch_file(suture, victim, work):
    data = victim.patch.read_bytes()
    bad = work / "short.suture"
    with untouched(victim):
        for size in (*range(0, 200, 20), *range(200, len(data), len(data) // 25 + 1), len(data) - 1):
            bad.write_bytes(data[:size])
            result = suture("apply", bad, "-p", victim.pid)
            assert result.status == 1, f"{size} bytes: {result}"
            assert "short.suture" in result.err


def test_corrupt_patch_file(suture, victim, work):
    """Any changed byte that matters is noticed; none makes a crash or a wrong patch."""
    data = victim.patch.read_bytes()
    bad = work / "corrupt.suture"
    rng = random.Random(1)
    for _ in range(60):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        bad.write_bytes(damaged)
        with untouched(victim):
            result = suture("apply", bad, "-p", victim.pid)
            assert result.status in (0, 1), str(result)
            if result.status == 0:  # nothing that counts was hit
                assert victim.ask("x") == "42"
                suture.ok("revert", "fix", "-p", victim.pid)


# ---- at the wrong time ----

def test_already_applied(suture, victim):
    suture.ok("apply", victim.patch, "-p", victim.pid)
    with untouched(victim):
        for command in ("check", "apply"):
            message = refused(suture, command, "already-applied", victim.patch, victim.pid, 3)
            assert "fix" in message
    assert victim.ask("x") == "42" and names(suture, victim) == ["fix"]


def test_not_applied(suture, victim):
    with untouched(victim):
        assert "fix" in refused(suture, "revert", "not-applied", None, victim.pid, 3)


def test_function_is_patched_by_another_patch(suture, made, victim, project):
    """Two fixes of one function do not know of each other."""
    second = project(TREE, {"f.c": F.format(99)})
    suture.ok("build", "--patch", second.diff, "--compdb", made.src, "--target", made.program,
              "--name", "second", "-o", second.patch)
    suture.ok("apply", victim.patch, "-p", victim.pid)
    with untouched(victim):
        result = suture("apply", second.patch, "-p", victim.pid, "--json")
        assert result.status == 1, str(result)
        assert result.error()["code"] in ("dependency", "code-mismatch")
        assert "fix" in result.error()["message"], result.error()
    assert victim.ask("x") == "42"


# ---- no place ----

def test_function_too_small(suture, project):
    """A function shorter than a jump, with the next one right behind it."""
    main = MAIN.replace("int f(int x);", "int f(int x);\nvoid tiny(void);").replace(
        "printf(", "tiny(); printf(")
    tiny = "int count;\nvoid tiny(void)\n{{\n{}}}\nint f(int x)\n{{\n\treturn x + 1;\n}}\n"
    made = project({"main.c": main, "f.c": tiny.format("")},
                   {"f.c": tiny.format("\tcount++;\n")},
                   flags=["-g", "-Os", "-fcf-protection=none", "-falign-functions=1"])
    message = suture.refused("function-too-small", "build", "--patch", made.diff, "--compdb",
                             made.src, "--target", made.program, "-o", made.patch)
    assert "tiny" in message
    assert not made.patch.exists()


CROWDED = """
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "victim.h"
int f(int x);
static char maps[1 << 16];
static void answer(const char *line) { printf("%d", f(1)); }
/* Take every free page within 3 GiB of our code. */
static void take_all(void)
{
	uint64_t at = (uint64_t)(uintptr_t)answer, reach = 3UL << 30, start, end;
	uint64_t last = at > reach ? (at - reach) & ~0xfffUL : 0x10000;
	int fd = open("/proc/self/maps", O_RDONLY);
	ssize_t n, have = 0;
	while ((n = read(fd, maps + have, sizeof(maps) - 1 - have)) > 0)
		have += n;
	for (char *line = strtok(maps, "\\n"); line; line = strtok(NULL, "\\n")) {
		sscanf(line, "%lx-%lx", &start, &end);
		if (end <= last)
			continue;
		if (start > at + reach)
			start = at + reach;
		if (start > last)
			mmap((void *)last, start - last, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
				MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
		last = end;
	}
}
int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	take_all();
	return victim_serve(answer);
}
"""


@pytest.mark.parametrize("kind", ["pie", "nopie"])
def test_no_room_within_reach(suture, spawn, project, build_patch, kind):
    made = project({"main.c": CROWDED, "f.c": F.format(1)}, FIX, kind=kind,
                   flags=["-g", "-O2", "-D_GNU_SOURCE"])
    patch = build_patch(made)
    victim = spawn(made.program)
    with untouched(victim):
        message = refused(suture, "apply", "no-room", patch, victim.pid)
        assert "no free range" in message and "prog" in message


def test_target_without_memory_for_the_payload(suture, spawn, project, build_patch):
    """The target's own limit forbids a new mapping: an error that says so."""
    limited = MAIN.replace('#include "victim.h"',
                           '#include <sys/resource.h>\n#include "victim.h"').replace(
        "int main(void) {", "int main(void) { struct rlimit none = {0, 0}; "
        "setrlimit(RLIMIT_AS, &none);")
    made = project({**TREE, "main.c": limited}, FIX)
    patch = build_patch(made)
    victim = spawn(made.program)
    with untouched(victim):
        result = suture("apply", patch, "-p", victim.pid)
        assert result.status == 1 and "emory" in result.err, str(result)


# ---- several at once ----

def test_worst_status_counts_and_each_is_told(suture, victim, spawn, made, compile):
    good = spawn(made.program)
    other = spawn(compile(MAIN + F.format(7), name="other"))
    gone = unused_pid()
    with untouched(other):
        result = suture("apply", victim.patch, "-p", good.pid, "-p", other.pid, "-p", gone,
                        "-p", victim.pid, "--json")
    assert result.status == 1, str(result)
    said = {p["pid"]: p["result"] for p in result.json()["processes"]}
    assert said[good.pid] == said[victim.pid] == "applied"
    assert said[other.pid] != "applied" and said[gone] == "failed"
    assert good.ask("x") == victim.ask("x") == "42"
