# SPDX-License-Identifier: Apache-2.0
"""What the target carries: several patches, in any order; children; damaged records; two tools at once;
and what is refused with the reason, the target untouched.
"""

import os
import re
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from harness.hand import hand_patch
from harness.tool import BUSY, FAILED, NOTHING, OK

MAIN = r"""
#include "victim.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

volatile int sink;
__attribute__((noinline, noclone)) int one(int x) { sink++; sink++; return x + 1; }
__attribute__((noinline, noclone)) int two(int x) { sink++; sink++; return one(x) + 10; }
__attribute__((noinline, noclone)) int three(int x) { sink++; sink++; return x + 100; }
void tiny(void);
__asm__(".globl tiny; .type tiny,@function; tiny: nop; ret; .size tiny,2\n"
	"nottiny: mov $7,%eax; ret");

static void fork_child(void)
{
	int fd[2];
	pid_t pid;

	if (pipe(fd) || (pid = fork()) < 0)
		exit(1);
	if (!pid) {
		/* The child speaks over the pipe of its parent's answers: one line a request. */
		for (;;) {
			sigset_t set;
			int sig;

			sigemptyset(&set);
			sigaddset(&set, SIGUSR1);
			sigwait(&set, &sig);
			printf("child %d %d %d\n", one(0), two(0), three(0));
			fflush(stdout);
		}
	}
	printf("%d", pid);
}

/* Everything that a 32-bit displacement reaches from here is taken. */
static void fill_space(void)
{
	char *here = (char *)((unsigned long)fork_child & -(1UL << 12));
	long n = 0;

	for (long at = -(2L << 30) - (1 << 20); at < (2L << 30) + (1 << 20); at += 1 << 16) {
		char *p = here + at;

		if ((long)p < 0)
			continue;
		if (mmap(p, 1 << 16, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
			MAP_FIXED_NOREPLACE, -1, 0) == p)
			n++;
		else
			for (int i = 0; i < 16; i++)
				mmap(p + i * 4096, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
					MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	}
	printf("%d", n > 0);
}

static void answer(const char *line)
{
	if (!strcmp(line, "fork"))
		fork_child();
	else if (!strcmp(line, "fill"))
		fill_space();
	else if (!strcmp(line, "limit")) {
		struct rlimit r = {1, 1};
		printf("%d", setrlimit(RLIMIT_AS, &r));
	} else
		printf("%d %d %d", one(0), two(0), three(0));
}

int main(void)
{
	sigset_t set;

	tiny();
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return victim_serve(answer);
}
"""

SINK = "extern volatile int sink;\n"
FIX = {
    "one": SINK + "int one(int x) { sink++; return x + 2; }\n",
    "two": SINK + "int one(int);\nint two(int x) { sink++; return one(x) + 20; }\n",
    "three": SINK + "int three(int x) { sink++; return x + 200; }\n",
    "tiny": SINK + "void tiny(void) { sink++; }\n",
}


@pytest.fixture
def prog(compile):
    return compile(MAIN)


@pytest.fixture
def fix(work, prog):
    def make(function, name=None, **kwargs):
        return hand_patch(work, FIX[function], prog, [function], name=name or function, **kwargs)

    return make


def names(suture, pid):
    patches = suture.ok("list", "-p", pid, "--json").json()["processes"][0]["patches"]
    return [(p["name"], p["state"]) for p in patches]


def test_several_patches_in_any_order(suture, spawn, prog, fix):
    victim = spawn(prog)
    text, maps = victim.text(), victim.maps_text()
    for f in ("one", "two", "three"):
        suture.ok("apply", fix(f), "-p", victim.pid)
    assert victim.ask("x") == "2 22 200"
    assert names(suture, victim.pid) == [(f, "applied") for f in ("one", "two", "three")]
    suture.ok("revert", "one", "-p", victim.pid)
    assert victim.ask("x") == "1 21 200"
    suture.ok("apply", fix("one"), "-p", victim.pid)
    assert names(suture, victim.pid) == [(f, "applied") for f in ("two", "three", "one")]
    for f in ("two", "one", "three"):
        suture.ok("revert", f, "-p", victim.pid)
    assert victim.ask("x") == "1 11 100"
    assert victim.text() == text and victim.maps_text() == maps


