"""Whoever brings what is forged, altered, replayed, expired, foreign or odd is refused, and learns nothing by it.

It is recorded where the run is paused, nothing is executed, and the right answer still works in yet another process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from shipworthy.domain.events import AnswerRejected, ToolAttempted
from shipworthy.rules.approvals import sign
from tests.control import forging, proof
from tests.control.child import Step
from tests.control.proof import World
from tests.control.scenario import ODD, Setting, yes

pytestmark = pytest.mark.crash
PAID = ['{"amount": 50}']
ANSWERS = {"AnswerRefused"}
CHECKPOINTS = {"CheckpointRefused"}


@pytest.fixture
def world() -> Iterator[World]:
    with proof.world() as made:
        yield made


def now() -> int:
    return time.time_ns() // 1_000_000


def attack(
    world: World, run: str, steps: Sequence[Step], errors: set[str], recorded: int | None = None
) -> str:
    """All of *steps* in another process: each is refused with one of *errors* and in the same words, which it gives
    back, and recorded; nothing is executed."""
    before = len(world.of(run, AnswerRejected))
    said = world.do(*steps)
    assert {each.error for each in said} == errors, [each for each in said if each.error not in errors]
    assert len({each.words for each in said}) == 1, {each.words for each in said}
    assert len(world.of(run, AnswerRejected)) - before == (len(steps) if recorded is None else recorded)
    untouched(world, run)
    return said[0].words


def untouched(world: World, run: str) -> None:
    """Nothing was executed, and nothing was about to be; reads need nobody's yes."""
    assert world.paid() == []
    assert [each for each in world.of(run, ToolAttempted) if each.start_by] == []


def still_answerable(world: World, run: str, answer: Any = None) -> None:
    """The right answer works, once, in a new process."""
    assert world.resumed(run, answer or yes()).pays
    assert len([effect for effect in world.sink() if effect.run_id == run]) == 1


def by_id(run: str, *answers: Any, tenant: str = "acme") -> list[Step]:
    return [Step(do="resume", run=run, tenant=tenant, answer=answer) for answer in answers]


def data(*values: Any) -> list[Any]:
    return [{"data": value} for value in values]


# --------------------------------------------------------------------------------------------------- tokens


def test_a_token_works_once_where_it_belongs(world: World) -> None:
    """What the refusals below are measured against."""
    call = world.paused("p1").pending[0]
    token = forging.signed(forging.key_of(world), call, now())
    assert world.resumed("p1", {"data": token}).pays
    assert world.paid() == PAID


def test_a_forged_or_altered_token_is_refused(world: World) -> None:
    call = world.paused("p1").pending[0]
    key = forging.key_of(world)
    token = forging.signed(key, call, now())
    forged = [
        "sw1.",
        "sw1..",
        "sw1.a.b",
        "sw1." + "A" * 20_000,
        "sw1.\ud800",
        token + "A",
        token[:-1],
        token + ".",
        token + "\n",
        token.rpartition(".")[0] + ".",
        sign(forging.foreign(key), forging.approval(key, call, now())),
        sign(forging.foreign(key), forging.approval(key, call, now(), key="another")),
        *forging.each_field_altered(token).values(),
    ]
    attack(world, "p1", by_id("p1", *data(*forged)), ANSWERS)
    still_answerable(world, "p1", {"data": token})


def test_a_token_of_which_any_character_is_another_one_is_refused(world: World) -> None:
    call = world.paused("p1").pending[0]
    token = forging.signed(forging.key_of(world), call, now())
    every = list(forging.each_byte_altered(token))
    tried = every if proof.LONG else [*every[::9], *every[-6:]]
    attack(world, "p1", by_id("p1", *data(*tried)), ANSWERS, recorded=min(len(tried), 100))
    still_answerable(world, "p1", {"data": token})


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": "evil"},
        {"user": "mallory"},
        {"user": None},
        {"run": "p2"},
        {"address": "call_00000000_3_0"},
        {"tool": "quiz"},
        {"digest": "0" * 64},
        {"rule": "another"},
        {"expires_at": 1},
        {"agents": ("clerk", "other"), "address": "a/b"},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_a_token_that_is_rightly_signed_for_something_else_is_refused(world: World, changes: Any) -> None:
    call = world.paused("p1").pending[0]
    key = forging.key_of(world)
    words = attack(world, "p1", by_id("p1", *data(forging.signed(key, call, now(), **changes))), ANSWERS)
    unknown = by_id("p1", *data(sign(forging.foreign(key), forging.approval(key, call, now()))))
    assert (
        attack(world, "p1", unknown, ANSWERS) == words
    )  # what is foreign cannot be told from what is forged
    still_answerable(world, "p1")


