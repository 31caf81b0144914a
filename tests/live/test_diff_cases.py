# SPDX-License-Identifier: Apache-2.0
"""Fixes of every sort, told by what the program rebuilt with the fix answers.

A source is written once: lines that begin with "-" are there before the fix, with "+" after it,
all others (first column blank or not) always. Three programs get the same questions: the victim,
the one without the fix, the one with it. The victim answers as the first until the patch is
applied, as the second until it is reverted, then as the first again: so state that the fix must
keep is seen. A fix that cannot be live patched is refused, with the reason.
"""

import pytest

from harness.caps import needs
from harness.project import Image
from harness.tool import NOTHING

HEAD = """#include "victim.h"
#include <stdlib.h>
#define N __attribute__((noinline))
#define NC __attribute__((noinline, noclone, noipa))
"""
# `step` prints the answer to one number
TAIL = """
NC static void answer(const char *line) { step(atoi(line)); }
int main(void) { return victim_serve(answer); }
"""
MAIN = HEAD + "void step(int n);" + TAIL


def sides(source):
    """The two texts of a source with "-" and "+" lines; None for a side that is empty."""
    before, after = [], []
    for line in source.splitlines(True):
        if line[0] not in "+":
            before.append(line[1:] if line[0] == "-" else line)
        if line[0] not in "-":
            after.append(line[1:] if line[0] == "+" else line)
    return "".join(before), "".join(after)


def trees(source):
    """One program text, or {path: text}; a text of "+" lines only is a file that the fix adds."""
    if isinstance(source, str):
        source = {"prog.c": HEAD + source + TAIL}
    before, after = {}, {}
    for path, text in source.items():
        old, new = sides(text)
        if old.strip():
            before[path] = old
        after[path] = new if new.strip() else None
    return before, after


class Cases:
    def __init__(self, suture, spawn, project):
        self.suture, self.spawn, self.project = suture, spawn, project

    def make(self, source, **kwargs):
        before, after = trees(source)
        return self.project(before, after, **kwargs)

    def build(self, made, targets=None):
        args = [x for t in (targets or made.targets) for x in ("--target", t)]
        return ["build", "--patch", made.diff, "--compdb", made.src, *args, "-o", made.patch]

    def applies(self, source, functions=None, asks=4, argv=(), targets=None, env=None, same=False,
                fresh=False, made=None, **kwargs):
        """Patched and rebuilt program agree.

        functions: names of those that are replaced, exactly. asks: how many questions per phase.
        fresh: the fix adds state, which in the victim begins when it is applied.
        same: the fix shows in no answer.
        """
        made = made or self.make(source, **kwargs)
        self.suture.ok(*self.build(made, targets))
        after = made.build_after()
        victim = self.spawn([made.program, *argv], env=env, cwd=made.dir)
        old = self.spawn([made.program, *argv], env=env, cwd=made.dir)
        new = self.spawn([after, *argv], env=env, cwd=made.dir)
        lines = [str(i) for i in range(3 * asks)]

        def ask(program, some):
            return [program.ask(line) for line in some]

        first, second, third = lines[:asks], lines[asks:2 * asks], lines[2 * asks:]
        assert ask(victim, first) == ask(old, first)
        if not fresh:
            ask(new, first)
        self.suture.ok("apply", made.patch, "-p", victim.pid)
        patched, rebuilt, unpatched = ask(victim, second), ask(new, second), ask(old, second)
        assert patched == rebuilt
        assert (rebuilt == unpatched) == same, "the fix shows in no answer"
        self.suture.ok("revert", "fix", "-p", victim.pid)
        assert ask(victim, third) == ask(old, third)
        victim.assert_same()
        if functions is not None:
            assert self.replaced(made) == sorted(functions)
        return made

    def manifest(self, made):
        return self.suture.ok("show", made.patch, "--json").json()["manifest"]

    def replaced(self, made):
        return sorted(f["name"] for f in self.manifest(made)["functions"] if "address" in f)

    def refused(self, source, code, *texts, status=1, targets=None, made=None, **kwargs):
        made = made or self.make(source, **kwargs)
        said = self.suture.refused(code, *self.build(made, targets), status=status)
        for text in texts:
            assert text in said, said
        assert not made.patch.exists()
        return made


@pytest.fixture
def cases(suture, spawn, project):
    return Cases(suture, spawn, project)


def table(*rows):
    """Parameters of a test from (id, ...) rows."""
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


LEVELS = [("gcc", "-O0"), ("gcc", "-O2"), ("gcc", "-O3"), ("clang", "-O0"), ("clang", "-O2"),
          ("clang", "-Os")]


# ---- many small fixes in one program, for every compiler and level ----

