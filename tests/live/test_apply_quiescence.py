# SPDX-License-Identifier: Apache-2.0
"""The stack check decides: whoever is inside of old code keeps the patch out (status 4, named, nothing
changed), whoever only looks so does not. The same for code that is to be unmapped.
"""

import re
import signal
import time

import pytest

from harness.caps import needs
from harness.hand import hand_patch
from harness.tool import BUSY, OK

# inner() blocks on a pipe, below fixed(), until the main thread is told "go".
BLOCKED = r"""
#include "victim.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>
#include <unistd.h>

int pipe_fd[2];
volatile int result;
volatile int sink;

__attribute__((noinline, noclone)) int inner(int how)
{
	char c;

	if (read(pipe_fd[0], &c, 1) != 1)
		return -1;
	return how + 1;
}

__attribute__((noinline, noclone)) int middle(int how)
{
	int r = inner(how);

	sink++;
	return r;
}

__attribute__((noinline, noclone)) int fixed(int how)
{
	int r = how < 0 ? how : middle(how);

	sink++;
	return r * 2;
}

__attribute__((noinline, noclone)) static void caller(void)
{
	result = fixed(20);
	sink++;
}

static void on_signal(int sig)
{
	caller();
}

static ucontext_t home, other;

static void coroutine(void)
{
	swapcontext(&other, &home);
}

/* fixed() is on the thread's own stack, which waits in a coroutine. */
static void in_coroutine(void)
{
	inner(1);
}

int switch_away(int how)
{
	swapcontext(&home, &other);
	return how;
}

__attribute__((noinline, noclone)) int host(int how)
{
	int r = switch_away(how);

	sink++;
	return r;
}

static void *thread(void *arg)
{
	const char *how = arg;

	pthread_setname_np(pthread_self(), "worker-7");
	if (!strcmp(how, "inside")) {
		caller();
	} else if (!strcmp(how, "handler") || !strcmp(how, "altstack")) {
		static char stack[65536];
		stack_t alt = {.ss_sp = stack, .ss_size = sizeof(stack)};
		struct sigaction sa = {.sa_handler = on_signal};

		if (!strcmp(how, "altstack")) {
			sigaltstack(&alt, NULL);
			sa.sa_flags = SA_ONSTACK;
		}
		sigaction(SIGUSR1, &sa, NULL);
		pthread_kill(pthread_self(), SIGUSR1);
	} else if (!strcmp(how, "coroutine")) {
		static char stack[65536];

		getcontext(&other);
		other.uc_stack.ss_sp = stack;
		other.uc_stack.ss_size = sizeof(stack);
		other.uc_link = &home;
		makecontext(&other, in_coroutine, 0);
		host(1);
	}
	result = 42;
	return NULL;
}

static void answer(const char *line)
{
	static pthread_t t;

	if (!strcmp(line, "go")) {
		if (write(pipe_fd[1], "x", 1) != 1)
			exit(1);
		pthread_join(t, NULL);
		printf("%d", result);
	} else if (!strcmp(line, "try")) {
		printf("%d", fixed(-1));
	} else {
		pthread_create(&t, NULL, thread, strdup(line));
		usleep(50000);
		printf("started");
	}
}

int main(void)
{
	if (pipe(pipe_fd))
		return 1;
	return victim_serve(answer);
}
"""

FIX = "extern volatile int sink;\nint fixed(int how) { sink++; return how * 100; }\n"
FIX_HOST = "extern volatile int sink;\nint host(int how) { sink++; return 7; }\n"


def text_and_maps(victim):
    return victim.text(), [line for line in victim.maps_text()]


@pytest.mark.parametrize("how", ["inside", "handler", "altstack"])
def test_busy_names_thread_function_and_frames(suture, spawn, compile, work, how):
    prog = compile(BLOCKED)
    patch = hand_patch(work, FIX, prog, ["fixed"])
    victim = spawn(prog)
    assert victim.ask(how) == "started"
    before = text_and_maps(victim)
    result = suture("apply", patch, "-p", victim.pid, "--timeout", "0.3", "--json")
    assert result.status == BUSY, str(result)
    assert text_and_maps(victim) == before
    blockers = result.json()["processes"][0]["blockers"]
    assert len(blockers) == 1
    assert blockers[0]["tid"] in victim.threads() and blockers[0]["tid"] != victim.pid
    assert blockers[0]["comm"] == "worker-7"
    assert blockers[0]["function"] == "fixed"
    message = result.json()["processes"][0]["error"]["message"]
    assert "fixed" in message and "worker-7" in message
    assert suture.ok("list", "-p", victim.pid, "--json").json()["processes"][0]["patches"] == []

    # The old code goes on to its end, and then the patch fits.
    assert victim.ask("go") == "42"
    assert victim.ask("try") == "-2"
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("try") == "-100"
    suture.ok("revert", "hand", "-p", victim.pid)
    assert victim.ask("try") == "-2"


