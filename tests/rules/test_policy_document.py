"""A policy document decides what a plain reading of its statements says, explains it, and is never widened by a deny or
an ask."""

from __future__ import annotations

import datetime
import fnmatch
import math
import re
from collections.abc import Callable, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from shipworthy.app.policy_documents import PolicyDocument
from shipworthy.domain.policy import Action, Decision
from shipworthy.domain.scope import Scope
from shipworthy.rules.policies import conditions, document, values, wildcards

STRICTNESS = {"allow": 0, "ask": 1, "deny": 2}
MISSING, HIDDEN = "<missing>", "<hidden>"
ZONE = "Europe/Berlin"


# --- a plain reading --------------------------------------------------------------------------
# Written without a look at the code: a loop over statements, each read from left to right. Every question is answered
# with True, False or None, which is "cannot be told".


def read(statements: Sequence[dict[str, Any]], scope: Scope, action: Action) -> tuple[str, set[str]]:
    """The ruling, and the ids of the statements that match."""
    matching = []
    for statement in statements:
        if not any([described(pattern, f"{action.kind}:{action.name}") for pattern in statement["actions"]]):
            continue
        answers = [
            *about(statement, action),
            by(statement, scope, action),
            *conditioned(statement, scope, action),
        ]
        if statement["effect"] == "allow" and all([answer is True for answer in answers]):
            matching.append(statement)
        if statement["effect"] != "allow" and all([answer is not False for answer in answers]):
            matching.append(statement)
    ids = {statement["id"] for statement in matching}
    effects = [statement["effect"] for statement in matching]
    if "deny" in effects:
        return "deny", ids
    if "ask" in effects:
        return asked([each for each in matching if each["effect"] == "ask"]), ids
    return ("allow" if "allow" in effects else "deny"), ids


def asked(asks: Sequence[dict[str, Any]]) -> str:
    limits = [set(each["among"]) for each in asks if each.get("among")]
    if limits and len(set.intersection(*limits)) < max([each.get("approvers", 1) for each in asks]):
        return "deny"
    return "ask"


def described(pattern: str, text: str) -> bool:
    return fnmatch.fnmatchcase(text, re.sub(r"([\[?])", r"[\1]", pattern))


def about(statement: dict[str, Any], action: Action) -> list[bool]:
    wanted = statement.get("resources", [])
    there = [
        f"{action.kind}/{action.name}",
        f"source/{action.source}",
        *[f"label/{each}" for each in action.labels],
    ]
    return [any([described(pattern, each) for pattern in wanted for each in there])] if wanted else []


def by(statement: dict[str, Any], scope: Scope, action: Action) -> bool | None:
    given = statement.get("principals", [])
    them = [given] if isinstance(given, dict) else given
    who = {
        "tenant": scope.tenant,
        "user": scope.user,
        "session": scope.session,
        "agent": action.path[-1],
        "path": "/".join(action.path),
    }
    found: list[bool | None] = []
    for one in them:
        fits: list[bool | None] = []
        for key, names in one.items():
            names = [names] if isinstance(names, str) else names
            value = who[key]
            fits.append(None if value is None else any([described(name, value) for name in names]))
        found.append(False if False in fits else None if None in fits else True)
    if not them or True in found:
        return True
    return None if None in found else False


def conditioned(statement: dict[str, Any], scope: Scope, action: Action) -> list[bool | None]:
    answers: list[bool | None] = []
    for key, wanted in statement.get("conditions", {}).items():
        if key == "time":
            answers += timed(wanted, action)
            continue
        value = looked_up(key, scope, action)
        for name, literal in (wanted if isinstance(wanted, dict) else {"==": wanted}).items():
            answers.append(holds(name, value, literal, scope))
    return answers


def timed(wanted: dict[str, Any], action: Action) -> list[bool | None]:
    if action.at <= 0:
        return [None]
    zone = wanted.get("zone", "UTC")
    local = datetime.datetime.fromtimestamp(action.at / 1000, ZoneInfo(zone))
    answers: list[bool | None] = []
    if "hours" in wanted:
        start, end = wanted["hours"].split("-")
        now = local.strftime("%H:%M")
        answers.append(start <= now < end if start < end else now >= start or now < end)
    if "weekdays" in wanted:
        answers.append(local.strftime("%a").lower() in wanted["weekdays"])
    if "after" in wanted:
        answers.append(
            local >= datetime.datetime.fromisoformat(wanted["after"]).replace(tzinfo=ZoneInfo(zone))
        )
    return answers


