"""What may be remembered, looked at before a store sees it: what could not be read again is refused, and so is what is
named like one of memory's own records."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import msgspec

from shipworthy.domain.memory import Block, Episode, Fact, Remembered, Role, Source
from shipworthy.domain.messages import Trust
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.records import OWN, sound
from shipworthy.errors import InputError

LONGEST_ID = 200
"""Bytes of UTF-8 of the id of a remembered thing."""
LONGEST_NAME = 100
"""Bytes of UTF-8 of the name of a block."""
_LONGEST_LABEL = 512
_YEARS = range(-62_135_596_800_000, 253_402_300_800_000)
"""Milliseconds of the years 1 to 9999."""
_TYPES = "Give each field a value of its type."
_TEXTS = ("text", "subject", "predicate", "object")


def _is_text(value: object, longest: int) -> bool:
    if not isinstance(value, str) or not value:
        return False
    try:
        return len(value.encode()) <= longest
    except UnicodeEncodeError:
        return False


def _is_time(value: object) -> bool:
    return type(value) is int and value in _YEARS


def _is_share(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1  # type: ignore[arg-type, operator]


def _is_source(value: object) -> bool:
    return (
        isinstance(value, Source)
        and _is_text(value.run_id, _LONGEST_LABEL)
        and type(value.seq) is int
        and 0 <= value.seq < 2**63
        and (value.user is None or _is_text(value.user, _LONGEST_LABEL))
    )


def _is_own_or_none(value: object) -> bool:
    return value is None or _is_text(value, LONGEST_ID)


_Rule = tuple[Callable[[Any], bool], str]
_ID: _Rule = (
    lambda value: _is_text(value, LONGEST_ID) and not value.startswith(OWN),
    f'1 to {LONGEST_ID} bytes of valid Unicode that do not begin with "{OWN}"',
)
_TIME: _Rule = (_is_time, "an int of milliseconds since the epoch")
_PERHAPS_TIME: _Rule = (lambda value: value is None or _is_time(value), f"{_TIME[1]}, or None")
_SHARE: _Rule = (_is_share, "a number from 0 to 1")
_SAID: _Rule = (lambda value: isinstance(value, str), "a str")
_YES_OR_NO: _Rule = (lambda value: isinstance(value, bool), "True or False")
_RULES: dict[str, _Rule] = {
    "id": _ID,
    "name": (lambda value: _is_text(value, LONGEST_NAME), f"1 to {LONGEST_NAME} bytes of valid Unicode"),
    **dict.fromkeys(_TEXTS, _SAID),
    **dict.fromkeys(("at", "learned_at", "valid_from"), _TIME),
    **dict.fromkeys(("valid_to", "superseded_at", "released_at"), _PERHAPS_TIME),
    **dict.fromkeys(("importance", "confidence"), _SHARE),
    **dict.fromkeys(("single", "quarantined"), _YES_OR_NO),
    "role": (lambda value: value in get_args(Role), f"one of {', '.join(get_args(Role))}"),
    "trust": (lambda value: value in get_args(Trust), f"one of {', '.join(get_args(Trust))}"),
    "origin": (
        lambda value: _is_text(value, _LONGEST_LABEL),
        f"1 to {_LONGEST_LABEL} bytes of valid Unicode",
    ),
    "session": (
        lambda value: value is None or _is_text(value, _LONGEST_LABEL),
        f"None, or 1 to {_LONGEST_LABEL} bytes of valid Unicode",
    ),
    "superseded_by": (_is_own_or_none, "None, or the id of a fact"),
    "source": (lambda value: value is None or _is_source(value), "None, or a Source with the id of a run"),
    "sources": (
        lambda value: isinstance(value, tuple) and all([_is_source(each) for each in value]),
        "a tuple of Source, each with the id of a run",
    ),
}


def checked(item: Remembered) -> Remembered:
    """*item* with text that every store takes. Raises InputError, RecordTooLarge."""
    if not isinstance(item, (Episode, Fact, Block)):
        raise InputError(
            f"A {type(item).__name__} cannot be remembered.", fix="Pass an Episode, a Fact or a Block."
        )
    values = {name: getattr(item, name) for name in item.__struct_fields__}
    check(**{name: value for name, value in values.items() if name in _RULES})
    kept = {name: sound(values[name]) for name in _TEXTS if name in values}
    if any([kept[name] != values[name] for name in kept]):
        item = msgspec.structs.replace(item, **kept)
    try:  # whatever else it has
        msgspec.json.decode(msgspec.json.encode(item), type=type(item))
    except (TypeError, ValueError, OverflowError) as error:  # a DecodeError is a ValueError
        raise InputError(f"{_shown(item)} could not be read again: {error}.", fix=_TYPES) from None
    return item


def check_scope(scope: object) -> None:
    """Hold a scope to what one is. Raises InputError."""
    if not isinstance(scope, Scope) or not scope.tenant:
        raise InputError(f"{scope!r} is nobody's.", fix='Pass Scope("tenant"), or Scope("tenant", "user").')
    if scope.session is not None and scope.user is None:
        raise InputError("A session belongs to a user.", fix="Pass Scope(tenant, user, session).")


def said(text: object) -> str:
    """A text that says something, as it is kept. Raises InputError, RecordTooLarge."""
    if not isinstance(text, str) or not text.strip():
        raise InputError("There is nothing to remember.", fix="Pass a text that is not blank.")
    return sound(text)


def check(**values: object) -> None:
    """Hold values that somebody gave to what their names promise. Raises InputError."""
    for name, value in values.items():
        holds, wanted = _RULES[name]
        if not holds(value):
            raise InputError(f"{name}={_shown(value)} cannot be kept.", fix=f"Pass {wanted}.")


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