def test_one_function_twice(suture, spawn, prog, fix):
    victim = spawn(prog)
    suture.ok("apply", fix("one"), "-p", victim.pid)
    result = suture("apply", fix("one", name="again"), "-p", victim.pid)
    assert result.status == FAILED
    assert "one is already replaced by patch one" in result.err
    # The very same patch, and another one of the same name.
    result = suture("apply", fix("one"), "-p", victim.pid)
    assert result.status == NOTHING and "already applied" in result.err
    result = suture("apply", fix("three", name="one"), "-p", victim.pid)
    assert result.status == FAILED and "another patch named one" in result.err
    assert "revert one" in result.err
    assert victim.ask("x") == "2 12 100"


def test_leaning_on_a_patched_function(suture, spawn, prog, fix):
    """A detour of another patch does not make a function another one."""
    victim = spawn(prog)
    suture.ok("apply", fix("one"), "-p", victim.pid)
    suture.ok("apply", fix("two", sets=["expect=one", "expect=three"]), "-p", victim.pid)
    assert victim.ask("x") == "2 22 100"


def symbol(prog, name):
    out = subprocess.run(["nm", prog], capture_output=True, text=True, check=True).stdout
    return int(re.search(rf"^([0-9a-f]+) . {name}$", out, re.M)[1], 16)


def poke(victim, prog, name, offset, data):
    base = next(m.start for m in victim.maps() if m.path == str(prog) and m.offset == 0)
    with open(f"/proc/{victim.pid}/mem", "r+b", buffering=0) as mem:
        mem.seek(base + symbol(prog, name) + offset)
        mem.write(data)


def test_other_code_than_expected(suture, spawn, prog, fix):
    victim = spawn(prog)
    poke(victim, prog, "three", 0, b"\xcc")
    before = victim.text(), victim.maps_text()
    result = suture("apply", fix("three"), "-p", victim.pid)
    assert result.status == FAILED
    assert "three+0x" in result.err and "int3" in result.err and "breakpoint" in result.err
    result = suture("apply", fix("two", sets=["expect=three"]), "-p", victim.pid)
    assert result.status == FAILED and "three" in result.err and "leans on" in result.err
    assert (victim.text(), victim.maps_text()) == before


def test_revert_of_code_that_somebody_changed(suture, spawn, prog, fix):
    victim = spawn(prog)
    suture.ok("apply", fix("one"), "-p", victim.pid)
    poke(victim, prog, "one", 1, b"\x00")
    before = victim.text(), victim.maps_text()
    result = suture("revert", "one", "-p", victim.pid)
    assert result.status == FAILED and "in one there is" in result.err
    assert (victim.text(), victim.maps_text()) == before


def test_wrong_build(suture, spawn, prog, fix):
    victim = spawn(prog)
    result = suture("apply", fix("one", sets=["build-id=00112233445566778899"]), "-p", victim.pid)
    assert result.status == FAILED
    assert "00112233445566778899" in result.err and "another build of prog" in result.err
    have = subprocess.run(["readelf", "-n", prog], capture_output=True, text=True).stdout
    assert re.search(r"Build ID: ([0-9a-f]+)", have)[1] in result.err


def test_no_such_image(suture, spawn, compile, work, prog):
    lib = compile("int one(int x) { return x + 1 + (x != 3); }\n", name="libx.so", kind="shared")
    patch = hand_patch(work, "int one(int x) { return 5; }\n", lib, ["one"], kind="shared")
    victim = spawn(prog)
    result = suture("apply", patch, "-p", victim.pid)
    assert result.status == NOTHING and "does not map libx.so" in result.err


def test_function_too_small(suture, spawn, prog, fix):
    victim = spawn(prog)
    result = suture("apply", fix("tiny"), "-p", victim.pid)
    assert result.status == FAILED and "tiny" in result.err and "too small" in result.err


def test_detour_in_the_wrong_place(suture, spawn, prog, fix):
    victim = spawn(prog)
    result = suture("apply", fix("one", sets=["site=3"]), "-p", victim.pid)
    assert result.status == FAILED and "one" in result.err
    assert victim.ask("x") == "1 11 100"


def test_no_room(suture, spawn, prog, fix):
    victim = spawn(prog)
    assert victim.ask("fill", timeout=30) == "1"
    maps = victim.maps_text()
    result = suture("apply", fix("one"), "-p", victim.pid)
    assert result.status == FAILED and "no free range" in result.err
    assert victim.maps_text() == maps
    assert victim.ask("x") == "1 11 100"


def test_address_space_limit(suture, spawn, prog, fix):
    victim = spawn(prog)
    assert victim.ask("limit") == "0"
    maps = victim.maps_text()
    result = suture("apply", fix("one"), "-p", victim.pid)
    assert result.status == FAILED and "RLIMIT_AS" in result.err
    assert victim.maps_text() == maps
    assert victim.ask("x") == "1 11 100"


