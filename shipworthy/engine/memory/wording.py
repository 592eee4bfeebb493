"""Making terms where it does not hold up the event loop: of what is short at once, of what is long on a thread.

A language's stemmer in Python takes milliseconds for a page of words that it has not seen yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shipworthy.engine.memory.threads import Threads
from shipworthy.rules.memory.terms import query_of

T = TypeVar("T")

SHORT = 600
"""Characters up to which terms are made where they are asked for: it costs less than going to a thread."""

_thread = Threads(1, "words")


async def worded(characters: int, work: Callable[[], T]) -> T:
    """Do *work*, which makes terms of a text or several with so many characters in all."""
    if characters <= SHORT:
        return work()
    return await _thread.run(work)


async def asked(query: str) -> NDArray[np.uint32]:
    """The terms of a question."""
    return await worded(len(query), lambda: query_of(query))
