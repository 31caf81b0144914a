# SPDX-License-Identifier: Apache-2.0
"""Which fixes become patches that do what a rebuild would do, which are refused, and why.

The cases are those that object differs are known to get wrong. Each that builds is applied to a
running program, whose answers must be those of the program rebuilt with the fix, and taken out again.
"""

import hashlib
import json
import os
from pathlib import Path

import pytest
from harness import toolchain
from harness.caps import NOBODY, needs
from harness.project import Image

MAIN = """
#include <stdlib.h>
#include "victim.h"
char note[64];
int run(int x);
static void answer(const char *line)
{
	int r;
	note[0] = 0;
	r = run(atoi(line));
	printf("%d %s", r, note);
}
int main(void) { return victim_serve(answer); }
"""
HEAD = """#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
extern char note[64];
#define NOINLINE __attribute__((noinline))
"""


class Case:
    """A unit, and what the fix replaces in it."""

    def __init__(self, source, *edits, functions=None, flags=("-g", "-O2"), **kwargs):
        self.before = self.after = HEAD + source
        for old, new in edits:
            assert old in self.after, old
            self.after = self.after.replace(old, new)
        self.functions, self.flags, self.kwargs = functions, flags, kwargs

    def project(self, project):
        return project({"main.c": MAIN, "unit.c": self.before}, {"unit.c": self.after},
                       flags=self.flags, **self.kwargs)


RUN = "int run(int x)\n{{\n\tnote[63] = 0;\n\t{}\n}}\n"

