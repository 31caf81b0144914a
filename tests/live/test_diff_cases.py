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
static void answer(const char *line) { step(atoi(line)); }
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
        victim = self.spawn([made.program, *argv], env=env)
        old = self.spawn([made.program, *argv], env=env)
        new = self.spawn([after, *argv], env=env)
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
