# SPDX-License-Identifier: Apache-2.0
"""The whole story of a fix: build, check, apply, observe, list, revert, observe.

What must be observed is not written down in the test: it is what the program rebuilt with the fix
answers. What must be left after revert is what was there before, byte for byte.
"""

import contextlib


class Snapshot:
    """All that a patch could change in a process: executable bytes, mappings."""

    def __init__(self, victim):
        self.text = victim.text()
        self.maps = victim.maps_text()

    def assert_equal(self, victim):
        victim.assert_same()
        now = victim.maps_text()
        assert now == self.maps, "mappings differ:\n" + "\n".join(
            sorted({"- " + m for m in self.maps if m not in now} |
                   {"+ " + m for m in now if m not in self.maps}))
        assert victim.text() == self.text, "executable bytes differ"


@contextlib.contextmanager
def untouched(*victims):
    """Whatever happens inside leaves these processes as they were."""
    before = [Snapshot(victim) for victim in victims]
    yield
    for snapshot, victim in zip(before, victims):
        snapshot.assert_equal(victim)


def answers(victim, asks):
    return [victim.ask(a) for a in asks]


def names(suture, victim, **kwargs):
    """The patches that `list` finds in a process, in order."""
    listed = suture.ok("list", "-p", victim.pid, "--json", **kwargs).process()
    return [p["name"] for p in listed["patches"]]


class Story:
    """story(project, asks, pure) tells it once and returns the victim, reverted and running.

    asks: questions whose answers differ with the fix; they may change the victim's state.
    pure: questions that answer the same however often they are asked, of one program.
    """

    def __init__(self, suture, spawn, build_patch):
        self.suture, self.spawn, self.build_patch = suture, spawn, build_patch

    def __call__(self, made, asks, pure, user=None, argv=(), patch=None):
        patch = patch or self.build_patch(made)
        victim = self.spawn([made.program, *argv], user=user, cwd=made.src)
        old = answers(self.spawn([made.program, *argv], cwd=made.src), [*pure, *asks])
        after = made.build_after()
        new = answers(self.spawn([after, *argv], cwd=after.parent), [*pure, *asks])
        assert old != new, "the fix shows in no answer"
        return self.tell(victim, patch, [*pure, *asks], new, old[:len(pure)], user)

    def tell(self, victim, patch, asks, new, old, user=None):
        """asks are answered `new` by the patched victim, the first len(old) `old` by another."""
        suture, pure = self.suture, asks[:len(old)]
        assert answers(victim, pure) == old
        before = Snapshot(victim)

        with untouched(victim):
            suture.ok("check", patch, "-p", victim.pid, user=user)
        applied = suture.ok("apply", patch, "-p", victim.pid, "--json", user=user).process()
        assert applied["result"] == "applied" and applied["freeze_ns"] > 0, applied
        victim.assert_same()
        assert answers(victim, asks) == new
        assert names(suture, victim, user=user) == [applied["patch"]]

        suture.ok("revert", applied["patch"], "-p", victim.pid, user=user)
        assert names(suture, victim, user=user) == []
        assert answers(victim, pure) == old
        before.assert_equal(victim)
        return victim
