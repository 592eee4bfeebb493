"""Somebody who may write the file, and has no key, cannot have another call made than the one that was approved."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from shipworthy.domain.events import (
    ApprovalGranted,
    ApprovalRequested,
    ArgumentsReplaced,
    ModelAnswered,
    RunStarted,
    ToolsJudged,
)
from shipworthy.domain.messages import ToolCall
from tests.control import forging, proof
from tests.control.child import Said, Step
from tests.control.proof import World
from tests.control.scenario import Setting, yes

pytestmark = pytest.mark.crash
PAID = ['{"amount": 50}']
MUCH = '{"amount":99999}'
DIGEST = hashlib.sha256(MUCH.encode()).hexdigest()
replace = msgspec.structs.replace


@pytest.fixture
def world() -> Iterator[World]:
    with proof.world() as made:
        yield made


# ------------------------------------------------------------------------------------------- what is written


def much(call: ToolCall) -> ToolCall:
    return replace(call, arguments=MUCH)


def the_models_call(event: Any) -> Any:
    """50 becomes 99,999 in the model's answer."""
    if type(event) is ModelAnswered:
        parts = [much(p) if type(p) is ToolCall and p.name == "pay" else p for p in event.parts]
        return replace(event, parts=tuple(parts))
    return event


def the_request(event: Any) -> Any:
    """People were asked about 99,999."""
    return replace(event, digest=DIGEST) if type(event) is ApprovalRequested else event


def the_approval(event: Any) -> Any:
    """The yes was to 99,999."""
    return replace(event, digest=DIGEST) if type(event) is ApprovalGranted else event


def the_edit(event: Any) -> Any:
    """The approver said yes to other arguments: 99,999."""
    if type(event) is not ApprovalGranted:
        return event
    call_id = event.address.rpartition("/")[2]
    return replace(event, call=ToolCall("pay", MUCH, call_id, origin=f"approver:{event.approver}"))


def the_edit_and_its_digest(event: Any) -> Any:
    return the_approval(the_edit(event))


def the_reach(event: Any) -> Any:
    """The yes is for the tool, whatever the arguments, and for the whole run."""
    return replace(event, remember="run", covers="tool") if type(event) is ApprovalGranted else event


def the_end(event: Any) -> Any:
    """The yes holds for ever."""
    return replace(event, expires_at=event.expires_at * 2) if type(event) is ApprovalGranted else event


def the_approver(event: Any) -> Any:
    return replace(event, approver="bob", id="1" * 24) if type(event) is ApprovalGranted else event


def the_signature(event: Any) -> Any:
    """A token that says 99,999, with the signature of the one that said 50."""
    if type(event) is not ApprovalGranted:
        return event
    return replace(event, token=forged(event.token, digest=DIGEST), digest=DIGEST)


def forged(token: str, **changes: Any) -> str:
    """What the token says, changed, under the old signature."""
    _, payload, mac = token.split(".")
    said = msgspec.json.decode(forging.bytes_of(payload)) | changes
    return f"sw1.{forging.text_of(msgspec.json.encode(said))}.{mac}"


