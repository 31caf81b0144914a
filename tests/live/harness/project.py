# SPDX-License-Identifier: Apache-2.0
"""A small source tree with a fix: what `suture build` is given, and what a rebuild would give.

    p = Project(dir, {"main.c": MAIN, "fix.c": "int f(void) { return 1; }\n"},
                {"fix.c": "int f(void) { return 2; }\n"})
    p.build()            # dir/src: sources, objects, compile_commands.json, the program
    p.build_after()      # dir/after: the same with the fix applied
    p.diff               # dir/fix.diff

By default all .c files make one program `prog`. Several images:

    images=[Image("libf.so", ["f.c"], "shared"), Image("prog", ["main.c"], libs=["libf.so"])]
"""

import difflib
import json
import shutil
from pathlib import Path

from . import toolchain


class Image:
    def __init__(self, name, sources, kind="exe", libs=(), ldflags=(), flags=()):
        self.name, self.sources, self.kind = name, list(sources), kind
        self.libs, self.ldflags, self.flags = list(libs), list(ldflags), list(flags)


def unified_diff(before, after):
    """`diff -u` of two {path: text}; text None: the file does not exist."""
    out = []
    for path in sorted(set(before) | set(after)):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        lines = difflib.unified_diff(
            (old or "").splitlines(True), (new or "").splitlines(True),
            "/dev/null" if old is None else "a/" + path,
            "/dev/null" if new is None else "b/" + path)
        for line in lines:
            out.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return "".join(out)


class Project:
    def __init__(self, directory, before, after=None, cc="gcc", flags=("-g", "-O2"), kind="exe",
                 images=None, ldflags=()):
        self.dir = Path(directory)
        self.before = dict(before)
        # `after` names only the files that differ; None there removes the file
        self.after = {p: t for p, t in {**self.before, **(after or {})}.items() if t is not None}
        self.cc, self.flags = cc, list(flags)
        self.given_images = images
        self.kind, self.ldflags = kind, list(ldflags)
        self.src = self.dir / "src"
        self.diff = self.dir / "fix.diff"
        self.patch = self.dir / "fix.suture"

    def images(self, tree):
        if self.given_images is not None:
            return self.given_images
        sources = sorted(p for p in tree if p.endswith((".c", ".cc", ".cpp", ".S", ".s")))
        return [Image("prog", sources, self.kind, ldflags=self.ldflags)]

    @property
    def program(self):
        return self.src / self.images(self.before)[-1].name

    @property
    def targets(self):
        return [self.src / image.name for image in self.images(self.before)]

    def build(self):
        """Write and build the tree without the fix, and the diff."""
        self.dir.mkdir(parents=True, exist_ok=True)
        self.diff.write_text(unified_diff(self.before, self.after))
        commands = self._build(self.src, self.before)
        (self.src / "compile_commands.json").write_text(json.dumps(commands, indent=1))
        return self.program

    def build_after(self):
        """Build the tree with the fix; returns its program: what must be observed after apply."""
        directory = self.dir / "after"
        self._build(directory, self.after)
        return directory / self.images(self.after)[-1].name

    def _build(self, directory, tree):
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in tree.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(text)
        commands = []
        for image in self.images(tree):
            toolchain.require(self.cc, image.kind)
            objects = []
            for source in (s for s in image.sources if s in tree):
                obj = f"{source}.{image.name}.o"
                argv = [self.cc, *toolchain.compile_flags(image.kind, [*self.flags, *image.flags]),
                        "-c", "-o", obj, source]
                toolchain.run(argv, cwd=directory)
                commands.append({"directory": str(directory), "file": source, "output": obj,
                                 "arguments": argv})
                objects.append(obj)
            toolchain.run([self.cc, "-o", image.name, *objects, *image.libs,
                           *toolchain.link_flags(image.kind, image.ldflags),
                           *(["-Wl,-rpath,$ORIGIN"] if image.libs else [])], cwd=directory)
        return commands

    def clean(self):
        shutil.rmtree(self.dir, ignore_errors=True)
