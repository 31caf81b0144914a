# SPDX-License-Identifier: Apache-2.0
"""From a source fix to a patched process and back, over the kinds of program that there are.

One fix that uses about everything a fix may use, in every kind of executable and library, by every
compiler and level; then what a fix may refer to, one by one; then where symbols are found.
"""

import shutil

import pytest
from harness import toolchain
from harness.caps import NOBODY, needs
from harness.project import Image
from harness.story import answers, names, untouched

MAIN = """
#include "fix.h"
#include "victim.h"
static int (*chosen)(int) = compute;
static void answer(const char *line)
{
	int n = 0;
	if (sscanf(line, "compute %d", &n) == 1)
		printf("%d", compute(n));
	else if (sscanf(line, "describe %d", &n) == 1)
		printf("%s", describe(n));
	else if (!strcmp(line, "global"))
		printf("%d", global_count);
	else if (!strcmp(line, "identity"))
		printf("%d %d", chosen == compute, handed_out() == compute);
	else if (!strcmp(line, "chosen"))
		printf("%d", chosen(1));
}
int main(void) { return victim_serve(answer); }
"""
HEADER = """
extern int global_count;
int compute(int x);
const char *describe(int x);
int (*handed_out(void))(int);
"""
BEFORE = """
#include <stdio.h>
#include <string.h>
#include "fix.h"
int global_count = 10;
static int hidden = 5;
static __thread int per_thread = 7;
__attribute__((noinline)) static int twice(int x)
{
	return 2 * x + per_thread++;
}
int compute(int x)
{
	global_count++;
	return twice(x) + hidden;
}
const char *describe(int x)
{
	static char text[64];
	snprintf(text, sizeof(text), "plain %d", x);
	return text;
}
int (*handed_out(void))(int)
{
	return compute;
}
"""
AFTER = """
#include <stdio.h>
#include <string.h>
#include "fix.h"
int global_count = 10;
static int hidden = 5;
static __thread int per_thread = 7;
static int calls;
int new_global = 100;
static const char *const names[] = {"zero", "one", "two"};
static const double weights[] = {0.5, 1.25, 2.75};
__attribute__((noinline)) static int twice(int x)
{
	return 2 * x + per_thread++;
}
__attribute__((noinline)) static int clamp(int x)
{
	return x > 60 ? 60 : x;
}
int compute(int x)
{
	global_count += 2;
	hidden++;
	per_thread += x;
	new_global += ++calls;
	return clamp(twice(x) + hidden + new_global - 100);
}
const char *describe(int x)
{
	static char text[64];
	const char *name = x >= 0 && x < 3 ? names[x] : "many";
	snprintf(text, sizeof(text), "%s %d of %zu, weighs %.2f", name, x, strlen(name),
		x * weights[(unsigned)x % 3]);
	return text;
}
int (*handed_out(void))(int)
{
	return compute;
}
"""
TREE = {"main.c": MAIN, "fix.h": HEADER, "fix.c": BEFORE}
FIX = {"fix.c": AFTER}
PURE = ["describe 2", "describe 7", "identity"]
ASKS = ["compute 3", "global", "compute 4", "chosen", "compute 100", "global"]

LIBRARY = [Image("libfix.so", ["fix.c"], "shared"), Image("prog", ["main.c"], libs=["libfix.so"])]

KINDS = ["pie", "nopie", "static", "static-pie"]
LEVELS = ["-O0", "-O1", "-O3", "-Os"]


@pytest.mark.parametrize("cc,kind,level", [
    *(("gcc", kind, "-O2") for kind in KINDS),
    *(("clang", kind, "-O2") for kind in KINDS),
    *(("musl-gcc", kind, "-O2") for kind in ("pie", "nopie", "static")),
    *((cc, "pie", level) for cc in ("gcc", "clang") for level in LEVELS),
    ("gcc", "nopie", "-O0"), ("clang", "static", "-O0"),
])
def test_executable(story, project, cc, kind, level):
    story(project(TREE, FIX, cc=cc, kind=kind, flags=["-g", level]), ASKS, PURE)


@pytest.mark.parametrize("cc,level", [
    ("gcc", "-O0"), ("gcc", "-O2"), ("clang", "-O0"), ("clang", "-O2"), ("musl-gcc", "-O2"),
])
def test_library(story, project, cc, level):
    story(project(TREE, FIX, cc=cc, images=LIBRARY, flags=["-g", level]), ASKS, PURE)


