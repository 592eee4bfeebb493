"""What is called what, of those who learn: the agent, and its runs. Nobody else can be called so."""

from __future__ import annotations

import hashlib

SUFFIX = "~learner"
"""What the name of an agent's learner ends in. It cannot be chosen: an agent's name with it is refused."""
PREFIX = "learn-"
"""How the id of a run begins that learns. It cannot be chosen either."""
ATTEMPTS = 8
"""How often learning from one run is begun anew where it failed."""
_MINUTE, _DAY = 60_000, 86_400_000


def learning_of(tenant: str, run_id: str) -> str:
    """The id of the run that learns from a run: the same each time, so that it is begun once, and found by whoever
    knows the run, even if nothing was recorded of it there."""
    text = f"{len(tenant)}:{tenant}{run_id}"
    return f"{PREFIX}{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"


def attempt_of(learning: str, nth: int) -> str:
    """The id of the run that is the *nth* attempt (from 1) at what *learning* is the first at."""
    return learning if nth == 1 else f"{learning}-{nth}"


def pause_after(nth: int) -> int:
    """Milliseconds after the failure of the *nth* attempt until the next one is made by itself: a minute, four times
    as long each time, a day at most."""
    return min(_MINUTE << 2 * (nth - 1), _DAY)
