"""A proof that cannot fail proves nothing: each deliberately broken variant is caught, by the law that it breaks."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from shipworthy.domain.events import ApprovalGranted
from shipworthy.testing.faults import Point
from tests.control import forging, kills, proof
from tests.control.child import Step
from tests.control.proof import World
from tests.control.scenario import Setting, yes
from tests.control.test_altered_journals import the_models_call, the_request
from tests.control.test_single_use import at_once

pytestmark = pytest.mark.crash
COUNTED = False


def now() -> int:
    return time.time_ns() // 1_000_000


def other_amounts(world: World) -> bool:
    """Whether 99,999 is paid under a yes to 50."""
    world.paused("p1")
    world.do(Step(do="inbox", run="p1", answer=yes()))
    world.rewrite(the_models_call)
    world.resumed("p1")
    return '{"amount": 99999}' in world.paid()


def forged_tokens(world: World) -> bool:
    """Whether a token of somebody else's key is taken."""
    call = world.paused("p1").pending[0]
    key = forging.foreign(forging.key_of(world))
    world.resumed("p1", {"data": forging.signed(key, call, now())})
    return world.paid() != []


def several_answers(world: World) -> bool:
    """Whether more than one of those who answer at once is heard where one is needed."""
    world.paused("p1")
    people = [Step(do="inbox", run="p1", answer=yes(f"person {n}")) for n in range(20)]
    said = at_once(world, people, 4)
    return len([each for each in said if not each.error]) > 1 or len(world.of("p1", ApprovalGranted)) > 1


def several_who_go_on(world: World) -> bool:
    """Whether one checkpoint is good for more than one resume."""
    checkpoint = world.paused("p1").checkpoint
    world.do(Step(do="inbox", run="p1", answer=yes()))
    said = at_once(world, [Step(do="resume", checkpoint=checkpoint, tenant=None)] * 20, 4)
    return len([each for each in said if not each.error]) > 1


def old_policies(world: World) -> bool:
    """Whether what was approved is done though the policy denies it by now."""
    world.paused("p1")
    world.do(Step(do="inbox", run="p1", answer=yes()))
    world.resumed("p1", setting=Setting(policy="deny"))
    return world.paid() != []


def expired(world: World) -> bool:
    """Whether a yes counts that has expired."""
    world.paused("p1")
    world.do(Step(do="inbox", run="p1", answer=yes(expires_in=0.05)))
    time.sleep(0.06)
    world.resumed("p1")
    return world.paid() != []


def other_tenants(world: World) -> bool:
    """Whether somebody goes on with another tenant's run."""
    checkpoint = world.paused("p1").checkpoint
    return world.checked(checkpoint, yes(), tenant="evil").error != "CheckpointRefused"


def other_digests(world: World) -> bool:
    """Whether 99,999 is paid under a yes of somebody who was shown 50."""
    world.paused("p1")
    world.rewrite(the_request)
    world.do(Step(do="inbox", run="p1", answer=yes()))
    world.rewrite(the_models_call)
    world.resumed("p1")
    return '{"amount": 99999}' in world.paid()


CAUGHT: dict[str, Callable[[World], bool]] = {
    "digest_unchecked": other_amounts,
    "signature_unchecked": forged_tokens,
    "answered_without_a_fence": several_answers,
    "checked_before_the_claim": several_who_go_on,
    "policy_not_asked_again": old_policies,
    "expiry_ignored": expired,
    "tenant_unchecked": other_tenants,
    "shown_is_not_signed": other_digests,
}
TRIES = 5
"""Worlds in which what depends on who is first is tried."""


@pytest.mark.parametrize("mutant", CAUGHT)
def test_what_is_not_checked_is_caught(mutant: str) -> None:
    with proof.worlds(mutant=mutant) as broken:
        tries = (CAUGHT[mutant](world) for _, world in zip(range(TRIES), broken, strict=False))
        assert True in tries  # the first one in which it shows


@pytest.mark.parametrize("mutant", CAUGHT)
def test_the_product_itself_is_not_what_is_caught(mutant: str) -> None:
    with proof.world() as world:
        assert not CAUGHT[mutant](world)


def first_violation(mutant: str, points: Callable[[list[Point]], list[Point]]) -> set[str]:
    """What the proof of the points says of the mutant, at the first of these points where it says anything."""
    with proof.worlds() as fresh:
        rehearsal = kills.rehearsed(fresh, "one yes", mutant)
        return rehearsal.first(points(rehearsal.expected.points))


def test_an_effect_before_its_intent_is_caught() -> None:
    assert "repeated" in first_violation(
        "effect_before_intent", lambda points: [p for p in points if p.kind == "once"]
    )


def test_an_answer_that_is_kept_in_memory_alone_is_caught() -> None:
    assert "lost" in first_violation("kept_in_memory", lambda points: points[4:])