APPLIES = {
    "string": Case(RUN.format('strcpy(note, "old"); return x;'), ('"old"', '"brand new"')),
    "string tail": Case(
        'NOINLINE const char *s(int x) { return "hello world" + x; }\n'
        + RUN.format('strcpy(note, s(6)); return puts == 0;'), ("s(6)", "s(4)"),
        functions={"run"}),
    "embedded NUL": Case(
        RUN.format('static const char t[] = "ab\\0cd"; memcpy(note, t + x % 2 * 3, 3); return x;'),
        ('ab\\0cd', 'ab\\0ce')),
    "wide string": Case(
        RUN.format('const wchar_t *w = x > 1 ? L"long one" : L"l"; return (int)wcslen(w);'),
        ('L"long one"', 'L"longer one"')),
    "floating constant": Case(RUN.format("return (int)(x * 1.5 + 0.25);"), ("1.5", "2.5")),
    "float to double": Case(RUN.format("float f = x * 1.1f; return (int)(f * 100);"),
                            ("1.1f", "1.7")),
    "case added": Case(
        RUN.format('switch (x) { case 1: strcpy(note, "a"); break; case 2: strcpy(note, "bb");'
                   ' break; case 3: x *= 7; break; case 4: x ^= 3; break; case 5: x--; break;'
                   ' default: x = 0; } return x;'),
        ("default: x = 0;", "case 6: x = 60; break; default: x = -1;")),
    "case labels swapped": Case(
        RUN.format('switch (x) { case 1: strcpy(note, "a"); break; case 2: strcpy(note, "bb");'
                   ' break; case 3: x *= 7; break; case 4: x ^= 3; break; case 5: x--; break;'
                   ' default: x = 0; } return x;'),
        ("case 1:", "case 9:"), ("case 2:", "case 1:"), ("case 9:", "case 2:")),
    "switch to constants": Case(
        RUN.format("switch (x) { case 1: return 17; case 2: return 4; case 3: return 99; "
                   "case 4: return 3; case 5: return 8; default: return 0; }"),
        ("return 99", "return 77")),
    "new function": Case(RUN.format("return x;"), (
        "int run", "NOINLINE static int more(int x)\n{\n\treturn x * 3;\n}\nint run"),
        ("return x;\n", "return more(x) + 1;\n")),
    "emptied body": Case(
        "static int count;\nNOINLINE void tick(void)\n{\n\tcount += 5; note[0] = 'x';\n}\n"
        + RUN.format("tick(); return x + count;"), ("count += 5; note[0] = 'x';", "")),
    "retargeted call": Case(
        "NOINLINE int one(int x) { return x + 1; }\nNOINLINE int two(int x) { return x + 2; }\n"
        + RUN.format("return one(x) * 10;"), ("return one(x)", "return two(x)"),
        functions={"run"}),
    "function removed": Case(
        "NOINLINE static int gone(int x) { return x + 1; }\n" + RUN.format("return gone(x);"),
        ("NOINLINE static int gone(int x) { return x + 1; }\n", ""),
        ("return gone(x)", "return x + 7")),
    "function renamed": Case(
        "NOINLINE static int old_name(int x) { note[0] = 'o'; return x + 1; }\n"
        + RUN.format("return old_name(x);"), ("old_name", "new_name"), ("x + 1", "x + 2")),
    "address of a new function": Case(
        RUN.format("int a[3] = {3, x, 1}; return a[0];"),
        ("int run", "static int order(const void *a, const void *b)\n"
                    "{\n\treturn *(const int *)a - *(const int *)b;\n}\nint run"),
        ("return a[0];", "qsort(a, 3, sizeof(*a), order); return a[0] * 100 + a[2];")),
    "signature change": Case(
        "NOINLINE static int add(int a) { return a + 1; }\n" + RUN.format("return add(x);"),
        ("add(int a) { return a + 1; }", "add(int a, int b) { return a + b; }"),
        ("add(x)", "add(x, x)")),
    "isra": Case(
        "struct box { int w, h, d; };\nNOINLINE static int area(struct box *b)\n{\n"
        "\treturn b->w * b->h;\n}\n"
        + RUN.format("struct box b = {x, x + 1, 9}; strcpy(note, \"n\"); return area(&b) + 1;"),
        ("b->w * b->h", "b->w * b->h + 2")),
    "constprop": Case(
        "NOINLINE static int mul(int a, int b)\n{\n\tfor (int i = 0; i < b; i++)\n\t\ta += i ^ b;\n"
        "\treturn a;\n}\n" + RUN.format("return mul(x, 7) + mul(x + 1, 7);"), ("i ^ b", "i | b")),
    "cold part": Case(
        "NOINLINE int work(int x)\n{\n\tif (__builtin_expect(x == 4, 0)) {\n"
        '\t\tfprintf(stderr, "%s", "");\n\t\tstrcpy(note, "rare");\n\t\treturn x * 2 - 9;\n\t}\n'
        "\treturn x + 1;\n}\n" + RUN.format("return work(x);"), ("x * 2 - 9", "x * 2 - 8")),
    "hot part of a split function": Case(
        "__attribute__((cold, noinline)) static void rare(int x) { note[0] = 'r' + x; }\n"
        "NOINLINE int work(int x)\n{\n\tif (x == 4) {\n\t\trare(x); rare(1);\n"
        "\t\tif (x > 90) abort();\n\t}\n\treturn x + 1;\n}\n" + RUN.format("return work(x);"),
        ("return x + 1", "return x + 3")),
    "partial inlining": Case(
        "static int big(int *p)\n{\n\tif (!p)\n\t\treturn 0;\n\tint s = 0;\n"
        "\tfor (int i = 0; i < 50; i++) {\n\t\ts += p[i % 2] * i;\n\t\tnote[i % 3] = 'a' + i % 9;\n"
        "\t\tif (s % 7 == 3) s ^= puts == NULL;\n\t}\n\tnote[3] = 0;\n\treturn s;\n}\n"
        + RUN.format("int v[2] = {x, 2}; return big(x == 1 ? NULL : v) + big(x > 2 ? v : NULL) "
                     "+ big(v);"), ("* i;", "* i + 1;")),
    "newly inlined": Case(
        "NOINLINE static int h(int x) { return x * 5; }\n" + RUN.format("return h(x) + h(x + 1);"),
        ("NOINLINE static", "static"), ("x * 5", "x * 6")),
    "no longer inlined": Case(
        "static int h(int x) { return x * 5; }\n" + RUN.format("return h(x) + h(x + 1);"),
        ("static int h", "NOINLINE static int h"), ("x * 5", "x * 6")),
    "inlined callee": Case(
        "static inline int h(int x)\n{\n\treturn x * 5;\n}\nint also(int x)\n{\n\treturn h(x) - 1;\n"
        "}\n" + RUN.format("return h(x) + also(x);"), ("x * 5", "x * 6"),
        functions={"run", "also"}),
    "new static": Case(
        RUN.format("return x;"), ("int run", "static int calls;\nint run"),
        ("return x;\n", "return x + ++calls * 0 + (calls > 0);\n")),
    "static local among namesakes": Case(
        "NOINLINE int a(void) { static int count = 10; return count += 0; }\n"
        "NOINLINE int b(void) { static int count = 20; return count += 0; }\n"
        + RUN.format("static int count = 30; count += 0; return a() + b() * 10 + count * x;"),
        ("NOINLINE int a(void) {", "NOINLINE int new_one(void) { static int count = 5; return "
         "count += 0; }\nNOINLINE int a(void) {"), ("return a()", "return new_one() + a()")),
    "static local moves to a split-off function": Case(
        RUN.format("static int kept = 3; kept += 0; return kept * x;"),
        ("int run(int x)\n{\n\tnote[63] = 0;\n\tstatic int kept = 3; kept += 0; return kept * x;",
         "NOINLINE static int split(int x)\n{\n\tstatic int kept = 3; kept += 0; "
         "return kept * x + 1;\n}\nint run(int x)\n{\n\treturn split(x);")),
    "global made static": Case(
        "int level = 4;\n" + RUN.format("return level + x;"), ("int level", "static int level"),
        ("level + x", "level * x")),
    "new global": Case(
        RUN.format("return x;"), ("int run", "int brought = 6;\nint run"),
        ("return x;\n}", "return brought * x;\n}")),
    "line numbers of others": Case(
        "#define CHECK(c) ((c) ? (void)0 : (void)snprintf(note, 64, \"%s:%d\", __func__, __LINE__))\n"
        + RUN.format("\n\tCHECK(x < 2);\n\treturn x;")
        + "int untouched(int x)\n{\n\tCHECK(x);\n\treturn x;\n}\n",
        ("\n\tCHECK(x < 2);", "\n\tif (x == 3)\n\t\treturn 33;\n\tCHECK(x < 1);"),
        functions={"run"}),
    "__func__": Case(
        "NOINLINE static int name(void) { strcpy(note, __func__); return 1; }\n"
        + RUN.format("return name() + x;"), ("name(", "renamed(")),
    "recursion": Case(
        "NOINLINE int fib(int n)\n{\n\treturn n < 2 ? n : fib(n - 1) + fib(n - 2);\n}\n"
        + RUN.format("return fib(x + 3);"), ("n < 2 ? n", "n < 3 ? n")),
    "variable arguments": Case(
        "NOINLINE int sum(int n, ...)\n{\n\tva_list ap;\n\tint s = 0;\n\tva_start(ap, n);\n"
        "\twhile (n--)\n\t\ts += va_arg(ap, int);\n\tva_end(ap);\n\treturn s;\n}\n"
        + RUN.format("return sum(3, x, 4, 5) + (int)(sum(1, 2) * 1.0);"), ("s +=", "s ^=")),
    "large frame": Case(
        "NOINLINE int deep(int x)\n{\n\tchar big[20000];\n\tmemset(big, x, sizeof(big));\n"
        "\treturn big[x] + big[19999];\n}\n" + RUN.format("return deep(x);"),
        ("big[x] +", "big[x] *"), flags=("-g", "-O2", "-fstack-clash-protection")),
    "variable array": Case(
        "NOINLINE int vla(int x)\n{\n\tint a[x + 1];\n\tfor (int i = 0; i <= x; i++)\n\t\ta[i] = i;\n"
        "\treturn a[x];\n}\n" + RUN.format("return vla(x);"), ("a[i] = i", "a[i] = i * i")),
    "structure returned": Case(
        "struct s { long a, b, c; };\nNOINLINE struct s make(int x)\n{\n"
        "\treturn (struct s){x, x + 1, x + 2};\n}\n"
        + RUN.format("struct s s = make(x); return (int)(s.a + s.b * s.c);"), ("x + 2", "x + 5")),
    "vector code": Case(
        "NOINLINE void scale(float *v, int n)\n{\n\tfor (int i = 0; i < n; i++)\n"
        "\t\tv[i] = v[i] * 2 + 1;\n}\n"
        + RUN.format("float v[37]; for (int i = 0; i < 37; i++) v[i] = i; scale(v, 37); "
                     "return (int)v[x + 20];"), ("* 2 + 1", "* 3 + 2"),
        flags=("-g", "-O3")),
    "common symbol": Case(
        "int shared;\n" + RUN.format("shared = x; return shared + 1;"), ("shared + 1", "shared + 2"),
        flags=("-g", "-O2", "-fcommon")),
    "per-function sections already": Case(
        "NOINLINE static int h(int x) { return x * 5; }\n" + RUN.format("return h(x);"),
        ("x * 5", "x * 6"), flags=("-g", "-O2", "-ffunction-sections", "-fdata-sections")),
    "no debug information of macros": Case(
        RUN.format("return x;"), ("return x;", "return x + 9;"), flags=("-g3", "-Og")),
}


