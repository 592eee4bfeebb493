"""Running coroutines for callers without an event loop: one loop in one daemon thread, for the whole process.

One loop, and not one a call, so that connections and the store's callbacks outlive the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from shipworthy.errors import ConfigurationError

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_pid = 0


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result; interrupting the wait cancels it. Works inside a running loop too, which it blocks."""
    loop = _background_loop()
    if threading.current_thread() is _thread:
        coroutine.close()
        raise ConfigurationError(
            "run_sync was called on the event loop that it would wait for.",
            fix="Use `await agent.run(...)` here.",
        )
    done: Future[T] = Future()
    context = contextvars.copy_context()

    async def carried() -> tuple[T | None, BaseException | None]:
        try:
            return await coroutine, None
        except (SystemExit, KeyboardInterrupt) as error:  # they would end the loop that all callers share
            return None, error

    def start() -> None:
        task = loop.create_task(carried(), context=context)
        holder.append(task)
        task.add_done_callback(finish)

    def finish(task: asyncio.Task[tuple[T | None, BaseException | None]]) -> None:
        if task.cancelled():
            done.cancel()
        elif (error := task.exception()) is not None:
            done.set_exception(error)
        else:
            value, exit_ = task.result()
            if exit_ is None:
                done.set_result(value)  # type: ignore[arg-type]
            else:
                done.set_exception(exit_)

    holder: list[asyncio.Task[Any]] = []
    loop.call_soon_threadsafe(start)
    try:
        return done.result()
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in holder])
        with contextlib.suppress(BaseException):
            done.result(timeout=5.0)
        raise


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop, _pid, _thread
    with _lock:
        if _loop is None or _pid != os.getpid():
            _loop, _pid = asyncio.new_event_loop(), os.getpid()
            _thread = threading.Thread(target=_loop.run_forever, name="shipworthy-sync", daemon=True)
            _thread.start()
        return _loop
