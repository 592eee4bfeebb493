"""What a tenant sees of a memory store is byte for byte the same whether others use it or not.

Hypothesis writes the scripts: SHIPWORTHY_PROOF=long plays 100,000 steps on each store.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shipworthy.domain.memory import Mark, Record
from shipworthy.domain.scope import Scope
from shipworthy.errors import MemoryConflict
from tests.contracts import test_memory_mutants as mutants
from tests.memory.isolation import WORLDS, World, difference, played
from tests.memory.places import PLACES, Make

LONG = os.environ.get("SHIPWORTHY_PROOF") == "long"
STEPS = 100_000 if LONG else 1_500
AT_ONCE = 64
"""Steps of one script."""
SLOW = {} if LONG else {"dynamodb": (AT_ONCE // 2) * len(WORLDS)}
"""Steps where each is several requests to an emulator that takes its time: half a script in each world."""


def prove(steps: int, alone: Make, among: Make, *, broken: bool = False) -> int:
    """Play scripts until there were so many steps, in all worlds alike; how many there were. Raises AssertionError with
    a script that shows a difference. The stores of all scripts are the same, but for *broken* ones."""
    at_once = min(AT_ONCE, -(-steps // len(WORLDS)))
    scripts = st.lists(st.integers(0, 2**32 - 1), min_size=at_once, max_size=at_once)
    steps_played = 0

    async def plays(world: World, script: list[int]) -> str:
        made = [alone(), among()] if broken else stores
        one = await played(world, script, made[0], alone=True)
        return difference(world, one, await played(world, script, made[1], alone=False))

    @settings(
        max_examples=-(-steps // (at_once * len(WORLDS))),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate, *([] if broken else [Phase.shrink])],
        suppress_health_check=list(HealthCheck),
    )
    @given(scripts)
    def a_tenant_sees_its_own(script: list[int]) -> None:
        nonlocal steps_played
        for world in WORLDS:
            steps_played += len(script)
            found = runner.run(plays(world, script))
            assert not found, found

    stores = [alone(), among()]
    with asyncio.Runner() as runner:
        try:
            for store in stores:
                runner.run(store.open())
            a_tenant_sees_its_own()
        finally:
            for store in stores:
                runner.run(store.close())
    return steps_played


@pytest.mark.parametrize("name", PLACES)
def test_a_tenant_sees_the_same_alone_and_among_others(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with PLACES[name](tmp_path) as pair:
        steps = prove(wanted := SLOW.get(name, STEPS), pair.alone, pair.among)
    assert steps >= wanted
    record_property(
        "isolation", f"isolation: {name}: {steps} operations, each answer the same alone and among others"
    )


CROSSING = {
    name: mutant
    for name, mutant in mutants.MUTANTS.items()
    if name in ("ForgetsTheTenant", "CountsForEverybody", "JoinsTheParts", "ErasesPrefixes", *mutants.NAMED)
}


class LeaksInWords(mutants.Mutant):
    """An error says how much of all tenants' there is."""

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        try:
            return await super().put(scope, records, **how)
        except MemoryConflict:
            raise MemoryConflict(f"There are {len(self._places.held)} partitions.") from None


class ListsInTheOrderOfAll(mutants.Mutant):
    """What is within a scope comes in an order that depends on others."""

    async def within(self, scope: Scope) -> list[Scope]:
        turned = len(self._tenants) % 2 == 0
        return sorted(await super().within(scope), key=repr, reverse=turned)


class RenewsEverybodysEpoch(mutants.Mutant):
    """What one removes makes all others read anew."""

    def _forget(self, part: Any, ids: Sequence[str]) -> int:
        forgotten = super()._forget(part, ids)
        for other in self._places.held.values() if forgotten else ():
            other.epoch = other.epoch % 2**62 + 1
        return forgotten


OWN = LeaksInWords, ListsInTheOrderOfAll, RenewsEverybodysEpoch


@pytest.mark.parametrize(
    "mutant", [*CROSSING.values(), *OWN], ids=[*CROSSING, *(one.__name__ for one in OWN)]
)
def test_the_proof_sees_a_store_that_crosses(mutant: type[mutants.Mutant]) -> None:
    with pytest.raises(AssertionError, match="alone"):
        prove(STEPS, mutant, mutant, broken=True)
