# SPDX-License-Identifier: Apache-2.0
"""Whatever threads do when a patch comes, they do not notice; and a thread inside a function that
is to be replaced decides when."""

import os
import signal
import time

import pytest
from harness.story import Snapshot, names, untouched
from harness.toolchain import VICTIMS

F_BEFORE = "int f(int x)\n{\n\treturn x;\n}\n"
F_AFTER = "int f(int x)\n{\n\treturn x + 41;\n}\n"


def with_f(project, main, **kwargs):
    """A program of this main and a function f that changes."""
    return project({"main.c": main, "f.c": F_BEFORE}, {"f.c": F_AFTER}, **kwargs)


def rounds(suture, victim, patch, n, check=lambda: None):
    """Apply and revert, n times."""
    for _ in range(n):
        suture.ok("apply", patch, "-p", victim.pid)
        assert victim.ask("f") == "42"
        check()
        suture.ok("revert", "fix", "-p", victim.pid)
        assert victim.ask("f") == "1"


@pytest.mark.parametrize("kind", ["pie", "static"])
def test_no_state_is_disturbed(suture, spawn, project, build_patch, kind):
    """epoll, recv with timeout, semop, sigtimedwait, futex, read, spinning, handlers on altstacks:
    no EINTR, no shortened timeout, no register lost, and all go on."""
    made = with_f(project, (VICTIMS / "states.c").read_text(), kind=kind)
    patch = build_patch(made)
    victim = spawn(made.program)
    try:
        rounds(suture, victim, patch, 6)
        spins, handled = map(int, victim.ask("progress").split())
        time.sleep(0.6)  # every timeout that was under way has ended
        more = list(map(int, victim.ask("progress").split()))
        assert more[0] > spins and more[1] > handled
        assert victim.ask("report") == "undisturbed"
    finally:
        victim.ask("end")


MANY = """
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#include "victim.h"
int f(int x);
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t go = PTHREAD_COND_INITIALIZER;
static int wanted, sum;
static void *wait_and_call(void *arg)
{
	pthread_mutex_lock(&lock);
	while (wanted == 0)
		pthread_cond_wait(&go, &lock);
	sum += f(1);
	pthread_mutex_unlock(&lock);
	return arg;
}
static pthread_t threads[2000];
static int n;
static void answer(const char *line)
{
	if (sscanf(line, "start %d", &n) == 1) {
		pthread_attr_t a;
		pthread_attr_init(&a);
		pthread_attr_setstacksize(&a, 65536);
		for (int i = 0; i < n; i++)
			if (pthread_create(&threads[i], &a, wait_and_call, NULL))
				exit(1);
		printf("started");
	} else if (!strcmp(line, "finish")) {
		pthread_mutex_lock(&lock);
		wanted = 1;
		pthread_cond_broadcast(&go);
		pthread_mutex_unlock(&lock);
		for (int i = 0; i < n; i++)
			pthread_join(threads[i], NULL);
		printf("%d", sum);
	} else {
		printf("%d", f(1));
	}
}
int main(void) { return victim_serve(answer); }
"""


@pytest.mark.parametrize("threads", [1, 10, 300])
def test_many_threads(suture, spawn, project, build_patch, threads):
    """All of them run the new code; the report says how many stood still and for how long."""
    made = with_f(project, MANY)
    patch = build_patch(made)
    victim = spawn(made.program)
    victim.ask(f"start {threads}")
    report = suture.ok("apply", patch, "-p", victim.pid, "--json").process()
    assert report["threads"] == threads + 1
    assert 0 < report["freeze_ns"] <= report["total_ns"]
    assert victim.ask("finish") == str(42 * threads)


SIGNALS = """
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>
#include "victim.h"
int f(int x);
static atomic_ulong count, sum;
static void handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	count++;
	sum += (unsigned long)info->si_value.sival_int;
}
static void *idle(void *arg)
{
	for (;;)
		pause();
	return arg;
}
static void answer(const char *line)
{
	if (!strcmp(line, "signals"))
		printf("%lu %lu", count, sum);
	else
		printf("%d", f(1));
}
int main(void)
{
	struct sigaction a = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
	pthread_t t;
	sigaction(SIGRTMIN, &a, NULL);
	for (int i = 0; i < 4; i++)
		pthread_create(&t, NULL, idle, NULL);
	return victim_serve(answer);
}
"""

