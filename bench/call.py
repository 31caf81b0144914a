# SPDX-License-Identifier: Apache-2.0
"""What a call of a patched function costs.

Each round: ns per call before, patched, and after revert, on one victim (victim_call.c), together
with the same work, far away, reached over one jump that the assembler wrote: the yardstick for
patched.
"""

from figures import Figure, Samples
from workshop import BenchError, Victim

OLD, NEW = "return x * 3 + 1; /* patched */", "return x * 3 + 2; /* patched */"
BATCHES, BATCHES_QUICK = 200, 50
FAR = ["-Wl,--section-start=.far=0x4000000"]
NOISE = 0.05  # of the unpatched call: two of the same are this close on a shared machine


def ask(victim, batches, value):
    words = victim.ask(str(batches), timeout=60).split()
    got = dict(zip(words[::2], map(int, words[1::2])))
    if got["value"] != value:
        raise BenchError(f"victim_call runs with value {got['value']}, not {value}")
    return got["plain"] / 1000, got["jump"] / 1000


def run(shop):
    program, patch, _ = shop.victim("victim_call", OLD, NEW, FAR)
    batches = BATCHES_QUICK if shop.quick else BATCHES
    before, jump, patched, reverted = [], [], [], []
    victim = Victim([program])
    try:
        for _ in range(shop.rounds(30)):
            plain, jumped = ask(victim, batches, 1)
            before.append(plain)
            jump.append(jumped)
            shop.suture("apply", patch, "-p", victim.pid)
            plain, jumped = ask(victim, batches, 2)
            patched.append(plain)
            jump.append(jumped)
            shop.suture("revert", "victim_call", "-p", victim.pid)
            plain, jumped = ask(victim, batches, 1)
            reverted.append(plain)
            jump.append(jumped)
        victim.assert_same()
    finally:
        victim.close()
    plain, jump = Samples("unpatched", before), Samples("a jump", jump)
    noise = NOISE * plain.median
    one_jump = max(plain.median, jump.median) + noise
    return [
        Figure("call, by way of one jump", "ns", jump, plain),
        Figure("call, patched", "ns", Samples("patched", patched), plain, one_jump,
               "the cost of one direct jump, within 5 %"),
        Figure("call, after revert", "ns", Samples("after revert", reverted), plain,
               plain.median + noise, "as before, within 5 %"),
    ]