def test_frames_above_are_listed(suture, spawn, compile, work):
    prog = compile(BLOCKED, ldflags=["-rdynamic"])
    patch = hand_patch(work, FIX, prog, ["fixed"])
    victim = spawn(prog)
    victim.ask("inside")
    result = suture("apply", patch, "-p", victim.pid, "--timeout", "0", "--json")
    blocker = result.json()["processes"][0]["blockers"][0]
    names = [f["symbol"] for f in blocker["frames"]]
    at = names.index("fixed")
    assert names[at - 2:at] == ["inner", "middle"], names
    assert at == blocker["depth"]
    assert "start_thread" in names[-2:] or len(names) >= at + 3
    victim.ask("go")


def test_waits_for_the_thread_to_leave(suture, spawn, compile, work):
    prog = compile(BLOCKED)
    patch = hand_patch(work, FIX, prog, ["fixed"])
    victim = spawn(prog)
    victim.ask("inside")
    tool = suture.start("apply", patch, "-p", victim.pid, "--timeout", "20", "--json")
    time.sleep(0.5)
    assert tool.poll() is None
    assert victim.ask("go") == "42"
    assert tool.wait(10) == OK
    out = tool.stdout.read()
    tool.stdout.close()
    tool.stderr.close()
    assert re.search(r'"attempts": *([2-9]|\d\d)', out), out
    assert victim.ask("try") == "-100"


def test_cancel_while_waiting(suture, spawn, compile, work):
    prog = compile(BLOCKED)
    patch = hand_patch(work, FIX, prog, ["fixed"])
    victim = spawn(prog)
    victim.ask("inside")
    before = text_and_maps(victim)
    tool = suture.start("apply", patch, "-p", victim.pid, "--timeout", "30")
    time.sleep(0.3)
    tool.send_signal(signal.SIGINT)
    tool.wait(5)
    tool.stdout.close()
    tool.stderr.close()
    assert text_and_maps(victim) == before
    assert victim.ask("go") == "42"


def test_frame_below_a_coroutine(suture, spawn, compile, work):
    prog = compile(BLOCKED)
    patch = hand_patch(work, FIX_HOST, prog, ["host"])
    victim = spawn(prog)
    victim.ask("coroutine")
    result = suture("apply", patch, "-p", victim.pid, "--timeout", "0.2", "--json")
    assert result.status == BUSY, str(result)
    assert result.json()["processes"][0]["blockers"][0]["function"] == "host"
    assert victim.ask("go") == "42"
    suture.ok("apply", patch, "-p", victim.pid)


def test_another_function_below_a_coroutine(suture, spawn, compile, work):
    """The coroutine runs, its thread is not inside of what is replaced."""
    prog = compile(BLOCKED)
    patch = hand_patch(work, FIX, prog, ["fixed"])
    victim = spawn(prog)
    victim.ask("coroutine")
    suture.ok("apply", patch, "-p", victim.pid, "--timeout", "0.2")
    assert victim.ask("go") == "42"
    assert victim.ask("try") == "-100"


STALE = r"""
#include "victim.h"
#include <stdlib.h>
#include <unistd.h>
int pipe_fd[2];
volatile int sink, zero;
__attribute__((noinline, noclone)) int leaf(int x) { sink += x; return sink; }
__attribute__((noinline, noclone)) int fixed(int x)
{
	int r = leaf(x) + leaf(x + 1);
	sink++;
	return r * zero;
}
/* Its frame covers where fixed() was: the return addresses into fixed() are still in it. */
__attribute__((noinline, noclone)) void waits(int n)
{
	volatile char room[4096];
	char c;
	__asm__ volatile("" :: "r"(room));
	if (read(pipe_fd[0], &c, 1) != 1)
		exit(1);
	sink += room[n];
}
static void *thread(void *arg)
{
	fixed(3);
	waits(0);
	return NULL;
}
#include <pthread.h>
static void answer(const char *line)
{
	static pthread_t t;
	if (!strcmp(line, "go")) {
		if (write(pipe_fd[1], "x", 1) != 1)
			exit(1);
		pthread_join(t, NULL);
	} else if (!strcmp(line, "start")) {
		pthread_create(&t, NULL, thread, NULL);
		usleep(50000);
	}
	printf("%d", line[0] == 't' ? fixed(1) : 5);
}
int main(void) { return pipe(pipe_fd) ? 1 : victim_serve(answer); }
"""