SENDER = """
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	unsigned long sent = 0, sum = 0;
	char c;
	while (sent < 20000) {
		union sigval v = {.sival_int = (int)(sent % 1000)};
		if (sigqueue(atoi(argv[1]), SIGRTMIN, v))
			continue;
		sum += sent++ % 1000;
		usleep(100);
		if (argc > 2 && access(argv[2], F_OK) == 0)
			break;
	}
	printf("%lu %lu\\n", sent, sum);
	return 0;
}
"""


def test_no_signal_is_lost(suture, spawn, project, build_patch, compile, work):
    """Real-time signals with values, all the time: each arrives once."""
    made = with_f(project, SIGNALS)
    patch = build_patch(made)
    victim = spawn(made.program)
    sender = spawn([compile(SENDER, name="sender"), victim.pid, work / "stop"], ready=None)
    rounds(suture, victim, patch, 8)
    (work / "stop").touch()
    sent = sender.readline()
    assert int(sent.split()[0]) > 100
    deadline = time.monotonic() + 5
    while victim.ask("signals") != sent and time.monotonic() < deadline:
        time.sleep(0.05)
    assert victim.ask("signals") == sent


CHURN = """
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>
#include "victim.h"
int f(int x);
static atomic_ulong wrong, born;
static void *brief(void *arg)
{
	int r = f(1);
	if (r != 1 && r != 42)
		wrong++;
	born++;
	return arg;
}
static void *spawner(void *arg)
{
	for (;;) {
		pthread_t t;
		if (pthread_create(&t, NULL, brief, NULL) == 0)
			pthread_join(t, NULL);
	}
	return arg;
}
static void answer(const char *line)
{
	if (!strcmp(line, "born"))
		printf("%lu %lu", born, wrong);
	else
		printf("%d", f(1));
}
int main(void)
{
	pthread_t t;
	for (int i = 0; i < 3; i++)
		pthread_create(&t, NULL, spawner, NULL);
	return victim_serve(answer);
}
"""


def test_threads_come_and_go_all_the_time(suture, spawn, project, build_patch):
    """20 of 20, with thousands of threads created and joined meanwhile."""
    made = with_f(project, CHURN)
    patch = build_patch(made)
    victim = spawn(made.program)
    rounds(suture, victim, patch, 10)
    born, wrong = map(int, victim.ask("born").split())
    assert born > 100 and wrong == 0


# ---- a thread inside ----

INSIDE = """
#include <pthread.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "victim.h"
int slow(int x);
int other(void);
static int gate[2], done[2];
int hold(int x)
{
	char c;
	if (read(gate[0], &c, 1) != 1)
		return -1;
	return x;
}
static void *enter(void *arg)
{
	char text[32];
	prctl(PR_SET_NAME, "worker-7");
	int n = snprintf(text, sizeof(text), "%d", slow(5));
	if (write(done[1], text, n + 1) < 0)
		return NULL;
	return arg;
}
static void answer(const char *line)
{
	pthread_t t;
	char text[32] = "";
	if (!strcmp(line, "enter")) {
		pthread_create(&t, NULL, enter, NULL);
		pthread_detach(t);
		usleep(50000);
		printf("entered");
	} else if (!strcmp(line, "leave")) {
		if (write(gate[1], "x", 1) == 1 && read(done[0], text, sizeof(text)) > 0)
			printf("%s", text);
	} else if (!strcmp(line, "other")) {
		printf("%d", other());
	}
}
int main(void) { return pipe(gate) || pipe(done) || victim_serve(answer); }
"""
SLOW = """
int hold(int x);
__attribute__((noinline)) int middle(int x) {{ return hold(x) + 1; }}
int slow(int x)
{{
	return middle(x) * {0};
}}
int other(void)
{{
	return {1};
}}
"""


