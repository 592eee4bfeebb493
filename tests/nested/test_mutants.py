"""Deliberately broken variants of nested agents: each is caught by the law that is about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from shipworthy import StandardPermissions
from shipworthy.domain.policy import Mode
from shipworthy.engine import cancelling, delegating, live, pending, recover
from shipworthy.engine.governance import Governance
from shipworthy.engine.live import LiveRun
from tests.nested import test_control, test_crash, test_doubt, test_handoff, test_pauses, test_results
from tests.nested.world import World

Plant = Callable[[pytest.MonkeyPatch], None]
BYPASS: dict[str, Any] = {"permissions": StandardPermissions(Mode.BYPASS)}


def without_the_parents_policies(patch: pytest.MonkeyPatch) -> None:
    """A nested run is under its own agent's policies alone."""
    patch.setattr(
        Governance, "around", lambda self, inner: replace(inner, handler=self.handler, desk=self.desk)
    )


def with_its_own_handler(patch: pytest.MonkeyPatch) -> None:
    """A nested agent's own approval handler is asked."""
    around = Governance.around

    def own(self: Any, inner: Any) -> Any:
        return replace(around(self, inner), handler=inner.handler, desk=inner.desk)

    patch.setattr(Governance, "around", own)


def answers_kept_to_itself(patch: pytest.MonkeyPatch) -> None:
    """What the outermost run was answered stays there."""
    patch.setattr(recover, "_hear", lambda run, answers: None)


def answers_given_to_everybody(patch: pytest.MonkeyPatch) -> None:
    """An answer is recorded in each nested run of its call, whichever it is for."""
    patch.setattr(pending, "has", lambda state, answer: answer.id in state.taken)


def one_run_for_all_calls(patch: pytest.MonkeyPatch) -> None:
    """The id of a nested run has nothing of its call in it."""
    patch.setattr(delegating, "nested_id", lambda run_id, call_id, index=None: f"{run_id}/nested.{index}")


def a_new_run_each_time(patch: pytest.MonkeyPatch) -> None:
    """A call that is made again begins anew."""
    number = iter(range(10_000))
    made = delegating.Delegating.runs_of

    def fresh(self: Any, run_id: str, call_id: str) -> tuple[str, ...]:
        return tuple([f"{each}-{next(number)}" for each in made(self, run_id, call_id)])

    patch.setattr(delegating.Delegating, "runs_of", fresh)


def whoever_has_the_id(patch: pytest.MonkeyPatch) -> None:
    """A run that has the id is taken for the call's own."""
    patch.setattr(delegating._Sitting, "_check", lambda self, started: None)


def part_of_the_session(patch: pytest.MonkeyPatch) -> None:
    """A nested run becomes part of its session."""
    patch.setattr(live, "joins_session", lambda state, last: state.started.session is not None)


def left_paused(patch: pytest.MonkeyPatch) -> None:
    """Nested runs of a call that was denied meanwhile are left as they are."""

    async def nothing(run: Any, call: Any) -> None:
        return None

    patch.setattr(cancelling, "stop_nested", nothing)


def ends_with_doubts(patch: pytest.MonkeyPatch) -> None:
    """What is in doubt of nested runs does not keep a run from its end."""
    stop = cancelling.stop_nested

    async def stops(run: Any, call: Any) -> None:
        await stop(run, call)

    patch.setattr(cancelling, "stop_nested", stops)


def asks_the_world_no_more(patch: pytest.MonkeyPatch) -> None:
    """A nested run that was stopped is not gone on with when its parent is resumed."""
    stop = delegating._Sitting.stop

    async def stops(self: Any) -> Any:
        self.run.state.stopped_here = True
        return await stop(self)

    patch.setattr(delegating._Sitting, "stop", stops)


def ends_whoever_has_the_id(patch: pytest.MonkeyPatch) -> None:
    """A run that has the id of a nested one ends with its parent."""
    whoever_has_the_id(patch)
    patch.setattr(cancelling, "_is_made_by", lambda *_: True)


def without_an_end(patch: pytest.MonkeyPatch) -> None:
    """Agents may be nested as deep as they like."""
    patch.setattr(delegating, "DEEPEST", 12)


def cancelled_when_left(patch: pytest.MonkeyPatch) -> None:
    """A nested run does not know that the one it belongs to is left."""
    made = LiveRun.abandoned
    patch.setattr(
        LiveRun,
        "abandoned",
        property(lambda self: self._abandoned, lambda self, left: made.__set__(self, left)),
    )


def cut_like_a_result(patch: pytest.MonkeyPatch) -> None:
    """What is handed over is shown in part."""
    from shipworthy.engine import execute

    fit = execute.fit
    patch.setattr(execute, "fit", lambda run, content, limit: fit(run, content, min(limit, 50_000)))


CAUGHT: list[tuple[Plant, Callable[[], None]]] = [
    (
        without_the_parents_policies,
        lambda: test_control.test_under_a_plan_nothing_is_written_whatever_a_nested_agent_permits(
            World(), "run", "group", BYPASS
        ),
    ),
    (
        with_its_own_handler,
        lambda: test_control.test_whom_the_outermost_agent_asks_is_asked_and_never_a_nested_ones_own_handler(
            "two deep"
        ),
    ),
    (
        answers_kept_to_itself,
        lambda: test_pauses.test_an_approval_two_deep_is_asked_for_at_its_address_and_used_once(
            World(), "run"
        ),
    ),
    (
        answers_given_to_everybody,
        lambda: test_pauses.test_of_a_group_the_others_finish_while_one_waits(World(), "run"),
    ),
    (one_run_for_all_calls, lambda: test_crash.test_two_calls_of_one_agent_are_two_runs(World())),
    (
        a_new_run_each_time,
        lambda: test_pauses.test_nothing_is_asked_of_models_again_while_people_are_waited_for(World()),
    ),
    (
        whoever_has_the_id,
        lambda: test_results.test_a_run_that_has_the_id_by_chance_is_not_taken_for_a_nested_one(World()),
    ),
    (
        part_of_the_session,
        lambda: test_results.test_a_session_has_what_its_runs_said_and_nothing_of_nested_ones(World()),
    ),
    (left_paused, lambda: test_pauses.test_a_paused_call_that_is_denied_now_ends_its_nested_runs(World())),
    (
        ends_with_doubts,
        lambda: (
            test_doubt.test_a_run_that_is_stopped_waits_for_what_is_in_doubt_below_and_ends_when_that_is_settled(
                World(), test_doubt.by_cancel, "two deep", test_doubt.PAID
            )
        ),
    ),
    (
        asks_the_world_no_more,
        lambda: test_doubt.test_the_world_is_asked_again_when_a_stopped_run_is_resumed(World(), "one deep"),
    ),
    (
        ends_whoever_has_the_id,
        lambda: (
            test_doubt.test_a_run_that_merely_has_the_id_of_a_nested_one_is_left_alone_when_its_parent_ends(
                World(), "stopped"
            )
        ),
    ),
    (without_an_end, test_results.test_an_agent_that_is_a_tool_of_itself_comes_to_an_end),
    (
        cancelled_when_left,
        lambda: test_crash.test_what_an_agent_leaves_that_is_closed_is_gone_on_with_elsewhere(World()),
    ),
    (
        cut_like_a_result,
        lambda: test_handoff.test_the_output_of_the_other_agent_is_that_of_the_run(World(), "run"),
    ),
]


@pytest.mark.parametrize(("plant", "law"), CAUGHT, ids=[plant.__name__ for plant, _ in CAUGHT])
def test_a_broken_variant_is_caught(
    plant: Plant, law: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it breaks with, it breaks
        law()