BASICS = r"""
#include <math.h>
#include <stddef.h>
#include <time.h>
#include <wchar.h>

int total;
static int calls;
N static int edited_string(int n)
{
-	printf("old text %d;", n);
+	printf("new text %d;", n);
	return calls++;
}

+N static int added(int n) { static int seen = 40; return n * 3 + seen++ * 0; }
+int added_global = 17;
N static int uses_new(int n)
{
-	return n;
+	return added(n) + added_global;
}

N static void emptied(int n)
{
-	printf("not empty %d;", n);
}

N static int one(int n) { return n + 1; }
N static int two(int n) { return n + 2; }
N static int retargeted(int n)
{
-	return one(n) * 2;
+	return two(n) * 2;
}

N static const char *middle(int n)
{
-	return &"0123456789abcdef"[n % 4];
+	return &"0123456789abcdef"[n % 4 + 5];
}

-N static int removed(int n) { return n * 7; }
N static int had_removed(int n)
{
-	return removed(n);
+	return n * 9;
}

-N static int name_before(int n) { return n ^ 5; }
+N static int name_after(int n) { return n ^ 5; }
N static int renamed(int n)
{
-	return name_before(n) + 1;
+	return name_after(n) + 2;
}

typedef int (*fn)(int);
static fn stored[4];
N static int target_changed(int n)
{
-	return n * 3 - 1;
+	return n * 3 - 100;
}
N static fn address_of(void) { return target_changed; }
N static int compares(int n)
{
	if (!stored[0])
		stored[0] = address_of();
-	return (stored[0] == target_changed) * 10 + stored[0](n);
+	return (stored[0] == target_changed) * 100 + stored[0](n);
}

+N static int new_callback(int n) { return n * 11; }
N static int calls_back(int n)
{
	fn volatile f;
-	f = one;
+	f = new_callback;
	return f(n);
}

-int scope_one = 5;
-static int scope_two = 6;
+static int scope_one = 5;
+int scope_two = 6;
N static int scopes(int n)
{
	scope_one += n;
	scope_two += 2 * n;
-	return scope_one + scope_two;
+	return scope_one - scope_two;
}

N static int imported(int n)
{
	char buf[32];
	snprintf(buf, sizeof(buf), "%d", n);
-	return strlen(buf);
+	return strlen(buf) + strcspn(buf, "x") * 100;
}

N static long never_imported(int n)
{
-	return printf("%d;", n);
+	div_t d = div(n * 7, 4);
+	char *end;
+	return d.quot * 10 + d.rem + strtol("42z", &end, 10) + *end;
}

N static double floats(int n)
{
-	return n * 1.5 + 0.25;
+	return n * 2.5 + 0.125;
}

N static unsigned wide(int n)
{
-	const wchar_t *w = L"wide old";
+	const wchar_t *w = L"wide new";
	return w[5 + n % 3];
}

N static int embedded(int n)
{
-	static const char text[] = "ab\0cd";
+	static const char text[] = "ab\0ce";
	return text[n % 5] * 256 + text[4];
}

N static const char *embedded_literal(int n)
{
-	return "xy\0one" + 3 * (n >= 0);
+	return "xy\0two" + 3 * (n >= 0);
}

N static const char *cswtch(int n)
{
	switch (n % 6) {
	case 0: return "zero";
-	case 1: return "uno";
+	case 1: return "one";
	case 2: return "two";
	case 3: return "three";
	case 4: return "four";
	default: return "many";
	}
}

N static int cswtch_int(int n)
{
	switch (n % 6) {
	case 0: return 17;
-	case 1: return 44;
+	case 1: return 45;
	case 2: return 3;
	case 3: return 99;
	case 4: return -5;
	default: return 12;
	}
}

N static int jumps(int n)
{
	switch (n % 7) {
-	case 0: calls += 1; return one(n);
-	case 1: printf("one;"); return two(n);
+	case 1: calls += 1; return one(n);
+	case 0: printf("one;"); return two(n);
	case 2: calls += 3; return n * 2;
	case 3: printf("three;"); return one(n) + two(n);
	case 4: total += 2; return n / 3;
	case 5: return edited_string(n) * 0;
	default: return 0;
	}
}

N static const char *func_name(int n)
{
-	printf("%d in %s;", n, __func__);
+	printf("%d is in %s;", n, __func__);
	return __func__ + 5;
}

static const int values[] = {1, 2, 3, 4};
N static int to_end(int n)
{
	int sum = 0;
	for (const int *p = values; p != values + 4; p++)
-		sum += *p * n;
+		sum += *p * n + 1;
	return sum;
}

-static const int shared[] = {10, 20, 30, 40};
+static const int shared[] = {10, 21, 30, 41};
N static int shares_unchanged(int n) { return shared[n & 3]; }
N static int shares(int n) { return shared[(n + 1) & 3] * 2; }

struct ops { fn read, write; };
-static const struct ops ops = {one, two};
+static const struct ops ops = {one, retargeted};
N static int through(const struct ops *o, int n) { return o->read(n) * 1000 + o->write(n); }
N static int use_ops(int n) { const struct ops *volatile o = &ops; return through(o, n); }

N static int new_static(int n)
{
-	return n;
+	static int counter = 100;
+	static char name[8];
+	name[n & 7] = 1;
+	return counter + n + name[n & 7];
}

__attribute__((hot)) N static int hot(int n)
{
-	return n * 21;
+	return n * 22;
}
-N static int cooler(int n) { printf("w;"); return n * 31; }
+__attribute__((cold)) N static int cooler(int n) { printf("v;"); return n * 31; }

-N static long signature(int a) { return a * 5L; }
-N static long caller_one(int n) { return signature(n) + 1; }
-N static long caller_two(int n) { return signature(n * 2) + 1; }
+N static long signature(int a, double b, long c) { return a * 5L + (long)b + c; }
+N static long caller_one(int n) { return signature(n, n, n) + 1; }
+N static long caller_two(int n) { return signature(n * 2, 1.0, n) + 1; }

N static const char *libc_data(int n)
{
-	fprintf(stdout, "%d;", n);
+	fprintf(stdout, "%d %d;", n, fileno(stdout));
	return stdin == stdout ? "same" : "other";
}

void step(int n)
{
	edited_string(n);
	printf("%d ", uses_new(n));
	emptied(n);
	printf("%d %s ", retargeted(n), middle(n));
	printf("%d %d ", had_removed(n), renamed(n));
	printf("%d %d %d ", compares(n), calls_back(n), scopes(n));
	printf("%d %ld %.3f %x ", imported(n), never_imported(n), floats(n), wide(n));
	printf("%d %s %s %d %d ", embedded(n), embedded_literal(n), cswtch(n), cswtch_int(n), jumps(n));
	printf("%s %d %d %d %d ", func_name(n), to_end(n), shares_unchanged(n), shares(n), use_ops(n));
	printf("%d %d %d %ld %ld %s ", new_static(n), hot(n), cooler(n), caller_one(n), caller_two(n),
		libc_data(n));
	printf("%d %d", calls, total);
}
"""


@pytest.mark.parametrize("cc, level", LEVELS)
def test_basics(cases, cc, level):
    made = cases.applies(BASICS, asks=7, cc=cc, flags=["-g", level, "-w"])
    names = {f.split(".")[0] for f in cases.replaced(made)}
    assert {"edited_string", "jumps", "floats"} <= names
    if level == "-O0":  # otherwise callers know what became of their callees
        assert not {"one", "two", "step", "main", "answer", "victim_serve"} & names


# ---- several files, several images ----

def test_several_units_share_a_new_global(cases):
    cases.applies({
        "main.c": MAIN,
        "a.c": HEAD + r"""
int first(int n);
-int second(int n);
+extern int level; int second(int n, int m);
void step(int n)
{
-	printf("%d %d", first(n), second(n));
+	level++; printf("%d %d %d", first(n), second(n, 2), level - level);
}
""",
        "b.c": HEAD + r"""
+int level = 3;
-int first(int n) { return n * 5 + (printf("f;") < 0); }
+int first(int n) { level += 2; return n * 6 + level / 1000 + (printf("f;") < 0); }
""",
        "c.c": HEAD + r"""
+extern int level;
-int second(int n) { return n * 7 + (printf("s;") < 0); }
+int second(int n, int m) { return level < 0 ? -1 : n * 7 + m + (printf("s;") < 0); }
""",
    }, functions=["first", "second", "step"])


def test_new_unit(cases):
    """It has no recorded command: it is compiled as its neighbour is."""
    cases.applies({
        "main.c": MAIN,
        "a.c": "+int fresh(int n);\nint printf(const char *, ...);\nvoid step(int n)\n{\n"
               "-	printf(\"%d\", n);\n+	printf(\"%d\", fresh(n));\n}\n",
        "fresh.c": "+static int seen; int fresh(int n) { seen++; return n * 3 + seen * 0; }\n",
    }, functions=["step"])


