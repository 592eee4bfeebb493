"""Operators of conditions. Each says True, False, or None where it cannot be told: the value is missing, or of another
type. What follows from None is for the statement to say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shipworthy.domain.policy import Action
from shipworthy.domain.scope import Scope
from shipworthy.rules.policies.statements import Place
from shipworthy.rules.policies.wildcards import flaw, is_made_of

Truth = bool | None
Check = Callable[[Scope, Action, Any], Truth]
"""A check of one value, for an identity and an action that its variables are taken from."""
Words = Callable[[Scope, Action], str | None]
"""A text that may have variables in it; None where one of them is not known."""


class _Missing:
    """What is not there, and, as HIDDEN, what could not even be looked for."""


MISSING, HIDDEN = _Missing(), _Missing()
_VARIABLES: dict[str, Words] = {
    "user": lambda scope, action: scope.user,
    "tenant": lambda scope, action: scope.tenant,
    "session": lambda scope, action: scope.session,
    "agent": lambda scope, action: action.path[-1] if action.path else None,
}


def kind_of(value: Any) -> str | None:
    """The type by which values compare. None for what compares with nothing: null, NaN, objects."""
    of = type(value)
    if of is str:
        return "text"
    if of is bool:
        return "bool"
    if of is int or (of is float and math.isfinite(value)):
        return "number"
    return "list" if of in (list, tuple, frozenset) else None


def negated(truth: Truth) -> Truth:
    """What cannot be told cannot be told of the contrary either."""
    return None if truth is None else not truth


def all_true(truths: Iterable[Truth]) -> Truth:
    """False if one is; None if one cannot be told."""
    found: Truth = True
    for each in truths:
        if each is False:
            return False
        if each is None:
            found = None
    return found


def any_true(truths: Iterable[Truth]) -> Truth:
    """True if one is; None if one cannot be told."""
    return negated(all_true([negated(each) for each in truths]))


# literals


def words_of(text: str, place: Place) -> Words | str:
    """A text, with `${user}`, `${tenant}`, `${session}` and `${agent}` in it resolved per call. Raises
    ConfigurationError."""
    first, *others = text.split("${")
    if not others:
        return text
    parts: list[Words | str] = [first]
    for each in others:
        name, brace, rest = each.partition("}")
        if not brace or name not in _VARIABLES:
            known = ", ".join([f"${{{name}}}" for name in _VARIABLES])
            place.refuse(f"{text!r} has a variable that there is not", f"Use {known}.")
        parts += [_VARIABLES[name], rest]

    def resolve(scope: Scope, action: Action) -> str | None:
        found = [part if isinstance(part, str) else part(scope, action) for part in parts]
        return None if None in found else "".join([part for part in found if part is not None])

    return resolve


def said(words: Words | str, scope: Scope, action: Action) -> str | None:
    """The text as it reads for this call."""
    return words if isinstance(words, str) else words(scope, action)


def _literal(value: Any, place: Place) -> tuple[str, Any]:
    kind = kind_of(value)
    if kind == "text":
        return kind, words_of(value, place)
    if kind in ("bool", "number"):
        return kind, value
    return place.refuse(
        f"{value!r} is nothing to compare with",
        "Use a text, a finite number, true or false; `exists` for null.",
    )


def _list(value: Any, place: Place) -> list[Any]:
    if not isinstance(value, (list, tuple)) or not value:
        place.refuse(f"{value!r} is not a list with something in it", "Write [...].")
    return list(value)


# operators


def _equals(value: Any, place: Place) -> Check:
    kind, literal = _literal(value, place)
    if not callable(literal):
        return lambda scope, action, found: found == literal if kind_of(found) == kind else None

    def check(scope: Scope, action: Action, found: Any) -> Truth:
        text = literal(scope, action)
        return None if text is None or kind_of(found) != kind else found == text

    return check


def _is_in(value: Any, place: Place) -> Check:
    known: dict[str, set[Any]] = {}
    resolved: list[Check] = []
    for each in _list(value, place):
        kind, literal = _literal(each, place)
        if callable(literal):
            resolved.append(_equals(each, place))
            known.setdefault(kind, set())
        else:
            known.setdefault(kind, set()).add(literal)

    def check(scope: Scope, action: Action, found: Any) -> Truth:
        kind = kind_of(found)
        if kind is None or kind not in known:
            return None
        if found in known[kind]:
            return True
        if kind != "text" or not resolved:
            return False
        return any_true([each(scope, action, found) for each in resolved])

    return check


def _matches(value: Any, place: Place) -> Check:
    patterns = [
        _pattern(each, place) for each in ([value] if isinstance(value, str) else _list(value, place))
    ]
    return lambda scope, action, found: any_true([each(scope, action, found) for each in patterns])


def _pattern(value: Any, place: Place) -> Check:
    """The stars are the document's own: one in a variable's value is a character like any other."""
    if (wrong := flaw(value)) is not None:
        place.refuse(f"{value!r} {wrong}", 'Write a text with *, such as "*@example.com".')
    parts = [words_of(part, place) for part in value.split("*")]
    fixed = [part for part in parts if isinstance(part, str)]
    if len(fixed) == len(parts):
        return lambda scope, action, found: is_made_of(fixed, found) if type(found) is str else None

    def check(scope: Scope, action: Action, found: Any) -> Truth:
        made = [said(part, scope, action) for part in parts]
        if type(found) is not str or None in made:
            return None
        return is_made_of([part for part in made if part is not None], found)

    return check


def _compares(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Place], Check]:
    def make(value: Any, place: Place) -> Check:
        if kind_of(value) != "number":
            place.refuse(
                f"{value!r} is not a finite number", "Write one: only numbers are more or less than others."
            )
        return lambda scope, action, found: compare(found, value) if kind_of(found) == "number" else None

    return make


def _exists(value: Any, place: Place) -> Check:
    if type(value) is not bool:
        place.refuse(f"{value!r} is neither true nor false", "Write exists = true, or false.")
    return lambda scope, action, found: None if found is HIDDEN else (found is not MISSING) == value


def _not(make: Callable[[Any, Place], Check]) -> Callable[[Any, Place], Check]:
    def made(value: Any, place: Place) -> Check:
        check = make(value, place)
        return lambda scope, action, found: negated(check(scope, action, found))

    return made


def _has(combine: Callable[[Iterable[Truth]], Truth]) -> Callable[[Any, Place], Check]:
    """Whether a list has some of these, as *combine* says."""

    def make(value: Any, place: Place) -> Check:
        wanted = [_equals(each, place) for each in _list(value, place)]

        def check(scope: Scope, action: Action, found: Any) -> Truth:
            if kind_of(found) != "list":
                return None
            return combine([any_true([each(scope, action, item) for item in found]) for each in wanted])

        return check

    return make


def _every(make_one: Callable[[Any, Place], Check]) -> Callable[[Any, Place], Check]:
    """Whether each item of a list is so; of an empty list it cannot be told."""

    def make(value: Any, place: Place) -> Check:
        one = make_one(value, place)

        def check(scope: Scope, action: Action, found: Any) -> Truth:
            if kind_of(found) != "list" or not found:
                return None
            return all_true([one(scope, action, item) for item in found])

        return check

    return make


OPERATORS: dict[str, Callable[[Any, Place], Check]] = {
    "==": _equals,
    "!=": _not(_equals),
    "in": _is_in,
    "not_in": _not(_is_in),
    "matches": _matches,
    "not_matches": _not(_matches),
    "<": _compares(lambda found, bound: bool(found < bound)),
    "<=": _compares(lambda found, bound: bool(found <= bound)),
    ">": _compares(lambda found, bound: bool(found > bound)),
    ">=": _compares(lambda found, bound: bool(found >= bound)),
    "exists": _exists,
    "has_any": _has(any_true),
    "has_all": _has(all_true),
    "has_none": _not(_has(any_true)),
    "every_in": _every(_is_in),
    "every_matches": _every(_matches),
}
EQUALITY: Sequence[str] = ("==", "!=", "in", "not_in")
TEXT: Sequence[str] = (*EQUALITY, "matches", "not_matches")
NUMBER: Sequence[str] = (*EQUALITY, "<", "<=", ">", ">=")
LIST: Sequence[str] = ("has_any", "has_all", "has_none")