@pytest.mark.parametrize("name", APPLIES)
def test_applies(suture, story, project, name):
    case = APPLIES[name]
    made = case.project(project)
    report = suture.ok("build", "--patch", made.diff, "--compdb", made.src, "--target",
                       made.program, "-o", made.patch, "--json").json()
    if case.functions is not None:
        assert {f["name"] for f in report["functions"]} == case.functions
    assert all(f["reason"] for f in report["functions"]), report["functions"]
    story(made, ["1", "2", "3", "4", "5", "6"], [], patch=made.patch)


# ---- refused, each for its reason ----

REFUSED = {
    "initialiser of a variable": (
        Case("int limit = 4;\n" + RUN.format("return x < limit;"), ("limit = 4", "limit = 5")),
        "refused", "limit"),
    "initialiser of a static": (
        Case("static int limit = 4;\n" + RUN.format("limit += x; return limit;"),
             ("limit = 4", "limit = 5")), "refused", "limit"),
    "grown array": (
        Case("static int slots[4];\n" + RUN.format("slots[x % 4]++; return slots[x % 4];"),
             ("slots[4]", "slots[8]"), ("x % 4", "x % 8")), "refused", "slots"),
    "zeroed variable gets a value": (
        Case("static int level;\n" + RUN.format("level += x; return level;"),
             ("int level;", "int level = 3;")), "refused", "level"),
    "new thread-local variable": (
        Case(RUN.format("return x;"), ("int run", "__thread int fresh;\nint run"),
             ("return x;\n}", "return x + fresh++;\n}")), ("refused", "unsupported"), "fresh"),
}