def test_static_helpers_of_one_name(cases):
    """The same static function, variable and file name in two directories: only one is fixed."""
    unit = HEAD + r"""
static int state = 10;
NC static int helper(int n) { state += n; return state * %d; }
NC static int other(int n) { return helper(n) %s 1; }
int PREFIX(int n) { return other(n) + helper(n); }
"""
    fixed = unit.replace("NC static int other(int n) { return helper(n) %s 1; }",
                         "-NC static int other(int n) { return helper(n) + 1; }\n"
                         "+NC static int other(int n) { return helper(n) * 100 + state; }")
    tree = {"main.c": HEAD + "int one(int n); int two(int n); int three(int n);\n"
                             "void step(int n) { printf(\"%d %d %d\", one(n), two(n), three(n)); }"
                             + TAIL,
            "x/same.c": (unit % (3, "+")).replace("PREFIX", "one"),
            "y/same.c": (fixed % 3).replace("PREFIX", "two"),
            "third.c": (unit % (3, "+")).replace("PREFIX", "three")}
    cases.applies(tree, functions=["other"])


def test_executable_and_library_in_one_patch(cases):
    source = {
        "lib.c": HEAD + r"""
int exported = 5;
static int inside = 1;
NC int callee(int n) { inside++; return n + inside; }
-int lib(int n) { exported += n; return callee(n) + exported; }
+int lib(int n) { exported += 2 * n; exported -= n; return callee(n) * 100 + exported; }
int spare(int n) { return lib(n); }
""",
        "main.c": HEAD + r"""
extern int exported;
int lib(int n), spare(int n), (*volatile pointer)(int) = lib;
NC static void show(int n)
{
-	printf("%d %d %d", lib(n), spare(n) * 0, exported);
+	printf("now %d %d %d", lib(n), spare(n) * 0, exported);
}
void step(int n) { show(n); printf(" %d", pointer(n)); }""" + TAIL}
    for cc, kind in (("gcc", "pie"), ("clang", "nopie")):
        cases.applies(source, cc=cc, flags=["-g", "-O2", "-w"], images=[
            Image("lib.so", ["lib.c"], "shared"), Image("prog", ["main.c"], kind, ["lib.so"])],
            functions=["lib", "show"] + ["spare"] * (cc == "clang"))  # it inlines lib() there


def test_interposed_function_stays_interposed(cases):
    """The library's own definition of weigh() is not what its caller calls."""
    cases.applies({
        "lib.c": HEAD + r"""
int weigh(int n) { return n + 1; }
-int lib(int n) { return weigh(n) + (printf("x;") < 0); }
+int lib(int n) { return weigh(n) * 3 + (printf("x;") < 0); }
""",
        "main.c": HEAD + r"""
int lib(int n);
int weigh(int n) { return n + 1000; }
void step(int n) { printf("%d", lib(n)); }""" + TAIL},
        images=[Image("lib.so", ["lib.c"], "shared"),
                Image("prog", ["main.c"], "pie", ["lib.so"], ["-rdynamic"])],
        functions=["lib"])


IFUNC = r"""
static int fast(int n) { return n * 100; }
static int slow(int n) { return n * 200; }
int volatile choose = 1;
static int (*resolve(void))(int) { return %s ? fast : slow; }
int picked(int n) __attribute__((ifunc("resolve")));
NC static int caller(int n)
{
-	return picked(n) + 1;
+	int (*volatile f)(int) = picked;
+	return picked(n) + 2 + f(1);
}
void step(int n) { printf("%%d", caller(n)); }
"""


@pytest.mark.parametrize("kind", ["pie", "nopie", "static"])
def test_ifunc_callee(cases, kind):
    cases.applies(IFUNC % "1", kind=kind, functions=["caller"])


def test_ifunc_resolver_changed_is_refused(cases):
    source = r"""
static int fast(int n) { return n * 100; }
static int slow(int n) { return n * 200; }
-static int (*resolve(void))(int) { return fast; }
+static int (*resolve(void))(int) { return slow; }
int picked(int n) __attribute__((ifunc("resolve")));
void step(int n) { printf("%d", picked(n)); }
"""
    cases.refused(source, "refused", "resolver", "picked")


def test_header_inline(cases):
    """Copies of a function in a header are fixed wherever they are, inlined or not."""
    for level in ("-O0", "-O2"):
        cases.applies({
            "scale.h": "static inline int scale(int n)\n{\n-	return n * 3;\n+	return n * 4;\n}\n",
            "a.c": HEAD + '#include "scale.h"\nNC int a(int n) { return scale(n) + 1; }\n',
            "b.c": HEAD + '#include "scale.h"\nNC int b(int n) { return scale(n) + 2; }\n',
            "c.c": HEAD + "NC int c(int n) { return n + 3; }\n",
            "main.c": HEAD + "int a(int), b(int), c(int);\n"
                             "void step(int n) { printf(\"%d %d %d\", a(n), b(n), c(n)); }" + TAIL,
        }, flags=["-g", level, "-w"],
            functions=["a", "b"] if level == "-O2" else ["scale", "scale"])


# ---- what the compiler makes of functions ----