def looked_up(key: str, scope: Scope, action: Action) -> Any:
    kind, _, rest = key.partition(".")
    if kind == "allowed":
        return action.allowed.get(rest, 0)
    if kind == "returned":
        return action.returned.get(rest, 0)
    if kind == "arguments":
        value: Any = action.arguments
        for part in rest.split("."):
            if not isinstance(value, dict):
                return HIDDEN
            if part not in value:
                return MISSING
            value = value[part]
        return value
    if kind in ("user", "session", "tenant"):
        found = getattr(scope, kind)
        return MISSING if found is None else found
    return {"effect": action.effect, "source": action.source, "labels": [*action.labels]}[kind]


def kind(value: Any) -> str:
    if value is MISSING or value is HIDDEN or value is None or isinstance(value, dict):
        return "nothing"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "nothing" if math.isnan(value) or math.isinf(value) else "number"
    return "text" if isinstance(value, str) else "list"


def same(value: Any, literal: Any, scope: Scope) -> bool | None:
    if literal == "${user}":
        if scope.user is None:
            return None
        literal = scope.user
    return value == literal if kind(value) == kind(literal) else None


def one_of(answers: Sequence[bool | None]) -> bool | None:
    return True if True in answers else None if None in answers else False


def holds(name: str, value: Any, literal: Any, scope: Scope) -> bool | None:  # noqa: C901 - one line for each operator
    if name.startswith("not_") or name == "!=":
        answer = holds({"!=": "==", "not_in": "in", "not_matches": "matches"}[name], value, literal, scope)
        return None if answer is None else not answer
    if name == "exists":
        return None if value is HIDDEN else (value is not MISSING) == literal
    if name == "==":
        return same(value, literal, scope)
    if name == "in":
        fitting = [each for each in literal if kind(each) == kind(value)]
        return one_of([same(value, each, scope) for each in fitting]) if fitting else None
    if name == "matches":
        if kind(value) != "text" or ("${user}" in literal and scope.user is None):
            return None
        parts = [re.escape(part.replace("${user}", scope.user or "")) for part in literal.split("*")]
        return re.fullmatch(".*".join(parts), value, re.DOTALL) is not None
    if name in ("<", "<=", ">", ">="):
        if kind(value) != "number":
            return None
        return {"<": value < literal, "<=": value <= literal, ">": value > literal, ">=": value >= literal}[
            name
        ]
    if kind(value) != "list":
        return None
    if name == "has_any":
        return one_of([same(item, each, scope) for item in value for each in literal])
    if name == "has_none":
        answer = holds("has_any", value, literal, scope)
        return None if answer is None else not answer
    if name == "has_all":
        each_of = [one_of([same(item, each, scope) for item in value]) for each in literal]
        return False if False in each_of else None if None in each_of else True
    each_of = [
        holds({"every_in": "in", "every_matches": "matches"}[name], item, literal, scope) for item in value
    ]
    if not each_of:
        return None
    return False if False in each_of else None if None in each_of else True


# --- documents and calls ----------------------------------------------------------------------

NAMES = st.sampled_from(["ada", "bob", "a*", "*", "adam"])
LITERALS = st.sampled_from([10, 50, 50.0, True, False, "50", "ada", "${user}", 1, 0])
NUMBERS = st.sampled_from([10, 50, 50.5, 1, 0])
PATTERNS = st.sampled_from(["a*", "*a", "ada", "*", "${user}", "${user}*", "x/${user}/*"])
LITERAL_LISTS = st.lists(LITERALS, min_size=1, max_size=3)
BY_OPERATOR: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["==", "!="], LITERALS),
    **dict.fromkeys(["in", "not_in", "has_any", "has_all", "has_none", "every_in"], LITERAL_LISTS),
    **dict.fromkeys(["<", "<=", ">", ">="], NUMBERS),
    **dict.fromkeys(["matches", "not_matches", "every_matches"], PATTERNS),
    "exists": st.booleans(),
}


def condition(
    *names: str, literal: st.SearchStrategy[Any] | None = None
) -> st.SearchStrategy[dict[str, Any]]:
    def of(name: str) -> st.SearchStrategy[dict[str, Any]]:
        made = BY_OPERATOR[name] if literal is None or name == "exists" else literal
        if literal is not None and (name.endswith("in") or name.startswith("has")):
            made = st.lists(literal, min_size=1, max_size=2)
        return made.map(lambda value: {name: value})

    return st.one_of([of(name) for name in names])


