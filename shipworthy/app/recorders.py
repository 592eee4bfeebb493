"""`agent.attach`: callables that are told every event of an agent's runs, on a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from shipworthy.app.delivery import CAPACITY, Delivery, Queue, Work
from shipworthy.domain.events import (
    AnswerRejected,
    AnyEvent,
    ApprovalDenied,
    ApprovalGranted,
    HumanAnswered,
    ModelAnswered,
    RunParked,
    RunStarted,
)
from shipworthy.domain.messages import ToolCall
from shipworthy.errors import ConfigurationError, InvalidHook
from shipworthy.ports.readers import Reader, Sight, Sitting

Recorder = Callable[..., Any]
"""`recorder(event)` or `recorder(event, about)`, async or not."""


class Observed(msgspec.Struct, frozen=True, gc=False):
    """Whose run an event is of. `path`: the names of the agents from the outermost to `agent`, whose run it is;
    `root`: the outermost run's id, which is `run_id` where the run is not nested in another one's. `resumed`: the run
    began in an earlier sitting, of this process or another one."""

    tenant: str
    user: str | None
    session: str | None
    run_id: str
    root: str
    agent: str
    path: tuple[str, ...]
    resumed: bool = False

    @classmethod
    def of(cls, sight: Sight, first: AnyEvent) -> Observed:
        """Whose a run is, as a value that outlives the sitting; *first* is its first event."""
        scope, parent = sight.scope, first.parent if isinstance(first, RunStarted) else None
        return cls(
            tenant=scope.tenant,
            user=scope.user,
            session=scope.session,
            run_id=sight.run_id,
            root=sight.run_id if parent is None else parent.root,
            agent=sight.agents[-1],
            path=sight.agents,
            resumed=bool(sight.past),
        )


class Recording:
    """What `agent.attach` gives: one for each recorder, whichever agents it is attached to, with one thread and one
    mailbox. `seen`, `failed` and `dropped` add up to what the recorder was to be told, save what still waits: told;
    told, and it raised; not told, for lack of room."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.detached = False
        self._delivery: Delivery[Any] | None = getattr(reader, "delivery", None)

    def __repr__(self) -> str:
        return f"<Recording seen={self.seen} failed={self.failed} dropped={self.dropped}>"

    @property
    def seen(self) -> int:
        """So many were told, and nothing was raised."""
        return 0 if self._delivery is None else self._delivery.seen

    @property
    def failed(self) -> int:
        """At so many the recorder raised."""
        return 0 if self._delivery is None else self._delivery.failed

    @property
    def dropped(self) -> int:
        """So many were not told, for lack of room."""
        return 0 if self._delivery is None else self._delivery.dropped

    async def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything so far was told, at most *timeout* seconds; whether it was."""
        return True if self._delivery is None else await self._delivery.flush(timeout)

    def flush_sync(self, timeout: float = 5.0) -> bool:
        """`flush` for callers without an event loop."""
        return True if self._delivery is None else self._delivery.flush_sync(timeout)

    def detach(self) -> None:
        """Tell nothing more of any agent's runs, those under way included; what waits already is told."""
        self.detached = True
        with _knowing:
            for key in [key for key, there in _known.items() if there is self]:
                del _known[key]

    # as the engine sees it: a reader

    def sitting(self, sight: Sight) -> Sitting:
        if self.detached:
            return Unmoved()
        sitting = self.reader.sitting(sight)
        if self._delivery is not None and (answers := _meanwhile(sight.past)):
            sitting.saw(answers)
        return _Attached(self, sitting)

    def trace(self) -> str:
        return "" if self.detached else self.reader.trace()


_ANSWERS = (ApprovalGranted, ApprovalDenied, HumanAnswered, AnswerRejected)


def _meanwhile(past: Sequence[AnyEvent]) -> Sequence[AnyEvent]:
    """The answers that came while the run was paused, and nobody could be told of them."""
    since = len(past)
    while since and isinstance(past[since - 1], _ANSWERS):
        since -= 1
    return past[since:] if since and isinstance(past[since - 1], RunParked) else ()


class Told:
    """The reader that tells a callable everything."""

    def __init__(self, recorder: Recorder, capacity: int, loop: asyncio.AbstractEventLoop | None) -> None:
        self.recorder = recorder
        self.options = (capacity, loop)
        self.both = takes_two(recorder)
        self.delivery: Delivery[Work] = Delivery(name_of(recorder), Queue(capacity), loop)

    def sitting(self, sight: Sight) -> Sitting:
        return _Telling(self, sight)

    def trace(self) -> str:
        return ""


NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


class Unmoved:
    """A sitting that does nothing."""

    __slots__ = ()

    def saw(self, events: Sequence[AnyEvent]) -> None:
        """Nothing."""

    def around(self, call_id: str | None) -> AbstractContextManager[None]:
        return NOTHING

    def over(self, error: BaseException | None) -> None:
        """Nothing."""


class _Attached(Unmoved):
    """A sitting, until its recorder is detached."""

    __slots__ = ("_recording", "_sitting")

    def __init__(self, recording: Recording, sitting: Sitting) -> None:
        self._recording = recording
        self._sitting = sitting

    def saw(self, events: Sequence[AnyEvent]) -> None:
        if not self._recording.detached:
            self._sitting.saw(events)

    def around(self, call_id: str | None) -> AbstractContextManager[None]:
        return self._sitting.around(call_id)

    def over(self, error: BaseException | None) -> None:
        if not self._recording.detached:
            self._sitting.over(error)


