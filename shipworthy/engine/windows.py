"""When a window of time begins and ends."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shipworthy.domain.ledger import Window


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def is_zone(name: str) -> bool:
    """Whether this machine knows a time zone of this name."""
    try:
        _zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        return False
    return True


def window_of(window: Window, zone: str, now: int) -> tuple[int, int]:
    """The start and the end of the window of this kind in which *now* lies; (0, 0) for one without an end.

    Milliseconds since the Unix epoch. Days and months begin at midnight by the zone's own clocks, where there is no
    midnight at the first instant of the date; an hour begins where its minutes are 0.
    """
    if window in ("run", "total"):
        return 0, 0
    place = _zone(zone)
    local = datetime.fromtimestamp(now / 1000, place)
    if window == "hour":
        start = now - now % 1000 - (local.minute * 60 + local.second) * 1000
        return start, start + 3_600_000
    first = local.date() if window == "day" else local.date().replace(day=1)
    after = first + timedelta(days=1 if window == "day" else 32)
    return _midnight(first, place), _midnight(after if window == "day" else after.replace(day=1), place)


def _midnight(day: date, zone: ZoneInfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000