ARGUMENT = condition(*BY_OPERATOR) | condition("<=", ">", "==", "!=", "matches")
TIMES = st.fixed_dictionaries(
    {"zone": st.sampled_from(["UTC", ZONE]), "hours": st.sampled_from(["09:00-17:00", "22:00-06:00"])},
    optional={"weekdays": st.just(["mon", "tue"]), "after": st.just("2026-03-03")},
)
ABOUT: dict[str, st.SearchStrategy[Any]] = {
    "arguments.amount": ARGUMENT | LITERALS,
    "arguments.account": ARGUMENT,
    "arguments.to.country": ARGUMENT,
    "arguments.tags": ARGUMENT,
    "user": condition("==", "!=", "in", "matches", "exists", literal=NAMES.filter(lambda name: name != "")),
    "tenant": condition("==", "not_in", "not_matches", literal=st.sampled_from(["acme", "other"])),
    "effect": condition("==", "!=", literal=st.sampled_from(["read", "once"])),
    "labels": condition("has_any", "has_all", "has_none", literal=st.sampled_from(["payment", "pii"])),
    "allowed.look": condition("<", ">=", "==", literal=st.sampled_from([1, 2])),
    "returned.look": condition("<", ">=", "==", literal=st.sampled_from([1, 2])),
    "time": TIMES,
}


def conditions_of(number: int) -> st.SearchStrategy[dict[str, Any]]:
    """At most so many: drawn by name, as drawing all of them in order to keep a few takes ten times as long."""
    one = st.one_of([value.map(lambda drawn, key=key: (key, drawn)) for key, value in ABOUT.items()])
    return st.lists(one, min_size=1, max_size=number).map(dict)


FEW_CONDITIONS = st.one_of(st.just({}), conditions_of(1), conditions_of(2))
PRINCIPAL = st.dictionaries(
    st.sampled_from(["user", "tenant", "agent", "path"]), NAMES, min_size=1, max_size=2
) | st.just({"tenant": ["acme"], "user": ["ada", "bob"]})


ACTION_PATTERNS = st.lists(
    st.sampled_from(["*", "tool:*", "tool:refund", "tool:ref*", "tool:*und", "agent:*", "memory:write"]),
    min_size=1,
    max_size=2,
)
RESOURCES = st.lists(st.sampled_from(["label/payment", "label/*", "tool/ref*", "source/mcp:*"]), max_size=2)
PRINCIPALS = PRINCIPAL | st.lists(PRINCIPAL, max_size=2)
OF_AN_ASK = st.sampled_from(
    [{}, {"among": ["mia"]}, {"among": ["mia", "leo"], "approvers": 2}, {"approvers": 2}]
)
ONE_IN_FOUR, ONE_IN_THREE = (st.integers(1, number).map(lambda drawn: drawn == 1) for number in (4, 3))


@st.composite
def statements(draw: st.DrawFn, effects: Sequence[str] = ("allow", "allow", "ask", "deny")) -> dict[str, Any]:
    effect = draw(st.sampled_from(effects))
    made: dict[str, Any] = {
        "effect": effect,
        "actions": draw(ACTION_PATTERNS),
        "conditions": draw(FEW_CONDITIONS),
    }
    if draw(ONE_IN_FOUR):
        made["resources"] = draw(RESOURCES)
    if draw(ONE_IN_THREE):
        made["principals"] = draw(PRINCIPALS)
    if effect == "ask":
        made |= draw(OF_AN_ASK)
    return made


def numbered(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each | {"id": f"s{number}"} for number, each in enumerate(found)]


DOCUMENTS = st.lists(statements(), min_size=1, max_size=5).map(numbered)
SCOPES = st.builds(
    Scope, st.sampled_from(["acme", "other"]), st.sampled_from([None, "ada", "adam", "bob", "*", "a*"])
)
SCALARS = st.sampled_from(
    [
        10,
        50,
        50.5,
        51,
        1,
        True,
        True,
        "50",
        "ada",
        "adam",
        "*",
        "x/ada/1",
        "x/*/1",
        None,
        math.nan,
        {},
        [],
        ["ada"],
    ]
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "amount": SCALARS,
        "account": SCALARS,
        "to": st.just({}) | SCALARS.map(lambda value: {"country": value}) | SCALARS,
        "tags": st.lists(SCALARS, max_size=3) | SCALARS,
    },
)
ACTIONS = st.builds(
    Action,
    kind=st.sampled_from(["tool", "tool", "tool", "agent", "memory"]),
    name=st.sampled_from(["refund", "refund", "refunds", "xrefund", "write"]),
    effect=st.sampled_from(["read", "idempotent", "once"]),
    arguments=ARGUMENTS,
    path=st.sampled_from([("ada",), ("support", "adam")]),
    run_id=st.just("run_1"),
    call_id=st.just("call_1"),
    labels=st.frozensets(st.sampled_from(["payment", "pii"])),
    source=st.sampled_from(["code", "mcp:crm"]),
    returned=st.dictionaries(st.just("look"), st.integers(0, 3)),
    allowed=st.dictionaries(st.just("look"), st.integers(0, 3)),
    at=st.sampled_from([0, 1772409600000, 1772449200000, 1772492400000, 1772668800000]),
)