@pytest.mark.parametrize("cc", ["gcc", "clang"])
def test_stale_words_on_a_stack_are_no_frames(suture, spawn, compile, work, cc):
    prog = compile(STALE, cc=cc, flags=["-g", "-O1"])
    fix = "extern volatile int sink;\nint fixed(int x) { sink++; return 9; }\n"
    patch = hand_patch(work, fix, prog, ["fixed"])
    victim = spawn(prog)
    assert victim.ask("start") == "5"
    suture.ok("apply", patch, "-p", victim.pid, "--timeout", "0")
    assert victim.ask("try") == "9"
    assert victim.ask("go") == "5"


@needs("musl-gcc")
def test_without_unwind_information_the_scan_decides(suture, spawn, compile, work):
    """A thread blocked in musl, which has no call-frame information: inside is inside."""
    source = BLOCKED.replace("#include <ucontext.h>\n", "#define ucontext_t int\n")
    source = re.sub(r"static ucontext_t.*?static void \*thread", "static void *thread", source,
                    flags=re.S)
    source = re.sub(r'else if \(!strcmp\(how, "coroutine.*?\n\t}\n', "\n", source, flags=re.S)
    prog = compile(source, cc="musl-gcc")
    patch = hand_patch(work, FIX, prog, ["fixed"], cc="musl-gcc")
    victim = spawn(prog)
    victim.ask("inside")
    result = suture("apply", patch, "-p", victim.pid, "--timeout", "0.1", "--json")
    assert result.status == BUSY
    assert result.json()["processes"][0]["blockers"][0]["function"] == "fixed"
    assert victim.ask("go") == "42"
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("try") == "-100"


NEW_BLOCKS = r"""
extern volatile int sink;
int inner(int how);
__attribute__((noinline)) static int extra(int how) { int r = inner(how); sink++; return r; }
int fixed(int how)
{
	int r = how < 0 ? 3 : extra(how);
	sink++;
	return r;
}
"""


@pytest.mark.parametrize("how", ["inside", "altstack"])
def test_revert_waits_for_the_new_code(suture, spawn, compile, work, how):
    prog = compile(BLOCKED)
    patch = hand_patch(work, NEW_BLOCKS, prog, ["fixed"])
    victim = spawn(prog)
    text, maps = victim.text(), victim.maps_text()
    suture.ok("apply", patch, "-p", victim.pid)
    victim.ask(how)
    during = victim.text()
    result = suture("revert", "hand", "-p", victim.pid, "--timeout", "0.2", "--json")
    assert result.status == BUSY, str(result)
    assert victim.text() == during
    assert result.json()["processes"][0]["blockers"][0]["function"] in ("extra", "fixed")
    assert victim.ask("go") == "42"
    assert victim.ask("try") == "3"
    suture.ok("revert", "hand", "-p", victim.pid)
    assert victim.ask("try") == "-2"
    assert victim.text() == text
    assert [m for m in maps if m not in victim.maps_text()] == []


SPIN = r"""
#include "victim.h"
#include <pthread.h>
#include <stdlib.h>
volatile long calls[64];
volatile int stop;
__attribute__((noinline, noclone)) int fixed(int x)
{
	for (volatile int i = 0; i < 200; i++)
		;
	return x * 2;
}
static void *spin(void *arg)
{
	long n = (long)arg;
	while (!stop) {
		int r = fixed(21);

		for (volatile int i = 0; i < 2000; i++)
			;
		if (r != 42 && r != 2100)
			abort();
		calls[n]++;
	}
	return NULL;
}
static void answer(const char *line)
{
	printf("%d", fixed(21));
}
int main(void)
{
	pthread_t t;
	for (long i = 0; i < 4; i++)
		pthread_create(&t, NULL, spin, (void *)i);
	return victim_serve(answer);
}
"""


def test_threads_that_call_it_all_the_time(suture, spawn, compile, work):
    prog = compile(SPIN)
    patch = hand_patch(work, "int fixed(int x) { return x * 100; }\n", prog, ["fixed"])
    victim = spawn(prog)
    for _ in range(3):
        suture.ok("apply", patch, "-p", victim.pid, "--timeout", "30")
        assert victim.ask("x") == "2100"
        suture.ok("revert", "hand", "-p", victim.pid, "--timeout", "30")
        assert victim.ask("x") == "42"
    victim.assert_same()


CALLBACKS = r"""
#include "victim.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
int (*volatile hook)(int);
void (*volatile unused)(void);
volatile int sink;
int handled;
__attribute__((noinline, noclone)) void fixed(const char *how) { sink++; sink++; }
static void answer(const char *line)
{
	if (!strcmp(line, "call"))
		printf("%d", hook ? hook(1) : -1);
	else if (!strcmp(line, "drop"))
		printf("%d", (hook = NULL) == NULL);
	else if (!strcmp(line, "raise"))
		raise(SIGUSR2), printf("%d", handled);
	else if (!strcmp(line, "default"))
		signal(SIGUSR2, SIG_DFL), printf("1");
	else
		fixed(line), printf("done");
}
int main(void) { return victim_serve(answer); }
"""