@pytest.fixture
def inside(spawn, project, build_patch):
    made = project({"main.c": INSIDE, "slow.c": SLOW.format(2, 3)},
                   {"slow.c": SLOW.format(20, 30)}, ldflags=["-rdynamic"])
    patch = build_patch(made)
    victim = spawn(made.program)
    victim.patch = patch
    return victim


def test_busy_names_thread_function_and_frames(suture, inside):
    """Status 4 at the deadline; nothing is changed, not even in the function nobody is in."""
    inside.ask("enter")
    tid = next(t for t in inside.threads() if t != inside.pid)
    with untouched(inside):
        start = time.monotonic()
        result = suture("apply", inside.patch, "-p", inside.pid, "--timeout", "0.5", "--json")
        took = time.monotonic() - start
        assert result.status == 4, str(result)
        assert 0.4 < took < 3
        report = result.process()
        assert report["error"]["code"] == "busy" and report["attempts"] > 1
        (blocker,) = report["blockers"]
        assert (blocker["tid"], blocker["comm"], blocker["function"]) == (tid, "worker-7", "slow")
        symbols = [frame["symbol"] for frame in blocker["frames"]]
        at = blocker["depth"]
        assert symbols[at] == "slow" and symbols[at - 2:at] == ["hold", "middle"], symbols
        assert len(symbols) > at + 2, symbols  # who called it, down to the thread's start

        human = suture("apply", inside.patch, "-p", inside.pid, "--timeout", "0.1")
        assert human.status == 4
        for word in (str(tid), "worker-7", "slow", "middle", "hold", str(inside.pid)):
            assert word in human.err, human.err
        assert names(suture, inside) == [] and inside.ask("other") == "3"
    assert inside.ask("leave") == "12"
    suture.ok("apply", inside.patch, "-p", inside.pid)
    assert inside.ask("other") == "30"


def test_check_does_not_mind_a_thread_inside(suture, inside):
    """It may have left by the time of apply."""
    inside.ask("enter")
    with untouched(inside):
        suture.ok("check", inside.patch, "-p", inside.pid)
    assert inside.ask("leave") == "12"


def test_waits_until_the_thread_has_left(suture, inside):
    inside.ask("enter")
    tool = suture.start("apply", inside.patch, "-p", inside.pid, "--timeout", "10", "--json")
    time.sleep(0.5)
    assert tool.poll() is None
    assert inside.ask("leave") == "12"
    out, err = tool.communicate(timeout=10)
    assert tool.returncode == 0, out + err
    assert inside.ask("other") == "30"
    inside.ask("enter")
    assert inside.ask("leave") == "120"


def test_busy_revert_leaves_the_patch_applied(suture, inside):
    """A thread inside the new code: it stays mapped and applied until nobody returns into it."""
    original = Snapshot(inside)
    suture.ok("apply", inside.patch, "-p", inside.pid)
    inside.ask("enter")
    with untouched(inside):
        result = suture("revert", "fix", "-p", inside.pid, "--timeout", "0.3", "--json")
        assert result.status == 4, str(result)
        assert result.process()["blockers"][0]["comm"] == "worker-7"
        assert names(suture, inside) == ["fix"]
    assert inside.ask("leave") == "120"
    deadline = time.monotonic() + 5
    while len(inside.threads()) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    suture.ok("revert", "fix", "-p", inside.pid)
    inside.assert_same()
    assert inside.text() == original.text
    assert inside.ask("other") == "3"


# ---- processes come and go ----