@pytest.mark.parametrize("flags", [
    ["-fcf-protection=none"], ["-fcf-protection=full"], ["-fpatchable-function-entry=8,0"],
    ["-fpatchable-function-entry=8,3"],
    ["-fno-plt"], ["-fno-stack-protector"], ["-fstack-protector-all"], ["-gdwarf-4"],
    ["-gdwarf-5"], ["-gz=zlib"], ["-fno-omit-frame-pointer"], ["-fno-asynchronous-unwind-tables"],
    ["-falign-functions=1"], ["-fomit-frame-pointer", "-mno-red-zone"],
], ids=lambda f: f[0].lstrip("-"))
def test_compiler_flags(story, project, flags):
    story(project(TREE, FIX, flags=["-g", "-O2", *flags]), ASKS, PURE)


@pytest.mark.parametrize("ldflags", [
    ["-Wl,-z,now"], ["-Wl,-z,lazy"], ["-Wl,-z,ibtplt"], ["-Wl,--gc-sections"],
    ["-Wl,-z,noseparate-code"],
    ["-rdynamic"], ["-Wl,--hash-style=sysv"], ["-Wl,-z,pack-relative-relocs"],
], ids=lambda f: f[0].split(",", 1)[-1].replace(",", " "))
def test_linker_flags(story, project, ldflags):
    story(project(TREE, FIX, ldflags=ldflags), ASKS, PURE)


@needs("setpriv")
@pytest.mark.parametrize("kind", ["pie", "static"])
def test_as_the_same_ordinary_user(story, project, kind):
    story(project(TREE, FIX, kind=kind), ASKS, PURE, user=NOBODY)


def test_again_and_again(suture, story, spawn, project, build_patch):
    """What one round leaves is good enough for the next: nothing piles up."""
    made = project(TREE, FIX)
    patch = build_patch(made)
    victim = spawn(made.program)
    for _ in range(5):
        with untouched(victim):
            suture.ok("apply", patch, "-p", victim.pid)
            assert victim.ask("describe 2") == "two 2 of 3, weighs 5.50"
            suture.ok("revert", "fix", "-p", victim.pid)
            assert victim.ask("describe 2") == "plain 2"


def test_small_function_and_its_padding(story, project):
    """Four bytes of code are enough for a jump of five when padding follows."""
    two = "int f(int x)\n{{\n\treturn x + {};\n}}\n" \
          "int after(int x)\n{{\n\treturn x / 7;\n}}\n"
    main = """
#include "victim.h"
int f(int x);
int after(int x);
static void answer(const char *line) { printf("%d %d", f(1), after(70)); }
int main(void) { return victim_serve(answer); }
"""
    story(project({"main.c": main, "two.c": two.format(1)}, {"two.c": two.format(2)},
                  flags=["-g", "-O2", "-fcf-protection=none", "-falign-functions=16"]), [], ["x"])


# ---- several images ----

LIB = "int {0}(int x)\n{{\n\treturn x / 7 + {1};\n}}\n"
THREE = {
    "a.c": LIB.format("a", 1), "b.c": LIB.format("b", 10),
    "main.c": """
#include <dlfcn.h>
#include <stdlib.h>
#include "victim.h"
int a(int x);
static int (*b)(int);
int own(int x);
static void answer(const char *line) { printf("%d", a(0) + b(0) + own(0)); }
int main(int argc, char **argv)
{
	void *lib = dlopen(argv[1], RTLD_NOW);
	if (!lib) { puts(dlerror()); return 1; }
	b = (int (*)(int))dlsym(lib, "b");
	return victim_serve(answer);
}
""", "own.c": LIB.format("own", 100)}
THREE_IMAGES = [Image("liba.so", ["a.c"], "shared"), Image("libb.so", ["b.c"], "shared"),
                Image("prog", ["main.c", "own.c"], libs=["liba.so"], ldflags=["-ldl"])]


def three(project, *changed):
    fix = {"a.c": LIB.format("a", 2), "b.c": LIB.format("b", 20), "own.c": LIB.format("own", 200)}
    return project(THREE, {c: fix[c] for c in changed}, images=THREE_IMAGES)


@pytest.mark.parametrize("changed", [["a.c"], ["b.c"], ["a.c", "b.c"], ["a.c", "b.c", "own.c"]],
                         ids=lambda c: "+".join(c))
