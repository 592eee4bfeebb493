"""What a statement tests: what the call is about, who makes it, and its conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from shipworthy.domain.policy import Action
from shipworthy.domain.scope import Scope
from shipworthy.rules.policies import values
from shipworthy.rules.policies.statements import Place
from shipworthy.rules.policies.times import Calendar, times_of
from shipworthy.rules.policies.values import HIDDEN, MISSING, OPERATORS, Truth, all_true, any_true
from shipworthy.rules.policies.wildcards import any_of, flaw

Look = Callable[[Scope, Action], Any]


class Test(NamedTuple):
    """One thing that a statement asks of a call: in words, and whether it is so."""

    words: str
    check: Callable[[Scope, Action], Truth]


class _Subject(NamedTuple):
    """What a condition is about: where its value is, and which operators and literals have a meaning there."""

    look: Look
    operators: Sequence[str]
    literal: Callable[[Any], bool] = lambda value: True
    fix: str = ""


_IS_TEXT = "Compare it with texts."
_RESOURCES = ("tool", "agent", "memory", "label", "source")
_EFFECTS = ("read", "idempotent", "once")


def path_of(action: Action) -> str:
    """The agents from the outermost one on, joined with "/"; one in a name is written %2F."""
    return "/".join([name.replace("/", "%2F") for name in action.path])


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _or_missing(value: Any) -> Any:
    return MISSING if value is None else value


_WHO: Mapping[str, Look] = {
    "tenant": lambda scope, action: scope.tenant,
    "user": lambda scope, action: _or_missing(scope.user),
    "session": lambda scope, action: _or_missing(scope.session),
    "agent": lambda scope, action: action.path[-1] if action.path else MISSING,
    "path": lambda scope, action: path_of(action),
}
_SUBJECTS: Mapping[str, _Subject] = {
    **{name: _Subject(look, (*values.TEXT, "exists"), _is_text, _IS_TEXT) for name, look in _WHO.items()},
    "source": _Subject(lambda scope, action: action.source, values.TEXT, _is_text, _IS_TEXT),
    "effect": _Subject(
        lambda scope, action: action.effect,
        values.EQUALITY,
        lambda value: value in _EFFECTS,
        f"Compare it with {', '.join(_EFFECTS)}.",
    ),
    "labels": _Subject(lambda scope, action: action.labels, values.LIST, _is_text, _IS_TEXT),
}
_COUNTS: Mapping[str, Callable[[Action], Mapping[str, int]]] = {
    "returned": lambda action: action.returned,
    "allowed": lambda action: action.allowed,
}
KEYS = ("arguments.<name>", *_SUBJECTS, "time", "returned.<tool>", "allowed.<tool>")


def conditions_of(given: Any, place: Place, calendar: Calendar) -> list[Test]:
    """Tests, all of which have to hold. Raises ConfigurationError."""
    if not isinstance(given, Mapping):
        place.refuse(f"a {type(given).__name__} is no mapping", 'Write {"arguments.amount": {"<=": 50}}.')
    tests: list[Test] = []
    for key, wanted in given.items():
        if key == "time":
            tests += [Test(*each) for each in times_of(wanted, place.at(key), calendar)]
        else:
            tests += _of_key(key, wanted, place)
    return tests


def _of_key(key: Any, wanted: Any, place: Place) -> list[Test]:
    subject = _subject(key, place)
    at = place.at(key)
    if isinstance(wanted, (list, tuple)):
        at.refuse("a list is no condition", f'Write {{"in": {list(wanted)!r}}}.')
    operators: Mapping[Any, Any] = wanted if isinstance(wanted, Mapping) else {"==": wanted}
    if not operators:
        at.refuse("it has no operator", f"Use {', '.join(subject.operators)}.")
    return [_test(key, subject, name, value, at) for name, value in operators.items()]


def _test(key: str, subject: _Subject, name: Any, value: Any, place: Place) -> Test:
    if name not in subject.operators:
        place.refuse(f"{name!r} is no operator here", f"Use {', '.join(subject.operators)}.")
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if name != "exists" and not subject.literal(each):
            place.at(name).refuse(f"{each!r} is never equal to it", subject.fix)
    check, look = OPERATORS[name](value, place.at(name)), subject.look
    return Test(f"{key} {name} {value!r}", lambda scope, action: check(scope, action, look(scope, action)))


def _subject(key: Any, place: Place) -> _Subject:
    if not isinstance(key, str):
        place.refuse(f"{key!r} is no text", f"Use {', '.join(KEYS)}.")
    found = _SUBJECTS.get(key)
    if found is not None:
        return found
    kind, dot, name = key.partition(".")
    if kind == "arguments" and dot and all(parts := name.split(".")):
        return _Subject(_argument(tuple(parts)), tuple(OPERATORS))
    if kind in _COUNTS and dot and name.strip() and "*" not in name:
        counts = _COUNTS[kind]
        return _Subject(
            lambda scope, action: counts(action).get(name, 0),
            values.NUMBER,
            lambda value: type(value) is int,
            "Compare it with whole numbers.",
        )
    return place.refuse(f"{key!r} is unknown", f"Use {', '.join(KEYS)}.")


def _argument(parts: tuple[str, ...]) -> Look:
    first = parts[0]
    if len(parts) == 1:
        return lambda scope, action: action.arguments.get(first, MISSING)

    def look(scope: Scope, action: Action) -> Any:
        found: Any = action.arguments
        for part in parts:
            if not isinstance(found, Mapping):
                return HIDDEN
            found = found.get(part, MISSING)
            if found is MISSING:
                return MISSING
        return found

    return look


# what the call is about


def resources_of(given: Any, place: Place) -> list[Test]:
    """A test, unless everything is meant. Raises ConfigurationError."""
    patterns = texts_of(given, place)
    for each in patterns:
        kind, slash, name = each.partition("/")
        if each != "*" and (kind not in _RESOURCES or not slash or not name):
            known = ", ".join([f'"{kind}/..."' for kind in _RESOURCES])
            place.refuse(f"{each!r} is no resource", f'Write {known} or "*".')
    if not patterns or "*" in patterns:
        return []
    fits = any_of(patterns)

    def check(scope: Scope, action: Action) -> Truth:
        if fits(f"{action.kind}/{action.name}") or fits(f"source/{action.source}"):
            return True
        return any([fits(f"label/{label}") for label in action.labels])

    return [Test(f"it is about one of {patterns}", check)]


# who makes it


class Principals(NamedTuple):
    """Who is meant: tests, and the users or the tenants who alone can be meant, where those are named in full."""

    tests: list[Test]
    users: frozenset[str] | None = None
    tenants: frozenset[str] | None = None


def principals_of(given: Any, place: Place) -> Principals:
    """Who is meant; everybody, where nobody is named. Raises ConfigurationError."""
    them = [given] if isinstance(given, Mapping) else given
    if not isinstance(them, (list, tuple)):
        place.refuse(
            f"a {type(given).__name__} names nobody", 'Write {"tenant": "acme", "user": ["ada", "bob"]}.'
        )
    if not them:
        return Principals([])
    named = [_principal(each, place) for each in them]
    check = _any([_who(each) for each in named])
    return Principals(
        [Test(f"it is by one of {named}", check)], _in_full(named, "user"), _in_full(named, "tenant")
    )


def _any(tests: Sequence[Callable[[Scope, Action], Truth]]) -> Callable[[Scope, Action], Truth]:
    if len(tests) == 1:
        return tests[0]
    return lambda scope, action: any_true([test(scope, action) for test in tests])


def _principal(given: Any, place: Place) -> dict[str, list[str]]:
    if not isinstance(given, Mapping) or not given:
        place.refuse(
            f"{given!r} names nobody", f"Use {', '.join(_WHO)}; leave principals out to mean everybody."
        )
    found = {}
    for key, names in given.items():
        if key not in _WHO:
            place.refuse(f"{key!r} is unknown", f"Use {', '.join(_WHO)}.")
        found[key] = texts_of([names] if isinstance(names, str) else names, place.at(key))
        if not found[key]:
            place.at(key).refuse("it names nobody", f"Name one, or leave {key} out.")
    return found


def _who(named: Mapping[str, Sequence[str]]) -> Callable[[Scope, Action], Truth]:
    tests = [_named(_WHO[key], any_of(patterns)) for key, patterns in named.items()]
    if len(tests) == 1:
        return tests[0]
    return lambda scope, action: all_true([test(scope, action) for test in tests])


def _named(look: Look, fits: Callable[[str], bool]) -> Callable[[Scope, Action], Truth]:
    def check(scope: Scope, action: Action) -> Truth:
        name = look(scope, action)
        return None if name is MISSING else fits(name)

    return check


def _in_full(named: Sequence[Mapping[str, Sequence[str]]], key: str) -> frozenset[str] | None:
    """The names of this kind, if each principal has some and none is a pattern."""
    if not all([key in each for each in named]):
        return None
    names = [name for each in named for name in each[key]]
    return None if any(["*" in name for name in names]) else frozenset(names)


def texts_of(given: Any, place: Place) -> list[str]:
    """A list of patterns without variables. Raises ConfigurationError."""
    if not isinstance(given, (list, tuple)):
        place.refuse(f"a {type(given).__name__} is no list", "Write [...].")
    for each in given:
        if (wrong := flaw(each)) is not None:
            place.refuse(f"{each!r} {wrong}", "Write names, in which * is any text.")
        if "${" in each:
            place.refuse(f"{each!r} has a variable", "Variables have a place in conditions only.")
    return list(given)