ARTEFACTS = table(
    ("isra", r"""
struct s { int a, b, c; };
N static int pick(struct s *s)
{
-	return s->b * 3 + (printf("p;") < 0);
+	return s->c * 3 + (printf("p;") < 0);
}
NC int user(int n) { struct s s = {n, n + 10, n + 20}; return pick(&s); }
void step(int n) { printf("%d", user(n)); }
"""),
    ("isra changes what is passed", r"""
struct s { int a; long b; };
N static long pick(struct s *s, int unused)
{
-	return s->b * 3 + (printf("p;") < 0);
+	return s->b * s->a + unused + (printf("p;") < 0);
}
NC long user(int n) { struct s s = {n, n + 10}; return pick(&s, 5 * n); }
void step(int n) { printf("%ld", user(n)); }
"""),
    ("constprop", r"""
N static int shift(int n, int by, const char *how)
{
-	printf("%s;", how); return n << by;
+	printf("<%s>;", how); return n << (by + 1);
}
NC int user(int n) { return shift(n, 2, "two") + shift(n + 1, 2, "two"); }
void step(int n) { printf("%d", user(n)); }
"""),
    ("constprop for other constants", r"""
N static int shift(int n, int by)
{
	printf("%d by %d;", n, by);
	return n << by;
}
-NC int user(int n) { return shift(n, 2) + shift(n + 1, 2); }
+NC int user(int n) { return shift(n, 3) + shift(n + 1, 3); }
void step(int n) { printf("%d", user(n)); }
"""),
    ("two constprops change places", r"""
N static int shift(int n, int by)
{
	for (int i = 0; i < by; i++)
		printf("%d,", n << i);
	return n << by;
}
-NC int first(int n) { return shift(n, 2) + shift(n + 1, 2); }
-NC int second(int n) { return shift(n, 5) + shift(n + 1, 5); }
+NC int first(int n) { return shift(n, 5) + shift(n + 1, 5); }
+NC int second(int n) { return shift(n, 2) + shift(n + 1, 2); }
void step(int n) { printf("%d %d", first(n), second(n)); }
"""),
    ("constprop and cold", r"""
__attribute__((cold)) NC static void fail(int n) { printf("fail %d;", n); }
N static int shift(int n, int by)
{
	if (n % 3 == 1) {
		fail(n);
-		fail(n + 1);
+		fail(n + 7);
	}
	return n << by;
}
NC int user(int n) { return shift(n, 2) + shift(n + 1, 2); }
void step(int n) { printf("%d", user(n)); }
"""),
    ("part", r"""
static int big(int *p, int n)
{
	if (!p)
		return -1;
	for (int i = 0; i < n; i++) {
-		printf("%d,", i * *p);
+		printf("%d,", i + 1000 * *p);
		*p += i;
	}
	qsort(p, 1, sizeof(*p), 0);
	return *p;
}
static int value = 1;
NC int one(int n) { value %= 100; return big(n % 2 ? &value : 0, n % 5) + 1; }
NC int two(int n) { return big(n % 3 ? &value : 0, n % 4) + 2; }
NC int three(int n) { return big(n % 5 ? &value : 0, n % 7) + 2; }
void step(int n) { printf("%d %d %d", one(n), two(n), three(n)); }
"""),
    ("cold in the cold part only", r"""
__attribute__((cold)) NC static void fail(int n) { printf("fail %d;", n); }
NC int user(int n)
{
	if (__builtin_expect(n % 3 == 1, 0)) {
-		fail(n);
+		fail(n + 100);
		fail(n * 2);
		return -n;
	}
	return n * 4;
}
void step(int n) { printf("%d", user(n)); }
"""),
    ("cold in the parent only", r"""
__attribute__((cold)) NC static void fail(int n) { printf("fail %d;", n); }
NC int user(int n)
{
	if (__builtin_expect(n % 3 == 1, 0)) {
		fail(n);
		fail(n * 2);
		return -n;
	}
-	return n * 4;
+	return n * 5 + 1;
}
void step(int n) { printf("%d", user(n)); }
"""),
    ("cold added", r"""
__attribute__((cold)) NC static void fail(int n) { printf("fail %d;", n); }
NC int user(int n)
{
+	if (n % 3 == 1) {
+		fail(n);
+		fail(n * 2);
+		return -n;
+	}
	return n * 4 + (printf("u;") < 0);
}
void step(int n) { fail(n); printf("%d", user(n)); }
"""),
    ("cold removed", r"""
__attribute__((cold)) NC static void fail(int n) { printf("fail %d;", n); }
NC int user(int n)
{
-	if (n % 3 == 1) {
-		fail(n);
-		fail(n * 2);
-		return -n;
-	}
	return n * 4 + (printf("u;") < 0);
}
void step(int n) { fail(n); printf("%d", user(n)); }
"""),
    ("newly inlined", r"""
-N static int helper(int n) { return n * 3 + (printf("h;") < 0); }
+static inline __attribute__((always_inline)) int helper(int n) { return n * 4; }
NC int user(int n) { return helper(n) + 1; }
NC int user_too(int n) { return helper(n) + 2; }
void step(int n) { printf("%d %d", user(n), user_too(n)); }
"""),
    ("no longer inlined", r"""
-static inline __attribute__((always_inline)) int helper(int n) { return n * 4; }
+N static int helper(int n) { return n * 3 + (printf("h;") < 0); }
NC int user(int n) { return helper(n) + 1 + (printf("u;") < 0); }
NC int user_too(int n) { return helper(n) + 2 + (printf("u;") < 0); }
void step(int n) { printf("%d %d", user(n), user_too(n)); }
"""),
    ("inlined somewhere and called elsewhere", r"""
static int helper(int n)
{
-	return n * 5 + (printf("h;") < 0);
+	return n * 6 + (printf("i;") < 0);
}
int (*volatile pointer)(int) = helper;
NC int user(int n) { return helper(n) + 1; }
void step(int n) { printf("%d %d", user(n), pointer(n)); }
"""),
    ("case labels swapped", r"""
NC int choose(int n)
{
	switch (n) {
-	case 3: printf("a;"); return 5;
-	case 4: printf("b;"); return 6;
+	case 4: printf("a;"); return 5;
+	case 3: printf("b;"); return 6;
	case 5: printf("c;"); return n * 2;
	case 6: printf("d %d;", n); return n * 3;
	case 7: printf("e;"); return n;
	default: return 0;
	}
}
void step(int n) { printf("%d", choose(n)); }
"""),
    ("moved between hot and unlikely", r"""
-__attribute__((hot)) NC int a(int n) { return n * 3 + (printf("h;") < 0); }
-__attribute__((cold)) NC int b(int n) { return n * 5 + (printf("c;") < 0); }
+__attribute__((cold)) NC int a(int n) { return n * 4 + (printf("h;") < 0); }
+__attribute__((hot)) NC int b(int n) { return n * 6 + (printf("c;") < 0); }
void step(int n) { printf("%d %d", a(n), b(n)); }
"""),
    ("tail calls and recursion", r"""
N static int down(int n, int sum);
N static int up(int n, int sum) { printf("u"); return n <= 0 ? sum : down(n - 1, sum + n); }
N static int down(int n, int sum)
{
-	return n <= 0 ? sum : up(n - 1, sum - n);
+	printf("d"); return n <= 0 ? sum : up(n - 2, sum * 2 - n);
}
void step(int n) { printf("%d", up(n, 1)); }
"""),
    ("floating point constants and vectors", r"""
typedef float v4 __attribute__((vector_size(16)));
NC static float lanes(int n)
{
-	v4 a = {1, 2, 3, 4}, b = {n, n, n, n};
+	v4 a = {1, 2, 5, 4}, b = {n, n, 2, n};
	a = a * b;
	return a[0] + a[1] + a[2] + a[3];
}
-NC static double sum(double d) { return d * 3.25 + 1e10; }
+NC static double sum(double d) { return d * 3.25 + 1e11; }
-NC static long double wide(int n) { return n * 1.1L; }
+NC static long double wide(int n) { return n * 1.2L; }
-NC static double negate(double d) { return -d * 2.0; }
+NC static double negate(double d) { return __builtin_fabs(d) * 2.0; }
void step(int n) { printf("%f %f %Lf %f", lanes(n), sum(n), wide(n), negate(n)); }
"""),
    ("computed goto", r"""
NC int run(int n)
{
	static const void *const labels[] = {&&add, &&mul, &&end};
	int v = n, pc = n % 2;
	goto *labels[pc];
-add:	v += 5; goto *labels[1 + pc];
+add:	v += 6; goto *labels[1 + pc];
mul:	v *= 3; printf("m;"); goto *labels[2];
end:	return v;
}
void step(int n) { printf("%d", run(n)); }
"""),
    ("variable arguments, alloca, large frames", r"""
#include <stdarg.h>
#include <alloca.h>
NC static int sum(int count, ...)
{
	va_list ap;
	int s = 0;
	va_start(ap, count);
	while (count--)
-		s += va_arg(ap, int);
+		s += 2 * va_arg(ap, int);
	va_end(ap);
	return s;
}
NC static int frames(int n)
{
	char big[20000], *p = alloca(n * 10 + 100);
	memset(big, n, sizeof(big));
	memset(p, 2, n * 10 + 100);
-	return big[n * 3] + p[n * 9];
+	return big[n * 3] + p[n * 9] * 50;
}
void step(int n) { printf("%d %d", sum(9, n, 2, 3, 4, 5, 6, 7, 8, 9), frames(n)); }
"""),
    ("aliases", r"""
-NC int real(int n) { return n * 3 + (printf("r;") < 0); }
+NC int real(int n) { return n * 4 + (printf("r;") < 0); }
extern int other_name(int n) __attribute__((alias("real")));
extern int weak_name(int n) __attribute__((weak, alias("real")));
void step(int n) { printf("%d %d %d", real(n), other_name(n), weak_name(n)); }
"""),
    ("weak functions", r"""
extern int nowhere(int n) __attribute__((weak));
-__attribute__((weak)) NC int lazy(int n) { return n + (nowhere ? 1 : 2) + (printf("w;") < 0); }
+__attribute__((weak)) NC int lazy(int n) { return n + (nowhere ? nowhere(n) : 22); }
void step(int n) { printf("%d", lazy(n)); }
"""),
    ("inline assembler", r"""
NC int asms(int n)
{
	int r;
-	__asm__("lea 3(%1), %0" : "=r"(r) : "r"((long)n));
+	__asm__("lea 4(%1), %0" : "=r"(r) : "r"((long)n));
	__asm__ volatile("jmp 1f\n\tud2\n1:");
	return r;
}
void step(int n) { printf("%d", asms(n)); }
"""),
)