def test_linked_and_dlopened_libraries(story, project, changed):
    """All images of one patch at once; one of them came by dlopen."""
    story(three(project, *changed), [], ["x"], argv=["./libb.so"])


def test_all_images_or_none(suture, spawn, project, build_patch):
    """A process that maps another build of one of the patch's images keeps all of its code."""
    made = three(project, "a.c", "b.c")
    patch = build_patch(made)
    other = made.src / "other/libb.so"
    other.parent.mkdir()
    source = made.src / "other/b.c"
    source.write_text(LIB.format("b", 30))
    toolchain.run(["gcc", "-shared", "-fPIC", "-Wl,--build-id", "-o", other, source])
    victim = spawn([made.program, other], cwd=made.src)
    with untouched(victim):
        message = suture.refused("build-id-mismatch", "apply", patch, "-p", victim.pid)
        assert "libb.so" in message
        assert names(suture, victim) == []
    assert victim.ask("x") == str(1 + 30 + 100)


# ---- what a fix may refer to ----

def one_function(project, before, after, prelude="", answer='printf("%d", f(2));',
                 main=None, **kwargs):
    """A program whose function f changes from `before` to `after`."""
    main = main or f"""
#include <stdlib.h>
#include <unistd.h>
#include "victim.h"
int f(int x);
static void answer(const char *line) {{ {answer} }}
int main(void) {{ return victim_serve(answer); }}
"""
    head = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <errno.h>\n"
    return project({"main.c": main, "f.c": f"{head}{prelude}\nint f(int x)\n{{\n{before}\n}}\n"},
                   {"f.c": f"{head}{prelude}\nint f(int x)\n{{\n{after}\n}}\n"}, **kwargs)


FUNCTION_LIBRARY = [Image("libf.so", ["f.c"], "shared"),
                    Image("prog", ["main.c"], libs=["libf.so"])]


@pytest.mark.parametrize("kind", ["pie", "nopie", "library"])
def test_libc_function_never_imported(story, project, kind):
    """Found in libc although the target's own dynamic symbol table does not name it."""
    made = one_function(
        project, "return x / 7;", 'return (int)strtol("0x1f", NULL, 16) + atoi("4") * x;',
        **({"images": FUNCTION_LIBRARY} if kind == "library" else {"kind": kind}))
    story(made, [], ["x"])


def test_function_that_a_static_target_lacks(suture, project):
    """Nobody can link it in: refused by name."""
    made = one_function(project, "return x;", 'return wctomb(NULL, L\'x\') + x;',
                        prelude="#include <wchar.h>", kind="static")
    result = suture("build", "--patch", made.diff, "--compdb", made.src,
                    "--target", made.program, "-o", made.patch)
    assert result.status == 1 and "wctomb" in result.err, str(result)
    assert not made.patch.exists()


@pytest.mark.parametrize("kind", ["pie", "nopie", "static"])
def test_ifunc_of_libc(story, project, kind):
    """strlen and memcpy of glibc are chosen by a resolver when the process starts."""
    made = one_function(
        project, "volatile size_t n = x; return (int)n;",
        'char b[64]; volatile size_t n = strlen(getenv("PATH") ? "yes" : "no");\n'
        '\tmemcpy(b, "0123456789abcdef", 8 + n); return b[n] + (int)strlen(b + n) * 0 + x;',
        kind=kind,
        # the static one must have them
        answer='char a[99]; memset(a, 0, 99); memcpy(a, line, strlen(line)); '
               'printf("%d", f(2) + !getenv("PATH"));')
    story(made, [], ["x"])


IFUNC = """
static int slow(int x) { return x + 1; }
static int fast(int x) { return x + 2; }
static int (*resolve(void))(int) { return fast; }
int pick(int x) __attribute__((ifunc("resolve")));
int use_slow(int x) { return slow(x); }
"""


@pytest.mark.parametrize("kind", ["pie", "nopie", "static"])
def test_ifunc_of_the_target(story, project, kind):
    made = one_function(project, "return pick(x);", "return pick(x) * 10;", prelude=IFUNC,
                        kind=kind)
    story(made, [], ["x"])


@pytest.mark.parametrize("kind", ["pie", "nopie"])
def test_copy_relocated_data(story, project, kind):
    """stdout and optind live in the executable's own .bss: the patch must mean those."""
    made = one_function(
        project, "optind = x; return optind;",
        "optind += 10 * x; fflush(stdout); return optind + (opterr = 3);",
        prelude="#include <unistd.h>", kind=kind,
        answer='optind = 5; int r = f(2); printf("%d %d %d", r, optind, opterr);')
    story(made, ["x"], [])


