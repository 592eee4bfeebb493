"""Telling those who observe a run. What one of them raises is logged, once for each, and goes no further."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from shipworthy.domain.events import AnyEvent, ModelAnswered, ModelRequested, RunStarted, ToolAttempted
from shipworthy.domain.messages import ToolCall
from shipworthy.domain.scope import Scope
from shipworthy.ports.readers import Reader, Sight, Sitting

if TYPE_CHECKING:
    from shipworthy.engine.live import LiveRun
    from shipworthy.engine.plan import Plan

log = logging.getLogger("shipworthy")
_failed: set[str] = set()


def readers_of(own: Sequence[Reader], parent: LiveRun | None) -> tuple[Reader, ...]:
    """Who observes a run: those of the run around it, and its own agent's; each once."""
    if parent is None and not own:
        return ()
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
    plan = run.blueprint
    tools = {*plan.tools, *plan.output_tools}
    run.sittings = _sittings(
        run.readers, Sight(run.scope, run.run_id, run.agents, plan.model.name, past, tools)
    )


def readers_by_name(agents: Mapping[str, Plan], started: RunStarted) -> tuple[Reader, ...]:
    """Who observes a run that nobody drives: those of the agents of its name, and of the names around it."""
    names = (*(() if started.parent is None else started.parent.agents), started.agent)
    known = [agents[name] for name in names if name in agents]
    return tuple({id(reader): reader for plan in known for reader in plan.blueprint.readers}.values())


@contextlib.contextmanager
def told(readers: Sequence[Reader], past: Sequence[AnyEvent], events: Sequence[AnyEvent]) -> Iterator[None]:
    """Around the commit of somebody who ends a run, or stops it, and does not drive it: *events* are told as a sitting
    that begins with them and is over."""
    try:
        yield
    except asyncio.CancelledError:
        _sit(readers, past, events)  # a commit completes before it is cancelled
        raise
    _sit(readers, past, events)


def _sit(readers: Sequence[Reader], past: Sequence[AnyEvent], events: Sequence[AnyEvent]) -> None:
    started = past[0] if past else None
    if not readers or not isinstance(started, RunStarted):
        return
    scope = Scope(started.tenant, started.user, started.session)
    agents = (*(() if started.parent is None else started.parent.agents), started.agent)
    models = [event.model for event in past if type(event) is ModelRequested]
    attempted = {event.call_id for event in past if type(event) is ToolAttempted}
    tools = {
        part.name
        for event in past
        if type(event) is ModelAnswered
        for part in event.parts
        if type(part) is ToolCall and part.call_id in attempted
    }
    sight = Sight(scope, started.run_id, agents, models[-1] if models else "", past, tools)
    for sitting in _sittings(readers, sight):
        with _held(sitting):
            sitting.saw(events)
            sitting.over(None)


def _sittings(readers: Sequence[Reader], sight: Sight) -> tuple[Sitting, ...]:
    sittings: list[Sitting] = []
    for reader in readers:
        with _held(reader):
            sittings.append(reader.sitting(sight))
    return tuple(sittings)


def tell(run: LiveRun, events: Sequence[AnyEvent]) -> None:
    """These are durable."""
    for sitting in run.sittings:
        try:
            sitting.saw(events)
        except Exception as error:
            _complain(type(sitting), error)


def over(run: LiveRun, error: BaseException | None) -> None:
    """The run is not driven here any more."""
    sittings, run.sittings = run.sittings, ()
    for sitting in sittings:
        with _held(sitting):
            sitting.over(error)


class around:
    """What a body, a call of the model, or all of the run runs in. Nothing comes out of it that a sitting raises. Plain
    methods: as a generator this would cost more than most of those who observe."""

    __slots__ = ("_call_id", "_entered", "_run")

    def __init__(self, run: LiveRun, call_id: str | None) -> None:
        self._run, self._call_id = run, call_id

    def __enter__(self) -> None:
        self._entered: list[AbstractContextManager[None]] = []
        for sitting in self._run.sittings:
            try:
                inner = sitting.around(self._call_id)
                inner.__enter__()
                self._entered.append(inner)
            except Exception as error:
                _complain(type(sitting), error)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for inner in reversed(self._entered):
            try:
                inner.__exit__(None, None, None)
            except Exception as problem:
                _complain(type(inner), problem)


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
