"""A reindex may die at every write: going on completes it, and nothing is changed but what things are found by."""

from __future__ import annotations

import msgspec
import pytest

from shipworthy.rules.memory.vectors import tag_of
from shipworthy.testing import HashEmbedder
from shipworthy.testing.faults import Point
from tests.crash import proof as crash
from tests.crash.checks import Violation
from tests.memory.crash import proof
from tests.memory.crash.child import Item, Outcome
from tests.memory.crash.proof import Plan
from tests.memory.crash.scenario import KINDS, MOVING, Kind, Saying

pytestmark = pytest.mark.crash
DIMENSIONS = 32
SAYINGS = (*MOVING, Saying("b1", "one", "I live in Rome, and I like coffee.", "bob"))


def killed_at_every_write(kind: Kind, mutant: str | None = None) -> list[Violation]:
    """What is found where one process after the other dies, before its first write and after it, until one comes to
    the end."""
    with proof.worlds(Plan(kind=kind, sayings=SAYINGS)) as fresh:
        world = fresh.fresh(mutant)
        before = world.do()
        before_and_after = [Point("put", 1, "before"), Point("put", 1, "after")]
        deaths = 0
        while world.dies(before_and_after[deaths % 2], do="reindex", dimensions=DIMENSIONS):
            deaths += 1
        after = world.do(do="reindex", dimensions=DIMENSIONS)
        found = judged(before, after)
        if deaths < 14 and not found:  # half of them before a write that the next one does
            found.append(Violation("invalid", f"only {deaths} writes were reached"))
        crash.figures.found(found)
        return found


def judged(before: Outcome, after: Outcome) -> list[Violation]:
    """What was there is there, once, and is found by what it is found by now."""
    found: list[Violation] = []
    if sorted(map(without, before.items)) != sorted(map(without, after.items)):
        found.append(Violation("different", f"{before.items} became {after.items}"))
    tag = tag_of(HashEmbedder(DIMENSIONS).name)
    for each in after.items:
        is_believed = each.fact is None or each.fact.superseded_at is None
        if bytes.fromhex(each.vector)[: len(tag)] != (tag if is_believed else b""):
            found.append(Violation("lost", f"{each.item.id} has no vector of this embedder"))
        elif bool(each.terms) != is_believed:
            found.append(Violation("lost", f"{each.item.id} has no words"))
    return found


def without(item: Item) -> bytes:
    """It, without what it is found by."""
    return msgspec.json.encode(msgspec.structs.replace(item, vector=""))


@pytest.mark.parametrize("kind", KINDS if proof.LONG else ("same", "redis"))
def test_a_reindex_that_dies_at_every_write_is_completed_by_the_next(kind: Kind) -> None:
    assert killed_at_every_write(kind) == []