def test_copy_relocated_data_from_a_library(story, project):
    """A library's own variable, of which the executable holds the copy."""
    lib = "int shared_value = 4;\nint f(void)\n{{\n\treturn {};\n}}\n"
    main = """
#include "victim.h"
extern int shared_value;
int f(void);
static void answer(const char *line) { shared_value = 40; printf("%d %d", f(), shared_value); }
int main(void) { return victim_serve(answer); }
"""
    made = project(
        {"main.c": main, "f.c": lib.format("shared_value")},
        {"f.c": lib.format("shared_value += 2")}, flags=["-g", "-O2"],
        images=[Image("libf.so", ["f.c"], "shared"),
                Image("prog", ["main.c"], "nopie", libs=["libf.so"])])
    story(made, [], ["x"])


TLS = """
__thread int own_tls = 3;
extern __thread int other_tls;
int bump(int x) { own_tls += x; return own_tls; }
"""


@pytest.mark.parametrize("kind,model", [
    ("pie", "local-exec"), ("nopie", "initial-exec"), ("static", "local-exec"),
    ("shared", "global-dynamic"), ("shared", "local-dynamic"), ("shared", "initial-exec"),
    ("shared", "tlsdesc"),
])
def test_thread_local_variables(story, project, kind, model):
    """Existing variables, by every access model; errno is libc's."""
    flags = ["-g", "-O2", "-mtls-dialect=gnu2" if model == "tlsdesc" else f"-ftls-model={model}"]
    main = """
#include <pthread.h>
#include "victim.h"
__thread int other_tls = 8;
int f(int x);
static void *idle(void *arg) { return arg; }
static void *in_thread(void *arg) { *(int *)arg = f(1); return NULL; }
static void answer(const char *line)
{
	int r = 0;
	pthread_t t;
	pthread_create(&t, NULL, in_thread, &r);
	pthread_join(t, NULL);
	printf("%d %d", r, f(2));
}
int main(void)
{
	pthread_t t; /* its stack is kept for the later ones: mappings do not change any more */
	pthread_create(&t, NULL, idle, NULL);
	pthread_join(t, NULL);
	return victim_serve(answer);
}
"""
    if model.startswith("local"):
        before, after = "return own_tls + x;", "own_tls += 5; return own_tls + x;"
    else:
        before = "return own_tls + other_tls + x;"
        after = "own_tls += 5; errno = 9; return own_tls * other_tls + x + errno;"
    images = {"images": FUNCTION_LIBRARY} if kind == "shared" else {"kind": kind}
    made = one_function(project, before, after, prelude=TLS, main=main, flags=flags, **images)
    story(made, ["x", "x"], [])


def test_interposed_symbol(story, project):
    """The executable's definition wins over the library's, also for the patch."""
    lib = "int g(void) {{ return 1; }}\nint f(int x)\n{{\n\treturn g() + {} * x;\n}}\n"
    main = """
#include "victim.h"
int f(int x);
int g(void) { return 1000; }
static void answer(const char *line) { printf("%d", f(2)); }
int main(void) { return victim_serve(answer); }
"""
    made = project(
        {"main.c": main, "f.c": lib.format(1)}, {"f.c": lib.format(5)},
        flags=["-g", "-O2", "-fno-inline"],
        images=FUNCTION_LIBRARY)
    story(made, [], ["x"])


def test_same_static_name_in_two_files(story, project):
    """A helper of one file is not taken for its namesake in another."""
    one = """
__attribute__((noinline)) static int helper(int x) {{ return x + {0}; }}
static int state = {0};
int {1}(int x)
{{
	state += {2};
	return helper(x) * state;
}}
"""
    made = project(
        {"main.c": """
#include "victim.h"
int one(int x);
int two(int x);
static void answer(const char *line) { printf("%d %d", one(1), two(1)); }
int main(void) { return victim_serve(answer); }
""", "a/same.c": one.format(3, "one", 0), "b/same.c": one.format(7, "two", 0)},
        {"b/same.c": one.format(7, "two", 1)})
    story(made, ["x", "x"], [])


