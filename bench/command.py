# SPDX-License-Identifier: Apache-2.0
"""Wall time of the whole command, for a one-function patch on a small target.

Each round: check, apply, list, revert, and `true`: what starting any program costs here.
"""

from figures import Figure, Samples
from freeze import NEW, OLD, Target

LIMIT = 20_000_000  # ns
CRITERION = "apply under 20 ms"


def run(shop):
    program, patch, built = shop.victim("victim_freeze", OLD, NEW)
    walls = {name: [] for name in ("true", "check", "apply", "list", "revert")}
    with Target(shop, program, 1, ticks=False) as target:
        commands = {
            "true": lambda: shop.measure("true"),
            "check": lambda: shop.suture("check", patch, "-p", target.pid),
            "apply": lambda: shop.suture("apply", patch, "-p", target.pid),
            "list": lambda: shop.suture("list", "-p", target.pid),
            "revert": lambda: shop.suture("revert", "victim_freeze", "-p", target.pid),
        }
        for n in range(1 + shop.rounds(40)):
            for name, work in commands.items():
                took = work().wall
                if n:  # the first round fills the page cache
                    walls[name].append(took)
                if name in ("apply", "revert"):
                    target.expect(2 if name == "apply" else 1)
        target.victim.assert_same()
    true = Samples("true", walls.pop("true"))
    figures = [Figure(f"command, {name}", "ms", Samples(name, values), true,
                      LIMIT if name == "apply" else None, CRITERION if name == "apply" else None)
               for name, values in walls.items()]
    figures.append(Figure("command, build", "ms", Samples("build", [built.wall]), true))
    return figures