def test_children_carry_their_patches(suture, spawn, prog, fix):
    victim = spawn(prog)
    suture.ok("apply", fix("one"), "-p", victim.pid)
    child = int(victim.ask("fork"))
    try:
        assert names(suture, child) == [("one", "applied")]
        os.kill(child, signal.SIGUSR1)
        assert victim.readline() == "child 2 12 100"
        # Each has its own: what is done to one does not touch the other.
        suture.ok("revert", "one", "-p", child)
        os.kill(child, signal.SIGUSR1)
        assert victim.readline() == "child 1 11 100"
        assert victim.ask("x") == "2 12 100"
        assert names(suture, child) == [] and names(suture, victim.pid) == [("one", "applied")]
        suture.ok("revert", "one", "-p", victim.pid)
        suture.ok("apply", fix("three"), "-p", child)
        os.kill(child, signal.SIGUSR1)
        assert victim.readline() == "child 1 11 200"
    finally:
        os.kill(child, signal.SIGKILL)


def record(victim):
    """Address of the ledger record, as anybody could find it."""
    for m in victim.maps():
        if m.perms == "r--p" and not m.path and victim.read(m.start, 8) == b"\x7fSUTURE-":
            return m.start
    raise AssertionError("no record")


def test_damaged_record(suture, spawn, prog, fix):
    victim = spawn(prog)
    suture.ok("apply", fix("one"), "-p", victim.pid)
    suture.ok("apply", fix("three"), "-p", victim.pid)
    at = record(victim)
    good = victim.read(at + 100, 1)
    with open(f"/proc/{victim.pid}/mem", "r+b", buffering=0) as mem:
        mem.seek(at + 100)
        mem.write(bytes([good[0] ^ 1]))
    result = suture("list", "-p", victim.pid)
    assert result.status == FAILED and "damaged" in result.err + result.out
    # No guess is made on what it meant, and the other patch can still be taken out.
    result = suture("apply", fix("two"), "-p", victim.pid)
    assert result.status == FAILED and "damaged" in result.err
    results = [suture("revert", f, "-p", victim.pid).status for f in ("one", "three")]
    assert sorted(results) == [OK, FAILED]
    victim.assert_same()


def test_interrupted_states_are_undone(suture, spawn, prog, fix):
    """As a tool that was killed leaves them."""
    victim = spawn(prog)
    text, maps = victim.text(), victim.maps_text()
    for state in (1, 2, 4):
        suture.ok("apply", fix("one"), "-p", victim.pid)
        with open(f"/proc/{victim.pid}/mem", "r+b", buffering=0) as mem:
            at = record(victim)
            if state == 1:  # staged: no detour is written yet
                mem.seek(next(a for a in text if a[0] == str(prog))[2])
                base = next(m.start for m in victim.maps() if m.path == str(prog))
                mem.seek(base + symbol(prog, "one"))
                old = prog.read_bytes()[symbol(prog, "one"):][:5]
                mem.write(old)
            mem.seek(at + 64)
            mem.write(struct.pack("<Q", state))
        assert names(suture, victim.pid) == [("one", "interrupted")]
        assert victim.ask("x") == ("1 11 100" if state == 1 else "2 12 100")
        result = suture("revert", "three", "-p", victim.pid)
        assert result.status == NOTHING
        assert victim.text() == text and victim.maps_text() == maps
    suture.ok("apply", fix("one"), "-p", victim.pid)
    assert victim.ask("x") == "2 12 100"


def test_two_tools_at_once(suture, spawn, prog, fix):
    victim = spawn(prog)
    patches = [fix("one"), fix("three")]
    for _ in range(5):
        tools = [suture.start("apply", p, "-p", victim.pid, "--timeout", "20")
                 for p in (*patches, *patches)]
        statuses = sorted(t.wait(30) for t in tools)
        for t in tools:
            t.stdout.close()
            t.stderr.close()
        assert statuses == [OK, OK, NOTHING, NOTHING]
        assert victim.ask("x") == "2 12 200"
        tools = [suture.start("revert", n, "-p", victim.pid, "--timeout", "20")
                 for n in ("one", "three", "one")]
        statuses = sorted(t.wait(30) for t in tools)
        for t in tools:
            t.stdout.close()
            t.stderr.close()
        assert statuses == [OK, OK, NOTHING]
        assert victim.ask("x") == "1 11 100"
    victim.assert_same()


