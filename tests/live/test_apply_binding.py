# SPDX-License-Identifier: Apache-2.0
"""What a payload refers to, in every kind of program: existing functions and data, libc functions
that the program imports or never did, IFUNCs, COPY-relocated data, thread-local variables of all
models, its own strings, constants and variables. The answer says that each reference hit what a
rebuild would have hit; revert gives back the very bytes and mappings.
"""

import pytest

from harness.caps import needs
from harness.hand import hand_patch

MAIN = r"""
#include "victim.h"
#include <stdlib.h>

int calls;
static int hidden = 5;
__thread int tls_int = 40;
static __thread volatile int tls_static = 2;
FILE *volatile keep;
#ifdef STATIC /* only what is linked in can be called */
#include <ctype.h>
void *volatile linked_in[] = {qsort, strncpy, memset, toupper, fputs};
#endif

__attribute__((noinline, used)) static int helper(int x)
{
	hidden++;
	return x + 1000;
}

__attribute__((noinline)) void fixed(const char *line)
{
	calls++;
	printf("old %d %d %d", (int)strlen(line), tls_int + tls_static, helper(1));
}

static void answer(const char *line)
{
	keep = stdout;
	fixed(line);
}

int main(void)
{
	return victim_serve(answer);
}
"""

# Everything at once: the format must agree with expect().
FIX = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ctype.h>

extern int calls;
extern int hidden;
extern __thread int tls_int;
extern __thread volatile int tls_static;
int helper(int x);

static int own = 7;
int own_global[4] = {1, 2, 3};
static const char *const words[] = {"zero", "one", "two"};
static const char *volatile pointer = "moved";

static int compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

__attribute__((noinline)) static int sum(const int *p, int n)
{
	int s = 0;
	while (n--)
		s += *p++;
	return s;
}

void fixed(const char *line)
{
	int v[3] = {30, 10, 20};
	char buf[64];

	calls++;
	own++;
	own_global[3] = own;
	qsort(v, 3, sizeof(v[0]), compare);
	memset(buf, 0, sizeof(buf));
	strncpy(buf, line, sizeof(buf) - 1);
	for (char *p = buf; *p; p++)
		*p = toupper(*p);
	fputs("new ", stdout);
	printf("%s %d %d %s %s %d %d %d", buf, tls_int + tls_static, helper(hidden),
		words[own % 3], pointer, v[0], sum(own_global, 4), calls);
}
"""


def expect(line, n, first_own=7):
    own = first_own + n
    return (f"new {line.upper()} 42 {1000 + 5 + n} {['zero', 'one', 'two'][own % 3]} moved 10 "
            f"{6 + own} {n + 1}")


def check_round(suture, victim, patch, line="hello"):
    maps, text = victim.maps_text(), victim.text()
    assert victim.ask(line) == f"old {len(line)} 42 1001"
    result = suture.ok("check", patch, "-p", victim.pid)
    assert victim.text() == text, "check changed something"
    result = suture.ok("apply", patch, "-p", victim.pid)
    for n in range(1, 4):
        assert victim.ask(line) == expect(line, n), str(result)
    for m in victim.maps():
        assert "w" not in m.perms or "x" not in m.perms, m
    suture.ok("revert", "hand", "-p", victim.pid)
    assert victim.ask(line) == f"old {len(line)} 42 1001"
    assert victim.maps_text() == maps
    assert victim.text() == text
    victim.assert_same()


KINDS = [
    ("gcc", "pie", "-O2", "-fPIC"),
    ("gcc", "pie", "-O0", "-fPIC"),
    ("gcc", "nopie", "-O2", "-fno-pie"),
    ("gcc", "static", "-O2", "-fno-pie"),
    ("gcc", "static-pie", "-O2", "-fPIE"),
    ("clang", "pie", "-O2", "-fPIC"),
    ("clang", "nopie", "-Os", "-fno-pie"),
    ("clang", "static", "-O1", "-fno-pie"),
    ("musl-gcc", "pie", "-O2", "-fPIC"),
    ("musl-gcc", "nopie", "-O2", "-fno-pie"),
    ("musl-gcc", "static", "-O3", "-fno-pie"),
    ("gcc", "pie", "-O2", "-fPIC -fcf-protection=full"),
    ("gcc", "pie", "-O2", "-fPIC -fcf-protection=full -fno-plt"),
]


@pytest.mark.parametrize("cc, kind, opt, model", KINDS, ids=lambda v: v.replace(" ", ""))
def test_everything_in_an_executable(suture, spawn, compile, work, cc, kind, opt, model):
    flags = ["-g", opt, *model.split()[1:], *(["-DSTATIC"] if "static" in kind else [])]
    prog = compile(MAIN, cc=cc, kind=kind, flags=flags)
    patch = hand_patch(work, FIX, prog, ["fixed"], cc=cc, kind=kind, flags=[opt, *model.split()])
    check_round(suture, spawn(prog), patch)


LIB = MAIN.replace("static void answer", "void library_answer").split("int main")[0]

LINKED = r"""
#include "victim.h"
void library_answer(const char *line);
int main(void)
{
	return victim_serve(library_answer);
}
"""

LOADED = r"""
#include "victim.h"
#include <dlfcn.h>
int main(int argc, char **argv)
{
	void *h = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);

	if (argc < 2 || !h)
		return 1;
	return victim_serve((void (*)(const char *))dlsym(h, "library_answer"));
}
"""


@pytest.mark.parametrize("tls", ["global-dynamic", "local-dynamic", "initial-exec"])
@pytest.mark.parametrize("how", ["linked", "loaded"])
def test_everything_in_a_library(suture, spawn, compile, work, how, tls):
    model = [f"-ftls-model={tls}"]
    lib = compile(LIB, name="libfix.so", kind="shared", flags=["-g", "-O2", *model])
    patch = hand_patch(work, FIX, lib, ["fixed"], kind="shared", flags=["-O2", *model])
    if how == "linked":
        victim = spawn(compile(LINKED, ldflags=[str(lib), f"-Wl,-rpath,{work}"]))
    else:
        victim = spawn([compile(LOADED, ldflags=["-ldl"]), lib])
    check_round(suture, victim, patch)


def test_tls_descriptor_of_the_same_variable(suture, spawn, compile, work):
    flags = ["-O2", "-mtls-dialect=gnu2"]
    lib = compile(LIB, name="libfix.so", kind="shared", flags=["-g", *flags])
    victim = spawn(compile(LINKED, ldflags=[str(lib), f"-Wl,-rpath,{work}"]))
    fix = r"""