@pytest.mark.parametrize("source", ARTEFACTS)
def test_artefacts(cases, source):
    cases.applies(source, flags=["-g", "-O2", "-w"])


@pytest.mark.parametrize("cc, level", [("clang", "-O2")])
def test_artefacts_together(cases, cc, level):
    """All of them in one program, for another compiler."""
    tree, calls, names = {}, "", ""
    for i, case in enumerate(ARTEFACTS):
        text = case.values[0]
        if cc == "clang" and "ifunc" in text:
            continue
        pre = f"u{i}_"
        tree[f"u{i}.c"] = HEAD + f"#define step {pre}step\n" + "".join(
            f"#define {w} {pre}{w}\n" for w in (
                "user", "user_too", "first", "second", "one", "two", "three", "choose", "a", "b",
                "real", "other_name", "weak_name", "lazy", "asms", "run", "pointer")
            if f" {w}(" in text or f" *volatile {w})" in text) + text
        tree[f"u{i}.c"] = tree[f"u{i}.c"].replace('alias("real")', f'alias("{pre}real")')
        names += f"void {pre}step(int n);\n"
        calls += f"\t{pre}step(n); printf(\" \");\n"
    tree["main.c"] = HEAD + names + "void step(int n)\n{\n" + calls + "}\n" + TAIL
    cases.applies(tree, cc=cc, flags=["-g", level, "-w", "-U_FORTIFY_SOURCE"])


# ---- data ----

DATA = table(
    ("static local renumbered", r"""
+N static int earlier(int n) { static int count; count += n; return 0 * count; }
N static int one(int n) { static int count; count += n; return count; }
N static int two(int n)
{
	static int count;
	count += 2 * n;
-	return count;
+	return count * 10 + earlier(n);
}
void step(int n) { printf("%d %d", one(n), two(n)); }
"""),
    ("static local moved to a function that was split off", r"""
-N static int next(int n) { static int count = 7; count += n; return count; }
+N static int counted(int n) { static int count = 7; count += n; return count; }
+N static int next(int n) { return counted(n) * 2; }
NC int user(int n) { return next(n) + 1; }
void step(int n) { printf("%d", user(n)); }
"""),
    ("two static locals of one name in different scopes", r"""
NC int user(int n)
{
	int r;
	{ static int count; r = ++count; }
	{ static int count; r = r * 100 + (count += 2); }
-	return r;
+	return r * 1000;
}
NC int other(int n) { return n + 1 + (printf("o;") < 0); }
void step(int n) { printf("%d %d", user(n), other(n)); }
"""),
    ("two static locals of one name, another function is fixed", r"""
NC int user(int n)
{
	int r;
	{ static int count; r = ++count; }
	{ static int count; r = r * 100 + (count += 2); }
	return r;
}
-NC int other(int n) { return n + 1 + (printf("o;") < 0); }
+NC int other(int n) { return n + 9 + (printf("o;") < 0); }
void step(int n) { printf("%d %d", user(n), other(n)); }
"""),
    ("static local of a function that is inlined", r"""
static inline __attribute__((always_inline)) int next(void) { static int count = 5; return ++count; }
-NC int one(int n) { return next() * 2; }
+NC int one(int n) { return next() * 3; }
NC int two(int n) { return next() * 5; }
void step(int n) { printf("%d ", one(n)); printf("%d", two(n)); }
"""),
    ("state in struct, array, pointer", r"""
struct node { struct node *next; int value; };
static struct node first = {0, 1}, *list = &first;
static int ring[4] = {1, 2, 3, 4}, at;
static const char *names[3] = {"x", "y"};
NC int user(int n)
{
	struct node *new = malloc(sizeof(*new));
	*new = (struct node){list, n};
	list = new;
	ring[at++ % 4] = n;
	names[2] = "z";
	int sum = 0;
	for (struct node *p = list; p; p = p->next)
-		sum += p->value;
+		sum += p->value * 2;
-	return sum + ring[0] * 100 + names[at % 3][0];
+	return sum + ring[1] * 100 + names[at % 3][0];
}
void step(int n) { printf("%d", user(n)); }
"""),
    ("static variable that nobody needs any more", r"""
-static int debug_calls;
NC int user(int n)
{
-	debug_calls++;
	return n * 3 + (printf("u;") < 0)
-		;
+		+ 1;
}
void step(int n) { printf("%d", user(n)); }
"""),
    ("common symbols", r"""
int common_counter, common_array[5];
NC int user(int n)
{
	common_array[n % 5] += ++common_counter;
-	return common_array[n % 5];
+	return common_array[n % 5] * 100 + common_counter;
}
void step(int n) { printf("%d %d", user(n), common_counter); }
"""),
    ("constant table shared with an unchanged function of another name", r"""
static const struct { const char *name; int value; } rows[] = {
	{"one", 1},
-	{"two", 2},
+	{"TWO", 22},
	{"three", 3},
};
NC int value(int n) { return rows[n % 3].value; }
NC const char *name(int n) { return rows[n % 3].name; }
void step(int n) { printf("%s=%d", name(n), value(n)); }
"""),
    ("a constant grows with all its users", r"""
static const char *const words[] = {"a", "b"
-};
+, "c"};
NC const char *word(int n) { return words[n % (sizeof(words) / sizeof(words[0]))]; }
void step(int n) { printf("%s", word(n)); }
"""),
    ("visibility and section attributes of existing data", r"""
__attribute__((visibility("hidden"))) int hidden_value = 3;
__attribute__((section(".data.special"))) int special = 4;
static int __attribute__((aligned(64))) aligned = 5;
NC int user(int n)
{
	hidden_value += n; special += n; aligned += n;
-	return hidden_value + special * 10 + aligned * 100;
+	return hidden_value * 100 + special * 10 + aligned;
}
void step(int n) { printf("%d", user(n)); }
"""),
    ("errno, environ and locale of libc", r"""
#include <errno.h>
#include <ctype.h>
NC int user(int n)
{
	errno = n;
-	return errno + isalpha(n + 60);
+	return errno * 2 + isdigit(n + 44) + toupper('a' + n);
}
void step(int n) { printf("%d", user(n)); }
"""),
)


