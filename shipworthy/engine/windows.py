"""When a window of time begins and ends."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shipworthy.domain.ledger import Window

_HOUR = 3_600_000


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def is_zone(name: str) -> bool:
    """Whether this machine knows a time zone of this name, which means the same on others."""
    if name == "localtime":  # a file on many machines, with the zone of each
        return False
    try:
        _zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        return False
    return True


def window_of(window: Window, zone: str, now: int) -> tuple[int, int]:
    """The start and the end of the window of this kind in which *now* lies; (0, 0) for one without an end.

    Milliseconds since the Unix epoch; windows of a kind follow each other without a gap. Days and months begin at
    midnight by the zone's own clocks, where there is no midnight at the first instant of the date, and go on where the
    clocks are set back to the day before; an hour begins where its minutes are 0, and where the clocks are set.
    """
    if window in ("run", "total"):
        return 0, 0
    place = _zone(zone)
    local = datetime.fromtimestamp(now / 1000, place)
    if window == "hour":
        start = now - now % 1000 - (local.minute * 60 + local.second) * 1000
        return _last_set(start, now, place), _next_set(now, start + _HOUR, place)
    first = _first_day(window, local.date())
    start, end = _midnight(first, place), _midnight(_day_after(window, first), place)
    if end <= now:  # the clocks were set back over midnight: the new day had begun
        first = _day_after(window, first)
        start, end = end, _midnight(_day_after(window, first), place)
    return start, end


def _first_day(window: Window, day: date) -> date:
    return day if window == "day" else day.replace(day=1)


def _day_after(window: Window, first: date) -> date:
    """The day after the window that begins with *first*."""
    return first + timedelta(days=1) if window == "day" else (first + timedelta(days=32)).replace(day=1)


def _last_set(start: int, now: int, zone: ZoneInfo) -> int:
    """When the clocks were last set between *start* and *now*; *start* if they were not."""
    return start if _offset(start, zone) == _offset(now, zone) else _set_at(start, now, zone)


def _next_set(now: int, end: int, zone: ZoneInfo) -> int:
    """When the clocks are next set between *now* and *end*; *end* if they are not."""
    return end if _offset(now, zone) == _offset(end - 1, zone) else _set_at(now, end - 1, zone)


def _set_at(before: int, after: int, zone: ZoneInfo) -> int:
    """When the clocks are set, which they are once between these two."""
    was = _offset(before, zone)
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if _offset(middle, zone) == was else (before, middle)
    return after


def _offset(at: int, zone: ZoneInfo) -> timedelta | None:
    return datetime.fromtimestamp(at / 1000, zone).utcoffset()


def _midnight(day: date, zone: ZoneInfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000
