"""A worker that was stopped goes on when Temporal has given it up and another one has ended its run.

What it meets, in this order:

1. Temporal: the next heartbeat is answered with a cancellation. That is a race with a commit and a body, which without
   a fence is lost about every second time; a worker that the server cannot reach is told nothing at all.
2. The fence: the store refuses what it records. An intent that is not durable starts no body.
3. That its time to start has passed stops no body here: an intent that is recorded late is recorded anew.
4. Inside a body nothing of ours can stop it; a world outside that refuses old fences does (`fenced`).

So the fence is proved where Temporal's word comes, and where it does not (`untold`); the mutant has neither of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shipworthy.testing.faults import Point
from tests.crash.checks import Violation
from tests.crash.databases import Kind
from tests.crash.proof import INSIDE, uncrashed
from tests.temporal.proof import PLAN, proving, stopped_at

INTENT = Point("commit", 8, "before")
"""Of the first `once` call."""
Case = tuple[Kind, Point, dict[str, Any]]
SOUND: list[Case] = [
    ("sqlite", INTENT, {}),
    ("sqlite", INTENT, {"untold": True}),
    ("sqlite", INSIDE, {"fenced": True}),
    ("sqlite", INSIDE, {"fenced": True, "untold": True}),
    ("postgres", INTENT, {"untold": True}),
    ("postgres", INSIDE, {"fenced": True, "untold": True}),
]
KINDS: tuple[Kind, ...] = ("sqlite", "postgres")
BROKEN: list[Case] = [
    *[(kind, INTENT, {"untold": True, "mutant": "no_fence"}) for kind in KINDS],
    ("sqlite", INSIDE, {"untold": True}),
]
"""Without the store's fence, and without the world's."""

pytestmark = pytest.mark.usefixtures("postgres")


def judged(folder: Path, address: str, cases: Sequence[Case]) -> list[list[Violation]]:
    """What is wrong in each case; they are tried at once."""
    uncrashed(PLAN)

    async def all_stopped() -> list[list[Violation]]:
        going = [stopped_at(made, point) for made, (_, point, _) in zip(worlds, cases, strict=True)]
        return await asyncio.wait_for(asyncio.gather(*going), 120.0)

    with contextlib.ExitStack() as stack:
        worlds = []
        for number, (kind, _, options) in enumerate(cases):
            place = folder / str(number)
            place.mkdir()
            worlds.append(stack.enter_context(proving(place, address, kind, **options)))
        return asyncio.run(all_stopped())


def test_a_worker_that_comes_to_itself_again_harms_nothing(tmp_path: Path, temporal: str) -> None:
    assert judged(tmp_path, temporal, SOUND) == [[]] * len(SOUND)


def test_without_a_fence_it_doubles_an_effect(tmp_path: Path, temporal: str) -> None:
    for violations in judged(tmp_path, temporal, BROKEN):
        assert "repeated" in {violation.kind for violation in violations}
