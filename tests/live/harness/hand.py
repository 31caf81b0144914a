# SPDX-License-Identifier: Apache-2.0
"""Patches made by hand (tests/tool/handpatch.c): what the engine does with references and shapes
that the builder makes seldom or never.
"""

import os
from pathlib import Path

import pytest

from . import toolchain
from .tool import ROOT

SECTIONS = ["-ffunction-sections", "-fdata-sections"]


def handpatch():
    build = Path(os.environ.get("MESON_BUILD_ROOT") or ROOT / "build")
    path = build / "tests/tool/handpatch"
    if not path.exists():
        pytest.fail(f"no {path}: build first")
    return path


def hand_patch(directory, source, image, functions, name="hand", cc="gcc", flags=("-O2",),
               kind="exe", sets=()):
    """Compile `source` as code of `image` and make directory/NAME.suture of it."""
    src, obj, out = (Path(directory) / f"{name}.{s}" for s in ("hand.c", "o", "suture"))
    src.write_text(source)
    toolchain.run([cc, *toolchain.compile_flags(kind, [*flags, *SECTIONS]), "-c", "-o", obj, src])
    options = [word for s in sets for word in ("--set", s)]
    toolchain.run([handpatch(), obj, out, name, *options, image, *functions])
    return out