def test_header_change_reaches_two_units(story, project):
    header = "static inline int rate(int x)\n{{\n\treturn x * {} + (x ^ 5) % 7;\n}}\n"
    unit = '#include "rate.h"\nint {0}(int x)\n{{\n\tint s = 0;\n\tfor (int i = 0; i < x; i++)\n' \
           '\t\ts += rate(i) - {1};\n\treturn s;\n}}\n'
    made = project(
        {"rate.h": header.format(2), "a.c": unit.format("a", 1), "b.c": unit.format("b", 2),
         "main.c": """
#include "victim.h"
int a(int x);
int b(int x);
static void answer(const char *line) { printf("%d %d", a(9), b(9)); }
int main(void) { return victim_serve(answer); }
"""}, {"rate.h": header.format(3)})
    story(made, [], ["x"])


def test_paragraph_of_other_files_is_set_aside(suture, project):
    """Documentation and tests in a diff do no harm, and are mentioned."""
    made = project({**TREE, "NEWS": "old news\n"}, {**FIX, "NEWS": "new news\n"})
    report = suture.ok("build", "--patch", made.diff, "--compdb", made.src, "--target",
                       made.program, "-o", made.patch, "--json").json()
    assert any("NEWS" in note for note in report["notes"]), report["notes"]


# ---- where symbols come from ----

def strip_to(made, debug_file):
    """Move the symbols of the program into a separate file."""
    program = str(made.program)
    debug_file.parent.mkdir(parents=True, exist_ok=True)
    toolchain.run(["objcopy", "--only-keep-debug", program, str(debug_file)])
    toolchain.run(["strip", "--strip-all", program])


def build_id(path):
    text = toolchain.run(["readelf", "-n", path])
    return text.split("Build ID:")[1].split()[0]


@needs("objcopy", "strip")
@pytest.mark.parametrize("where", ["beside", ".debug"])
def test_separate_debug_file_by_link(story, project, where):
    made = project(TREE, FIX)
    debug = made.src / ("" if where == "beside" else where) / "prog.debug"
    strip_to(made, debug)
    toolchain.run(["objcopy", f"--add-gnu-debuglink={debug}", str(made.program)])
    story(made, ASKS, PURE)


@needs("objcopy", "strip", "readelf")
def test_separate_debug_file_by_build_id(suture, spawn, story, project, work):
    made = project(TREE, FIX)
    wanted = build_id(made.program)
    strip_to(made, work / "debug/.build-id" / wanted[:2] / (wanted[2:] + ".debug"))
    suture.ok("build", "--patch", made.diff, "--compdb", made.src, "--target", made.program,
              "-o", made.patch, env={"SUTURE_DEBUG_DIR": str(work / "debug")})
    story(made, ASKS, PURE, patch=made.patch)


@needs("strip")
def test_stripped_without_debug_file_is_refused(suture, project):
    made = project(TREE, FIX)
    toolchain.run(["strip", "--strip-all", str(made.program)])
    message = suture.refused("no-symbols", "build", "--patch", made.diff, "--compdb", made.src,
                             "--target", made.program, "-o", made.patch)
    assert str(made.program) in message


@needs("strip")
def test_running_program_stripped_of_all_symbols(suture, spawn, project, build_patch):
    """Applying needs no symbols: they were resolved when the patch was built."""
    made = project(TREE, FIX)
    patch = build_patch(made)
    toolchain.run(["strip", "--strip-all", str(made.program)])
    victim = spawn(made.program)
    suture.ok("apply", patch, "-p", victim.pid)
    assert victim.ask("describe 1") == "one 1 of 3, weighs 1.25"


@pytest.mark.parametrize("fate", ["deleted", "replaced", "moved"])
@pytest.mark.parametrize("images", [None, LIBRARY], ids=["program", "library"])
def test_file_on_disk_is_gone(suture, spawn, project, build_patch, fate, images):
    """Memory is the truth: the file may be deleted, or another build by now."""
    made = project(TREE, FIX, images=images)
    patch = build_patch(made)
    victim = spawn(made.program)
    old = answers(victim, PURE)
    file = made.targets[0]
    if fate == "moved":
        file.rename(file.with_suffix(".moved"))
    else:
        file.unlink()
    if fate == "replaced":
        shutil.copy("/bin/true", file)
    with untouched(victim):
        suture.ok("apply", patch, "-p", victim.pid)
        assert victim.ask("describe 1") == "one 1 of 3, weighs 1.25"
        suture.ok("revert", "fix", "-p", victim.pid)
    assert answers(victim, PURE) == old