def build_arguments(made):
    return ("build", "--patch", made.diff, "--compdb", made.src, "--target", made.program,
            "-o", made.patch)


def refused(suture, made, codes, *words, status=1):
    result = suture(*build_arguments(made), "--json")
    assert result.status == status, str(result)
    error = result.error()
    assert error["code"] in ((codes,) if isinstance(codes, str) else codes), error
    for word in words:
        assert word in error["message"], error
    assert not made.patch.exists()
    plain = suture(*build_arguments(made))
    assert error["message"] in plain.err
    return error


@pytest.mark.parametrize("name", REFUSED)
def test_refused(suture, project, name):
    case, codes, *words = REFUSED[name]
    refused(suture, case.project(project), codes, *words)


PLAIN = Case("int other(int x)\n{\n\treturn x - 1;\n}\n" + RUN.format("return other(x) * 2;"),
             ("* 2", "* 3"))


def test_link_time_optimisation_is_refused(suture, project):
    made = Case(RUN.format("return x;"), ("return x;", "return x + 1;"),
                flags=("-g", "-O2", "-flto")).project(project)
    refused(suture, made, "unsupported", "-flto")


def test_assembler_source_is_refused(suture, project):
    asm = "\t.globl run\n\t.type run, @function\nrun:\tlea {}(%rdi), %eax\n\tret\n" \
          "\t.size run, .-run\n\t.section .note.GNU-stack\n"
    made = project({"main.c": MAIN, "run.S": asm.format(1)}, {"run.S": asm.format(2)})
    refused(suture, made, "unsupported", "run.S")


