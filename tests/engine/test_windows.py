"""When windows begin and end: at the right instant in the right zone, one after the other, without a gap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipworthy.domain.ledger import Window
from shipworthy.engine import windows
from shipworthy.engine.windows import is_zone, window_of

HOUR = 3_600_000
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Sao_Paulo",
    "Asia/Beirut",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "America/Havana",
    "Atlantic/Azores",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Africa/Casablanca",
]
KINDS: list[Window] = ["hour", "day", "month"]


def at(text: str) -> int:
    """A moment, written in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def begins(window: Window, zone: str, now: str) -> tuple[str, str]:
    start, end = window_of(window, zone, at(now))
    return tuple([f"{datetime.fromtimestamp(t / 1000, UTC):%Y-%m-%d %H:%M:%S}" for t in (start, end)])  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("window", "zone", "now", "start", "end"),
    [
        ("day", "UTC", "2026-03-01 00:00", "2026-03-01 00:00:00", "2026-03-02 00:00:00"),
        ("day", "UTC", "2026-02-28 23:59:59.999", "2026-02-28 00:00:00", "2026-03-01 00:00:00"),
        # Berlin: a day of 23 hours, a day of 25
        ("day", "Europe/Berlin", "2026-03-29 12:00", "2026-03-28 23:00:00", "2026-03-29 22:00:00"),
        ("day", "Europe/Berlin", "2026-10-25 12:00", "2026-10-24 22:00:00", "2026-10-25 23:00:00"),
        # the hour from 2 to 3 that comes twice is two hours
        ("hour", "Europe/Berlin", "2026-10-25 00:30", "2026-10-25 00:00:00", "2026-10-25 01:00:00"),
        ("hour", "Europe/Berlin", "2026-10-25 01:30", "2026-10-25 01:00:00", "2026-10-25 02:00:00"),
        # no midnight: the clocks went from 24:00 to 1:00
        ("day", "America/Sao_Paulo", "2018-11-04 03:00", "2018-11-04 03:00:00", "2018-11-05 02:00:00"),
        ("day", "America/Sao_Paulo", "2018-11-04 02:59:59", "2018-11-03 03:00:00", "2018-11-04 03:00:00"),
        ("day", "Asia/Beirut", "2022-03-26 22:00", "2022-03-26 22:00:00", "2022-03-27 21:00:00"),
        # the last hour of the day that comes twice
        ("day", "Asia/Beirut", "2022-10-29 21:30", "2022-10-28 21:00:00", "2022-10-29 22:00:00"),
        ("month", "Asia/Beirut", "2022-10-29 21:30", "2022-09-30 21:00:00", "2022-10-31 22:00:00"),
        # hours of a zone that is half an hour off
        ("hour", "Asia/Kolkata", "2026-05-05 10:29:59", "2026-05-05 09:30:00", "2026-05-05 10:30:00"),
        ("hour", "Asia/Kathmandu", "2026-05-05 10:20", "2026-05-05 10:15:00", "2026-05-05 11:15:00"),
        # clocks that are set by half an hour, on the hour
        ("hour", "Australia/Lord_Howe", "2026-10-03 15:40", "2026-10-03 15:30:00", "2026-10-03 16:00:00"),
        ("hour", "Australia/Lord_Howe", "2026-04-04 15:10", "2026-04-04 15:00:00", "2026-04-04 15:30:00"),
        # clocks that were set back over midnight, one minute after it: the new day goes on
        ("day", "America/St_Johns", "2010-11-07 02:45", "2010-11-07 02:30:00", "2010-11-08 03:30:00"),
        # a day that did not exist
        ("day", "Pacific/Apia", "2011-12-30 09:59", "2011-12-29 10:00:00", "2011-12-30 10:00:00"),
        ("day", "Pacific/Apia", "2011-12-30 10:00", "2011-12-30 10:00:00", "2011-12-31 10:00:00"),
        # ends of months, of years, and leap days
        ("month", "UTC", "2024-02-29 23:59:59", "2024-02-01 00:00:00", "2024-03-01 00:00:00"),
        ("month", "UTC", "2026-01-31 12:00", "2026-01-01 00:00:00", "2026-02-01 00:00:00"),
        ("month", "Europe/Berlin", "2026-12-31 22:59", "2026-11-30 23:00:00", "2026-12-31 23:00:00"),
        ("month", "Europe/Berlin", "2026-12-31 23:00", "2026-12-31 23:00:00", "2027-01-31 23:00:00"),
        ("day", "Asia/Kolkata", "2024-02-28 18:30", "2024-02-28 18:30:00", "2024-02-29 18:30:00"),
    ],
)
def test_a_window_begins_and_ends_by_the_clocks_of_its_zone(
    window: Window, zone: str, now: str, start: str, end: str
) -> None:
    assert begins(window, zone, now) == (start, end)


@pytest.mark.parametrize("window", ["run", "total"])
def test_what_has_no_end_is_one_window(window: Window) -> None:
    assert window_of(window, "UTC", at("2026-01-01")) == (0, 0)


def holds(window: Window, zone: str, now: int) -> bool:
    """The moment is in its window, every other moment of the window is in the same one, and the next begins at its
    end."""
    start, end = window_of(window, zone, now)
    inside = start, (start + end) // 2, end - 1
    return (
        start <= now < end
        and all([window_of(window, zone, moment) == (start, end) for moment in inside])
        and window_of(window, zone, end)[0] == end
        and window_of(window, zone, start - 1)[1] == start
    )


MOMENTS = st.integers(at("1995-01-01"), at("2045-01-01"))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(ZONES), MOMENTS)
@example("day", "America/St_Johns", at("2010-11-07 02:45"))
@example("hour", "Australia/Lord_Howe", at("2026-04-04 14:45"))
def test_windows_follow_each_other_without_gap_or_overlap(window: Window, zone: str, now: int) -> None:
    assert holds(window, zone, now)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("window", KINDS)
def test_so_they_do_wherever_clocks_were_set(window: Window, zone: str) -> None:
    for moment in changes_of(zone):
        for around in (-HOUR, -1, 0, 30_000, HOUR // 2, HOUR):
            assert holds(window, zone, moment + around), datetime.fromtimestamp(moment / 1000, UTC)


def changes_of(zone: str) -> list[int]:
    """The moments in some years at which the clocks of *zone* were set, to the minute."""
    place, found = ZoneInfo(zone), []
    for year in (2010, 2011, 2018, 2022, 2026):
        before = datetime(year, 1, 1, tzinfo=UTC)
        while before.year == year:
            after = before + timedelta(days=1)
            if before.astimezone(place).utcoffset() != after.astimezone(place).utcoffset():
                minutes = [before + timedelta(minutes=n) for n in range(24 * 60 + 1)]
                offsets = [minute.astimezone(place).utcoffset() for minute in minutes]
                changed = [i for i in range(1, len(offsets)) if offsets[i] != offsets[i - 1]]
                found += [int(minutes[i].timestamp() * 1000) for i in changed]
            before = after
    return found


def test_the_law_notices_a_window_that_ends_before_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not knowing that clocks may be set within an hour is the mutant."""
    monkeypatch.setattr(windows, "_last_set", lambda start, now, zone: start)
    assert not holds("hour", "Australia/Lord_Howe", at("2026-04-04 15:10"))


def test_a_zone_that_nobody_knows_is_none() -> None:
    known = [
        is_zone(name) for name in ("Europe/Berlin", "UTC", "Mars/Olympus", "", "../etc/passwd", "Europe")
    ]
    assert known == [True, True, False, False, False, False]
