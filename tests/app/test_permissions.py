"""Permissions as developers write them: whatever is odd is refused when it is written, or denied when it is asked."""

from __future__ import annotations

import asyncio
import inspect
import os
from typing import Any

import pytest

from shipworthy.app.permissions import (
    PerUserPermissions,
    StandardPermissions,
    all_of,
    permissions_of,
    policy,
)
from shipworthy.domain.policy import Action, Decision, Mode
from shipworthy.domain.scope import Scope
from shipworthy.errors import ConfigurationError

ADA, BOB, NOBODY = Scope("acme", "ada"), Scope("acme", "bob"), Scope("acme")
REFUND = Action(
    kind="tool",
    name="refund",
    effect="once",
    arguments={},
    path=("support",),
    run_id="run_1",
    call_id="call_1",
)
PLAN, BYPASS = StandardPermissions(Mode.PLAN), StandardPermissions(Mode.BYPASS)


def decided(given: Any, scope: Scope = ADA, action: Action = REFUND) -> Decision:
    """A policy's answer, awaited if need be."""

    async def go() -> Decision:
        answer = given.decide(scope, action)
        return await answer if inspect.isawaitable(answer) else answer

    return asyncio.run(go())


# --- by mode ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["bypass", "BYPASS", "default", None, True])
def test_a_mode_is_named_in_code_and_nowhere_else(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SHIPWORTHY_MODE", "bypass")

    with pytest.raises(ConfigurationError, match="environment variable"):
        StandardPermissions(mode)
    assert StandardPermissions().mode is Mode.DEFAULT


@pytest.mark.parametrize("names", ["refund", {"refund"}, [7], [""], ["a**"], [None]])
@pytest.mark.parametrize("field", ["allowed_tools", "denied_tools"])
def test_names_are_a_list_of_names(field: str, names: Any) -> None:
    with pytest.raises(ConfigurationError, match=field):
        StandardPermissions(**{field: names})


def test_allowing_everything_by_a_wildcard_is_refused_for_bypass_is_recorded() -> None:
    with pytest.raises(ConfigurationError, match=r"Mode\.BYPASS"):
        StandardPermissions(allowed_tools=["*"])


def test_the_version_is_that_of_what_was_written() -> None:
    one = StandardPermissions(allowed_tools=["a", "b"])

    assert one.version == StandardPermissions(Mode.DEFAULT, ["b", "a", "a"]).version
    others = [StandardPermissions(), PLAN, StandardPermissions(denied_tools=["a", "b"])]
    assert len({each.version for each in [one, *others]}) == 4


# --- by user ----------------------------------------------------------------------------------


def test_a_user_of_one_tenant_comes_before_a_user_of_that_name() -> None:
    mine = PerUserPermissions({"ada": PLAN, ("acme", "ada"): BYPASS})

    assert decided(mine, ADA).ruling == "allow"
    assert decided(mine, Scope("other", "ada")).ruling == "deny"


def test_whoever_is_not_named_has_the_default_or_is_denied() -> None:
    for scope in (BOB, NOBODY):
        assert decided(PerUserPermissions({"ada": BYPASS}), scope).rule == "PerUserPermissions:nobody"
        assert (
            decided(PerUserPermissions({"ada": BYPASS}, default=StandardPermissions()), scope).ruling == "ask"
        )


def test_a_policy_that_is_false_is_still_the_users_own() -> None:
    class Empty(StandardPermissions):
        def __len__(self) -> int:
            return 0

    mine = PerUserPermissions({("acme", "ada"): Empty(Mode.PLAN), "ada": BYPASS}, default=BYPASS)
    assert decided(mine).ruling == "deny"


def test_a_function_of_the_scope_gives_each_user_a_policy() -> None:
    async def later(scope: Scope) -> Any:
        return BYPASS if scope.user == "ada" else PLAN

    for choose in (lambda scope: BYPASS if scope.user == "ada" else PLAN, later):
        mine = PerUserPermissions(choose, version="1")
        assert (decided(mine, ADA).ruling, decided(mine, BOB).ruling) == ("allow", "deny")


@pytest.mark.parametrize(
    "given", [None, True, "allow", Decision.allow_(), StandardPermissions, lambda s, a: None]
)
def test_a_function_that_gives_no_policy_denies(given: Any) -> None:
    async def later(scope: Scope) -> Any:
        return given

    for choose in (lambda scope: given, later):
        assert decided(PerUserPermissions(choose, version="1")).rule == "PerUserPermissions:error"


def test_a_function_that_raises_denies_and_the_model_is_not_told_why() -> None:
    def choose(scope: Scope) -> Any:
        raise KeyError("the password is swordfish")

    async def later(scope: Scope) -> Any:
        return choose(scope)

    for each in (choose, later):
        found = decided(PerUserPermissions(each, version="1"))
        assert (found.ruling, found.tell) == ("deny", "This is not permitted.")


def test_the_version_of_a_mapping_is_made_of_its_policies() -> None:
    versions = [
        PerUserPermissions({"ada": PLAN}).version,
        PerUserPermissions({"ada": BYPASS}).version,
        PerUserPermissions({("acme", "ada"): PLAN}).version,
        PerUserPermissions({"ada": PLAN}, default=BYPASS).version,
    ]
    assert len(set(versions)) == 4
    assert versions[0] == PerUserPermissions({"ada": StandardPermissions(Mode.PLAN)}).version


@pytest.mark.parametrize(
    ("policies", "more"),
    [
        ({7: PLAN}, {}),
        ({"": PLAN}, {}),
        ({("acme", "ada", "s"): PLAN}, {}),
        ({("acme", None): PLAN}, {}),
        ({"ada": None}, {}),
        ({"ada": Mode.PLAN}, {}),
        ({"ada": PLAN}, {"default": "deny"}),
        ({"ada": PLAN}, {"version": "1"}),
        (lambda scope: PLAN, {}),
        (lambda scope: PLAN, {"version": " "}),
        (lambda scope: PLAN, {"version": "1", "default": PLAN}),
        (PLAN, {}),
        ([PLAN], {}),
        (None, {}),
    ],
)
def test_what_maps_no_user_to_a_policy_is_refused(policies: Any, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        PerUserPermissions(policies, **more)


# --- by a function ----------------------------------------------------------------------------


def test_a_function_is_a_policy_under_its_own_name_and_version() -> None:
    @policy(version="3")
    def small(scope: Scope, action: Action) -> Decision:
        return Decision.allow_() if action.arguments.get("amount", 99) < 50 else Decision.ask_(rule="much")

    assert (small.version, small.immediate, permissions_of(small)) == ("3", False, small)
    assert decided(small).rule == "much"


def test_a_function_may_be_async_and_then_needs_no_thread() -> None:
    @policy(version="3")
    async def never(scope: Scope, action: Action) -> Decision:
        return Decision.deny_()

    assert never.immediate
    assert decided(never) == Decision.deny_(rule="never")


def test_what_a_function_gives_that_is_no_decision_is_left_for_the_engine_to_deny() -> None:
    @policy(version="3")
    def odd(scope: Scope, action: Action) -> Any:
        return "allow"

    assert odd.decide(ADA, REFUND) == "allow"  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("version", [None, "", " ", 3])
def test_a_function_without_a_version_is_refused(version: Any) -> None:
    with pytest.raises(ConfigurationError, match='version="1"'):
        policy(version=version)
    with pytest.raises(ConfigurationError, match=r"@policy\(version="):
        policy(lambda scope, action: Decision.allow_())


# --- several ----------------------------------------------------------------------------------


def test_all_of_several_is_the_strictest() -> None:
    @policy(version="1")
    def slow(scope: Scope, action: Action) -> Decision:
        return Decision.ask_("slow")

    @policy(version="1")
    async def later(scope: Scope, action: Action) -> Decision:
        return Decision.allow_()

    assert all_of(BYPASS, StandardPermissions()).immediate
    assert decided(all_of(BYPASS, StandardPermissions())).ruling == "ask"
    assert decided(all_of(BYPASS, later, slow, BYPASS)).ruling == "ask"
    assert decided(all_of(BYPASS, later, PLAN)).ruling == "deny"
    assert decided(all_of(later, BYPASS)).ruling == "allow"


@pytest.mark.parametrize("answer", [None, True, "allow", Decision("ask", approvers=0)])
@pytest.mark.parametrize("immediate", [True, False])
def test_an_odd_answer_among_several_is_a_deny(answer: Any, immediate: bool) -> None:
    @policy(version="1", immediate=immediate)
    def odd(scope: Scope, action: Action) -> Any:
        return answer

    assert decided(all_of(BYPASS, odd, BYPASS)).rule == "all_of:error"


def test_an_exception_among_several_is_not_swallowed() -> None:
    @policy(version="1")
    async def broken(scope: Scope, action: Action) -> Decision:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        decided(all_of(BYPASS, broken, PLAN))


def test_several_have_a_version_made_of_theirs() -> None:
    assert all_of(PLAN, BYPASS).version != all_of(PLAN, PLAN).version


# --- what Agent(permissions=) takes -----------------------------------------------------------


class Unversioned:
    immediate = True

    def decide(self, scope: Scope, action: Action) -> Decision:
        return Decision.allow_()


class Slow(Unversioned):
    version, immediate = "1", "no"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        (lambda scope, action: Decision.allow_(), r"@policy\(version="),
        (Mode.PLAN, r"StandardPermissions\(Mode\.PLAN\)"),
        (StandardPermissions, "the class"),
        ([PLAN], "all_of"),
        ("bypass", "StandardPermissions"),
        (True, "StandardPermissions"),
        (Unversioned(), "version"),
        (Slow(), "immediate"),
    ],
)
def test_what_is_no_policy_is_refused_with_what_to_write(given: Any, fix: str) -> None:
    with pytest.raises(ConfigurationError, match=fix):
        permissions_of(given)


def test_no_policy_is_none() -> None:
    assert permissions_of(None) is None