@pytest.mark.parametrize("old,new", [
    ("return other(x) * 2;", "return other(x) * 2; /* said why */"),
    ("int run(int x)\n", "\n\n/* three\n * more\n * lines */\nint run(int x)\n"),
    ("return other(x) * 2;", "int y = other(x);\n\treturn y + y;"),
    ("other(int x)\n{\n\treturn x - 1;", "other(int xx)\n{\n\treturn xx - 1;"),
], ids=["comment", "lines", "same code", "renamed parameter"])
def test_no_functional_change(suture, project, old, new):
    """An outcome of its own: status 3, no patch."""
    assert old in PLAIN.before
    made = project({"main.c": MAIN, "unit.c": PLAIN.before},
                   {"unit.c": PLAIN.before.replace(old, new)})
    refused(suture, made, "no-functional-change", status=3)


def test_fix_touches_only_documentation(suture, project):
    made = project({"main.c": MAIN, "unit.c": PLAIN.before, "README": "old\n"}, {"README": "new\n"})
    refused(suture, made, ("no-functional-change", "compilation-database"), "README", status=3)


# ---- the target is not what the source says ----

LOOP = RUN.format("int s = 0; for (int i = 0; i < x; i++) s += i * note[i & 7] + other(i); "
                  "return s;")


@pytest.mark.parametrize("how", ["-O0", "-Os", "clang", "another source"])
def test_target_from_another_build(suture, project, how):
    unit = HEAD + "int other(int x)\n{\n\treturn x - 1;\n}\n" + LOOP
    made = project({"main.c": MAIN, "unit.c": unit},
                   {"unit.c": unit.replace("return s;", "return s + 1;")})
    if how == "another source":
        (made.src / "unit.c").write_text(unit.replace("s += i *", "s += 3 * i *"))
    toolchain.require("clang" if how == "clang" else "gcc")
    toolchain.compile_program(
        made.program, [made.src / "main.c", made.src / "unit.c"],
        cc="clang" if how == "clang" else "gcc",
        flags=("-g", how if how.startswith("-") else "-O2"))
    (made.src / "unit.c").write_text(unit)
    error = refused(suture, made, "source-mismatch", "run")
    assert error["hint"]


def test_target_without_build_id(suture, project):
    made = Case(PLAIN.before.removeprefix(HEAD), ("* 2", "* 3"),
                ldflags=("-Wl,--build-id=none",)).project(project)
    refused(suture, made, ("refused", "unsupported", "malformed-input", "build-id-mismatch"),
            "build-id", str(made.program))


@pytest.mark.parametrize("content", [None, b"", b"#!/bin/sh\n", b"\x7fELF" + bytes(60)])
def test_target_is_no_program(suture, project, content):
    made = PLAIN.project(project)
    made.program.unlink()
    if content is not None:
        made.program.write_bytes(content)
    result = suture(*build_arguments(made))
    assert result.status == 1 and str(made.program) in result.err, str(result)


# ---- the diff, the database, the compiler ----

def test_diff_does_not_apply(suture, project):
    made = PLAIN.project(project)
    made.diff.write_text(made.diff.read_text().replace(" \treturn x - 1;", " \treturn x - 2;")
                         .replace("-\treturn other(x) * 2;", "-\treturn other(x) * 9;"))
    refused(suture, made, "diff", "unit.c")


def test_diff_is_already_in_the_source(suture, project):
    made = PLAIN.project(project)
    (made.src / "unit.c").write_text(PLAIN.after)
    refused(suture, made, "diff", "unit.c")


@pytest.mark.parametrize("text", ["not a diff\n", "--- a/unit.c\n+++ b/unit.c\n@@ -1,9 +1,9 @@\n",
                                  "--- a/unit.c\n+++ b/unit.c\n@@ -x +y @@\n-a\n+b\n"])
def test_malformed_diff(suture, project, text):
    made = PLAIN.project(project)
    made.diff.write_text(text)
    refused(suture, made, ("diff", "malformed-input"), made.diff.name)


def test_diff_that_leaves_the_tree(suture, project, work):
    """A path that climbs out of the source tree is not followed."""
    made = PLAIN.project(project)
    (work / "precious.c").write_text("int precious = 1;\n")
    made.diff.write_text("--- a/../../precious.c\n+++ b/../../precious.c\n@@ -1 +1 @@\n"
                         "-int precious = 1;\n+int precious = 2;\n")
    assert suture(*build_arguments(made)).status in (1, 3)
    assert (work / "precious.c").read_text() == "int precious = 1;\n"


