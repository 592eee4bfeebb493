"""A call whose body is the runs of other agents, as the rest of the engine sees it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from shipworthy.domain.events import Parent
from shipworthy.domain.messages import File, Image, Text
from shipworthy.domain.scope import is_too_long
from shipworthy.domain.usage import Spent
from shipworthy.engine.live import LiveRun
from shipworthy.rules.calls import Call
from shipworthy.rules.state import RunState


class Ended(msgspec.Struct, frozen=True):
    """The nested runs came to their end with this result; `ok`: with one that is an output. `nested`: what all of them
    used."""

    content: tuple[Text | Image | File, ...]
    ok: bool = True
    nested: Spent | None = None


class Paused(msgspec.Struct, frozen=True):
    """These nested runs wait for somebody, at most until `wake_at`. `raises`: what the caller is told of why; `nested`:
    what all runs of the call used so far."""

    runs: tuple[str, ...]
    wake_at: int | None = None
    raises: Exception | None = None
    nested: Spent | None = None


class Delegate:
    """A tool that other agents carry out, of these `names`. `hands_over`: their output is meant to be the run's own."""

    hands_over = False

    @property
    def names(self) -> tuple[str, ...]:
        raise NotImplementedError

    async def delegate(self, run: LiveRun, call: Call, arguments: Any) -> Ended | Paused:
        """Have the nested runs of *call* begin, or go on, to their ends or pauses. Whatever is raised leaves the call
        open, to be made again when the run is resumed: the same nested runs go on then."""
        raise NotImplementedError

    async def stop(self, run: LiveRun, call: Call, run_id: str) -> RunState | None:
        """Settle what is known of one of the nested runs of *call*, and stop it: nothing new is started in it. The run
        as it stands then, ended unless something of it is in doubt; None: the call has made no such run."""
        raise NotImplementedError

    def runs_of(self, run_id: str, call_id: str) -> tuple[str, ...]:
        """The ids of all nested runs that a call may have."""
        raise NotImplementedError


def nested_id(run_id: str, call_id: str, index: int | None = None) -> str:
    """The id of the run that a call makes, the same whenever the call is made again, and of no other call: ids of calls
    have neither "/" nor "." in them. *index*: which one, where it makes several."""
    made = f"{run_id}/{call_id}" if index is None else f"{run_id}/{call_id}.{index}"
    return "nested-" + hashlib.sha256(made.encode()).hexdigest() if is_too_long(made) else made


def parent_of(run: LiveRun, call_id: str) -> Parent:
    """What a nested run of this call is begun with."""
    started = run.state.started
    outer = started.parent
    if outer is None:
        return Parent(started.run_id, started.run_id, (call_id,), run.agents)
    return Parent(started.run_id, outer.root, (*outer.path, call_id), run.agents)


def unfinished(run: LiveRun, call: Call) -> tuple[str, ...]:
    """The nested runs that an attempt of *call*, which has no result, may have left; they were begun only if there was
    one."""
    if not call.attempts or call.result is not None:
        return ()
    tool = run.blueprint.tools.get(call.call.name)
    made = tool.runs_of(run.run_id, call.call.call_id) if isinstance(tool, Delegate) else ()
    return (*made, *[run_id for run_id in call.children if run_id not in made])