def test_an_expired_token_is_refused(world: World) -> None:
    call = world.paused("p1").pending[0]
    token = forging.signed(forging.key_of(world), call, now() - 10, expires_at=now() - 1)
    attack(world, "p1", by_id("p1", *data(token)), ANSWERS)
    still_answerable(world, "p1")


def test_a_token_is_not_taken_twice(world: World) -> None:
    """Neither while the run is paused for something else, nor when it has ended."""
    first, second = world.paused("m1").pending
    token = forging.signed(forging.key_of(world), first, now())
    assert world.resumed("m1", {"data": token}).status == "paused"
    [said] = world.do(*by_id("m1", *data(token)))
    assert said.error == "AnswerRefused"
    assert world.paid() == PAID
    assert [each.address for each in world.resumed("m1").pending] == [second.address]
    assert world.resumed("m1", yes()).pays
    [said] = world.do(*by_id("m1", *data(token)))
    assert said.error == "AnswerRefused"
    assert world.paid() == [*PAID, '{"amount": 7}']


def test_a_token_of_an_earlier_call_with_the_same_arguments_is_refused(world: World) -> None:
    world.paused("r1")
    assert world.resumed("r1", yes()).status == "paused"
    old = forging.token_in(world, "r1")
    [said] = world.do(*by_id("r1", *data(old)))
    assert (said.error, world.paid()) == ("AnswerRefused", PAID)
    assert len(world.of("r1", AnswerRejected)) == 1
    assert world.resumed("r1", yes()).pays
    assert world.paid() == PAID * 2


def test_a_token_of_another_run_is_refused(world: World) -> None:
    world.paused("p2")
    assert world.resumed("p2", yes()).pays
    world.paused("p1")
    [said] = world.do(*by_id("p1", *data(forging.token_in(world, "p2"))))
    assert said.error == "AnswerRefused"
    assert [effect.run_id for effect in world.sink()] == ["p2"]
    still_answerable(world, "p1")


def test_a_token_of_another_tenants_run_of_the_same_id_is_refused(world: World) -> None:
    mine = world.paused("p1").pending[0]
    world.paused("p1", tenant="evil")
    assert world.resumed("p1", yes(), tenant="evil").pays
    stolen = forging.token_in(world, "p1", "evil")
    before = world.events("p1", "evil")
    [said, crossed] = world.do(
        *by_id("p1", *data(stolen)),
        *by_id("p1", *data(forging.signed(forging.key_of(world), mine, now(), tenant="evil"))),
    )
    assert (said.error, said.words) == (crossed.error, crossed.words)
    assert said.error == "AnswerRefused"
    assert world.events("p1", "evil") == before
    assert {effect.tenant for effect in world.sink()} == {"evil"}
    assert world.resumed("p1", yes()).pays


def test_whoever_is_of_another_tenant_cannot_tell_a_run_from_none(world: World) -> None:
    world.paused("p1")
    before = world.journal()
    [theirs, none] = world.do(*by_id("p1", yes(), tenant="evil"), *by_id("p9", yes(), tenant="evil"))
    assert (theirs.error, theirs.words) == ("RunNotFound", none.words.replace("p9", "p1"))
    assert world.journal() == before
    still_answerable(world, "p1")


# ---------------------------------------------------------------------------------------------- checkpoints


def altered(checkpoint: dict[str, Any]) -> list[Any]:
    """The checkpoint with one field changed, left out, added or of another type."""
    made: list[Any] = []
    for name, value in checkpoint.items():
        left = {key: each for key, each in checkpoint.items() if key != name}
        made += [
            left,
            *({**left, name: odd} for odd in (forging.altered(value), None, [], {}, True, 1.5, "")),
        ]
    made += [{**checkpoint, "state": {}}, {**checkpoint, "answer": True}, {}, {"run_id": "p1"}]
    return [
        each
        for each in made
        if each != checkpoint or [*map(type, each.values())] != [int, str, str, int, str, str]
    ]