@pytest.mark.parametrize("source", DATA)
def test_data(cases, source, request):
    flags = ["-g", "-O2", "-w"] + ["-fcommon"] * ("common symbols" in request.node.name)
    cases.applies(source, flags=flags)


@pytest.mark.parametrize("cc, level", [("gcc", "-O0"), ("clang", "-O2")])
def test_data_elsewhere(cases, cc, level):
    for case in (DATA[0], DATA[1 if cc == "gcc" else 4], DATA[2]):
        cases.applies(case.values[0], cc=cc, flags=["-g", level, "-w"])


REFUSED = table(
    ("initial value", r"""
-static int limit = 10;
+static int limit = 20;
NC int user(int n) { limit += n; return limit; }
void step(int n) { printf("%d", user(n)); }
""", "initial value of limit"),
    ("array grew", r"""
-static int ring[4];
+static int ring[8];
NC int user(int n) { ring[n % (sizeof(ring) / 4)] += n; return ring[0]; }
void step(int n) { printf("%d", user(n)); }
""", "size of ring changed from 16 to 32"),
    ("bss to data", r"""
-static int counter;
+static int counter = 1;
NC int user(int n) { counter += n; return counter; }
void step(int n) { printf("%d", user(n)); }
""", "counter"),
    ("data to constant", r"""
-int rates[] = {1, 2, 3};
+const int rates[] = {1, 2, 3};
NC int user(int n) { return rates[n % 3] + (printf("u;") < 0); }
void step(int n) { printf("%d", user(n)); }
""", "rates"),
    ("static local removed while it is used", r"""
NC int user(int n)
{
-	static int count;
-	return count += n;
+	static long counter;
+	return counter += n;
}
void step(int n) { printf("%d", user(n)); }
""", "count"),
    ("variable renamed", r"""
-static int count;
+static int total;
NC int user(int n)
{
-	return count += n;
+	return total += n + 1;
}
void step(int n) { printf("%d", user(n)); }
""", "variable count disappeared and total appeared"),
    ("entry of a writable table of functions", r"""
N static int one(int n) { return n * 3 + (printf("1;") < 0); }
N static int two(int n) { return n * 5 + (printf("2;") < 0); }
-static int (*handlers[2])(int) = {one, one};
+static int (*handlers[2])(int) = {one, two};
void step(int n) { printf("%d", handlers[n % 2](n)); handlers[0] = two; }
""", "initial value of handlers"),
    ("string that a variable points to", r"""
-static const char *banner = "old";
+static const char *banner = "new";
void step(int n) { printf("%s", banner); if (n == 99) banner = "other"; }
""", "banner"),
    ("constructor added", r"""
int ready;
+__attribute__((constructor)) static void prepare(void) { ready = 1; }
NC int user(int n) { return ready + n; }
void step(int n) { printf("%d", user(n)); }
""", "constructor"),
    ("constructor changed", r"""
int ready;
__attribute__((constructor)) static void prepare(void)
{
-	ready = 1;
+	ready = 2;
}
NC int user(int n) { return ready + n; }
void step(int n) { printf("%d", user(n)); }
""", "constructor prepare changed"),
    ("constructor removed", r"""
int ready;
-__attribute__((constructor)) static void prepare(void) { ready = 1; }
NC int user(int n) { return ready + n; }
void step(int n) { printf("%d", user(n)); }
""", "constructor"),
    ("new thread-local variable", r"""
+static __thread int depth;
NC int user(int n)
{
-	return n * 3;
+	return n * 3 + depth++;
}
void step(int n) { printf("%d", user(n)); }
""", "depth is a new thread-local variable"),
    ("thread-local initial value", r"""
-static __thread int depth = 1;
+static __thread int depth = 2;
NC int user(int n) { return n * 3 + depth++; }
void step(int n) { printf("%d", user(n)); }
""", "thread-local variable depth"),
    ("thread-local became plain", r"""
-static __thread int depth = 1;
+static int depth = 1;
NC int user(int n) { return n * 3 + depth++; }
void step(int n) { printf("%d", user(n)); }
""", "depth"),
    ("writable table of labels", r"""
NC int run(int n)
{
	static void *labels[] = {&&add, &&mul, &&end};
	int v = n;
	if (n == 99) labels[1] = &&end;
	goto *labels[n % 2];
-add:	v += 5; goto *labels[1];
+add:	v += 6; goto *labels[1];
mul:	v *= 3; printf("m;"); goto *labels[2];
end:	return v;
}
void step(int n) { printf("%d", run(n)); }
""", "variable labels"),
    ("section that the program walks", r"""
N static int one(int n) { return n * 3 + (printf("1;") < 0); }
extern int (*__start_hooks[])(int), (*__stop_hooks[])(int);
__attribute__((section("hooks"), used)) static int (*h1)(int) = one;
+__attribute__((section("hooks"), used)) static int (*h2)(int) = one;
void step(int n)
{
	for (int (**p)(int) = __start_hooks; p < __stop_hooks; p++)
		printf("%d", (*p)(n));
}
""", "hooks"),
)


@pytest.mark.parametrize("source, text", REFUSED)
def test_refused(cases, source, text):
    cases.refused(source, "refused", text, flags=["-g", "-O2", "-w"])


@pytest.mark.parametrize("line, text", table(
    ("variable", "-int limit = 5;\n+int limit = 6;\n", "initial value of limit"),
    ("grown", "-int limit[2] = {5};\n+int limit[3] = {5};\n", "size of limit"),
    ("constant", "-const int limit = 5;\n+const int limit = 6;\n", "constant limit changed"),
    ("strings", '-const char *limit[] = {"a"};\n+const char *limit[] = {"b"};\n', "limit"),
))
def test_unit_of_data_only(cases, line, text):
    cases.refused({
        "main.c": MAIN.replace("void step(int n);",
                               "extern char limit[]; void step(int n) { printf(\"%d\", *limit); }"),
        "limit.c": line}, "refused", text)