def examples(number: int, *, known: bool = False) -> settings:
    """So many; `known` ones are the same each time, for mutants that have to be caught."""
    return settings(
        max_examples=number,
        derandomize=known,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


FRESH, KNOWN = examples(500), examples(4_000, known=True)

# --- the laws ---------------------------------------------------------------------------------


def reads_as_written(some: settings = FRESH) -> None:
    @some
    @given(DOCUMENTS, SCOPES, ACTIONS)
    def law(found: list[dict[str, Any]], scope: Scope, action: Action) -> None:
        policy = PolicyDocument(found)
        decision, explained = policy.decide(scope, action), policy.explain(scope, action)
        ruling, matching = read(found, scope, action)
        assert decision.ruling == ruling
        assert explained.decision == decision
        assert {each.id for each in explained.considered if each.matched} == matching
        assert set(explained.decided_by) <= matching
        assert decision.rule == " & ".join(
            [f"PolicyDocument:{id}" for id in explained.decided_by or ["default"]]
        )
        assert all([each.matched or each.because for each in explained.considered])

    law()


def is_never_widened(some: settings = FRESH) -> None:
    @some
    @given(DOCUMENTS, statements(["ask", "deny"]), st.integers(0, 5), SCOPES, ACTIONS)
    def law(
        found: list[dict[str, Any]], more: dict[str, Any], place: int, scope: Scope, action: Action
    ) -> None:
        before = PolicyDocument(found).decide(scope, action)
        wider = numbered([*found[:place], more, *found[place:]])
        after = PolicyDocument(wider).decide(scope, action)
        if before.ruling == "deny" and "PolicyDocument:default" in before.rule and more["effect"] == "ask":
            assume(False)  # what nobody allowed may be asked about; that is what the next law is about
        assert STRICTNESS[after.ruling] >= STRICTNESS[before.ruling]

    law()


def is_never_allowed_by_less(some: settings = FRESH) -> None:
    @some
    @given(DOCUMENTS, statements(["ask", "deny"]), SCOPES, ACTIONS)
    def law(found: list[dict[str, Any]], more: dict[str, Any], scope: Scope, action: Action) -> None:
        if PolicyDocument(found).decide(scope, action).ruling != "allow":
            assert PolicyDocument(numbered([more, *found])).decide(scope, action).ruling != "allow"

    law()


def test_a_document_decides_and_explains_what_a_plain_reading_of_it_says() -> None:
    reads_as_written()


def test_a_deny_or_an_ask_never_makes_a_document_more_permissive() -> None:
    is_never_widened()


def test_a_deny_or_an_ask_never_turns_a_deny_into_an_allow() -> None:
    is_never_allowed_by_less()


# --- mutants ----------------------------------------------------------------------------------

Conclusion = tuple[Decision, tuple[Any, ...]]


def allow_wins(text: str, denies: Any, asks: Any, allows: Any) -> Conclusion:
    for each in allows:
        return each.decision, (each,)
    return CONCLUDE(text, denies, asks, ())


def default_allow(text: str, denies: Any, asks: Any, allows: Any) -> Conclusion:
    decision, by = CONCLUDE(text, denies, asks, allows)
    return (decision, by) if by else (Decision.allow_(rule="PolicyDocument:default"), ())


def asks_are_forgotten(text: str, denies: Any, asks: Any, allows: Any) -> Conclusion:
    return CONCLUDE(text, denies, (), allows)


def the_first_ask_only(text: str, denies: Any, asks: Any, allows: Any) -> Conclusion:
    return CONCLUDE(text, denies, [*asks][:1], allows)


def unclear_allows(statement: Any, scope: Scope, action: Action) -> Any:
    return next((test for test in statement.tests if test.check(scope, action) is False), None)


def unclear_denies_nothing(statement: Any, scope: Scope, action: Action) -> Any:
    return next((test for test in statement.tests if test.check(scope, action) is not True), None)


def the_first_test_only(statement: Any, scope: Scope, action: Action) -> Any:
    return OBJECTION(statement._replace(tests=statement.tests[:1]), scope, action)


def nobody_is_nobody(self: Any, scope: Scope) -> Any:
    return self._anybody if scope.user is None else OF(self, scope)


def true_is_a_number(value: Any) -> str | None:
    return "number" if isinstance(value, bool) else KIND_OF(value)


CONCLUDE, OBJECTION, KIND_OF = document.conclude, document.objection, values.kind_of
OF = document._About.of
MATCHES, ANY_OF = wildcards.matches, wildcards.any_of
MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "an allow wins": (document, "conclude", allow_wins),
    "the default is to allow": (document, "conclude", default_allow),
    "asks are forgotten": (document, "conclude", asks_are_forgotten),
    "only the first ask counts": (document, "conclude", the_first_ask_only),
    "a missing argument matches an allow": (document, "objection", unclear_allows),
    "a missing argument lifts a deny": (document, "objection", unclear_denies_nothing),
    "only the first test counts": (document, "objection", the_first_test_only),
    "a run without a user is nobody's": (document._About, "of", nobody_is_nobody),
    "wildcards of actions are not anchored": (document, "matches", lambda pattern, text: MATCHES(f"{pattern}*", text)),
    "wildcards of names are not anchored": (
        conditions, "any_of", lambda patterns: ANY_OF([f"{each}*" for each in patterns])
    ),
    "true is 1": (values, "kind_of", true_is_a_number),
    "what cannot be told is not so": (values, "negated", lambda truth: not truth),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_document_that_reads_otherwise_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home, attribute, mutant = MUTANTS[name]
    monkeypatch.setattr(home, attribute, mutant)

    with pytest.raises(AssertionError):
        reads_as_written(KNOWN)


def the_last_wins(text: str, denies: Any, asks: Any, allows: Any) -> Conclusion:
    """As in many firewalls."""
    every = sorted([*denies, *asks, *allows], key=lambda each: each.number)
    return (every[-1].decision, (every[-1],)) if every else CONCLUDE(text, (), (), ())


def asked_is_allowed(text: str, denies: Any, asks: Any, allows: Any) -> Conclusion:
    decision, by = CONCLUDE(text, denies, asks, allows)
    return (Decision.allow_(rule=decision.rule), by) if decision.ruling == "ask" else (decision, by)


@pytest.mark.parametrize(
    ("mutant", "law"), [(the_last_wins, is_never_widened), (asked_is_allowed, is_never_allowed_by_less)]
)
def test_a_document_that_can_be_widened_is_caught(
    mutant: Any, law: Callable[[settings], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "conclude", mutant)

    with pytest.raises(AssertionError):
        law(KNOWN)


# --- cases ------------------------------------------------------------------------------------


def ruled(conditions: dict[str, Any], effect: str, arguments: dict[str, Any], **more: Any) -> str:
    """What a document says that allows all, and has one more statement with these conditions."""
    one = {"effect": effect, "actions": ["*"], "conditions": conditions}
    rest = [] if effect == "allow" else [{"effect": "allow", "actions": ["*"]}]
    fields: dict[str, Any] = {"name": "refund", "kind": "tool", "effect": "once", "path": ("support",)} | more
    action = Action(arguments=arguments, run_id="run_1", call_id="call_1", **fields)
    return PolicyDocument([one, *rest]).decide(Scope("acme", "ada"), action).ruling


OPERATIONS: dict[str, Any] = {
    **dict.fromkeys(["==", "!="], 50),
    **dict.fromkeys(["<", "<=", ">", ">="], 50),
    **{name: [50, 60] for name in ["in", "not_in"]},
    **dict.fromkeys(["matches", "not_matches", "every_matches"], "5*"),
    **{name: ["a"] for name in ["has_any", "has_all", "has_none", "every_in"]},
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    "amount", [{}, {"amount": None}, {"amount": {"value": 50}}, {"amount": math.nan}, {"amount": True}]
)
def test_every_operator_fails_closed_where_the_value_is_missing_or_of_another_type(
    name: str, amount: Any
) -> None:
    conditions = {"arguments.amount": {name: OPERATIONS[name]}}

    assert [ruled(conditions, effect, amount) for effect in ("allow", "ask", "deny")] == [
        "deny",
        "ask",
        "deny",
    ]


def test_every_operator_is_tested_for_that() -> None:
    assert {*OPERATIONS, "exists"} == set(values.OPERATORS)


def test_whether_an_argument_is_there_can_be_told() -> None:
    assert ruled({"arguments.to": {"exists": True}}, "deny", {}) == "allow"
    assert ruled({"arguments.to": {"exists": False}}, "deny", {}) == "deny"
    assert ruled({"arguments.to.name": {"exists": True}}, "deny", {"to": {}}) == "allow"
    assert ruled({"arguments.to.name": {"exists": False}}, "allow", {"to": "ada"}) == "deny"


def test_a_condition_that_surely_fails_lifts_a_deny_whatever_cannot_be_told_beside_it() -> None:
    assert ruled({"arguments.amount": {">": 100}, "user": "mallory"}, "deny", {}) == "allow"


def test_an_account_is_the_users_own() -> None:
    mine = {"arguments.account": "${user}"}

    assert ruled(mine, "allow", {"account": "ada"}) == "allow"
    assert [ruled(mine, "allow", given) for given in ({"account": "bob"}, {"account": "${user}"}, {})] == [
        "deny"
    ] * 3


def test_names_compare_character_by_character() -> None:
    for name in ("Ada", "ada ", "\u0430da"):
        assert ruled({"arguments.account": "ada"}, "allow", {"account": name}) == "deny"


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("09:00-17:00", ["09:00", "16:59"], ["08:59", "17:00"]),
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "21:59"]),
        ("00:00-24:00", ["00:00", "23:59"], []),
        (["06:00-07:00", "23:00-24:00"], ["06:30", "23:30"], ["07:30", "00:00"]),
    ],
)
def test_hours_are_those_of_the_zones_clocks(hours: Any, inside: list[str], outside: list[str]) -> None:
    def at(clock: str) -> str:
        moment = datetime.datetime.fromisoformat(f"2026-07-01T{clock}").replace(tzinfo=ZoneInfo(ZONE))
        return ruled({"time": {"zone": ZONE, "hours": hours}}, "allow", {}, at=int(moment.timestamp() * 1000))

    assert {at(clock) for clock in inside} == {"allow"}
    assert {at(clock) for clock in outside} <= {"deny"}


