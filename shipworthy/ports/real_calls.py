"""The switch that refuses real model calls: on under pytest, so that no test spends money unnoticed.

Every adapter that goes over the wire asks it before each attempt. Loopback addresses are no exception, for a
local proxy can spend money too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from shipworthy.errors import RealModelRefused

_allowed: ContextVar[bool] = ContextVar("shipworthy_real_calls_allowed", default=False)


@contextmanager
def allow_model_calls() -> Iterator[None]:
    """Real model calls are allowed in this block, and in the tasks that are started in it."""
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


def ensure_real_calls_allowed(model: str, base_url: str | None = None) -> None:
    """Raise RealModelRefused under pytest, unless SHIPWORTHY_ALLOW_MODEL_CALLS=1 or `allow_model_calls()`."""
    environ = os.environ
    if "PYTEST_CURRENT_TEST" not in environ and "PYTEST_VERSION" not in environ:
        return
    if _allowed.get() or environ.get("SHIPWORTHY_ALLOW_MODEL_CALLS") == "1":
        return
    raise RealModelRefused(f"A test was about to call {model} at {base_url or 'its provider'}.")