def test_global_new_in_a_unit_of_data(cases):
    cases.applies({
        "main.c": MAIN,
        "data.c": "int old_value = 5;\n+int new_value = 60;\n",
        "a.c": HEAD + "extern int old_value;\n+extern int new_value;\nvoid step(int n)\n{\n"
               "-	printf(\"%d\", old_value++ + n);\n"
               "+	printf(\"%d\", old_value++ + n + new_value);\n}\n",
    }, functions=["step"])


def test_stored_pointers_to_a_changed_constant(cases):
    """What the program stored before cannot be followed: the builder says so."""
    made = cases.make(r"""
N static int one(int n) { return n * 3 + (printf("1;") < 0); }
N static int two(int n) { return n * 5 + (printf("2;") < 0); }
struct ops { int (*f)(int); };
-static const struct ops ops = {one};
+static const struct ops ops = {two};
void *volatile kept;
NC const struct ops *get(void) { kept = one; kept = two; return &ops; }
void step(int n) { printf("%d", get()->f(n)); }
""", flags=["-g", "-O2", "-w"])
    said = cases.suture.ok(*cases.build(made)).err
    assert "constant ops of prog.c changed" in said and "stored" in said
    cases.applies(None, made=made, functions=["get"])


# ---- thread-local variables that exist ----

TLS = HEAD.replace("#include <stdlib.h>", "#include <stdlib.h>\n#include <pthread.h>") + r"""
__thread int shared_tls = 3;
static __thread int own_tls;
static __thread long own_too = 50;
NC int tls(int n)
{
	shared_tls += n;
	own_tls += 2;
	own_too -= 1;
-	return shared_tls + own_tls;
+	return shared_tls * 10000 + own_tls * 100 + own_too;
}
NC int reader(int n) { return shared_tls + own_tls + own_too; }
"""
TLS_MAIN = HEAD.replace("#include <stdlib.h>", "#include <stdlib.h>\n#include <pthread.h>") + r"""
int tls(int n), reader(int n);
extern __thread int shared_tls;
static void *run(void *arg) { return (void *)(long)(tls((long)arg) + tls(1)); }
void step(int n)
{
	pthread_t t;
	void *r;
	pthread_create(&t, 0, run, (void *)(long)n);
	pthread_join(t, &r);
	printf("%d %d %d %ld", tls(n), reader(n), shared_tls, (long)r);
}""" + TAIL


@pytest.mark.parametrize("cc, kind, model, more", [
    ("gcc", "pie", "local-exec", []), ("gcc", "nopie", "initial-exec", []),
    ("gcc", "static", "local-exec", []), ("clang", "pie", "global-dynamic", ["-fPIC"])])
def test_tls_of_an_executable(cases, cc, kind, model, more):
    cases.applies({"tls.c": TLS, "main.c": TLS_MAIN}, cc=cc, kind=kind, functions=["tls"],
                  flags=["-g", "-O2", f"-ftls-model={model}", *more])


def test_descriptors_that_the_linker_removed(cases, suture, spawn):
    """An executable has none: what its payload would need is refused, when it is applied."""
    made = cases.make({"tls.c": TLS, "main.c": TLS_MAIN}, kind="pie",
                      flags=["-g", "-O2", "-fPIC", "-mtls-dialect=gnu2"])
    suture.ok(*cases.build(made))
    victim = spawn([made.program])
    said = suture.refused("unsupported", "apply", made.patch, "-p", victim.pid)
    assert "no bound TLS descriptor" in said and "-mtls-dialect=gnu" in said
    victim.assert_same()


@pytest.mark.parametrize("cc, model, more", [
    ("gcc", "initial-exec", []), ("gcc", "global-dynamic", []), ("clang", "local-dynamic", []),
    ("gcc", "local-dynamic", []), ("gcc", "global-dynamic", ["-mtls-dialect=gnu2"]),
    ("gcc", "local-dynamic", ["-mtls-dialect=gnu2"])])
def test_tls_of_a_library(cases, cc, model, more):
    cases.applies({"tls.c": TLS, "main.c": TLS_MAIN}, cc=cc, functions=["tls"], images=[
        Image("libtls.so", ["tls.c"], "shared", flags=[f"-ftls-model={model}", *more]),
        Image("prog", ["main.c"], "pie", ["libtls.so"])])


# ---- lines that move ----

LINES = r"""
#include <assert.h>
-/* one line */
+/* more
+ * than
+ * one line */
NC int asserts(int n)
{
	assert(n >= 0);
	return n + 1;
}
+
+/* a comment between */
NC int line(int n) { return __LINE__ * 10 + n % 10; }
NC int real(int n)
{
EDIT
	assert(n < 1000);
	return n * 3 + (printf("%s;", __func__) < 0);
}
NC int behind(int n) { assert(n != 77); return __LINE__; }
-void step(int n) { printf("%d %d %d %d", asserts(n), real(n), line(n) * 0, behind(n) * 0); }
+
+void step(int n) { printf("%d %d %d %d", asserts(n), real(n), line(n) * 0, behind(n) * 0); }
"""


@pytest.mark.parametrize("cc, level", [("gcc", "-O0"), ("gcc", "-O2"), ("clang", "-O2")])
def test_shifted_lines(cases, cc, level):
    """They are no change; next to a real one only that is in the patch."""
    flags = ["-g", level, "-w"]
    cases.refused(LINES.replace("EDIT", "+	/* only a comment */"), "no-functional-change",
                  cc=cc, flags=flags, status=NOTHING)
    cases.applies(LINES.replace("EDIT", "+	n += 5;\n+"), cc=cc, flags=flags, functions=["real"])


# ---- flags ----

PLAIN = r"""
NC static int parse(const char *text, int n)
{
	char buf[16];
	snprintf(buf, sizeof(buf), "%s%d", text, n);
-	return atoi(buf + 1) * 2;
+	return atoi(buf + 1) * 3 + buf[0];
}
NC static int index_of(int *p, int n)
{
	switch (n % 6) {
	case 0: return p[n % 4] << (n % 30);
-	case 1: return p[1] + 1;
+	case 1: return p[1] + 11;
	case 2: return p[n % 3] / (n + 1);
	case 3: return printf("3;");
	case 4: return p[0] * p[1];
	default: return n;
	}
}
void step(int n)
{
	int v[4] = {n, n + 1, n + 2, n + 3};
	printf("%d %d", parse("x", n), index_of(v, n));
}
"""

