"""A proof that cannot fail proves nothing: Temporal alone would double an effect, and the checker says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipworthy.testing.faults import Point
from tests.temporal.child import Mutant
from tests.temporal.proof import killed_at, proving
from tests.temporal.world import with_loop


@pytest.mark.parametrize("mutant", ["no_intent", "no_doubt"])
@with_loop
async def test_without_our_journal_temporal_doubles_an_effect_and_is_caught(
    tmp_path: Path, temporal: str, mutant: Mutant
) -> None:
    with proving(tmp_path, temporal, mutant=mutant) as made:
        violations = await killed_at(made, Point("once", 1, "after"))
    assert "repeated" in {violation.kind for violation in violations}