def test_killed_again_and_again(suture, spawn, prog, fix):
    """SIGKILL at any moment: right answers all the time, and nothing left after the next run."""
    victim = spawn(prog)
    text, maps = victim.text(), victim.maps_text()
    patch = fix("one")
    for i in range(60):
        command = ("apply", patch) if i % 3 else ("revert", "one")
        tool = suture.start(*command, "-p", victim.pid)
        time.sleep(0.0002 * i)
        tool.kill()
        tool.wait()
        tool.stdout.close()
        tool.stderr.close()
        assert victim.ask("x") in ("1 11 100", "2 12 100")
    assert suture("revert", "one", "-p", victim.pid).status in (OK, NOTHING)
    assert victim.text() == text and victim.maps_text() == maps
    victim.assert_same()


def test_stopped_process(suture, spawn, prog, fix):
    """Job control: patched while it is stopped, and it stays stopped."""
    victim = spawn(prog)
    os.kill(victim.pid, signal.SIGSTOP)
    while victim.state() != "T":
        time.sleep(0.01)
    suture.ok("apply", fix("one"), "-p", victim.pid)
    assert victim.state() == "T"
    os.kill(victim.pid, signal.SIGCONT)
    assert victim.ask("x") == "2 12 100"
    os.kill(victim.pid, signal.SIGSTOP)
    while victim.state() != "T":
        time.sleep(0.01)
    suture.ok("revert", "one", "-p", victim.pid)
    assert victim.state() == "T"
    os.kill(victim.pid, signal.SIGCONT)
    assert victim.ask("x") == "1 11 100"


def test_all_processes_by_image_and_by_patch(suture, spawn, prog, fix):
    victims = [spawn(prog) for _ in range(3)]
    patch = fix("one")
    suture.ok("apply", patch, "--all")
    for victim in victims:
        assert victim.ask("x") == "2 12 100"
    found = {p["pid"] for p in suture.ok("list", "--json").json()["processes"]}
    assert {v.pid for v in victims} <= found
    assert Path(patch).exists()
    suture.ok("revert", "one", "--all")
    for victim in victims:
        assert victim.ask("x") == "1 11 100"
    assert suture("revert", "one", "--all").status == NOTHING
    assert BUSY == 4


PLUGIN = r"""
__attribute__((noinline)) int fixed(int x) { return x + 1; }
int entry(int x) { return fixed(x) * 10; }
"""

PLUGIN_HOST = r"""
#include "victim.h"
#include <dlfcn.h>
static void *handle;
static const char *path;
static void answer(const char *line)
{
	int (*entry)(int);

	if (!strcmp(line, "load"))
		printf("%d", (handle = dlopen(path, RTLD_NOW)) != NULL);
	else if (!strcmp(line, "unload"))
		printf("%d", dlclose(handle));
	else
		entry = (int (*)(int))dlsym(handle, "entry"), printf("%d", entry(1));
}
int main(int argc, char **argv)
{
	path = argv[argc - 1];
	return victim_serve(answer);
}
"""


def test_library_unloaded_and_loaded_again(suture, spawn, compile, work):
    lib = compile(PLUGIN, name="libplugin.so", kind="shared", flags=["-O2"])
    fix = "__attribute__((noinline)) int fixed(int x) { return x + 5; }\n"
    patch = hand_patch(work, fix, lib, ["fixed"], kind="shared", name="fix")
    victim = spawn([compile(PLUGIN_HOST, ldflags=["-ldl"]), lib])
    assert victim.ask("load") == "1"
    assert victim.ask("call") == "20"
    assert victim.ask("unload") == "0"
    maps = victim.maps_text()
    for _ in range(2):
        assert victim.ask("load") == "1"
        suture.ok("apply", patch, "-p", victim.pid)
        assert victim.ask("call") == "60"
        assert names(suture, victim.pid) == [("fix", "applied")]
        assert victim.ask("unload") == "0"
        assert names(suture, victim.pid) == [("fix", "unloaded")]
        # Loaded again it has its old code, wherever it lies, and can be patched again.
        assert victim.ask("load") == "1"
        assert victim.ask("call") == "20"
        assert names(suture, victim.pid) == [("fix", "unloaded")]
        suture.ok("apply", patch, "-p", victim.pid)
        assert victim.ask("call") == "60"
        assert names(suture, victim.pid) == [("fix", "applied")]
        assert victim.ask("unload") == "0"
        assert suture("revert", "fix", "-p", victim.pid).status == OK
        assert victim.maps_text() == maps