FLAGS = table(
    ("UBSan", "gcc", ["-fsanitize=undefined"], ["-fsanitize=undefined"]),
    ("UBSan", "clang", ["-fsanitize=undefined"], ["-fsanitize=undefined"]),
    ("UBSan that traps", "clang", ["-fsanitize=undefined", "-fsanitize-trap=undefined"], []),
    ("stack protector", "gcc", ["-fstack-protector-all"], []),
    ("stack protector", "clang", ["-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"], []),
    ("CET", "gcc", ["-fcf-protection=full"], []),
    ("CET", "clang", ["-fcf-protection=full"], []),
    ("room for tracing", "gcc", ["-fpatchable-function-entry=5"], []),
    ("room in front, too", "gcc", ["-fpatchable-function-entry=16,8"], []),
    ("room for tracing", "clang", ["-fpatchable-function-entry=5"], []),
    ("room in front and CET", "gcc", ["-fpatchable-function-entry=16,8", "-fcf-protection"], []),
    ("mcount", "gcc", ["-pg", "-mfentry"], ["-pg"]),
    ("no PLT", "gcc", ["-fno-plt", "-fPIE"], ["-Wl,-z,now"]),
    ("no frame information", "gcc", ["-fno-asynchronous-unwind-tables"], []),
    ("frame pointer", "gcc", ["-fno-omit-frame-pointer", "-mno-red-zone"], []),
    ("compressed debug information", "gcc", ["-gz"], []),
    ("DWARF 4", "gcc", ["-gdwarf-4"], []),
    ("DWARF 5", "clang", ["-gdwarf-5"], []),
    ("no debug information", "gcc", ["-g0"], []),
    ("no jump tables, sections", "gcc", ["-fno-jump-tables", "-ffunction-sections"],
     ["-Wl,--gc-sections"]),
    ("identical code folding off, hash style", "clang", ["-fdata-sections"],
     ["-Wl,--hash-style=gnu", "-Wl,-z,relro"]),
)


@pytest.mark.parametrize("cc, flags, ldflags", FLAGS)
def test_flags(cases, cc, flags, ldflags):
    level = "-O2"
    names = ["parse", "index_of"]
    if "-g0" in flags:
        names = None
    cases.applies(PLAIN, cc=cc, flags=["-g", level, "-w", *flags], ldflags=ldflags,
                  functions=names)


# ---- the target's symbols and debug information elsewhere ----

@needs("objcopy", "strip")
@pytest.mark.parametrize("how", ["link", "build-id"])
def test_stripped_target_with_a_debug_file(cases, how):
    import re
    import subprocess

    made = cases.make(PLAIN, flags=["-g", "-O2", "-w"])
    program, debug = made.program, made.src / "prog.debug"
    subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
    subprocess.run(["strip", "--strip-all", program], check=True)
    if how == "link":
        subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", program], check=True)
        cases.applies(None, made=made, functions=["parse", "index_of"])
        return
    debug.unlink()
    said = cases.suture.refused("no-symbols", *cases.build(made))
    assert re.search("debug", said)


# ---- what is refused because of where it comes from ----

def test_link_time_optimisation_is_refused(cases):
    cases.refused(PLAIN, "unsupported", "-flto", "prog.c", flags=["-g", "-O2", "-w", "-flto"])


def test_assembler_source_is_refused(cases):
    cases.refused({
        "main.c": MAIN.replace("void step(int n);",
                               "int f(int n); void step(int n) { printf(\"%d\", f(n)); }"),
        "f.S": "	.globl f\n	.type f, @function\nf:\n-	lea 1(%rdi), %eax\n"
               "+	lea 2(%rdi), %eax\n	ret\n	.size f, . - f\n",
    }, "unsupported", "f.S", "assembler")


def test_too_small_function_is_refused(cases):
    cases.refused(r"""
-NC int small(void) { return 0; }
+NC int small(void) { return 7; }
__asm__(".text\n.globl next\n.type next, @function\nnext: ret\n.size next, 1\n");
void step(int n) { printf("%d", small() + n); }
""", "function-too-small", "small", flags=["-g", "-O2", "-fno-align-functions"])


def test_source_that_has_the_fix_already(cases):
    made = cases.make(PLAIN, flags=["-g", "-O2", "-w"])
    (made.src / "prog.c").write_text(made.after["prog.c"])
    cases.refused(None, "diff", "already contains the fix", "prog.c", made=made)


def test_target_of_another_source(cases):
    made = cases.make(PLAIN, flags=["-g", "-O2", "-w"])
    text = made.before["prog.c"].replace('atoi(buf + 1) * 2', 'atoi(buf + 1) * 7')
    (made.src / "prog.c").write_text(text)
    made.diff.write_text(made.diff.read_text().replace("-	return atoi(buf + 1) * 2",
                                                       "-	return atoi(buf + 1) * 7"))
    cases.refused(None, "source-mismatch", "parse of prog.c does not match", "the source gives",
                  "the target has", made=made)


def test_target_of_other_flags(cases):
    made = cases.make(PLAIN, flags=["-g", "-O2", "-w"])
    database = made.src / "compile_commands.json"
    database.write_text(database.read_text().replace("-O2", "-O1"))
    cases.refused(None, "source-mismatch", "does not match", "other flags", made=made)


def test_target_whose_text_differs(cases):
    """The code is the same, a string that it prints is not."""
    made = cases.make(r"""
-NC int user(int n) { printf("hello;"); return n; }
+NC int user(int n) { printf("hello;"); return n + 1; }
void step(int n) { printf("%d", user(n)); }
""", flags=["-g", "-O2", "-w"])
    for path in (made.src / "prog.c", made.diff):
        path.write_text(path.read_text().replace("hello;", "howdy;"))
    cases.refused(None, "source-mismatch", "user of prog.c", "hello;", "howdy;", made=made)


@pytest.mark.parametrize("spoil, code, text", [
    (lambda d: d.replace("atoi(buf + 1) * 2", "atoi(buf + 1) * 8"), "diff", "does not apply"),
    (lambda d: d.replace("a/prog.c", "a/gone.c").replace("b/prog.c", "b/gone.c"), "diff", "gone.c"),
    (lambda d: d[:len(d) // 2], "diff", ""),
    (lambda d: "no diff at all\n", "diff", ""),
])
def test_bad_diff(cases, spoil, code, text):
    made = cases.make(PLAIN, flags=["-g", "-O2", "-w"])
    made.diff.write_text(spoil(made.diff.read_text()))
    cases.refused(None, code, text, made=made)


def test_unit_missing_from_the_database(cases):
    import json

    made = cases.make({
        "main.c": MAIN,
        "a.c": HEAD + "void step(int n)\n{\n-	printf(\"%d\", n);\n+	printf(\"%d!\", n);\n}\n"})
    database = made.src / "compile_commands.json"
    rows = [r for r in json.loads(database.read_text()) if r["file"] != "a.c"]
    database.write_text(json.dumps(rows))
    cases.refused(None, "compilation-database", "a.c", made=made)