def checked(*checkpoints: Any, answer: Any = None, tenant: str | None = None) -> list[Step]:
    return [Step(do="resume", checkpoint=each, tenant=tenant, answer=answer) for each in checkpoints]


@pytest.mark.parametrize("answer", [None, yes()], ids=["resumed", "answered"])
def test_a_checkpoint_of_which_any_field_is_another_one_is_refused(world: World, answer: Any) -> None:
    checkpoint = world.paused("p1").checkpoint
    said = world.do(*checked(*altered(checkpoint), answer=answer))
    assert {each.error for each in said} == CHECKPOINTS, said
    assert len({each.words for each in said}) == 1
    assert len(world.of("p1", AnswerRejected)) >= 3  # those that name this run
    untouched(world, "p1")
    assert world.checked(checkpoint, yes()).pays
    assert world.paid() == PAID


def test_a_checkpoint_with_any_other_signature_is_refused(world: World) -> None:
    checkpoint = world.paused("p1").checkpoint
    every = [
        {**checkpoint, "mac": mac.removeprefix("sw1.")}
        for mac in forging.each_byte_altered("sw1." + checkpoint["mac"])
    ]
    attack(world, "p1", checked(*every, answer=yes()), CHECKPOINTS)
    assert world.checked(checkpoint, yes()).pays


def test_a_checkpoint_of_another_tenant_is_refused(world: World) -> None:
    checkpoint = world.paused("p1").checkpoint
    theirs = world.paused("p1", tenant="evil").checkpoint
    before = world.events("p1", "evil")
    steps = [
        *checked(checkpoint, answer=yes(), tenant="evil"),
        *checked({**checkpoint, "tenant_id": "evil"}, answer=yes(), tenant="evil"),
        *checked({**theirs, "tenant_id": "acme"}, answer=yes(), tenant="acme"),
        *checked({**theirs, "tenant_id": "acme"}, answer=yes()),
        *checked({**checkpoint, "tenant_id": "nobody"}, answer=yes()),
    ]
    said = world.do(*steps)
    assert {each.error for each in said} == CHECKPOINTS
    assert len({each.words for each in said}) == 1
    untouched(world, "p1")
    assert len(world.events("p1", "evil")) <= len(before) + 1  # what it brought under its own name
    assert world.checked(checkpoint, yes()).pays


def test_a_checkpoint_of_another_store_is_refused(world: World) -> None:
    with proof.world() as other:
        foreign = other.paused("p1").checkpoint
    mine = world.paused("p1").checkpoint
    renamed = {**foreign, "key": mine["key"]}
    attack(world, "p1", checked(foreign, renamed, answer=yes()), CHECKPOINTS)
    still_answerable(world, "p1")


def test_a_checkpoint_is_not_good_any_more_when_the_run_went_on(world: World) -> None:
    old = world.paused("m1").checkpoint
    first, _ = world.resumed("m1").pending
    new = world.resumed("m1", {"each": {first.address: yes()}})
    assert new.status == "paused"
    assert world.paid() == PAID
    said = world.do(*checked(old, answer=yes()), *checked(old), *checked(old, answer={"data": "sw1.x.y"}))
    assert {each.error for each in said} == CHECKPOINTS
    assert world.paid() == PAID
    assert world.checked(new.checkpoint, yes()).pays
    assert world.paid() == [*PAID, '{"amount": 7}']
    said = world.do(*checked(old, new.checkpoint, answer=yes()), *checked(old, new.checkpoint))
    assert {each.error for each in said} == CHECKPOINTS
    assert len(world.paid()) == 2


# --------------------------------------------------------------------------------------------- odd answers


def odd(*names: str) -> list[Any]:
    return [{"odd": name} for name in names]


def test_what_is_no_yes_is_no_yes(world: World) -> None:
    """Of whatever type it is, and whatever it looks like."""
    world.paused("p1")
    said = world.do(*by_id("p1", *odd(*ODD, "decision")))
    names = [*ODD, "decision"]
    taken = [name for name, each in zip(names, said, strict=True) if each.error != "AnswerRefused"]
    assert taken == []
    assert len(world.of("p1", AnswerRejected)) == len(said)
    untouched(world, "p1")
    still_answerable(world, "p1")