HANDS_OUT = r"""
#include <signal.h>
#include <string.h>
extern int (*volatile hook)(int);
extern int handled;
static int fresh(int x) { return x + 70; }
static void on_signal(int sig) { handled += 5; }
void fixed(const char *how)
{
	if (!strcmp(how, "hook"))
		hook = fresh;
	if (!strcmp(how, "signal"))
		signal(SIGUSR2, on_signal);
}
"""


@pytest.mark.parametrize("how, use, want, drop, named", [
    ("hook", "call", "71", "drop", "fresh"),
    ("signal", "raise", "5", "default", "on_signal"),
])
def test_revert_does_not_cut_off_callbacks(suture, spawn, compile, work, how, use, want, drop,
                                           named):
    prog = compile(CALLBACKS)
    patch = hand_patch(work, HANDS_OUT, prog, ["fixed"], flags=["-O1", "-fPIC"])
    victim = spawn(prog)
    text, maps = victim.text(), victim.maps_text()
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask(how) == "done"
    result = suture("revert", "hand", "-p", victim.pid, "--timeout", "0")
    assert result.status == BUSY and named in result.err, str(result)
    assert victim.ask(use) == want
    victim.ask(drop)
    suture.ok("revert", "hand", "-p", victim.pid)
    assert victim.text() == text and victim.maps_text() == maps
    assert victim.ask("x") == "done"


COROUTINES = r"""
#include "victim.h"
#include <pthread.h>
#include <stdlib.h>
#include <ucontext.h>
static ucontext_t home, inside;
static char room[65536];
volatile int sink, got;
__attribute__((noinline, noclone)) void leave(void) { sink++; swapcontext(&inside, &home); }
__attribute__((noinline, noclone)) void fixed(int x) { sink += x; leave(); got = 1; }
static void start(void) { fixed(1); }
static void *thread(void *arg) { fixed(0); return NULL; }
static void answer(const char *line)
{
	if (!strcmp(line, "start")) {
		getcontext(&inside);
		inside.uc_stack.ss_sp = room;
		inside.uc_stack.ss_size = sizeof(room);
		inside.uc_link = &home;
		makecontext(&inside, start, 0);
		swapcontext(&home, &inside);
	} else if (!strcmp(line, "finish")) {
		swapcontext(&home, &inside);
	}
	printf("%d", got);
}
int main(void) { return victim_serve(answer); }
"""


def test_revert_sees_a_waiting_coroutine(suture, spawn, compile, work):
    """It waits in the new code, on a stack where no thread is."""
    fix = """
extern volatile int sink, got;
void leave(void);
void fixed(int x) { sink += x; sink++; leave(); got = 2; }
"""
    prog = compile(COROUTINES)
    patch = hand_patch(work, fix, prog, ["fixed"])
    victim = spawn(prog)
    text, maps = victim.text(), victim.maps_text()
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("start") == "0"
    during = victim.text()
    result = suture("revert", "hand", "-p", victim.pid, "--timeout", "0")
    assert result.status == BUSY and "coroutine" in result.err and "fixed" in result.err
    assert victim.text() == during
    assert victim.ask("finish") == "2"
    # The dead frames of a stack of the program's own cannot be told from living ones: they go
    # when it is used again.
    assert victim.ask("start") == "2"
    assert victim.ask("finish") == "2"
    victim.assert_same()
    assert maps and text


ENDED = r"""
#include "victim.h"
#include <pthread.h>
#include <ucontext.h>
volatile int sink;
void *volatile use[] = {makecontext, swapcontext};
__attribute__((noinline, noclone)) void leaf(void) { sink++; }
__attribute__((noinline, noclone)) void fixed(int x) { leaf(); sink += x; leaf(); }
static void *thread(void *arg) { fixed(1); return NULL; }
static void answer(const char *line)
{
	pthread_t t[8];
	for (int i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, thread, NULL);
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	printf("%d", sink);
}
int main(void) { return victim_serve(answer); }
"""


def test_stacks_of_ended_threads_do_not_matter(suture, spawn, compile, work):
    fix = "extern volatile int sink;\nvoid leaf(void);\n" \
          "void fixed(int x) { leaf(); leaf(); leaf(); sink += x; }\n"
    prog = compile(ENDED)
    patch = hand_patch(work, fix, prog, ["fixed"])
    victim = spawn(prog)
    assert victim.ask("x") == "24"
    text = victim.text()
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("x") == "56"
    suture.ok("revert", "hand", "-p", victim.pid, "--timeout", "0")
    assert victim.text() == text
    assert victim.ask("x") == "80"
