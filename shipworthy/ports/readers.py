"""Readers: who observes runs and decides nothing.

A reader is told what is in the journal already. The engine waits for none of them, and what one raises is logged and
goes no further; so whoever has much to do, or may wait, does it on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from shipworthy.domain.events import AnyEvent
from shipworthy.domain.scope import Scope


class Sight(msgspec.Struct, frozen=True, eq=False):
    """A sitting of a run, from which on it is observed. `agents`: the names from the outermost agent to its own;
    `model`: its model's name. `past`: the events of earlier sittings, of which a reader may have seen none; its first
    says which trace the run began under. Empty for a run that begins. `tools`: the names of its agent's tools;
    others are in calls that a model made up."""

    scope: Scope
    run_id: str
    agents: tuple[str, ...]
    model: str
    past: Sequence[AnyEvent] = ()
    tools: Collection[str] = ()


class Sitting(Protocol):
    """One reader's view of one sitting, on the event loop that drives the run. Nothing here may wait."""

    def saw(self, events: Sequence[AnyEvent]) -> None:
        """These are durable now; the first of a run, and all others, once each in their order."""
        ...

    def around(self, call_id: str | None) -> AbstractContextManager[None]:
        """What the body of this tool call runs in, or a call of the model (""), or all that the run does (None), such
        as hooks and policies, in which the others are: for context variables."""
        ...

    def over(self, error: BaseException | None) -> None:
        """The run is not driven here any more: it ended, pauses, or was left because of *error*."""
        ...


class Reader(Protocol):
    """Who observes an agent's runs, and those that are nested in them."""

    def sitting(self, sight: Sight) -> Sitting:
        """Begin to observe a sitting."""
        ...

    def trace(self) -> str:
        """The trace that a run which begins now belongs to, as a W3C `traceparent`; "" for none."""
        ...
