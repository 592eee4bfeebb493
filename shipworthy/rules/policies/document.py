"""A policy document, compiled: of the statements about a call, one that denies wins, then those that ask, then one that
allows; where none matches, the call is denied.

What a test cannot tell never helps: an `allow` matches only if all its tests hold, a `deny` and an `ask` unless one of
them fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from shipworthy.domain.policy import Action, Decision, Ruling
from shipworthy.domain.scope import Scope
from shipworthy.rules.policies.check import sound
from shipworthy.rules.policies.combine import strictest
from shipworthy.rules.policies.conditions import Test, conditions_of, principals_of, resources_of, texts_of
from shipworthy.rules.policies.digest import digest_of
from shipworthy.rules.policies.statements import Considered, Explanation, Place, Statement
from shipworthy.rules.policies.times import Calendar
from shipworthy.rules.policies.wildcards import matches

_EFFECTS: tuple[Ruling, ...] = ("deny", "ask", "allow")
_KINDS = ("tool", "agent", "memory")
_KEYS = Statement.__struct_fields__
_SAYS = {"allow": "allows", "deny": "denies", "ask": "asks about"}
_REMEMBERED = 1024
"""Actions whose statements are kept at hand; agents have fewer tools."""


class Compiled(NamedTuple):
    """A statement, ready to be asked. `users` and `tenants`: who alone can be meant, where that is known."""

    number: int
    id: str
    effect: Ruling
    actions: tuple[str, ...]
    tests: tuple[Test, ...]
    decision: Decision
    users: frozenset[str] | None
    tenants: frozenset[str] | None


def objection(statement: Compiled, scope: Scope, action: Action) -> Test | None:
    """The test that keeps a statement about this action from matching; None if it matches."""
    if statement.effect == "allow":
        for test in statement.tests:
            if test.check(scope, action) is not True:
                return test
    else:
        for test in statement.tests:
            if test.check(scope, action) is False:
                return test
    return None


def conclude(
    text: str, denies: Iterable[Compiled], asks: Iterable[Compiled], allows: Iterable[Compiled]
) -> tuple[Decision, tuple[Compiled, ...]]:
    """What follows from the statements that match, and from which of them."""
    for each in denies:
        return each.decision, (each,)
    asking = tuple(asks)
    if asking:
        return strictest([each.decision for each in asking]), asking
    for each in allows:
        return each.decision, (each,)
    return Decision("deny", f"No statement of the policy allows {text}.", "PolicyDocument:default"), ()


class _About:
    """The statements of one effect about one action, by who alone can be meant."""

    def __init__(self, statements: Sequence[Compiled]) -> None:
        self.all = tuple(statements)
        self._anybody: list[Compiled] = []
        self._users: dict[str, list[Compiled]] = {}
        self._tenants: dict[str, list[Compiled]] = {}
        for each in statements:
            if each.users is not None:
                for user in each.users:
                    self._users.setdefault(user, []).append(each)
            elif each.tenants is not None:
                for tenant in each.tenants:
                    self._tenants.setdefault(tenant, []).append(each)
            else:
                self._anybody.append(each)

    def of(self, scope: Scope) -> Sequence[Compiled]:
        """Those that can match for this identity, in the document's order. Of a run that names no user it cannot be
        told whom it is by, so that all may."""
        if scope.user is None:
            return self.all
        users = self._users.get(scope.user) if self._users else None
        tenants = self._tenants.get(scope.tenant) if self._tenants else None
        if users is None and tenants is None:
            return self._anybody
        return sorted([*self._anybody, *(users or ()), *(tenants or ())], key=_number)


def _number(statement: Compiled) -> int:
    return statement.number


class Document:
    """Compiled statements, found by the action that they are about."""

    def __init__(self, statements: Sequence[Compiled]) -> None:
        self.statements = tuple(statements)
        self._exact: dict[str, list[Compiled]] = {}
        self._patterns: list[tuple[str, Compiled]] = []
        self._known: dict[str, tuple[_About, _About, _About]] = {}
        for each in statements:
            for action in each.actions:
                if "*" in action:
                    self._patterns.append((action, each))
                else:
                    self._exact.setdefault(action, []).append(each)

    def decide(self, scope: Scope, action: Action) -> Decision:
        """What the document says of a call."""
        text = f"{action.kind}:{action.name}"
        return conclude(text, *[_matching(each.of(scope), scope, action) for each in self._about(text)])[0]

    def explain(self, scope: Scope, action: Action) -> Explanation:
        """Why it says so: the same statements, each with the test that decided about it."""
        text = f"{action.kind}:{action.name}"
        about = self._about(text)
        matching = [list(_matching(each.all, scope, action)) for each in about]
        decision, by = conclude(text, *matching)
        statements = sorted([one for each in about for one in each.all], key=_number)
        considered = tuple([_considered(each, scope, action) for each in statements])
        return Explanation(decision, text, tuple([each.id for each in by]), considered)

    def _about(self, text: str) -> tuple[_About, _About, _About]:
        """The statements about an action: those that deny, that ask, and that allow."""
        known = self._known.get(text)
        if known is None:
            found = {each.number: each for each in self._exact.get(text, ())}
            found |= {each.number: each for pattern, each in self._patterns if matches(pattern, text)}
            statements = [found[index] for index in sorted(found)]
            denies, asks, allows = [
                _About([each for each in statements if each.effect == effect]) for effect in _EFFECTS
            ]
            known = denies, asks, allows
            if len(self._known) < _REMEMBERED:
                self._known[text] = known
        return known


def _matching(statements: Iterable[Compiled], scope: Scope, action: Action) -> Iterator[Compiled]:
    for each in statements:
        if objection(each, scope, action) is None:
            yield each


def _considered(statement: Compiled, scope: Scope, action: Action) -> Considered:
    against = objection(statement, scope, action)
    if against is not None:
        what = "is not so" if against.check(scope, action) is False else "cannot be told"
        return Considered(statement.id, statement.effect, False, f"{against.words}: {what}")
    unclear = [test.words for test in statement.tests if test.check(scope, action) is None]
    because = f"cannot be told, and holds for that: {'; '.join(unclear)}" if unclear else ""
    return Considered(statement.id, statement.effect, True, because)


# compiling


def compiled(given: Sequence[Any], calendar: Calendar) -> Document:
    """A document of these statements, each a Statement or a mapping of its fields. Raises ConfigurationError."""
    whole = Place("The policy document")
    if not isinstance(given, (list, tuple)):
        whole.refuse(f"a {type(given).__name__} is no list of statements", "Pass [Statement(...), ...].")
    if not given:
        whole.refuse(
            "it has no statements, and would deny everything",
            'If that is meant, write Statement(effect="deny", actions=["*"]).',
        )
    statements: list[Compiled] = []
    known: dict[str, int] = {}
    for index, each in enumerate(given):
        made = _compile(index, _statement(each, Place(f"Statement {index + 1}")), calendar)
        if (other := known.setdefault(made.id, index)) != index:
            Place(f"Statement {index + 1}, id").refuse(
                f"{made.id!r} is that of statement {other + 1} too",
                "Give each an id of its own, or remove one.",
            )
        statements.append(made)
    return Document(statements)


def _statement(given: Any, place: Place) -> Statement:
    if isinstance(given, Statement):
        return given
    if not isinstance(given, dict):
        place.refuse(
            f"a {type(given).__name__} is no statement", "Write Statement(...), or a table of its keys."
        )
    for key in given:
        if key not in _KEYS:
            place.refuse(f"{key!r} is unknown", f"Its keys are {', '.join(_KEYS)}.")
    for key in ("effect", "actions"):
        if key not in given:
            place.refuse(f"it has no {key}", f"Write {key}; each statement has effect and actions.")
    return Statement(**given)


def _compile(index: int, given: Statement, calendar: Calendar) -> Compiled:
    place = Place(f"Statement {index + 1}")
    id = _id(given, place)
    if given.id:
        place = Place(f"Statement {index + 1} ({id!r})")
    if given.effect not in _EFFECTS:
        place.at("effect").refuse(f"{given.effect!r} is unknown", f"Use {', '.join(_EFFECTS)}.")
    actions = _actions(given.actions, place.at("actions"))
    who = principals_of(given.principals, place.at("principals"))
    tests = [
        *who.tests,
        *resources_of(given.resources, place.at("resources")),
        *conditions_of(given.conditions, place.at("conditions"), calendar),
    ]
    decision = _decision(id, given, place)
    return Compiled(index, id, given.effect, actions, tuple(tests), decision, who.users, who.tenants)


def _id(given: Statement, place: Place) -> str:
    if not isinstance(given.id, str) or given.id != given.id.strip() or " & " in given.id:
        place.at("id").refuse(
            f"{given.id!r} is no id", "Write a text without blanks around it and without ' & '."
        )
    try:
        return given.id or f"#{digest_of(given)[:8]}"
    except (TypeError, ValueError, msgspec.EncodeError, RecursionError):
        return place.refuse("it has what cannot be written down", "Use texts, numbers, lists and mappings.")


def _actions(given: Any, place: Place) -> tuple[str, ...]:
    patterns = texts_of(given, place)
    known = ", ".join([f'"{kind}:<name>"' for kind in _KINDS])
    if not patterns:
        place.refuse("there are none", f'Write {known} or "*".')
    for each in patterns:
        kind, colon, name = each.partition(":")
        if each != "*" and (kind not in _KINDS or not colon or not name):
            place.refuse(f"{each!r} is no action", f'Write {known} or "*".')
    return tuple(dict.fromkeys(patterns))


def _decision(id: str, given: Statement, place: Place) -> Decision:
    if given.effect != "ask" and (given.approvers != 1 or given.among):
        place.refuse("approvers and among go with an ask", 'Write effect = "ask", or leave them out.')
    if not isinstance(given.among, (list, tuple)):
        place.at("among").refuse(f"{given.among!r} is no list", "Write the names of those who may approve.")
    reason = f"Statement {id} {_SAYS[given.effect]} it." if given.reason == "" else given.reason
    decision = Decision(
        given.effect, reason, f"PolicyDocument:{id}", given.tell, given.approvers, tuple(given.among)
    )
    if (wrong := sound(decision)) is not None:
        place.refuse(wrong, "Write texts, an int of approvers, and enough names of those who may approve.")
    return decision