#include <stdio.h>
extern __thread int tls_int;
int helper(int x);
void fixed(const char *line) { printf("new %d %d", tls_int, helper(1)); }
"""
    patch = hand_patch(work, fix, lib, ["fixed"], kind="shared", flags=flags)
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("x") == "new 40 1001"


COPIED = r"""
#include "victim.h"
#include <unistd.h>
extern char **environ;
char **volatile mine;
__attribute__((noinline)) void fixed(const char *line)
{
	printf("old %p", (void *)environ);
}
static void answer(const char *line)
{
	static char *own[] = {"A=1", NULL};
	environ = own;          /* the executable's copy */
	mine = own;
	fixed(line);
}
int main(void) { return victim_serve(answer); }
"""


@pytest.mark.parametrize("model", ["-fno-pie", "-fPIC"])
def test_copy_relocated_data(suture, spawn, compile, work, model):
    prog = compile(COPIED, kind="nopie")
    fix = r"""
#include <stdio.h>
extern char **environ;
extern char **volatile mine;
void fixed(const char *line) { printf("new %d %s", environ == mine, environ[0]); }
"""
    patch = hand_patch(work, fix, prog, ["fixed"], kind="nopie", flags=["-O2", model])
    victim = spawn(prog)
    victim.ask("x")
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("x") == "new 1 A=1"


def test_data_of_a_library_out_of_reach(suture, spawn, compile, work):
    """Without a copy in the executable there is nothing that a 32-bit displacement could reach."""
    prog = compile(MAIN, kind="pie")
    fix = r"""