class Onlooker(Unmoved):
    """A sitting that knows whose run it is, from the run's first event on."""

    __slots__ = ("_about", "_sight")

    def __init__(self, sight: Sight) -> None:
        self._sight: Sight | None = None
        self._about: Observed | None = None
        if sight.past:
            self._about = Observed.of(sight, sight.past[0])
        else:
            self._sight = sight

    def about(self, events: Sequence[AnyEvent]) -> Observed:
        """Whose these events are."""
        if self._about is None:
            assert self._sight is not None
            self._about, self._sight = Observed.of(self._sight, events[0]), None
        return self._about


class _Telling(Onlooker):
    __slots__ = ("_told",)

    def __init__(self, told: Told, sight: Sight) -> None:
        super().__init__(sight)
        self._told = told

    def saw(self, events: Sequence[AnyEvent]) -> None:
        tell = self._told.recorder
        if self._told.both:
            about = self.about(events)
            self._told.delivery.offer([functools.partial(tell, event, about) for event in events])
        else:
            self._told.delivery.offer([functools.partial(tell, event) for event in events])


class Names:
    """The tools' names by the ids of their calls, which only the answers before know."""

    __slots__ = ("_names",)

    def __init__(self, past: Sequence[AnyEvent]) -> None:
        self._names: dict[str, str] = {}
        for event in past:
            self.note(event)

    def note(self, event: AnyEvent) -> None:
        """Learn what an answer says."""
        if type(event) is ModelAnswered:
            self._names.update({p.call_id: p.name for p in event.parts if type(p) is ToolCall})

    def of(self, call_id: str) -> str:
        """The name, "" for a call of which nothing is known."""
        return self._names.get(call_id, "")


# attaching

_known: weakref.WeakValueDictionary[tuple[int, str], Recording] = weakref.WeakValueDictionary()
_knowing = threading.Lock()


def attach(
    readers: list[Reader],
    recorder: Recorder | Reader | Recording,
    capacity: int | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Recording:
    """Add *recorder* to an agent's readers, unless it is among them. Raises ConfigurationError."""
    recording = _recording_of(recorder, capacity, loop)
    kept = [there for there in readers if not (isinstance(there, Recording) and there.detached)]
    readers[:] = kept if recording in kept else [*kept, recording]
    return recording


def _recording_of(given: Any, capacity: int | None, loop: asyncio.AbstractEventLoop | None) -> Recording:
    """The one recording of this recorder: a run and the one that it is nested in are not to tell it twice."""
    options = (
        CAPACITY if capacity is None else capacity_of(capacity),
        None if loop is None else loop_of(loop),
    )
    has_options = capacity is not None or loop is not None
    if isinstance(given, Recording):
        given = given.reader.recorder if isinstance(given.reader, Told) else given.reader
    reader: Reader | None = given if hasattr(type(given), "sitting") else None
    if isinstance(given, type) or not (callable(given) or reader is not None):
        raise ConfigurationError(
            f"{given!r} cannot be attached.",
            fix="Pass a function of an event, or of an event and whose it is: recorder(event, about).",
        )
    if reader is not None and has_options:
        raise ConfigurationError(
            f"{type(given).__name__} has options of its own.", fix="Pass capacity= and loop= to it."
        )
    key = _identity(given)
    with _knowing:
        there = _known.get(key)
        if there is None:
            there = _known[key] = Recording(Told(given, *options) if reader is None else reader)
    if has_options and isinstance(there.reader, Told) and there.reader.options != options:
        raise ConfigurationError(
            f"{name_of(given)} is attached already, with other options.",
            fix="Attach it with the same capacity= and loop=, or without: one recorder has one mailbox.",
        )
    return there


def _identity(recorder: Recorder) -> tuple[int, str]:
    """Which recorder it is: a method is another object each time it is named. Its reader keeps it alive."""
    owner = getattr(recorder, "__self__", None)
    name = getattr(recorder, "__name__", "")
    return (id(recorder), "") if owner is None or not name else (id(owner), name)


def capacity_of(given: Any) -> int:
    """How many may wait. Raises ConfigurationError."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ConfigurationError(f"capacity={given!r} is not a number.", fix="Pass an int of at least 1.")
    return given


def loop_of(given: Any) -> asyncio.AbstractEventLoop:
    """A loop that something may be called on. Raises ConfigurationError."""
    if not isinstance(given, asyncio.AbstractEventLoop):
        raise ConfigurationError(
            f"loop={given!r} is no event loop.", fix="Pass asyncio.get_running_loop(), or leave it out."
        )
    return given


def takes_two(function: Recorder) -> bool:
    """Whether it is told whose run it is, too: it takes a second argument that has no default, or is called `about`.
    Raises InvalidHook for what takes neither one nor two."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, and says nothing
        return False
    parameters = signature.parameters.values()
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(places) > 1:
        two = places[1].default is places[1].empty or places[1].name == "about"
    else:
        two = any([p.kind is p.VAR_POSITIONAL for p in parameters])
    try:
        signature.bind(*[None] * (2 if two else 1))
    except TypeError:
        raise InvalidHook(
            f"{name_of(function)} takes other arguments than it is given.",
            fix="Write it as f(event) or f(event, about); of a status line, f(text) or f(text, about).",
        ) from None
    return two


def name_of(function: Any) -> str:
    """What a callable is called in logs."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))
