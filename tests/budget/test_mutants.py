"""A proof that cannot fail proves nothing: each deliberately broken ledger is caught by the same judge, and for the
right reason."""

from __future__ import annotations

import msgspec
import pytest

from tests.budget import proof
from tests.budget.judge import Kind

pytestmark = pytest.mark.crash

SMALL = proof.Plan(workers=2, at_once=24, cap=30_000, kills=0, stops=0, blackouts=0, ttl=1.0, lease=1.0)
DYING = proof.Plan(workers=2, at_once=24, cap=60_000, kills=0, stops=0, blackouts=1, ttl=1.0, lease=1.0)
EVERYWHERE = ["sqlite", "postgres", "redis"] if proof.LONG else ["sqlite"]


def found(place: str, mutant: str, plan: proof.Plan) -> set[Kind]:
    """All that the judge says of the mutant."""
    with proof.proofs(place, proof.with_mutant(plan, mutant)) as one:
        return {violation.kind for violation in one.run(to_the_end=True)}


@pytest.mark.parametrize("place", EVERYWHERE)
def test_a_ledger_that_checks_first_and_acts_later_is_caught(place: str) -> None:
    """Two have to meet between the look and the deed, which a round may miss."""
    assert any("overshoot" in found(place, "check_then_act", SMALL) for _ in range(4))


def test_a_ledger_that_settles_twice_is_caught() -> None:
    assert "unreconciled" in found("sqlite", "settled_twice", SMALL)


def test_a_ledger_in_which_a_crash_frees_money_is_caught() -> None:
    """The journals tell of attempts that the ledger has forgotten."""
    assert "unreconciled" in found("sqlite", "expired_is_free", DYING)


def test_a_ledger_that_never_lets_go_of_a_hold_is_caught() -> None:
    """Its last runs wait for room that nobody gives back."""
    impatient = msgspec.structs.replace(SMALL, stuck=3.0)
    assert "leaked" in found("sqlite", "held_for_ever", impatient)


def test_an_engine_that_charges_less_than_is_billed_is_caught() -> None:
    assert "unaccounted" in found("sqlite", "charged_too_little", SMALL)
