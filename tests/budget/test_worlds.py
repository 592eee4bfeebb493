"""Many runs in several processes spend one cap to its end, and the processes are killed: nothing is ever spent beyond
it, nothing stays held, nothing that a provider took is missing, and nearly all of the cap is used."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.budget import proof

pytestmark = pytest.mark.crash

PLAN = (
    proof.Plan(workers=8, at_once=200, cap=5_000_000, kills=24, stops=6, blackouts=3, ttl=3.0, lease=3.0)
    if proof.LONG
    else proof.Plan(workers=3, at_once=40, cap=150_000, kills=4, stops=1, blackouts=1)
)


@pytest.mark.parametrize("place", ["sqlite", "postgres", "redis"])
def test_one_cap_holds_for_all_processes_through_every_crash(
    place: str, record_property: Callable[[str, object], None]
) -> None:
    with proof.proofs(place, PLAN) as one:
        violations = one.run()
        record_property("budget", one.figures.told())
        assert violations == [], one.logs()
        assert one.figures.kills >= PLAN.kills // 2