FORKER = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include "victim.h"
int f(int x);
static int down[2], up[2];
static void child(void)
{
	char c;
	while (read(down[0], &c, 1) == 1) {
		int r = f(1);
		if (write(up[1], &r, sizeof(r)) < 0)
			break;
	}
	_exit(0);
}
static void answer(const char *line)
{
	int r = -1;
	if (!strcmp(line, "fork")) {
		pid_t pid = fork();
		if (pid == 0)
			child();
		printf("%d", pid);
	} else if (!strcmp(line, "child")) {
		if (write(down[1], "x", 1) == 1 && read(up[0], &r, sizeof(r)) > 0)
			printf("%d", r);
	} else if (!strcmp(line, "exec")) {
		execl("/proc/self/exe", "again", (char *)NULL);
	} else {
		printf("%d", f(1));
	}
}
int main(void)
{
	signal(SIGPIPE, SIG_DFL);
	return pipe(down) || pipe(up) || victim_serve(answer);
}
"""


@pytest.fixture
def forker(spawn, project, build_patch):
    made = with_f(project, FORKER)
    victim = spawn(made.program)
    victim.patch = build_patch(made)
    yield victim
    for pid in victim.children() if victim.running() else []:
        os.kill(pid, signal.SIGKILL)


def listed(suture, pid):
    found = suture.ok("list", "-p", pid, "--json").process()
    return [p["name"] for p in found["patches"]]


def test_child_carries_the_patch_and_loses_it_alone(suture, forker):
    suture.ok("apply", forker.patch, "-p", forker.pid)
    child = int(forker.ask("fork"))
    assert listed(suture, child) == ["fix"]
    assert forker.ask("child") == "42"
    suture.ok("revert", "fix", "-p", child)
    assert listed(suture, child) == [] and listed(suture, forker.pid) == ["fix"]
    assert forker.ask("child") == "1" and forker.ask("f") == "42"
    suture.ok("revert", "fix", "-p", forker.pid)
    assert forker.ask("f") == "1"


def test_child_from_before_is_not_patched(suture, forker):
    child = int(forker.ask("fork"))
    suture.ok("apply", forker.patch, "-p", forker.pid)
    assert listed(suture, child) == []
    assert forker.ask("child") == "1" and forker.ask("f") == "42"


def test_list_finds_all_that_carry_a_patch(suture, forker):
    suture.ok("apply", forker.patch, "-p", forker.pid)
    child = int(forker.ask("fork"))
    found = suture.ok("list", "--json").json()["processes"]
    assert {forker.pid, child} <= {p["pid"] for p in found}


def test_all_processes_at_once(suture, forker):
    """--all: every process that maps the image; then every one that carries the patch."""
    child = int(forker.ask("fork"))
    report = suture.ok("apply", forker.patch, "--all", "--json").json()
    assert {p["pid"] for p in report["processes"]} == {forker.pid, child}
    assert forker.ask("child") == forker.ask("f") == "42"
    suture.ok("revert", "fix", "--all")
    assert forker.ask("child") == forker.ask("f") == "1"


def test_execve_leaves_the_patch_behind(suture, forker):
    suture.ok("apply", forker.patch, "-p", forker.pid)
    assert forker.ask("exec") == "ready"
    assert listed(suture, forker.pid) == []
    assert forker.ask("f") == "1"
    suture.ok("apply", forker.patch, "-p", forker.pid)
    assert forker.ask("f") == "42"


# ---- unusual states of the whole process ----

PLAIN = """
#include "victim.h"
int f(int x);
static void answer(const char *line) { printf("%d", f(1)); }
int main(void) { return victim_serve(answer); }
"""


def wait_for_state(victim, letters):
    deadline = time.monotonic() + 5
    while victim.state() not in letters:
        assert time.monotonic() < deadline, f"state {victim.state()}"
        time.sleep(0.01)


def test_stopped_by_job_control(suture, spawn, project, build_patch):
    """Patched or refused, a stopped process stays stopped until somebody continues it."""
    made = with_f(project, PLAIN)
    patch = build_patch(made)
    victim = spawn(made.program)
    os.kill(victim.pid, signal.SIGSTOP)
    wait_for_state(victim, "T")
    result = suture("apply", patch, "-p", victim.pid, "--timeout", "1")
    assert result.status in (0, 1, 4), str(result)
    time.sleep(0.1)
    assert victim.state() == "T"
    os.kill(victim.pid, signal.SIGCONT)
    assert victim.ask("f") == ("42" if result.status == 0 else "1")
    victim.assert_same()
    if result.status:
        assert "stopped" in result.err, result.err


LEADERLESS = """
#include <pthread.h>
#include <stdlib.h>
#include "victim.h"
int f(int x);
static void answer(const char *line) { printf("%d", f(1)); }
static void *serve(void *arg) { victim_serve(answer); _Exit(0); return arg; }
int main(void)
{
	pthread_t t;
	pthread_create(&t, NULL, serve, NULL);
	pthread_exit(NULL);
}
"""


def test_main_thread_has_exited(suture, spawn, project, build_patch):
    """The process looks like a zombie and is not one."""
    made = with_f(project, LEADERLESS)
    patch = build_patch(made)
    victim = spawn(made.program)
    wait_for_state(victim, "Z")
    result = suture("apply", patch, "-p", victim.pid)
    assert result.status in (0, 1), str(result)
    assert victim.ask("f") == ("42" if result.status == 0 else "1")
    if result.status:
        assert "thread" in result.err, result.err


VFORKER = """
#include <pthread.h>
#include <unistd.h>
#include <sys/wait.h>
#include "victim.h"
int f(int x);
static void *in_vfork(void *arg)
{
	pid_t pid = vfork();
	if (pid == 0) {
		sleep(1);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	return arg;
}
static void answer(const char *line)
{
	pthread_t t;
	if (!strcmp(line, "vfork")) {
		pthread_create(&t, NULL, in_vfork, NULL);
		usleep(50000);
	} else {
		printf("%d", f(1));
	}
}
int main(void) { return victim_serve(answer); }
"""


def test_thread_in_vfork(suture, spawn, project, build_patch):
    """It cannot be stopped until its child goes on: no long freeze, then patched or busy."""
    made = with_f(project, VFORKER)
    patch = build_patch(made)
    victim = spawn(made.program)
    victim.ask("vfork")
    result = suture("apply", patch, "-p", victim.pid, "--timeout", "5", "--json")
    assert result.status in (0, 4), str(result)
    assert result.process()["longest_freeze_ns"] < 300e6
    assert victim.ask("f") == ("42" if result.status == 0 else "1")


def test_several_patches_in_any_order(suture, spawn, project, build_patch):
    """Two patches on different functions: stacked, listed in order, taken out in the other."""
    two = "int f(int x)\n{{\n\treturn x + {};\n}}\nint g(int x)\n{{\n\treturn x / 3 * {};\n}}\n"
    main = PLAIN.replace('printf("%d", f(1))', 'printf("%d %d", f(1), g(9))').replace(
        "int f(int x);", "int f(int x);\nint g(int x);")
    tree = {"main.c": main, "two.c": two.format(1, 2)}
    first = project(tree, {"two.c": two.format(10, 2)})
    one = build_patch(first, "--name", "one")
    second = project(tree, {"two.c": two.format(1, 20)})
    suture.ok("build", "--patch", second.diff, "--compdb", first.src, "--target", first.program,
              "--name", "two", "-o", second.patch)
    victim = spawn(first.program)
    before = Snapshot(victim)
    suture.ok("apply", one, "-p", victim.pid)
    suture.ok("apply", second.patch, "-p", victim.pid)
    assert names(suture, victim) == ["one", "two"] and victim.ask("x") == "11 60"
    suture.ok("revert", "one", "-p", victim.pid)
    assert names(suture, victim) == ["two"] and victim.ask("x") == "2 60"
    suture.ok("revert", "two", "-p", victim.pid)
    assert victim.ask("x") == "2 6"
    before.assert_equal(victim)


def test_two_tools_at_once(suture, spawn, project, build_patch):
    """One does it; the other is told that it is done, or that somebody else is at it."""
    made = with_f(project, PLAIN)
    patch = build_patch(made)
    victim = spawn(made.program)
    tools = [suture.start("apply", patch, "-p", victim.pid) for _ in range(4)]
    statuses = sorted(tool.wait(20) for tool in tools)
    for tool in tools:
        tool.communicate()
    assert statuses[0] == 0 and set(statuses[1:]) <= {1, 3, 4}, statuses
    assert statuses.count(0) == 1 and victim.ask("f") == "42"
    assert names(suture, victim) == ["fix"]
    suture.ok("revert", "fix", "-p", victim.pid)
    assert victim.ask("f") == "1"