def test_an_odd_value_for_one_of_several_calls_takes_none_of_them(world: World) -> None:
    first, second = world.paused("m1").pending
    steps = [
        *by_id("m1", {"each": {first.address: yes(), second.address: {"odd": "true"}}}),
        *by_id("m1", {"each": {first.address: yes(), "call_nowhere": yes()}}),
        *by_id("m1", {"each": {first.address: yes(), "": yes()}}),
        *by_id("m1", yes()),
    ]
    said = world.do(*steps)
    assert {each.error for each in said} == ANSWERS
    untouched(world, "m1")
    assert world.resumed("m1", {"each": {first.address: yes(), second.address: yes()}}).pays
    assert world.paid() == [*PAID, '{"amount": 7}']


def test_an_answer_that_does_not_fit_its_schema_is_refused() -> None:
    with proof.world() as world:
        world.paused("q1")
        assert world.resumed("q1", yes()).pending[0].kind == "answer"
        said = world.do(*by_id("q1", *data(5, True, [], {}, 1.5), *odd("object", "type"), yes()))
        assert {each.error for each in said} == ANSWERS
        assert len(world.of("q1", AnswerRejected)) == len(said)
        assert world.paid() == []
        assert world.resumed("q1", {"data": "blue"}).pending[0].ordinal == 1
        [said] = world.do(*by_id("q1", *data("blue")))
        assert said.error == "AnswerRefused"
        assert world.resumed("q1", {"data": 3}).pays
        assert world.paid() == ['{"x": 1, "colour": "blue", "size": 3}']


def test_an_answer_may_be_brought_by_its_address(world: World) -> None:
    """Also where one question waits: what works for two of them works for one."""
    world.paused("q1")
    call = world.resumed("q1", yes()).pending[0]
    assert world.resumed("q1", {"each": {call.address: {"data": "blue"}}}).pending[0].ordinal == 1


# ------------------------------------------------------------------------------------- runs that are over


def test_a_run_that_has_ended_takes_no_approval(world: World) -> None:
    paused = world.paused("p1")
    assert world.resumed("p1", {"deny": {"by": "bob", "reason": "No."}}).pays
    before = world.events("p1")
    token = forging.signed(forging.key_of(world), paused.pending[0], now())
    said = world.do(*by_id("p1", yes(), {"data": token}), *checked(paused.checkpoint, answer=yes()))
    assert [each.error for each in said] == ["AnswerRefused", "AnswerRefused", "CheckpointRefused"]
    assert world.events("p1") == before
    assert world.paid() == []


def test_a_run_that_was_stopped_takes_no_approval(world: World) -> None:
    paused = world.paused("p1")
    [said] = world.do(Step(do="resume", run="p1"), setting=Setting(policy="deny"))
    assert said.pays
    said_now = world.do(*by_id("p1", yes()), *checked(paused.checkpoint, answer=yes()))
    assert [each.error for each in said_now] == ["AnswerRefused", "CheckpointRefused"]
    assert world.paid() == []


# ------------------------------------------------------------------------------------------- two approvers

TWO = Setting(policy="two")


def test_two_people_have_to_say_yes() -> None:
    with proof.world(TWO) as world:
        world.paused("p1")
        again = world.resumed("p1", yes("maria"))
        assert again.status == "paused"
        assert again.pending[0].approved_by == ("maria",)
        untouched(world, "p1")
        assert world.resumed("p1", yes("bob")).pays
        assert world.paid() == PAID


def test_the_same_person_twice_and_a_stranger_are_not_two_people() -> None:
    with proof.world(TWO) as world:
        call = world.paused("p1").pending[0]
        key = forging.key_of(world)
        stranger = {"data": forging.signed(key, call, now(), approver="mallory")}
        again = {"data": forging.signed(key, call, now(), id="1" * 24)}
        assert world.resumed("p1", yes("maria")).status == "paused"
        answers = [yes("maria"), again, yes("mallory"), stranger, yes("Maria"), yes("bob", remember="run")]
        said = world.do(*by_id("p1", *answers))
        assert {each.error for each in said} == ANSWERS
        assert len(world.of("p1", AnswerRejected)) == len(answers)
        untouched(world, "p1")
        still_answerable(world, "p1", yes("bob"))


