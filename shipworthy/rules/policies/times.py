"""Conditions on the time of a call. Clocks and zones are asked of whoever knows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from shipworthy.domain.policy import Action
from shipworthy.domain.scope import Scope
from shipworthy.rules.policies.statements import Place
from shipworthy.rules.policies.values import Truth

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = 24 * 60
_KEYS = ("zone", "hours", "weekdays", "after", "before")


class Calendar(Protocol):
    """Times as people say them."""

    def knows(self, zone: Any) -> bool:
        """Whether there is such a zone."""
        ...

    def local(self, at: int, zone: str) -> tuple[int, int]:
        """The weekday (Monday is 0) and the minute of the day that the zone's clocks show."""
        ...

    def moment(self, value: Any, zone: str) -> int | None:
        """Milliseconds since the epoch of a date (its midnight) or a time; None for what is neither."""
        ...


AtTime = tuple[str, Callable[[Scope, Action], Truth]]
"""A test of the time, with its words."""


def times_of(given: Any, place: Place, calendar: Calendar) -> list[AtTime]:
    """Tests, all of which have to hold. Raises ConfigurationError."""
    keys = ", ".join(_KEYS)
    if not isinstance(given, Mapping) or not set(given) - {"zone"}:
        place.refuse("it says nothing of the time", f'Write {{hours = "09:00-17:00"}}; its keys are {keys}.')
    for key in given:
        if key not in _KEYS:
            place.refuse(f"{key!r} is unknown", f"Its keys are {keys}.")
    zone = given.get("zone", "UTC")
    if not calendar.knows(zone):
        place.at("zone").refuse(
            f"{zone!r} is not known here",
            'Use a name such as "Europe/Berlin"; without zones, install tzdata.',
        )
    tests: list[AtTime] = []
    if "hours" in given:
        tests.append(_hours(given["hours"], place.at("hours"), calendar, zone))
    if "weekdays" in given:
        tests.append(_weekdays(given["weekdays"], place.at("weekdays"), calendar, zone))
    for key in ("after", "before"):
        if key in given:
            tests.append(_bound(key, given[key], place.at(key), calendar, zone))
    return tests


def _when(check: Callable[[int], bool]) -> Callable[[Scope, Action], Truth]:
    """A test of the call's time, where that is known."""
    return lambda scope, action: check(action.at) if type(action.at) is int and action.at > 0 else None


def _hours(given: Any, place: Place, calendar: Calendar, zone: str) -> AtTime:
    spans = [
        _span(each, place) for each in (given if isinstance(given, (list, tuple)) and given else [given])
    ]

    def check(at: int) -> bool:
        minute = calendar.local(at, zone)[1]
        return any([start <= minute < end or start <= minute + _DAY < end for start, end in spans])

    return f"time is within {given!r} ({zone})", _when(check)


def _span(given: Any, place: Place) -> tuple[int, int]:
    """From the one minute of the day to before the other, which may be the next day's."""
    first, _, last = given.partition("-") if isinstance(given, str) else ("", "", "")
    start, end = _minute(first), _minute(last)
    if start is None or end is None or start in (_DAY, end):
        return place.refuse(
            f"{given!r} is no span of hours", 'Write "09:00-17:00", or "22:00-06:00" over midnight.'
        )
    return start, end if end > start else end + _DAY


def _minute(text: str) -> int | None:
    hour, colon, minute = text.partition(":")
    if not colon or len(text) != 5 or not text.isascii() or not (hour + minute).isdigit():
        return None
    total = int(hour) * 60 + int(minute)
    return total if int(minute) < 60 and total <= _DAY else None


def _weekdays(given: Any, place: Place, calendar: Calendar, zone: str) -> AtTime:
    if not isinstance(given, (list, tuple)) or not given or not all([each in WEEKDAYS for each in given]):
        place.refuse(f"{given!r} is no list of weekdays", f"Write some of {', '.join(WEEKDAYS)}.")
    days = frozenset([WEEKDAYS.index(each) for each in given])
    return f"weekday is one of {list(given)} ({zone})", _when(lambda at: calendar.local(at, zone)[0] in days)


def _bound(key: str, given: Any, place: Place, calendar: Calendar, zone: str) -> AtTime:
    moment = calendar.moment(given, zone)
    if moment is None:
        return place.refuse(f"{given!r} is no date", 'Write "2026-01-31" or "2026-01-31T12:00".')
    words = f"time is {'before' if key == 'before' else 'at or after'} {given} ({zone})"
    return words, _when(lambda at: at < moment if key == "before" else at >= moment)
