"""Telling those who observe a run. What one of them raises is logged, once for each, and goes no further."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from shipworthy.domain.events import AnyEvent
from shipworthy.ports.readers import Reader, Sight, Sitting

if TYPE_CHECKING:
    from shipworthy.engine.live import LiveRun

log = logging.getLogger("shipworthy")
_failed: set[str] = set()


def readers_of(own: Sequence[Reader], parent: LiveRun | None) -> tuple[Reader, ...]:
    """Who observes a run: those of the run around it, and its own agent's; each once."""
    around = () if parent is None else parent.readers
    return tuple({id(reader): reader for reader in (*around, *own)}.values())


def trace_of(readers: Sequence[Reader]) -> str:
    """The trace that a run begins in; "" for none."""
    for reader in readers:
        with _held(reader):
            if trace := reader.trace():
                return trace
    return ""


def observe(run: LiveRun, past: Sequence[AnyEvent]) -> None:
    """From here on the run is observed; *past* are the events before."""
    sight = Sight(run.scope, run.run_id, run.agents, run.blueprint.model.name, past)
    sittings: list[Sitting] = []
    for reader in run.readers:
        with _held(reader):
            sittings.append(reader.sitting(sight))
    run.sittings = tuple(sittings)


def tell(run: LiveRun, events: Sequence[AnyEvent]) -> None:
    """These are durable."""
    for sitting in run.sittings:
        with _held(sitting):
            sitting.saw(events)


def over(run: LiveRun, error: BaseException | None) -> None:
    """The run is not driven here any more."""
    sittings, run.sittings = run.sittings, ()
    for sitting in sittings:
        with _held(sitting):
            sitting.over(error)


@contextlib.contextmanager
def around(run: LiveRun, call_id: str) -> Iterator[None]:
    """What a body, or a call of the model, runs in."""
    with contextlib.ExitStack() as stack:
        for sitting in run.sittings:
            with _held(sitting):
                stack.enter_context(_quiet(sitting.around(call_id)))
        yield


@contextlib.contextmanager
def _quiet(inner: AbstractContextManager[None]) -> Iterator[None]:
    """*inner*, of which nothing comes out that it raises when it is left."""
    inner.__enter__()
    try:
        yield
    finally:
        with _held(inner):
            inner.__exit__(None, None, None)


@contextlib.contextmanager
def _held(who: object) -> Iterator[None]:
    """Nothing that *who* raises comes out."""
    try:
        yield
    except Exception as error:
        _complain(type(who), error)


def _complain(who: Callable[..., object], error: Exception) -> None:
    name = f"{who.__module__}.{getattr(who, '__qualname__', who)}"
    if name not in _failed:
        _failed.add(name)
        log.warning("%s failed while it observed a run, which goes on: %r", name, error, exc_info=error)
