"""Where plain functions run: one pool for the process, and the list of what still runs in it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

from shipworthy.errors import NotDone

SIZE = 64
"""Threads at most. They are started as they are needed; a call beyond them waits for one to be free."""

Key = tuple[str, str, str]
_FOREIGN = (StopIteration, SystemExit, GeneratorExit, CancelledError, asyncio.CancelledError)
_running: dict[Future[Any], Key] = {}
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


async def in_thread(key: Key | None, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """What *fn* returns, called in a thread with this task's context variables.

    Cancelled, this raises at once; the thread goes on, and `still_running(key)` is true until it ends. A call
    that was still waiting for a thread is taken back, never starts, and raises NotDone.
    """
    call = functools.partial(contextvars.copy_context().run, guarded, fn, *args, **kwargs)
    future = _executor().submit(call)
    if key is not None:
        _running[future] = key
        future.add_done_callback(_forget)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if future.cancel():
            raise NotDone("no thread was free for it in time; it was never started") from None
        raise


def still_running(key: Key) -> bool:
    """Whether a thread works for *key*, or waits to."""
    return key in list(_running.values())


def guarded(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """*fn*'s result. What means something else to a future, a task or the process becomes RuntimeError: the
    end of an iteration, an exit, a cancellation of something within."""
    try:
        return fn(*args, **kwargs)
    except _FOREIGN as error:
        raise RuntimeError(f"The function raised {type(error).__name__}({error}).") from error


def _forget(future: Future[Any]) -> None:
    _running.pop(future, None)


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        from concurrent.futures import ThreadPoolExecutor

        with _lock:
            _pool = _pool or ThreadPoolExecutor(SIZE, thread_name_prefix="shipworthy-tool")
    return _pool


def _reset() -> None:
    """A forked child has the pool but none of its threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