def together(*changes: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def change(event: Any) -> Any:
        for each in changes:
            event = each(event)
        return event

    change.__name__ = " and ".join([each.__name__ for each in changes])
    return change


ALTERED = [
    the_models_call,
    the_edit,
    the_edit_and_its_digest,
    together(the_models_call, the_request),
    together(the_models_call, the_approval),
    together(the_models_call, the_request, the_approval),
    together(the_models_call, the_request, the_signature),
    together(the_models_call, the_reach),
    together(the_models_call, the_request, the_approval, the_reach),
    together(the_request, the_edit_and_its_digest),
    together(the_request, the_edit, the_signature),
]
"""What would have 99,999 paid under the yes to 50."""


def names(changes: Any) -> str:
    return str(changes.__name__)


# ----------------------------------------------------------------------------------------------------- laws


def approved(world: World, **more: Any) -> Said:
    """A run whose call somebody said yes to; nobody goes on with it yet."""
    said = world.paused("p1")
    world.do(Step(do="inbox", run="p1", answer=yes(**more)))
    return said


@pytest.mark.parametrize("change", ALTERED, ids=names)
def test_no_other_amount_is_paid_than_the_one_that_was_approved(world: World, change: Any) -> None:
    approved(world)
    assert world.rewrite(change) > 0
    again = world.resumed("p1")
    assert '{"amount": 99999}' not in world.paid()
    if again.status == "paused":
        assert world.paid() == []
        assert [call.kind for call in again.pending] == ["approval"]
        shown = again.pending[0].arguments
        assert world.resumed("p1", yes()).pays
        assert world.paid() == [shown.replace(":", ": ")]


@pytest.mark.parametrize("change", [the_approval, the_end, the_approver, the_signature], ids=names)
def test_a_yes_that_says_anything_but_what_was_signed_is_none(world: World, change: Any) -> None:
    approved(world)
    assert world.rewrite(change) == 1
    again = world.resumed("p1")
    assert again.status == "paused"
    assert world.paid() == []
    assert world.resumed("p1", yes()).pays
    assert world.paid() == PAID


def test_a_yes_whose_signature_is_cut_off_is_none(world: World) -> None:
    approved(world)
    world.rewrite(lambda e: replace(e, token="") if type(e) is ApprovalGranted else e)
    assert world.resumed("p1").status == "paused"
    assert world.paid() == []
    assert world.resumed("p1", yes()).pays


def test_a_yes_does_not_count_as_that_of_two_people() -> None:
    with proof.world(Setting(policy="two")) as world:
        approved(world)

        def twice(event: Any) -> Any:
            return replace(event, approvers=1) if type(event) is ApprovalRequested else event

        world.rewrite(twice)
        again = world.resumed("p1")
        assert again.status == "paused"
        assert world.paid() == []
        assert world.resumed("p1", yes("bob")).pays
        assert world.paid() == PAID


def test_what_was_edited_is_not_edited_again(world: World) -> None:
    """Also where the edit is in the journal twice: as it was signed, and as it is to be made."""
    world.paused("p1")
    world.do(Step(do="inbox", run="p1", answer=yes(arguments={"amount": 40})))
    assert world.rewrite(the_edit) == 1
    assert world.resumed("p1").status == "paused"
    assert world.paid() == []
    assert world.resumed("p1", yes()).pays
    assert world.paid() == PAID


def test_people_who_are_shown_one_amount_do_not_sign_another(world: World) -> None:
    """The digest of the request is altered before they answer, and the call after they did."""
    world.paused("p1")
    assert world.rewrite(the_request) == 1
    world.do(Step(do="inbox", run="p1", answer=yes()))
    assert world.rewrite(the_models_call) == 1
    again = world.resumed("p1")
    assert world.paid() == []
    assert [call.arguments for call in again.pending] == [MUCH]


def test_a_call_that_is_slipped_in_as_judged_is_judged_all_the_same(world: World) -> None:
    """A journal that says that the call may run does not make it run: live code has to say so."""
    said = world.paused("p1")
    address = said.pending[0].address

    def judged(event: Any) -> Any:
        if type(event) is not ApprovalRequested:
            return event
        calls = (forging.judged(address, "once"),)
        return ToolsJudged(seq=event.seq, at=event.at, calls=calls)

    assert world.rewrite(judged) == 1
    again = world.resumed("p1")
    assert again.status == "paused"
    assert world.paid() == []


def test_arguments_that_are_slipped_in_as_a_hooks_are_judged(world: World) -> None:
    said = world.paused("p1")
    call_id = said.pending[0].call_id
    world.do(Step(do="resume", run="p1", answer={"odd": "true"}))  # its refusal becomes the slip

    def slipped(event: Any) -> Any:
        if type(event).__name__ != "AnswerRejected":
            return event
        call = ToolCall("pay", MUCH, call_id)
        return ArgumentsReplaced(seq=event.seq, at=event.at, call_id=call_id, call=call, by="hook:mine")

    assert world.rewrite(slipped) == 1
    world.do(Step(do="inbox", run="p1", answer=yes()))
    again = world.resumed("p1")
    assert '{"amount": 50}' not in world.paid()
    assert again.pays or again.pending[0].arguments == MUCH  # whoever answered was shown this


def test_a_yes_that_was_given_elsewhere_is_not_planted_here(world: World) -> None:
    """Neither that of another run, nor of another tenant's run of the same id."""
    for run, tenant in (("p2", "acme"), ("p1", "evil")):
        world.paused(run, tenant=tenant)
        assert world.resumed(run, yes(), tenant=tenant).pays
    said = world.paused("p1")
    paid = world.paid()
    for run, tenant in (("p2", "acme"), ("p1", "evil")):
        planted = world.of(run, ApprovalGranted, tenant)[0]
        before = len(world.events("p1"))
        world.do(Step(do="resume", run="p1", answer={"odd": "true"}))

        def plant(event: Any, planted: Any = planted, at: int = before + 1) -> Any:
            mine = event.seq == at and type(event).__name__ == "AnswerRejected"
            return replace(planted, seq=event.seq, address=said.pending[0].address) if mine else event

        assert world.rewrite(plant) == 1
        again = world.resumed("p1")
        assert again.status == "paused"
        assert world.paid() == paid
    assert world.resumed("p1", yes()).pays


def test_a_grant_of_one_user_is_not_planted_with_another(world: World) -> None:
    """Rows of the table of what was said yes to for a user: for another user, another tenant, for ever."""
    world.paused("p1")
    assert world.resumed("p1", yes(remember="user")).pays
    [grant] = world.rows("SELECT tenant, id, user, expires_at, data FROM grants")
    for number, (tenant, user) in enumerate([("acme", "mallory"), ("evil", "alice")]):
        data = msgspec.json.decode(grant[4]) | {"tenant": tenant, "user": user, "id": f"{number}"}
        world.rows(
            "INSERT INTO grants (tenant, id, user, expires_at, data) VALUES (?, ?, ?, ?, CAST(? AS BLOB))",
            tenant,
            str(number),
            user,
            grant[3],
            msgspec.json.encode(data),
        )
        assert world.paused("p2", tenant=tenant, user=user).pending
    assert world.paid() == PAID
    [said] = world.do(Step(do="run", run="p3"))
    assert said.pays  # alice's own works
    assert len(world.paid()) == 2


def test_a_run_is_not_anothers_because_its_journal_says_so(world: World) -> None:
    """What was signed for alice does not stand for mallory."""
    approved(world)
    world.rewrite(lambda e: replace(e, user="mallory") if type(e) is RunStarted else e)
    again = world.resumed("p1")
    assert again.status == "paused"
    assert world.paid() == []


def test_what_is_shown_is_what_the_tool_will_get() -> None:
    """A model that writes an argument twice is read in one way by all."""
    with proof.world() as world:
        shown = world.paused("d1").pending[0].arguments
        assert shown == MUCH
        assert world.resumed("d1", yes()).pays
        assert world.paid() == ['{"amount": 99999}']
