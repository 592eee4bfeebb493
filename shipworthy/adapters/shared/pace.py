"""How long a provider wants to be left alone, by its own responses."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from shipworthy.rules.wire import retry_after

LONGEST = 3600.0
"""Seconds that a provider is left alone at most, whatever it says."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Pace:
    """What one model's provider said of its rate limits. From any thread."""

    def __init__(self) -> None:
        self._until = 0.0

    @property
    def left(self) -> float:
        """Seconds until another request makes sense."""
        return max(self._until - time.monotonic(), 0.0)

    def pause(self, seconds: float) -> None:
        """Another request makes no sense for so long."""
        self._until = max(self._until, time.monotonic() + min(seconds, LONGEST))

    def note(self, status: int, headers: Mapping[str, str]) -> None:
        """Take a response into account: one that says when to come again, or that nothing remains until some time."""
        if status in (429, 503, 529) and (wait := retry_after(headers)):
            self.pause(wait)
        for name, remaining in headers.items():
            name = name.lower()
            if not name.endswith(("-remaining", "-requests", "-tokens")) or remaining.strip() != "0":
                continue
            if name.startswith("x-ratelimit-remaining-"):
                reset = headers.get(name.replace("-remaining-", "-reset-"))
            elif name.startswith("anthropic-ratelimit-"):
                reset = headers.get(name.removesuffix("-remaining") + "-reset")
            else:
                continue
            if (seconds := _until(reset, headers.get("date"))) is not None:
                self.pause(seconds)


def _until(reset: str | None, date: str | None) -> float | None:
    """Seconds of a duration ("6m0s", https://platform.openai.com/docs/guides/rate-limits), or until a time (RFC 3339,
    https://platform.claude.com/docs/en/api/rate-limits), by the response's own `date`: clocks need not agree."""
    if not reset:
        return None
    parts = _DURATION.findall(reset)
    if parts and "".join([number + unit for number, unit in parts]) == reset.strip():
        return sum([float(number) * _SECONDS[unit] for number, unit in parts])
    try:
        return max((datetime.fromisoformat(reset) - parsedate_to_datetime(date or "")).total_seconds(), 0.0)
    except (TypeError, ValueError, IndexError):
        return None