#include <stdio.h>
extern char **environ;
void fixed(const char *line) { printf("%s", environ[0]); }
"""
    patch = hand_patch(work, fix, prog, ["fixed"], kind="pie", flags=["-O2"])
    victim = spawn(prog)
    maps = victim.maps_text()
    result = suture("apply", patch, "-p", victim.pid)
    assert result.status == 1
    assert "environ" in result.err and "-fPIC" in result.err
    assert victim.maps_text() == maps
    assert victim.ask("abc") == "old 3 42 1001"


CANONICAL = r"""
#include "victim.h"
#include <stdlib.h>
int (*volatile taken)(int) = abs;
__attribute__((noinline)) int known(int (*f)(int)) { return f == taken; }
__attribute__((noinline)) void fixed(const char *line) { printf("old %d", known(abs)); }
static void answer(const char *line) { fixed(line); }
int main(void) { return victim_serve(answer); }
"""


def test_function_address_is_the_programs_own(suture, spawn, compile, work):
    """A function taken by address in a non-PIE executable is known by its PLT entry."""
    prog = compile(CANONICAL, kind="nopie", flags=["-O1", "-fno-builtin"])
    fix = r"""
#include <stdio.h>
#include <stdlib.h>
int known(int (*f)(int));
void fixed(const char *line) { printf("new %d %d", known(abs), abs(-4)); }
"""
    patch = hand_patch(work, fix, prog, ["fixed"], kind="nopie", flags=["-O1", "-fno-builtin"])
    victim = spawn(prog)
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("x") == "new 1 4"


IFUNCS = r"""
#include "victim.h"
static int plain(int x) { return x + 1; }
static int other(int x) { return x + 2; }
int chosen;
static int (*resolve_local(void))(int) { return chosen ? other : plain; }
static int local_ifunc(int) __attribute__((ifunc("resolve_local")));
int global_ifunc(int) __attribute__((ifunc("resolve_local")));
__attribute__((noinline)) void fixed(const char *line)
{
	printf("old %d %d", local_ifunc(1), global_ifunc(1));
}
static void answer(const char *line) { fixed(line); }
int main(void) { chosen = 1; return victim_serve(answer); }
"""


@pytest.mark.parametrize("kind, model", [("pie", "-fPIC"), ("nopie", "-fno-pie"),
                                         ("static", "-fno-pie"), ("static-pie", "-fPIE")])
def test_ifunc_reuses_the_choice(suture, spawn, compile, work, kind, model):
    """The resolver would choose differently by now: what it chose at start stays."""
    prog = compile(IFUNCS, kind=kind)
    fix = r"""
#include <stdio.h>
#include <string.h>
int local_ifunc(int), global_ifunc(int);
void fixed(const char *line)
{
	printf("new %d %d %d", local_ifunc(1), global_ifunc(1), (int)strlen(line));
}
"""
    patch = hand_patch(work, fix, prog, ["fixed"], kind=kind,
                       flags=["-O2", "-fno-builtin", model])
    victim = spawn(prog)
    assert victim.ask("x") == "old 2 2"
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("four") == "new 2 2 4"


UNUSED_IFUNC = r"""
#include "victim.h"
static int counted;
static double plain(double x, int y) { return x + y; }
void *resolve(void)
{
	/* Overwrites what a resolver may overwrite. */
	counted++;
	__asm__ volatile("pxor %%xmm0,%%xmm0; pxor %%xmm1,%%xmm1; xor %%esi,%%esi; xor %%edi,%%edi;"
		"xor %%eax,%%eax" ::: "xmm0", "xmm1", "rsi", "rdi", "rax");
	return plain;
}
__attribute__((noinline)) void fixed(const char *line)
{
	printf("old %d", counted);
}
static void answer(const char *line) { fixed(line); }
int main(void) { return victim_serve(answer); }
/* Never called: the linker makes no slot for it. */
double never(double, int) __attribute__((ifunc("resolve")));
"""


def test_ifunc_that_nobody_resolved(suture, spawn, compile, work):
    prog = compile(UNUSED_IFUNC, kind="pie")
    fix = r"""
