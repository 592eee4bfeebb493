"""What policies say: the strictest answer wins, an odd one is none, and a mode allows no more than its effects."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shipworthy.domain.policy import Action, Decision, Mode
from shipworthy.rules.policies import combine, modes, wildcards
from shipworthy.rules.policies.check import MOST_APPROVERS, sound

NAMES = st.lists(st.sampled_from("abc"), max_size=2).map(tuple)
TEXTS = st.sampled_from(["", "one", "two"])
STRICTNESS = {"allow": 0, "ask": 1, "deny": 2}


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    ruling = draw(st.sampled_from(["allow", "ask", "ask", "ask", "deny"]))
    among, approvers = draw(NAMES), draw(st.integers(1, 2))
    if ruling != "ask" or (among and len(set(among)) < approvers):
        among, approvers = (), 1
    return Decision(ruling, draw(TEXTS), draw(TEXTS), draw(st.none() | TEXTS), approvers, among)


MANY = st.lists(decisions(), max_size=3)

# --- combining --------------------------------------------------------------------------------


Combined = Callable[[Sequence[Decision]], Decision]


def narrows(strictest: Combined) -> None:
    """Adding a policy never allows more."""

    @settings(max_examples=300, database=None, phases=[Phase.generate])
    @given(MANY, decisions(), st.integers(0, 5))
    def law(them: list[Decision], more: Decision, place: int) -> None:
        fewer, wider = strictest(them), strictest([*them[:place], more, *them[place:]])
        assert STRICTNESS[wider.ruling] >= max(STRICTNESS[fewer.ruling], STRICTNESS[more.ruling])
        assert sound(wider) is None
        if fewer.ruling == wider.ruling == "ask":
            assert wider.approvers >= fewer.approvers
            assert not fewer.among or (wider.among and set(wider.among) <= set(fewer.among))
            assert not wider.among or len(set(wider.among)) >= wider.approvers

    law()


def test_adding_a_policy_never_allows_more() -> None:
    narrows(combine.strictest)


def first_wins(them: Sequence[Decision]) -> Decision:
    return them[0] if them else Decision.allow_()


def allow_wins(them: Sequence[Decision]) -> Decision:
    return min(them, key=lambda each: STRICTNESS[each.ruling], default=Decision.allow_())


def everybody_may(them: Sequence[Decision]) -> Decision:
    asks = [each for each in them if each.ruling == "ask"]
    found = combine.strictest(them)
    if found.ruling == "deny" and all([each.ruling != "deny" for each in them]):
        return Decision("ask", approvers=max([each.approvers for each in asks]))
    return found


def least_approvers(them: Sequence[Decision]) -> Decision:
    found = combine.strictest(them)
    least = min([each.approvers for each in them if each.ruling == "ask"], default=1)
    return Decision("ask", approvers=least, among=found.among) if found.ruling == "ask" else found


@pytest.mark.parametrize("mutant", [first_wins, allow_wins, everybody_may, least_approvers])
def test_a_composition_that_widens_is_caught(mutant: Combined) -> None:
    with pytest.raises(AssertionError):  # noqa: PT012
        for _ in range(5):  # what 300 examples happen to miss, others show
            narrows(mutant)


def test_the_first_deny_says_why_and_what_the_model_is_told() -> None:
    outer = Decision.deny_("closed", rule="hours", tell="Come back tomorrow.")
    inner = Decision.deny_("never", rule="own")

    assert combine.strictest([Decision.allow_(), Decision.ask_("hm"), outer, inner]) == outer


def test_several_asks_are_one_ask_under_all_their_rules() -> None:
    one = Decision.ask_("it is much", rule="amount", among=("ada", "bob", "eve"))
    two = Decision.ask_("it is late", rule="hours", tell="Wait.", approvers=2, among=("bob", "eve", "mia"))

    assert combine.strictest([one, Decision.allow_(rule="other"), two]) == Decision.ask_(
        "it is much; it is late", rule="amount & hours", tell="Wait.", approvers=2, among=("bob", "eve")
    )


def test_asks_that_nobody_may_answer_together_are_a_deny() -> None:
    found = combine.strictest([Decision.ask_(among=("ada",)), Decision.ask_(among=("bob",))])

    assert (found.ruling, found.reason) == ("deny", "too few people may approve for all who ask (0 of 1)")


def test_an_allow_names_every_rule_that_said_something() -> None:
    allows = [Decision.allow_(rule="one"), Decision.allow_(), Decision.allow_(rule="two")]

    assert combine.strictest(allows) == Decision.allow_(rule="one & two")


def test_a_ruling_that_is_none_is_a_deny() -> None:
    odd: Any = Decision("maybe")  # type: ignore[arg-type]

    assert combine.strictest([Decision.allow_(), odd]).ruling == "deny"


# --- answers that are none --------------------------------------------------------------------


class Looser(Decision, frozen=True):  # type: ignore[misc]
    """A subclass could answer otherwise when it is looked at again."""


class Word(str):
    """A text that compares as it likes."""


@given(decisions())
def test_what_the_makers_make_is_sound(decision: Decision) -> None:
    assert sound(decision) is None


ODD: list[Any] = [
    None,
    True,
    "allow",
    {"ruling": "allow"},
    Decision,
    Looser("allow"),
    Decision("Allow"),  # type: ignore[arg-type]
    Decision(""),  # type: ignore[arg-type]
    Decision(None),  # type: ignore[arg-type]
    Decision(["allow"]),  # type: ignore[arg-type]
    Decision(Word("allow")),  # type: ignore[arg-type]
    Decision("allow", None),  # type: ignore[arg-type]
    Decision("allow", "", 7),  # type: ignore[arg-type]
    Decision("deny", tell=b"no"),  # type: ignore[arg-type]
    Decision("deny", "\ud800"),
    Decision("ask", approvers=0),
    Decision("ask", approvers=True),
    Decision("ask", approvers=1.0),  # type: ignore[arg-type]
    Decision("ask", approvers=MOST_APPROVERS + 1),
    Decision("ask", approvers="2"),  # type: ignore[arg-type]
    Decision("ask", among=[]),  # type: ignore[arg-type]
    Decision("ask", among="ada"),  # type: ignore[arg-type]
    Decision("ask", among=("ada", "")),
    Decision("ask", among=("ada", 7)),  # type: ignore[arg-type]
    Decision("ask", approvers=2, among=("ada",)),
    Decision("ask", approvers=2, among=("ada", "ada")),
]


def takes_nothing_odd(sound: Callable[[Any], str | None]) -> None:
    for odd in ODD:
        assert isinstance(sound(odd), str), odd


def test_what_is_not_exactly_a_decision_is_told() -> None:
    takes_nothing_odd(sound)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda value: None if isinstance(value, Decision) and type(value) is not Decision else sound(value),
        lambda value: None if value is True or value == "allow" else sound(value),
        lambda value: sound(value) if value is not None else None,
        lambda value: None if type(value) is Decision and value.ruling == "ask" else sound(value),
        lambda value: None if type(value) is Decision and value.ruling != "ask" else sound(value),
    ],
    ids=["subclasses", "truthy", "nothing", "approvers", "rulings"],
)
def test_a_check_that_takes_something_odd_is_caught(mutant: Callable[[Any], str | None]) -> None:
    with pytest.raises(AssertionError):
        takes_nothing_odd(mutant)


# --- names with * -----------------------------------------------------------------------------

PATTERNS = st.text("ab*.[?", min_size=1, max_size=8).map(lambda text: re.sub(r"\*+", "*", text))
Matches = Callable[[str, str], bool]


def is_anchored(matches: Matches) -> None:
    @settings(max_examples=500, database=None, phases=[Phase.generate])
    @given(PATTERNS, st.text("ab.[?", max_size=8))
    def law(pattern: str, text: str) -> None:
        plain = re.sub(r"([\[?])", r"[\1]", pattern)  # fnmatch knows more marks than we do
        assert matches(pattern, text) == fnmatch.fnmatchcase(text, plain)

    law()


def test_a_pattern_describes_a_whole_text() -> None:
    is_anchored(wildcards.matches)


def test_many_patterns_describe_what_one_of_them_does() -> None:
    is_anchored(lambda pattern, text: wildcards.any_of([pattern, "zzz", "z*z"])(text))


@pytest.mark.parametrize(
    "mutant",
    [
        lambda pattern, text: wildcards.matches(f"*{pattern}*", text),
        lambda pattern, text: wildcards.matches(f"{pattern}*", text),
        lambda pattern, text: bool(
            re.match(pattern.replace("*", ".*").replace("[", r"\[").replace("?", "."), text)
        ),
        lambda pattern, text: pattern == text,
        lambda pattern, text: wildcards.matches(pattern.lower(), text.lower() + "b"),
        lambda pattern, text: all([part in text for part in pattern.split("*")]),
    ],
    ids=["unanchored", "prefix", "regex", "exact", "suffix", "parts"],
)
def test_a_pattern_that_describes_another_text_is_caught(mutant: Matches) -> None:
    with pytest.raises(AssertionError):
        is_anchored(mutant)


def test_a_long_text_of_near_misses_is_answered_without_backtracking() -> None:
    """A regex would try every split of these; here the work grows with the text."""
    assert not wildcards.matches("*a" * 60 + "b", "a" * 20_000)


def test_names_compare_exactly() -> None:
    assert not wildcards.matches("Refund", "refund")
    assert not wildcards.matches("caf\u00e9", "cafe\u0301")


# --- modes ------------------------------------------------------------------------------------


def an_action(name: str = "refund", effect: Any = "once", kind: Any = "tool") -> Action:
    return Action(
        kind=kind, name=name, effect=effect, arguments={}, path=("support",), run_id="run_1", call_id="call_1"
    )


@pytest.mark.parametrize(
    ("mode", "read", "idempotent", "once"),
    [
        (Mode.PLAN, "allow", "deny", "deny"),
        (Mode.DEFAULT, "allow", "ask", "ask"),
        (Mode.ACCEPT_EDITS, "allow", "allow", "ask"),
        (Mode.BYPASS, "allow", "allow", "allow"),
    ],
)
@pytest.mark.parametrize("kind", ["tool", "memory"])
def test_a_mode_says_what_each_effect_may_do(
    mode: Mode, kind: str, read: str, idempotent: str, once: str
) -> None:
    permissions = modes.Permissions(mode, (), ())
    found = [
        permissions.decide(an_action(effect=effect, kind=kind)).ruling
        for effect in ("read", "idempotent", "once")
    ]

    assert found == [read, idempotent, once]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("effect", ["read", "idempotent", "once"])
@pytest.mark.parametrize("kind", ["tool", "agent", "memory"])
def test_denied_by_name_is_denied_in_every_mode_whatever_is_allowed(
    mode: Mode, effect: str, kind: str
) -> None:
    permissions = modes.Permissions(mode, ("refund", "ref*"), ("*und",))

    assert (
        permissions.decide(an_action(effect=effect, kind=kind)).rule == "StandardPermissions:denied-by-name"
    )


@pytest.mark.parametrize("mode", Mode)
def test_asking_another_agent_changes_nothing_by_itself(mode: Mode) -> None:
    assert modes.Permissions(mode, (), ()).decide(an_action(kind="agent")).ruling == "allow"


def test_a_name_turns_an_ask_into_an_allow_but_no_deny() -> None:
    assert modes.Permissions(Mode.DEFAULT, ("re*",), ()).decide(an_action()).ruling == "allow"
    assert modes.Permissions(Mode.DEFAULT, ("Refund",), ()).decide(an_action()).ruling == "ask"
    assert modes.Permissions(Mode.PLAN, ("refund",), ()).decide(an_action()).ruling == "deny"


@pytest.mark.parametrize("mode", [Mode.PLAN, Mode.DEFAULT, Mode.ACCEPT_EDITS])
def test_an_effect_that_nobody_knows_is_denied(mode: Mode) -> None:
    assert modes.Permissions(mode, ("*und",), ()).decide(an_action(effect="perhaps")).ruling == "deny"


def test_rules_stay_the_same_for_approvals_to_stand_on() -> None:
    rules = {
        modes.Permissions(mode, (), ()).decide(an_action(effect=effect)).rule
        for mode in Mode
        for effect in ("read", "idempotent", "once")
    }

    assert rules == {
        "StandardPermissions:plan:read",
        "StandardPermissions:plan:deny-idempotent",
        "StandardPermissions:plan:deny-once",
        "StandardPermissions:default:read",
        "StandardPermissions:default:ask-idempotent",
        "StandardPermissions:default:ask-once",
        "StandardPermissions:accept_edits:read",
        "StandardPermissions:accept_edits:idempotent",
        "StandardPermissions:accept_edits:ask-once",
        "StandardPermissions:bypass",
    }