def test_a_call_whose_time_is_not_known_is_within_no_hours_that_allow_and_within_all_that_deny() -> None:
    conditions = {"time": {"hours": "00:00-24:00"}}

    assert [ruled(conditions, effect, {}) for effect in ("allow", "deny")] == ["deny", "deny"]


def test_a_date_begins_at_midnight_in_its_zone() -> None:
    before = int(datetime.datetime(2026, 7, 1, tzinfo=ZoneInfo(ZONE)).timestamp() * 1000) - 1
    conditions = {"time": {"zone": ZONE, "after": datetime.date(2026, 7, 1), "before": "2026-07-02"}}

    assert [ruled(conditions, "allow", {}, at=at) for at in (before, before + 1)] == ["deny", "allow"]
    assert ruled(conditions, "allow", {}, at=before + 1 + 86_400_000) == "deny"


def test_a_slash_in_an_agents_name_is_no_step_of_the_path() -> None:
    conditions = {"path": {"matches": "support/*"}}

    assert ruled(conditions, "allow", {}, path=("support/x",)) == "deny"
    assert ruled(conditions, "allow", {}, path=("support", "x")) == "allow"


def test_what_was_done_in_the_run_counts() -> None:
    conditions = {"returned.look": {">=": 1}, "returned.refund": {"<": 2}}

    assert ruled(conditions, "allow", {}, returned={"look": 1}) == "allow"
    assert ruled(conditions, "allow", {}, returned={}) == "deny"
    assert ruled(conditions, "allow", {}, returned={"look": 3, "refund": 2}) == "deny"


def test_asks_that_match_are_answered_together() -> None:
    asks = [
        {"id": "much", "effect": "ask", "actions": ["*"], "among": ["mia", "leo"]},
        {"id": "money", "effect": "ask", "actions": ["tool:*"], "approvers": 2, "tell": "Wait."},
    ]
    action = Action(kind="tool", name="x", effect="once", arguments={}, path=("a",), run_id="r", call_id="c")
    found = PolicyDocument(asks).decide(Scope("acme"), action)

    assert (found.rule, found.approvers, found.among) == (
        "PolicyDocument:much & PolicyDocument:money",
        2,
        ("mia", "leo"),
    )
    assert found.tell == "Wait."