#include <stdio.h>
double never(double, int);
extern int counted;
void fixed(const char *line)
{
	double a = never(1.5, 2), b = never(2.5, 3);
	printf("new %.1f %.1f %d", a, b, counted);
}
"""
    patch = hand_patch(work, fix, prog, ["fixed"], kind="pie", flags=["-O2", "-fPIC"])
    victim = spawn(prog)
    assert victim.ask("x") == "old 0"
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("x") == "new 3.5 5.5 1"
    assert victim.ask("x") == "new 3.5 5.5 1"


INTERPOSED = r"""
#include "victim.h"
int which(void);
__attribute__((noinline)) void fixed(const char *line) { printf("old %d", which()); }
static void answer(const char *line) { fixed(line); }
int main(void) { return victim_serve(answer); }
"""


def test_preloaded_definition_wins(suture, spawn, compile, work):
    compile("int which(void) { return 1; }\nint extra(void) { return 10; }\n",
            name="libone.so", kind="shared")
    pre = compile("int which(void) { return 2; }\nint extra(void) { return 20; }\n",
                  name="libpre.so", kind="shared")
    prog = compile(INTERPOSED, ldflags=[str(work / "libone.so"), f"-Wl,-rpath,{work}"])
    fix = r"""
#include <stdio.h>
int which(void), extra(void);
void fixed(const char *line) { printf("new %d %d", which(), extra()); }
"""
    patch = hand_patch(work, fix, prog, ["fixed"], flags=["-O2", "-fPIE"])
    plain, preloaded = spawn(prog), spawn(prog, env={"LD_PRELOAD": str(pre)})
    suture.ok("apply", patch, "-p", plain.pid, "-p", preloaded.pid)
    assert plain.ask("x") == "new 1 10"
    assert preloaded.ask("x") == "new 2 20"


def test_two_plugins_with_the_same_names(suture, spawn, compile, work):
    """Each dlopen'ed library sees its own functions, not the other's."""
    plugin = r"""
#include <stdio.h>
int mine(void) { return NUMBER; }
__attribute__((noinline)) void fixed(const char *line) { printf("old %d", mine()); }
void library_answer(const char *line) { fixed(line); }
"""
    libs = [compile(plugin, name=f"libp{n}.so", kind="shared", flags=["-O2", f"-DNUMBER={n}"])
            for n in (1, 2)]
    host = LOADED.replace("RTLD_LOCAL);", "RTLD_LOCAL);\n\tdlopen(argv[2], RTLD_NOW);")
    prog = compile(host, ldflags=["-ldl"])
    fix = r"""
#include <stdio.h>
int mine(void), other(void);
void fixed(const char *line) { printf("new %d", mine()); }
"""
    victim = spawn([prog, libs[1], libs[0]])
    patch = hand_patch(work, fix.replace("mine()", "mine ()"), libs[1], ["fixed"], kind="shared")
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("x") == "new 2"


def test_undefined_symbol_is_refused_by_name(suture, spawn, compile, work):
    prog = compile(MAIN)
    fix = "int no_such_thing(void);\nvoid fixed(const char *l) { no_such_thing(); }\n"
    patch = hand_patch(work, fix, prog, ["fixed"])
    victim = spawn(prog)
    result = suture("check", patch, "-p", victim.pid)
    assert result.status == 1 and "no_such_thing" in result.err


def test_weak_undefined_symbol_is_null(suture, spawn, compile, work):
    prog = compile(MAIN)
    fix = r"""
#include <stdio.h>
int maybe(void) __attribute__((weak));
void fixed(const char *l) { printf("new %d", maybe ? maybe() : -1); }
"""
    patch = hand_patch(work, fix, prog, ["fixed"], flags=["-O2", "-fPIC"])
    victim = spawn(prog)
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("x") == "new -1"


def test_new_tls_is_refused(suture, spawn, compile, work):
    prog = compile(MAIN)
    fix = "static __thread int fresh = 3;\nint fixed(const char *l) { return fresh++; }\n"
    patch = hand_patch(work, fix, prog, ["fixed"], flags=["-O2", "-fPIC"])
    victim = spawn(prog)
    result = suture("apply", patch, "-p", victim.pid)
    assert result.status == 1 and "thread-local" in result.err


@needs("musl-gcc")
def test_file_deleted_and_replaced(suture, spawn, compile, work):
    """Nothing but the process is needed to patch it."""
    prog = compile(MAIN)
    patch = hand_patch(work, FIX, prog, ["fixed"], flags=["-O2", "-fPIC"])
    victim = spawn(prog)
    prog.unlink()
    prog.write_text("another program\n")
    check_round(suture, victim, patch)