def test_fix_does_not_compile(suture, project):
    made = Case(PLAIN.before.removeprefix(HEAD), ("* 2;", "* missing_name;")).project(project)
    error = refused(suture, made, "compiler", "unit.c")
    assert "missing_name" in error["message"]


def test_no_compilation_database(suture, project):
    made = PLAIN.project(project)
    (made.src / "compile_commands.json").unlink()
    refused(suture, made, "compilation-database", "compile_commands.json")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"file": "x"}]', "[" * 100000])
def test_malformed_compilation_database(suture, project, text):
    made = PLAIN.project(project)
    (made.src / "compile_commands.json").write_text(text)
    refused(suture, made, "compilation-database", "compile_commands.json")


def test_unit_is_missing_from_the_database(suture, project):
    """A unit that the fix reaches and no recorded command compiles is loud."""
    made = PLAIN.project(project)
    database = made.src / "compile_commands.json"
    commands = [c for c in json.loads(database.read_text()) if c["file"] != "unit.c"]
    database.write_text(json.dumps(commands))
    refused(suture, made, "compilation-database", "unit.c")


# ---- what a build leaves alone ----

def fingerprint(directory):
    return {str(p): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest())
            for p in sorted(Path(directory).rglob("*")) if p.is_file()}


def test_source_tree_stays_as_it_was(suture, project):
    made = PLAIN.project(project)
    before = fingerprint(made.src)
    suture.ok(*build_arguments(made))
    assert fingerprint(made.src) == before


@needs("setpriv")
def test_read_only_source_tree(suture, project):
    """The private copy is elsewhere: nothing needs to be writable but the output."""
    made = PLAIN.project(project)
    out = made.dir / "out"
    out.mkdir()
    os.chmod(out, 0o777)
    arguments = [*build_arguments(made)[:-1], out / "fix.suture"]
    suture.ok(*arguments, user=NOBODY)
    assert (out / "fix.suture").exists()


def test_same_input_same_patch(suture, project):
    made = PLAIN.project(project)
    suture.ok(*build_arguments(made))
    first = made.patch.read_bytes()
    made.patch.unlink()
    suture.ok(*build_arguments(made))
    assert made.patch.read_bytes() == first


def test_only_the_units_that_matter_are_compiled(suture, project):
    """Cost follows the fix: of three units one is compiled."""
    made = project({"main.c": MAIN, "unit.c": PLAIN.before, "more.c": "int more = 1;\n"},
                   {"unit.c": PLAIN.after})
    report = suture.ok(*build_arguments(made), "--json").json()
    assert [Path(u).name for u in report["units"]] == ["unit.c"]


def test_object_in_two_images(suture, story, project):
    """One source compiled into a library and into the program: both copies get the fix."""
    lib = "int lib(int x);\nint run(int x);\nint lib(int x) { return run(x) * 100; }\n"
    main = MAIN.replace("int run(int x);", "int run(int x);\nint lib(int x);").replace(
        "r = run(atoi(line));", "r = run(atoi(line)) + lib(atoi(line));")
    images = [Image("liblib.so", ["lib.c", "unit.c"], "shared", ldflags=["-Wl,-Bsymbolic"]),
              Image("prog", ["main.c", "unit.c"], libs=["liblib.so"])]
    unit = "int run(int x)\n{{\n\treturn x / 7 + {};\n}}\n"
    made = project({"main.c": main, "lib.c": lib, "unit.c": unit.format(1)},
                   {"unit.c": unit.format(2)}, images=images)
    story(made, [], ["1", "2"])


# ---- show ----

def test_show_says_what_and_why(suture, project, build_patch):
    patch = build_patch(PLAIN.project(project))
    shown = suture.ok("show", patch)
    for word in ("fix", "run", "prog", "changed"):
        assert word in shown.out, shown.out
    assert suture.ok("show", patch, "--diff").out != shown.out
    document = suture.ok("show", patch, "--json").json()
    assert "run" in str(document)