def test_two_approvers_at_once_are_both_heard() -> None:
    with proof.world(TWO) as world:
        world.paused("p1")
        steps = [Step(do="inbox", run="p1", answer=yes(who)) for who in ("maria", "bob")]
        world.do(Step(do="together", steps=steps))
        untouched(world, "p1")
        assert world.resumed("p1").pays
        assert world.paid() == PAID


def test_two_approvers_at_once_where_one_is_needed_act_once(world: World) -> None:
    world.paused("p1")
    steps = [Step(do="resume", run="p1", answer=yes(who)) for who in ("maria", "bob")]
    [said] = world.do(Step(do="together", steps=steps))
    assert sum([each.pays for each in said.each]) == 1
    assert world.paid() == PAID


# ---------------------------------------------------------------------------------------------- expiry, edits


def test_an_approval_that_expires_before_its_call_begins_does_not_count(world: World) -> None:
    world.paused("p1")
    world.do(Step(do="inbox", run="p1", answer=yes(expires_in=0.05)))
    time.sleep(0.06)
    again = world.resumed("p1")
    assert again.status == "paused"
    untouched(world, "p1")
    assert [call.approved_by for call in again.pending] == [()]
    still_answerable(world, "p1")


def test_nobody_answering_in_time_is_a_no() -> None:
    with proof.world(Setting(waits=0.05)) as world:
        world.paused("p1")
        time.sleep(0.06)
        attack(world, "p1", by_id("p1", yes()), ANSWERS)
        assert world.resumed("p1").pays
        untouched(world, "p1")


def test_a_yes_to_other_arguments_is_no_yes_to_the_models(world: World) -> None:
    """Nor the other way round: who edits has approved of the edit alone."""
    world.paused("p1")
    assert world.resumed("p1", yes(arguments={"amount": 40})).pays
    assert world.paid() == ['{"amount": 40}']


def test_of_two_people_who_approve_of_different_arguments_neither_has_the_others_yes() -> None:
    with proof.world(TWO) as world:
        world.paused("p1")
        assert world.resumed("p1", yes("maria")).status == "paused"
        edited = world.resumed("p1", yes("bob", arguments={"amount": 99_999}))
        assert edited.status == "paused"
        untouched(world, "p1")
        assert [call.approved_by for call in edited.pending] == [("bob",)]
        assert edited.pending[0].arguments == '{"amount":99999}'
        assert world.resumed("p1", yes("maria")).pays
        assert world.paid() == ['{"amount": 99999}']


@pytest.mark.parametrize("wrong", [{"amount": "much"}, {}, {"amount": 1, "to": "me"}])
def test_arguments_that_the_tool_does_not_take_are_nobodys_yes(world: World, wrong: Any) -> None:
    world.paused("p1")
    again = world.resumed("p1", yes(arguments=wrong))
    assert again.status == "paused"
    untouched(world, "p1")
    still_answerable(world, "p1")


# --------------------------------------------------------------------------------------- policies that change


@pytest.mark.parametrize("policy", ["deny", "raise", "odd"])
def test_an_approval_does_not_outweigh_what_the_policy_says_now(world: World, policy: Any) -> None:
    world.paused("p1")
    world.do(Step(do="inbox", run="p1", answer=yes()))
    assert world.resumed("p1", setting=Setting(policy=policy)).pays
    untouched(world, "p1")


@pytest.mark.parametrize("policy", ["other rule", "two"])
def test_an_approval_does_not_stand_under_another_rule(world: World, policy: Any) -> None:
    world.paused("p1")
    world.do(Step(do="inbox", run="p1", answer=yes()))
    again = world.resumed("p1", setting=Setting(policy=policy))
    assert again.status == "paused"
    untouched(world, "p1")
    assert [call.approved_by for call in again.pending] == [()]


# ------------------------------------------------------------------------------------------------- handlers


@pytest.mark.parametrize("handler", ["hang", "raise", "none", *ODD])
def test_a_handler_that_gives_no_yes_has_denied(handler: str) -> None:
    with proof.world(Setting(handler=handler)) as world:
        [said] = world.do(Step(do="run", run="p1"))
        assert said.pays
        untouched(world, "p1")
