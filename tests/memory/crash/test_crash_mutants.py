"""A proof that cannot fail proves nothing: each deliberately broken variant is caught, by the law that it breaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shipworthy.testing.faults import Point
from tests.memory.crash import proof, test_crash_erase, test_crash_late, test_crash_reindex
from tests.memory.crash.proof import Plan

pytestmark = pytest.mark.crash
COUNTED = False


def at(kind: str, ordinal: int = 1) -> Callable[[str], set[str]]:
    """What is found right after a process died there."""

    def found(mutant: str) -> set[str]:
        point = Point(kind, ordinal, "after")
        return {v.kind for each in proof.each(Plan(), lambda _: [point], mutant).values() for v in each}

    return found


def of_erasing(name: str, kind: str) -> Callable[[str], set[str]]:
    """What is found where an erasure died there."""

    def found(mutant: str) -> set[str]:
        plan, scope_of, _ = test_crash_erase.ERASED[name]
        steps = test_crash_erase.each_step(
            plan, scope_of, lambda points: [p for p in points if p.kind == kind][-1:], mutant
        )
        return {violation.kind for each in steps.values() for violation in each}

    return found


CAUGHT: dict[str, tuple[Callable[[str], set[str]], str]] = {
    "remembered_after_the_end": (at("commit r1", 4), "lost"),
    "random_ids": (at("put episode"), "repeated"),
    "kept_before_the_journal": (at("put episode"), "invalid"),
    "learned_before_the_journal": (at("put fact"), "invalid"),
    "begun_after_the_end": (at("commit r1", 4), "lost"),
    "learned_without_a_batch": (at("put fact"), "repeated"),
    "learned_without_a_note": (at("put fact", 2), "lost"),
    "named_only_where_begun": (at("begin learning of r1"), "different"),
    "true_since_it_was_learned": (lambda mutant: test_crash_late.learned_late(mutant), "different"),
    "journals_forgotten": (of_erasing("in the runtime's file", "erase"), "lost"),
    "traces_kept": (of_erasing("what the tenant shares", "scrub"), "different"),
    "learners_by_the_journal": (
        lambda mutant: {"lost"} if test_crash_erase.left_of_a_learner(mutant) else set(),
        "lost",
    ),
    "stale_marks": (
        lambda mutant: {v.kind for v in test_crash_reindex.killed_at_every_write("own", mutant)},
        "lost",
    ),
}


@pytest.mark.parametrize("mutant", CAUGHT)
def test_each_variant_is_caught_by_the_law_that_it_breaks(mutant: str) -> None:
    found, kind = CAUGHT[mutant]
    assert kind in found(mutant)
