# SPDX-License-Identifier: Apache-2.0
"""The tool may die between any two instructions: the target runs on with correct code, and the next
call finishes or undoes the work."""

import contextlib
import random
import signal
import time

import pytest
from harness.story import Snapshot, names, untouched

MAIN = """
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>
#include "victim.h"
int f(int x);
int g(int x);
static atomic_ulong wrong, calls;
/* Both functions, all the time: neither may ever say anything but the old or the new. */
static void *calling(void *arg)
{
	for (;;) {
		int r = f(1), s = g(1);
		calls++;
		if ((r != 2 && r != 42) || (s != 3 && s != 43))
			wrong++;
		usleep(50);
	}
	return arg;
}
static void answer(const char *line)
{
	if (!strcmp(line, "calls"))
		printf("%lu %lu", calls, wrong);
	else
		printf("%d %d", f(1), g(1));
}
int main(void)
{
	pthread_t t;
	for (int i = 0; i < 4; i++)
		pthread_create(&t, NULL, calling, NULL);
	return victim_serve(answer);
}
"""
FG = "int f(int x)\n{{\n\treturn x + {};\n}}\nint g(int x)\n{{\n\treturn x + {};\n}}\n"


@pytest.fixture
def victim(project, build_patch, spawn):
    made = project({"main.c": MAIN, "fg.c": FG.format(1, 2)}, {"fg.c": FG.format(41, 42)})
    patch = build_patch(made)
    victim = spawn(made.program)
    victim.patch = patch
    return victim


def settle(suture, victim):
    """After a kill: apply says done or already; then the patch is whole, and goes out whole."""
    victim.assert_same()
    pair = victim.ask("pair")
    assert pair in ("2 3", "42 43"), f"half a patch: {pair}"
    result = suture("apply", victim.patch, "-p", victim.pid)
    assert result.status in (0, 3), str(result)
    assert victim.ask("pair") == "42 43"
    assert names(suture, victim) == ["fix"]
    suture.ok("revert", "fix", "-p", victim.pid)
    assert victim.ask("pair") == "2 3"


def duration(suture, victim):
    """How long apply takes here, in seconds: kills are spread over it."""
    start = time.monotonic()
    suture.ok("apply", victim.patch, "-p", victim.pid)
    took = time.monotonic() - start
    suture.ok("revert", "fix", "-p", victim.pid)
    return took


def killed_after(tool, seconds, how):
    time.sleep(seconds)
    tool.send_signal(how)
    tool.communicate(timeout=10)


def test_killed_while_applying(suture, victim):
    rng = random.Random(2)
    took = duration(suture, victim)
    before = Snapshot(victim)
    for _ in range(25):
        killed_after(suture.start("apply", victim.patch, "-p", victim.pid), rng.uniform(0, took),
                     signal.SIGKILL)
        settle(suture, victim)
    calls, wrong = map(int, victim.ask("calls").split())
    assert calls > 0 and wrong == 0
    assert victim.text() == before.text


def test_killed_while_reverting(suture, victim):
    rng = random.Random(3)
    took = duration(suture, victim)
    before = Snapshot(victim)
    for _ in range(25):
        suture.ok("apply", victim.patch, "-p", victim.pid)
        killed_after(suture.start("revert", "fix", "-p", victim.pid), rng.uniform(0, took),
                     signal.SIGKILL)
        settle(suture, victim)
    before.assert_equal(victim)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(suture, victim, how):
    """Ctrl-C leaves all or nothing, and nothing to repair."""
    rng = random.Random(4)
    took = duration(suture, victim)
    before = Snapshot(victim)
    for _ in range(10):
        killed_after(suture.start("apply", victim.patch, "-p", victim.pid), rng.uniform(0, took),
                     how)
        victim.assert_same()
        listed = names(suture, victim)
        assert victim.ask("pair") == ("42 43" if listed else "2 3")
        if listed:
            suture.ok("revert", "fix", "-p", victim.pid)
        before.assert_equal(victim)


HELD = """
#include <pthread.h>
#include <unistd.h>
#include "victim.h"
int slow(void);
static int gate[2];
int hold(void)
{
	char c;
	return read(gate[0], &c, 1) == 1;
}
static void *enter(void *arg) { slow(); return arg; }
static void answer(const char *line)
{
	pthread_t t;
	if (!strcmp(line, "enter")) {
		pthread_create(&t, NULL, enter, NULL);
		usleep(50000);
	}
}
int main(void) { return pipe(gate) || victim_serve(answer); }
"""
SLOW = "int hold(void);\nint slow(void)\n{{\n\treturn hold() + {};\n}}\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_while_waiting_for_a_thread(suture, project, build_patch, spawn, how):
    made = project({"main.c": HELD, "slow.c": SLOW.format(1)}, {"slow.c": SLOW.format(2)})
    patch = build_patch(made)
    victim = spawn(made.program)
    victim.ask("enter")
    # a tool that was killed may leave its staged payload to the next one
    with untouched(victim) if how != signal.SIGKILL else contextlib.nullcontext():
        tool = suture.start("apply", patch, "-p", victim.pid, "--timeout", "20")
        time.sleep(0.5)
        assert tool.poll() is None
        tool.send_signal(how)
        out, err = tool.communicate(timeout=5)
        assert tool.returncode == -how, out + err  # as the shell expects of a program
        assert how == signal.SIGKILL or "cancelled" in err
    victim.assert_same()
    if how == signal.SIGKILL:
        listed = suture.ok("list", "-p", victim.pid, "--json").process()["patches"]
        assert all(p["state"] == "interrupted" for p in listed), listed
        assert suture("revert", "fix", "-p", victim.pid).status in (0, 3)
    assert names(suture, victim) == []
